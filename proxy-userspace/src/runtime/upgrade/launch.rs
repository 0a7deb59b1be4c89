//! How the newer process is started, and how it finds its predecessor.

use crate::admin::api::{Refusal, RefusalKind};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Tells a process that its standard input is the line to its predecessor.
const VARIABLE: &str = "SLUICE_PREDECESSOR";

/// What the service manager has told this process about itself and nobody else.
const OURS_ALONE: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Those who may write to a file besides its owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// How this process was started, for another one like it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    binary: PathBuf,
    arguments: Vec<OsString>,
}

impl Launch {
    /// As this process was started. The binary is the one that had its name, which may be another
    /// file by now: that is the point.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().map(PathBuf::from).unwrap_or_default();
        Ok(Self {
            binary: binary(&name, env::var_os("PATH").as_deref())?,
            arguments: arguments.collect(),
        })
    }

    /// Starts `binary`, or the one that this process was started from, with `line` to talk over.
    pub(crate) fn start(&self, binary: Option<&Path>, line: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(binary.unwrap_or(&self.binary));
        command.args(&self.arguments).env(VARIABLE, "stdin");
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(line)).spawn()
    }

    /// The binary that is started if nobody names another.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }
}

fn binary(name: &Path, path: Option<&std::ffi::OsStr>) -> io::Result<PathBuf> {
    let is_path = name.components().count() > 1 || name.is_absolute();
    let named = if is_path {
        Some(env::current_dir()?.join(name))
    } else {
        let folders = env::split_paths(path.unwrap_or_default());
        let mut files = folders.map(|folder| folder.join(name));
        files.find(|file| !name.as_os_str().is_empty() && file.is_file())
    };
    named
        .filter(|file| file.is_file())
        .map_or_else(env::current_exe, Ok)
}

/// Refuses a binary that others than this process's user and root could have put there: whoever
/// may use the admin socket must not become this user by it.
///
/// # Errors
///
/// [`Refusal`] that says what is wrong.
pub(super) fn check_trusted(binary: &Path) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::new(RefusalKind::Invalid, what));
    if !binary.is_absolute() {
        return refuse(format!("{}: not an absolute path", binary.display()));
    }
    let real = match fs::canonicalize(binary) {
        Ok(real) => real,
        Err(error) => return refuse(format!("{}: {error}", binary.display())),
    };
    let own = nix::unistd::geteuid().as_raw();
    for path in real.ancestors() {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) => return refuse(format!("{}: {error}", path.display())),
        };
        let is_foreign = found.uid() != 0 && found.uid() != own;
        // In a folder like /tmp, others cannot replace what is not theirs.
        let is_sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        let is_open = found.mode() & WRITABLE_BY_OTHERS != 0 && !is_sticky;
        if is_foreign || is_open {
            let path = path.display();
            return refuse(format!(
                "{path}: others than root and this daemon's user may change it, so it is not run"
            ));
        }
    }
    Ok(())
}

/// The line to the process that has started this one to take over from it, if one has.
///
/// To be called once, before there are other threads: standard input is closed.
///
/// # Errors
///
/// Standard input is not such a line.
pub fn predecessor() -> io::Result<Option<OwnedFd>> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let stdin = io::stdin();
    if getsockopt(&stdin, sockopt::SockType) != Ok(SockType::SeqPacket) {
        let what = format!("{VARIABLE} is set, but standard input is no line to a predecessor");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let line = stdin.as_fd().try_clone_to_owned()?;
    let nothing = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_binary_is_found_again_by_its_name_not_by_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().join("sluice-1");
        fs::write(&old, "").expect("written");
        let link = folder.path().join("sluice");
        std::os::unix::fs::symlink(&old, &link).expect("linked");
        assert_eq!(binary(&link, None).expect("found"), link);
        let path = Some(folder.path().as_os_str());
        assert_eq!(binary(Path::new("sluice"), path).expect("found"), link);
        let own = env::current_exe().expect("known");
        assert_eq!(binary(Path::new("sluice"), None).expect("found"), own);
    }

    #[test]
    fn a_binary_that_others_may_change_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sluice");
        fs::write(&file, "").expect("written");
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode));
        mode(0o755).expect("set");
        check_trusted(&file).expect("ours");
        mode(0o777).expect("set");
        let refusal = check_trusted(&file).expect_err("anybody's");
        assert!(refusal.message.contains("may change it"), "{refusal}");
        mode(0o755).expect("set");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("set");
        check_trusted(&file).expect_err("anybody may replace it");
        check_trusted(Path::new("sluice")).expect_err("relative");
    }
}
