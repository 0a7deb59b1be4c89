//! Which files the process can reach, by landlock.

use super::{PrivilegeError, folder_of, system};
use crate::config;
use crate::config::model::Config;
use crate::config::model::http::LogTarget;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The newest version of landlock whose rights are named here; older kernels enforce what they
/// know.
const KNOWN: ABI = ABI::V5;

/// What every run needs: programs and libraries, names and addresses, what the kernel tells.
const ALWAYS_READ: [&str; 9] = [
    "/bin", "/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sys", "/usr",
];

/// Where state and what is thrown away goes.
const ALWAYS_WRITTEN: [&str; 3] = ["/dev", "/var/lib/sluice", "/var/cache/sluice"];

/// How a path is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read, and run.
    Read,
    /// Also written, made and removed.
    Write,
}

/// The paths that may be reached, with all beneath them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(BTreeSet<(PathBuf, Access)>);

impl Grants {
    /// What a configuration in this file asks for.
    pub fn of(config: &Config, file: &Path) -> Self {
        let mut grants = Self::default();
        for path in ALWAYS_READ {
            grants.add(Path::new(path), Access::Read);
        }
        for path in ALWAYS_WRITTEN {
            grants.add(Path::new(path), Access::Write);
        }
        if file != Path::new("-") {
            grants.add(&folder_of(file), Access::Read);
        }
        if let Ok(program) = std::env::current_exe() {
            grants.add(&folder_of(&program), Access::Read);
        }
        for path in &config.process.paths {
            grants.add(path, Access::Write);
        }
        for (path, access) in wanted(config) {
            grants.add(&path, access);
        }
        grants
    }

    fn add(&mut self, path: &Path, access: Access) {
        self.0.insert((real(path), access));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths of a configuration that are beneath none of these.
    pub fn lacks(&self, config: &Config) -> Vec<PathBuf> {
        let is_granted = |path: &Path, access: Access| {
            let mut grants = self.0.iter();
            grants.any(|(granted, given)| *given >= access && path.starts_with(granted))
        };
        let wanted = wanted(config).into_iter();
        let lacking = wanted.filter(|(path, access)| !is_granted(&real(path), *access));
        lacking.map(|(path, _)| path).collect()
    }

    /// Keeps everything else out of reach, for ever. False if this kernel cannot.
    pub(super) fn enforce(&self) -> Result<bool, PrivilegeError> {
        let failed = |error| system("keep files out of reach (process.landlock)", error);
        let other = |error: landlock::RulesetError| failed(io::Error::other(error));
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(KNOWN))
            .map_err(other)?;
        let mut created = ruleset.create().map_err(other)?;
        for (path, access) in &self.0 {
            // What does not exist cannot be granted, nor used.
            let Ok(opened) = PathFd::new(path) else {
                continue;
            };
            let rights = rights(path, *access);
            created = created
                .add_rule(PathBeneath::new(opened, rights))
                .map_err(other)?;
        }
        let status = created.restrict_self().map_err(other)?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }
}

/// The version of landlock that this kernel has; `None` if it has none.
pub fn landlock_version() -> Option<i64> {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no attributes and only answers a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    (version > 0).then_some(version)
}

/// Rights by kind: those that only folders have are refused for files.
fn rights(path: &Path, access: Access) -> BitFlags<AccessFs> {
    let all = match access {
        Access::Read => AccessFs::from_read(KNOWN),
        Access::Write => AccessFs::from_all(KNOWN),
    };
    if path.is_dir() {
        all
    } else {
        all & AccessFs::from_file(KNOWN)
    }
}

/// The paths that a configuration names, and how they are used.
fn wanted(config: &Config) -> BTreeSet<(PathBuf, Access)> {
    let mut wanted = BTreeSet::new();
    wanted.insert((folder_of(&config.admin.socket), Access::Write));
    if let Some(acme) = &config.acme {
        wanted.insert((acme.storage.clone(), Access::Write));
    }
    if config.balances_packets() || config.steers() {
        wanted.insert((folder_of(&config.data_plane().pin_dir), Access::Write));
    }
    if config.balances_sockets() {
        wanted.insert((folder_of(&config.connect_pin_dir()), Access::Write));
        // The cgroups, and the network namespaces of sockets that are told of a loss.
        let folders = ["/sys/fs/cgroup", "/proc", "/run/netns"];
        wanted.extend(folders.map(|folder| (PathBuf::from(folder), Access::Read)));
    }
    let http = config.http_listeners.iter().map(|it| &it.access_log);
    let streams = config.stream_listeners.iter().map(|it| &it.access_log);
    for log in http.chain(streams).flatten() {
        if let LogTarget::File(file) = &log.to {
            // Logs are rotated: others of the folder are made.
            wanted.insert((folder_of(file), Access::Write));
        }
    }
    // Everything else that is named by its path is read: sites, certificates, lists. Files are
    // replaced by renaming, so it is their folder that counts.
    let mut named = Vec::new();
    paths_in(&config::effective(config), &mut named);
    for path in named {
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => wanted.insert((path, Access::Read)),
            Ok(_) => wanted.insert((folder_of(&path), Access::Read)),
            Err(_) => false,
        };
    }
    wanted
}

/// Texts that may be paths of files.
fn paths_in(value: &Value, paths: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) if text.len() > 1 && text.starts_with('/') => paths.push(text.into()),
        Value::Array(items) => items.iter().for_each(|item| paths_in(item, paths)),
        Value::Object(map) => {
            // What a request's path is compared with is no file, though one may have its name.
            let not_files = ["match", "path", "rewrite", "redirect"];
            let items = map.iter().filter(|(key, _)| !not_files.contains(&&***key));
            items.for_each(|(_, item)| paths_in(item, paths));
        }
        _ => {}
    }
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut known = path;
    loop {
        if let Ok(real) = known.canonicalize() {
            return missing
                .iter()
                .rev()
                .fold(real, |path, name| path.join(name));
        }
        match (known.parent(), known.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                known = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(root: &Path, log: &Path) -> Config {
        let text = format!(
            "listeners: [{{name: a, kind: http, address: 127.0.0.1, port: 8080, access_log: {}}}]\n\
             routes: [{{name: r, match: [/tmp], files: {{root: {}}}}}]\n",
            log.display(),
            root.display()
        );
        let loaded = crate::config::parse("test", &text);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        loaded.config
    }

    #[test]
    fn a_new_path_is_missed_and_what_is_beneath_an_old_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (site, logs) = (folder.path().join("site"), folder.path().join("logs"));
        let inner = site.join("inner");
        std::fs::create_dir_all(&inner).expect("made");
        std::fs::create_dir_all(&logs).expect("made");
        let first = config(&site, &logs.join("access.log"));
        let grants = Grants::of(&first, Path::new("-"));
        assert_eq!(grants.lacks(&first), Vec::<PathBuf>::new());
        let beneath = config(&inner, &logs.join("other.log"));
        assert_eq!(grants.lacks(&beneath), Vec::<PathBuf>::new());
        // Reading is not writing.
        let elsewhere = config(folder.path(), &site.join("access.log"));
        assert_eq!(grants.lacks(&elsewhere), [folder.path(), &site]);
    }

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (there, link) = (folder.path().join("there"), folder.path().join("link"));
        std::fs::create_dir(&there).expect("made");
        std::os::unix::fs::symlink(&there, &link).expect("linked");
        let there = there.canonicalize().expect("exists");
        assert_eq!(real(&link.join("new/file")), there.join("new/file"));
    }
}
