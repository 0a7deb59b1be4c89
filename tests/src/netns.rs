//! Network namespaces that are gone when their value is.
//!
//! A namespace is named, so that `ip netns exec NAME …` works while a test is being debugged. The
//! name holds the process id of its maker; [`sweep_stale`] removes what killed processes left.

use crate::command::{run, run_with_input};
use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use std::fs::{self, File};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

/// Where named namespaces live, as `ip netns` has it.
const DIRECTORY: &str = "/run/netns";

/// What the names of our namespaces and pin directories begin with.
pub const PREFIX: &str = "sluice-t";

/// A number that no other call in this process returned.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A network namespace. Dropping it removes it, with all devices in it.
///
/// What can be done in it is on [`Namespace`], to which it dereferences.
#[derive(Debug)]
pub struct Netns(Namespace);

/// A handle of a namespace: cheap to clone, and no owner.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace. `role` becomes the last part of its name.
    ///
    /// Loopback is up, reverse-path filtering, duplicate address detection and redirects (which
    /// would lead packets past a one-armed balancer) are off, and every user may open ping
    /// sockets.
    ///
    /// # Errors
    ///
    /// Missing privileges, or `ip` is missing.
    pub fn create(role: &str) -> Result<Self> {
        // `ip netns add` makes /run/netns a shared mount the first time; two at once would race.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| {
            raise_open_files();
            sweep_stale();
        });

        let name = format!("{PREFIX}{}-{}-{role}", std::process::id(), unique());
        {
            let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            run(Command::new("ip").args(["netns", "add", &name]))?;
        }
        let path = Path::new(DIRECTORY).join(&name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let netns = Self(Namespace {
            name: name.into(),
            file: Arc::new(file),
        });
        for (key, value) in [
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv4/ping_group_range", "0 2147483647"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_redirects", "0"),
        ] {
            netns.sysctl(key, value)?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }
}

impl Deref for Netns {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

impl Namespace {
    /// The name that `ip netns` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in a thread inside the namespace. Sockets that it opens belong to the namespace
    /// for good, wherever they are used later.
    ///
    /// # Panics
    ///
    /// If `f` does, with its message.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(self.file.as_fd()).expect("an open namespace can be entered by root");
                f()
            });
            thread
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Starts a thread inside the namespace that may outlive this call.
    ///
    /// # Errors
    ///
    /// No thread can be made.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let file = Arc::clone(&self.file);
        Ok(thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                enter(file.as_fd()).expect("an open namespace can be entered by root");
                f()
            })?)
    }

    /// A command whose process will run inside the namespace.
    ///
    /// Unlike `ip netns exec` this leaves the mounts alone, so that `/sys/fs/bpf` stays visible.
    /// The process is killed when the thread that spawns it ends, so that a test process that is
    /// killed leaves no daemon behind.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        let enter_namespace = move || {
            // A caller that waits for signals has them blocked, and children inherit that.
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(enter(file.as_fd())?)
        };
        // SAFETY: three system calls that neither allocate nor take a lock.
        unsafe { command.pre_exec(enter_namespace) };
        command
    }

    /// Runs lines of `ip -batch` inside the namespace.
    ///
    /// # Errors
    ///
    /// A line fails; the error shows all of them.
    pub fn ip(&self, lines: &str) -> Result<()> {
        run_with_input(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        )
    }

    /// Sets a sysctl, named by its path under `/proc/sys`.
    ///
    /// # Errors
    ///
    /// The kernel does not have it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("cannot set {key} to {value} in {}", self.name))
    }

    /// Changes offloads of a device, as `ethtool -K` does.
    ///
    /// # Errors
    ///
    /// There is no such device or offload.
    pub fn offloads(&self, device: &str, settings: &[&str]) -> Result<()> {
        run(self.command("ethtool").args(["-K", device]).args(settings)).map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing to do about a failure here; the next process sweeps.
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Lets this process have as many descriptors as it may: clients and origins of all tests are in
/// one process, both ends of thousands of connections.
pub fn raise_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Not raised, a test that needs more fails and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Lets this process, and those that it starts, have this many descriptors.
///
/// # Panics
///
/// It may not, and says how it could.
pub fn raise_open_files_to(wanted: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("asked");
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.max(hard), wanted.max(hard));
    assert!(
        raised.is_ok(),
        "this test needs {wanted} descriptors and may have {hard}: run it after `ulimit -n {wanted}` \
         by root, or raise `nofile` in /etc/security/limits.conf"
    );
}

/// Moves the calling thread into a namespace.
fn enter(namespace: BorrowedFd<'_>) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
}

/// Removes namespaces and pins that processes left which no longer run.
pub fn sweep_stale() {
    for name in stale_entries(Path::new(DIRECTORY)) {
        let _ = run(Command::new("ip").args(["netns", "del", &name]));
    }
    for name in stale_entries(Path::new(BPFFS)) {
        let _ = remove_pins(&Path::new(BPFFS).join(name));
    }
}

/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Makes sure that bpffs is mounted, once for all tests, so that daemons that start at the same
/// time do not mount it over each other.
///
/// # Errors
///
/// The kernel refuses the mount.
pub fn mount_bpffs() -> Result<()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS))
    {
        return Ok(());
    }
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).map(drop)
}

/// Gives a command's process a bpffs of its own, where the host has its: what it pins is seen by
/// nobody else, and gone with the process.
pub fn with_own_bpffs(command: &mut Command) {
    let mount_it = || {
        let nothing = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        // Else the host would get it as well.
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            nothing,
        )?;
        Ok(mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            nothing,
        )?)
    };
    // SAFETY: three system calls, whose short paths are put on the stack.
    unsafe { command.pre_exec(mount_it) };
}

/// Removes a directory in bpffs with all pins in it.
///
/// # Errors
///
/// Something cannot be removed. A missing directory is not an error.
pub fn remove_pins(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow!(error).context(format!("cannot remove {}", directory.display())))
        }
        _ => Ok(()),
    }
}

/// A pin directory that nobody else uses. It is not made yet.
pub fn unique_pin_dir() -> PathBuf {
    Path::new(BPFFS).join(format!("{PREFIX}{}-{}", std::process::id(), unique()))
}

/// Entries named `PREFIX<pid>-…` whose process is gone.
fn stale_entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| maker_is_gone(name))
        .collect()
}

/// True if `name` is one of ours and its maker's process does not exist.
fn maker_is_gone(name: &str) -> bool {
    let Some((pid, _)) = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    pid.bytes().all(|byte| byte.is_ascii_digit()) && !Path::new("/proc").join(pid).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_leftovers_count_as_stale() {
        let own = format!("{PREFIX}{}-1-client", std::process::id());
        assert!(!maker_is_gone(&own));
        assert!(maker_is_gone(&format!("{PREFIX}4194999-1-client")));
        assert!(!maker_is_gone("cni-1234"));
        assert!(!maker_is_gone(&format!("{PREFIX}x-1")));
    }
}
