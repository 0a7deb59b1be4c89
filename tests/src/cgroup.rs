//! Cgroups (version 2) that are gone when their value is, with all processes in them.

use crate::netns::{Namespace, PREFIX, unique};
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long processes that were killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// A cgroup. Dropping it kills what is in it, and removes it.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes one below the root. `role` becomes the last part of its name.
    ///
    /// # Errors
    ///
    /// Missing privileges, or no cgroups of version 2.
    pub fn create(role: &str) -> Result<Self> {
        let root = proxy_userspace::sockets::cgroup_root()?;
        sweep_stale(&root);
        let name = format!("{PREFIX}{}-{}-{role}", std::process::id(), unique());
        Self::make(&root, &format!("/{name}"))
    }

    /// Makes one below this one.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn child(&self, name: &str) -> Result<Self> {
        let root = proxy_userspace::sockets::cgroup_root()?;
        Self::make(&root, &format!("{}/{name}", self.path))
    }

    fn make(root: &Path, path: &str) -> Result<Self> {
        let folder = root.join(path.trim_start_matches('/'));
        fs::create_dir(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        Ok(Self {
            folder,
            path: path.to_owned(),
        })
    }

    /// Its path below the root of cgroups.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its id.
    ///
    /// # Errors
    ///
    /// It has gone.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.folder)?.ino())
    }

    /// A command whose process will run in the cgroup and inside a namespace.
    ///
    /// # Errors
    ///
    /// The cgroup has gone.
    pub fn command(&self, netns: &Namespace, program: &str) -> Result<Command> {
        let mut command = netns.command(program);
        self.put(&mut command)?;
        Ok(command)
    }

    /// Has a command's process run in the cgroup.
    ///
    /// # Errors
    ///
    /// The cgroup has gone.
    pub fn put(&self, command: &mut Command) -> Result<()> {
        let processes = File::options()
            .write(true)
            .open(self.folder.join("cgroup.procs"))?;
        let enter = move || {
            // SAFETY: writes one octet to an open file.
            match unsafe { libc::write(processes.as_raw_fd(), c"0".as_ptr().cast(), 1) } {
                1 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: one system call that neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

/// This process, as long as it is in a cgroup that it does not belong to. Dropping it takes it back.
#[derive(Debug)]
pub struct Visit {
    /// `cgroup.procs` of where it was.
    home: PathBuf,
}

impl Cgroup {
    /// Has this process, with all its threads, be in the cgroup. Sockets that it makes meanwhile belong
    /// to the cgroup for as long as they live.
    ///
    /// # Errors
    ///
    /// The cgroup has gone, or it cannot be told which one this process is in.
    pub fn visit(&self) -> Result<Visit> {
        let root = proxy_userspace::sockets::cgroup_root()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let home = root.join(own.context("no cgroup of version 2")?);
        let visit = Visit {
            home: home.join("cgroup.procs"),
        };
        fs::write(self.folder.join("cgroup.procs"), "0").context("entering a cgroup")?;
        Ok(visit)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Whoever removes the cgroup kills what is in it: that must not be this process.
        fs::write(&self.home, "0").expect("back to the cgroup that this process came from");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Kills what is in a cgroup and removes it.
fn remove(folder: &Path) {
    let deadline = Instant::now() + GONE;
    // Those in it that were just killed are still there for a moment.
    while fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < deadline {
        let processes = fs::read_to_string(folder.join("cgroup.procs"));
        for pid in processes.unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes what processes left that were killed.
fn sweep_stale(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| {
            let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            for inner in inner.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())) {
                remove(&inner.path());
            }
            remove(&entry.path());
        }
    }
}
