//! Opening files beneath the root, and never elsewhere.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// Attempts to open a file whose folders are being renamed just then.
const ATTEMPTS: usize = 4;

/// Entries of a folder that are listed at most.
const MOST_LISTED: usize = 10_000;

/// The folder that is served.
#[derive(Debug)]
pub(super) struct Root {
    folder: OwnedFd,
    how: Resolve,
}

/// Who sees to it that nothing outside is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolve {
    /// The kernel.
    Beneath,
    /// We, segment by segment, following no links: for kernels before 5.6 and filters of system
    /// calls that do not know `openat2`.
    Walk,
}

/// Something that was opened.
#[derive(Debug)]
pub(super) enum Opened {
    /// A regular file.
    File(File, Meta),
    /// A folder.
    Folder(OwnedFd),
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Octets.
    pub(super) size: u64,
    /// Seconds since the epoch.
    pub(super) modified: u64,
    /// And nanoseconds.
    pub(super) nanos: u32,
}

/// Why there is nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is nothing of this name that may be served.
    Absent,
    /// The file is not readable for us.
    Forbidden,
    /// Descriptors or memory are missing.
    Exhausted,
    /// The disk failed.
    Broken,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: OsString,
    pub(super) folder: bool,
    /// Octets, of a regular file.
    pub(super) size: Option<u64>,
}

impl Root {
    /// Opens the root. It is resolved once: where its name leads later does not matter.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = nix::fcntl::open(path, flags, Mode::empty())?;
        let how = match openat2(&folder, ".", beneath()) {
            Err(Errno::ENOSYS | Errno::EPERM | Errno::E2BIG) => Resolve::Walk,
            _ => Resolve::Beneath,
        };
        Ok(Self { folder, how })
    }

    #[cfg(test)]
    pub(super) fn walking(self) -> Self {
        Self {
            how: Resolve::Walk,
            ..self
        }
    }

    /// Opens what `name`, a relative path without `..`, stands for. Empty: the root itself.
    pub(super) fn get(&self, name: &OsStr) -> Result<Opened, Failure> {
        let name = if name.is_empty() {
            OsStr::new(".")
        } else {
            name
        };
        let opened = match self.how {
            Resolve::Beneath => self.resolve(name),
            Resolve::Walk => self.walk(name),
        };
        let opened = opened.map_err(failure)?;
        let stat = fstat(&opened).map_err(failure)?;
        match kind(&stat) {
            SFlag::S_IFREG => Ok(Opened::File(File::from(opened), meta(&stat))),
            SFlag::S_IFDIR => Ok(Opened::Folder(opened)),
            // Devices, pipes and sockets are no files.
            _ => Err(Failure::Absent),
        }
    }

    fn resolve(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        let mut result = Err(Errno::EAGAIN);
        for _ in 0..ATTEMPTS {
            result = openat2(&self.folder, name, beneath());
            if !matches!(result, Err(Errno::EAGAIN)) {
                break;
            }
        }
        result
    }

    fn walk(&self, name: &OsStr) -> nix::Result<OwnedFd> {
        let mut folder = None;
        let mut segments = name.as_bytes().split(|&octet| octet == b'/').peekable();
        while let Some(segment) = segments.next() {
            let segment = OsStr::from_bytes(segment);
            let last = segments.peek().is_none();
            let flags = if last {
                FLAGS | OFlag::O_NOFOLLOW
            } else {
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
            };
            let at = folder.as_ref().unwrap_or(&self.folder);
            let opened = openat(at, segment, flags, Mode::empty())?;
            if last {
                return Ok(opened);
            }
            folder = Some(opened);
        }
        Err(Errno::ENOENT)
    }
}

/// `O_NONBLOCK`, because opening a pipe would wait for its writer.
const FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);

fn beneath() -> OpenHow {
    OpenHow::new()
        .flags(FLAGS)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// The entries of a folder that are served, folders first, each group in order of their names.
pub(super) fn entries(folder: OwnedFd) -> Result<Vec<Entry>, Failure> {
    let mut dir = Dir::from_fd(folder).map_err(failure)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(failure)?;
        let name = entry.file_name().to_bytes();
        if !name.starts_with(b".") && names.len() < MOST_LISTED {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    let mut entries: Vec<Entry> = names
        .into_iter()
        .filter_map(|name| {
            let stat = fstatat(dir.as_fd(), name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
            let kind = kind(&stat);
            let served = [SFlag::S_IFREG, SFlag::S_IFDIR, SFlag::S_IFLNK].contains(&kind);
            served.then(|| Entry {
                name,
                folder: kind == SFlag::S_IFDIR,
                size: (kind == SFlag::S_IFREG).then(|| meta(&stat).size),
            })
        })
        .collect();
    entries.sort_by(|a, b| (!a.folder, &a.name).cmp(&(!b.folder, &b.name)));
    Ok(entries)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn meta(stat: &FileStat) -> Meta {
    Meta {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

fn failure(errno: Errno) -> Failure {
    match errno {
        Errno::ENOENT
        | Errno::ENOTDIR
        | Errno::ENAMETOOLONG
        | Errno::EINVAL
        | Errno::ENXIO
        // A link that leads outside, or in a circle.
        | Errno::EXDEV
        | Errno::ELOOP => Failure::Absent,
        Errno::EACCES | Errno::EPERM => Failure::Forbidden,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN => Failure::Exhausted,
        _ => Failure::Broken,
    }
}
