//! The programs' links to cgroups.
//!
//! A link belongs to a cgroup, and a cgroup may go and come back under its name: a service that is
//! restarted, a container. So it is looked after the paths again and again, and a cgroup is told from
//! its successor by its id, which is never given twice.

use super::hooks::Hook;
use crate::kernel::load::LoadError;
use crate::kernel::pins::{self, Pins};
use crate::kernel::sys;
use crate::sockets::cgroup::CgroupError;
use crate::sockets::pinned;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A configured cgroup, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// As configured.
    pub path: PathBuf,
    /// Its id; `None` if there is no such cgroup now.
    pub id: Option<u64>,
}

/// A program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There are no cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel refuses.
    #[error("cannot attach `{program}` to the cgroup {}", path.display())]
    Attach {
        /// Its name.
        program: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A pin cannot be made or removed.
    #[error(transparent)]
    Pin(#[from] LoadError),
}

/// Where a cgroup of the configuration is, below the root cgroup.
pub(super) fn folder(root: &Path, path: &Path) -> PathBuf {
    // Whoever writes the folder instead of the cgroup's name means the same.
    let path = path.strip_prefix(root).unwrap_or(path);
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A program, and where it is attached.
pub(super) type Placed<'a> = (&'a Hook, BorrowedFd<'a>);

/// Attaches these programs and no others, in this order, to these cgroups and to no others.
///
/// # Errors
///
/// [`LinkError`]; calling it again goes on.
pub(super) fn follow(
    pins: &Pins,
    root: &Path,
    cgroups: &[PathBuf],
    programs: &[Placed<'_>],
) -> Result<Vec<Attached>, LinkError> {
    let mut found = Vec::new();
    let mut wanted = BTreeSet::new();
    for path in cgroups {
        let folder = folder(root, path);
        let id = match File::open(&folder) {
            Ok(cgroup) => {
                let id = attach(pins, &folder, &cgroup, programs)?;
                wanted.extend(programs.iter().map(|(hook, _)| link_path(pins, id, hook)));
                Some(id)
            }
            Err(error) if is_absent(&error) => None,
            Err(source) => {
                return Err(LinkError::Attach {
                    program: programs[0].0.program,
                    path: folder,
                    source,
                });
            }
        };
        found.push(Attached {
            path: path.clone(),
            id,
        });
    }
    detach_others(pins, &wanted)?;
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(libc::ENODEV)
}

/// Sees to it that all programs are attached to a cgroup; its id.
fn attach(
    pins: &Pins,
    folder: &Path,
    cgroup: &File,
    programs: &[Placed<'_>],
) -> Result<u64, LinkError> {
    let failed = |hook: &Hook| {
        let (program, path) = (hook.program, folder.to_owned());
        move |source| LinkError::Attach {
            program,
            path,
            source,
        }
    };
    let id = cgroup.metadata().map_err(failed(programs[0].0))?.ino();
    for (hook, program) in programs {
        let path = link_path(pins, id, hook);
        let current = sys::program_id(program.as_fd()).map_err(failed(hook))?;
        if let Ok(link) = sys::open_pinned(&path)
            && let Ok(info) = sys::link_info(link.as_fd())
            && info.cgroup() == id
            && (info.program_id == current
                || sys::link_update(link.as_fd(), program.as_fd()).is_ok())
        {
            continue;
        }
        pins::remove_pin(&path)?;
        let link = sys::link_cgroup(program.as_fd(), cgroup.as_fd(), hook.attach_type);
        let link = link.map_err(failed(hook))?;
        sys::pin(link.as_fd(), &path).map_err(|source| LoadError::Path {
            call: "pin",
            path,
            source,
        })?;
    }
    Ok(id)
}

/// Removes all other links.
fn detach_others(pins: &Pins, wanted: &BTreeSet<PathBuf>) -> Result<(), LinkError> {
    for path in pinned::links(pins) {
        if !wanted.contains(&path) {
            pins::remove_link(&path)?;
        }
    }
    Ok(())
}

fn link_path(pins: &Pins, id: u64, hook: &Hook) -> PathBuf {
    pins.links().join(format!("{id:x}_{}", hook.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_by_its_path_or_its_folder() {
        let root = Path::new("/sys/fs/cgroup");
        let at = |path: &str| folder(root, Path::new(path));
        assert_eq!(at("/"), root.join(""));
        assert_eq!(at("/app.slice/a"), root.join("app.slice/a"));
        assert_eq!(at("/sys/fs/cgroup/app.slice"), root.join("app.slice"));
    }
}
