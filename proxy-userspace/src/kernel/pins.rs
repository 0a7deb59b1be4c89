//! Where the data plane is pinned: paths, the bpffs they need, and the lock that keeps a second
//! daemon away.
//!
//! ```text
//! PIN_DIR/maps/NAME          the maps in force
//! PIN_DIR/progs/NAME         the programs in force
//! PIN_DIR/stages/PROGRAM-ID  the program array of each load that a link may still use
//! PIN_DIR/links/INTERFACE    what keeps them attached
//! PIN_DIR/probes/INTERFACE   what keeps the program that aims health probes attached
//! PIN_DIR/next/…             maps being filled, before they are put in force; rubbish after a crash
//! PIN_DIR/decap/…            the same for `sluice decap`
//! ```

use super::load::LoadError;
use super::sys;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where distributions mount the bpffs.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

/// The paths under one pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The paths under this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Directory of the maps in force.
    pub fn maps(&self) -> PathBuf {
        self.directory.join("maps")
    }

    /// Directory of maps that are being filled.
    pub(crate) fn next_maps(&self) -> PathBuf {
        self.directory.join("next")
    }

    /// Directory of programs.
    pub fn programs(&self) -> PathBuf {
        self.directory.join("progs")
    }

    /// Directory of program arrays, by the id of the program that they belong to.
    pub(crate) fn stages(&self) -> PathBuf {
        self.directory.join("stages")
    }

    /// Directory of links.
    pub fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// A map in force.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// A program in force.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// The link of an interface.
    ///
    /// bpffs refuses names with dots, and VLAN interfaces have them: they are pinned with a
    /// colon instead, which no interface name can contain.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', ":"))
    }

    /// Interfaces that have a pinned link.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn linked_interfaces(&self) -> io::Result<Vec<String>> {
        interfaces_in(&self.links())
    }

    /// Directory of the links that aim health probes.
    pub fn probe_links(&self) -> PathBuf {
        self.directory.join("probes")
    }

    /// The link that aims the health probes which leave by an interface.
    pub fn probe_link(&self, interface: &str) -> PathBuf {
        self.probe_links().join(interface.replace('.', ":"))
    }

    /// Interfaces on which health probes are aimed.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn probed_interfaces(&self) -> io::Result<Vec<String>> {
        interfaces_in(&self.probe_links())
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<(), LoadError> {
        for directory in [
            self.directory.clone(),
            self.programs(),
            self.stages(),
            self.links(),
        ] {
            make_dir(&directory)?;
        }
        Ok(())
    }
}

/// Interfaces that links in a directory are named after.
fn interfaces_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().replace(':', "."));
    }
    names.sort();
    Ok(names)
}

/// Makes a directory that only root may enter, with its parents.
pub(crate) fn make_dir(directory: &Path) -> Result<(), LoadError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| LoadError::Path {
            call: "create",
            path: directory.to_owned(),
            source,
        })
}

