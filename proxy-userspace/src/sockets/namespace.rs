//! Network namespaces: that of this process, to which programs are attached that choose sockets, and
//! the others that it can see.

use crate::kernel::{pins, sys};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";
/// Those with names.
const NAMED: &str = "/run/netns";
/// Those of processes.
const PROCESSES: &str = "/proc";

/// Sees to it that this program is the one that lookups meet. A link that is pinned there goes on
/// with it, without a lookup that meets neither; one of another namespace is ended.
///
/// # Errors
///
/// Those of the system.
pub(super) fn attach(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = File::open(OWN)?;
    let inode = namespace.metadata()?.ino();
    let current = sys::program_id(program)?;
    if let Ok(link) = sys::open_pinned(pin)
        && let Ok(info) = sys::link_info(link.as_fd())
        && u64::from(info.ifindex) == inode
        && (info.program_id == current || sys::link_update(link.as_fd(), program).is_ok())
    {
        return Ok(());
    }
    pins::remove_link(pin).map_err(io::Error::other)?;
    let link = sys::link_namespace(program, namespace.as_fd())?;
    sys::pin(link.as_fd(), pin)
}

/// The network namespaces that this process can see, each once.
pub(super) fn visible() -> Vec<File> {
    let named = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let named = named.map(|entry| entry.path());
    let processes = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| {
        let name = entry.file_name();
        let is_process = name.to_str()?.bytes().all(|octet| octet.is_ascii_digit());
        is_process.then(|| entry.path().join("ns/net"))
    });
    let mut seen = BTreeSet::new();
    let mut open = |path: PathBuf| {
        let metadata = fs::metadata(&path).ok()?;
        if !seen.insert((metadata.dev(), metadata.ino())) {
            return None;
        }
        File::open(&path).ok()
    };
    named.chain(processes).filter_map(&mut open).collect()
}

/// Moves this thread to a network namespace.
pub(super) fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes a descriptor and a number.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