/// Removes a directory of pins and all in it; it may be missing.
pub(crate) fn remove_dir(directory: &Path) -> Result<(), LoadError> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Path {
            call: "remove",
            path: directory.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes one pin; it may be missing.
pub(crate) fn remove_pin(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Path {
            call: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Removes the pin of a link, and detaches it, whoever else holds it; it may be missing.
pub(crate) fn remove_link(path: &Path) -> Result<(), LoadError> {
    if let Ok(link) = sys::open_pinned(path)
        && let Err(error) = sys::link_detach(link.as_fd())
    {
        // What it was attached to may have gone; without its pin the link dies anyway.
        tracing::debug!(%error, pin = %path.display(), "a link could not be detached");
    }
    remove_pin(path)
}

/// Is this path (or its nearest existing ancestor) on a bpffs?
pub(crate) fn on_bpffs(path: &Path) -> io::Result<bool> {
    let mut existing = path;
    while !existing.exists() {
        match existing.parent() {
            Some(parent) if parent != Path::new("") => existing = parent,
            _ => return Ok(false),
        }
    }
    Ok(statfs(existing)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Sees to it that the pin directory is on a bpffs, mounting one where it is missing: at the usual
/// place for a directory below it, else on the pin directory itself if that is empty or missing.
///
/// Returns where one was mounted.
pub(crate) fn ensure_bpffs(pin_dir: &Path) -> Result<Option<PathBuf>, LoadError> {
    let path_error = |call, path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Path { call, path, source }
    };
    if on_bpffs(pin_dir).map_err(path_error("examine", pin_dir))? {
        return Ok(None);
    }
    let target = if pin_dir.starts_with(USUAL_BPFFS) {
        PathBuf::from(USUAL_BPFFS)
    } else {
        make_dir(pin_dir)?;
        let mut entries = fs::read_dir(pin_dir).map_err(path_error("read", pin_dir))?;
        if entries.next().is_some() {
            return Err(LoadError::NotBpffs(pin_dir.to_owned()));
        }
        pin_dir.to_owned()
    };
    mount(
        Some("bpf"),
        &target,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| LoadError::MountBpffs {
        path: target.clone(),
        source: errno.into(),
    })?;
    Ok(Some(target))
}

/// Is this process in another mount namespace than the first process? A bpffs that it mounts is
/// then invisible outside, and its pins die with the namespace.
pub(crate) fn in_private_mounts() -> bool {
    match (
        fs::read_link("/proc/self/ns/mnt"),
        fs::read_link("/proc/1/ns/mnt"),
    ) {
        (Ok(own), Ok(first)) => own != first,
        _ => false,
    }
}

/// Keeps other daemons away from a pin directory for as long as it lives.
///
/// The lock belongs to the open file, not to the process: a successor that is given the descriptor
/// shares it, and it is released when the last of both has closed it. So nothing here unlocks.
pub(crate) struct PinLock {
    directory: File,
}

impl PinLock {
    /// Locks the directory itself, so that neither another mount of the same bpffs nor a
    /// different path to it gets around the lock, and nothing is left behind by a crash.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, LoadError> {
        let file = File::open(directory).map_err(|source| LoadError::Path {
            call: "open",
            path: directory.to_owned(),
            source,
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory: file }),
            Err(TryLockError::WouldBlock) => Err(LoadError::Locked {
                path: directory.to_owned(),
                holder: Holder(lock_holder(&file)),
            }),
            Err(TryLockError::Error(source)) => Err(LoadError::Path {
                call: "lock",
                path: directory.to_owned(),
                source,
            }),
        }
    }

    /// As [`Self::acquire`], with a lock that a predecessor has given, if it is of this directory.
    pub(crate) fn inherit(directory: &Path, given: Option<OwnedFd>) -> Result<Self, LoadError> {
        let given = given.map(File::from);
        let is_same = |file: &File| {
            let (Ok(given), Ok(wanted)) = (file.metadata(), fs::metadata(directory)) else {
                return false;
            };
            (given.dev(), given.ino()) == (wanted.dev(), wanted.ino())
        };
        match given.filter(is_same) {
            // No news where the predecessor lives; where it does not, its lock may be gone.
            Some(file) if file.try_lock().is_ok() => Ok(Self { directory: file }),
            _ => Self::acquire(directory),
        }
    }
}

impl AsFd for PinLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Who holds a lock, as far as it can be seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => {
                write!(f, "process {pid}")?;
                match fs::read_to_string(format!("/proc/{pid}/comm")) {
                    Ok(name) => write!(f, " ({})", name.trim_end()),
                    Err(_) => Ok(()),
                }
            }
            None => f.write_str("a process that is not visible from here"),
        }
    }
}

/// Process that holds an exclusive lock on this file, from `/proc/locks`.
fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, metadata.dev(), metadata.ino())
}

/// Finds the holder in the text of `/proc/locks`, whose lines read
/// `1: FLOCK  ADVISORY  WRITE 1234 00:1d:567 0 EOF`.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if place == wanted => {
                pid.parse().ok().filter(|&pid| pid != 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_interfaces_are_pinned_without_dots() {
        let pins = Pins::new("/sys/fs/bpf/sluice");
        assert_eq!(
            pins.link("eth0.100"),
            Path::new("/sys/fs/bpf/sluice/links/eth0:100")
        );
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1d:567 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 00:1d:567 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:1d:568 0 EOF\n";
        let device = libc::makedev(0, 0x1d);
        assert_eq!(holder_in(locks, device, 567), Some(4242));
        assert_eq!(holder_in(locks, device, 569), None);
        assert_eq!(holder_in("garbage\n\n1: FLOCK", device, 567), None);
    }

    #[test]
    fn a_second_lock_names_the_first_holder() {
        let directory = tempfile::tempdir().unwrap();
        let _first = PinLock::acquire(directory.path()).unwrap();
        let Err(error) = PinLock::acquire(directory.path()) else {
            panic!("locked twice");
        };
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
    }

    #[test]
    fn a_lock_that_is_handed_over_outlives_the_one_who_gave_it() {
        let directory = tempfile::tempdir().unwrap();
        let old = PinLock::acquire(directory.path()).unwrap();
        let given = old.as_fd().try_clone_to_owned().unwrap();
        let new = PinLock::inherit(directory.path(), Some(given)).unwrap();
        drop(old);
        assert!(PinLock::acquire(directory.path()).is_err(), "still locked");
        drop(new);
        PinLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn a_lock_of_another_directory_is_of_no_use() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let given = PinLock::acquire(one.path()).unwrap();
        let given = given.as_fd().try_clone_to_owned().unwrap();
        let _held = PinLock::acquire(two.path()).unwrap();
        assert!(PinLock::inherit(two.path(), Some(given)).is_err());
    }

    #[test]
    fn an_ordinary_directory_is_not_a_bpffs() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!on_bpffs(&directory.path().join("missing/below")).unwrap());
    }
}
