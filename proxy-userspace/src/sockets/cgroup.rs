//! The host's cgroups of version 2, wherever they are mounted.

use std::fs;
use std::io;
use std::path::PathBuf;

/// There is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mounts cannot be read.
    #[error("cannot read /proc/self/mounts")]
    Mounts(#[source] io::Error),
    /// No file system of the type is mounted.
    #[error("no cgroup2 file system is mounted: try `mount -t cgroup2 none /sys/fs/cgroup`")]
    NotMounted,
}

/// The folder of the root cgroup of version 2. In a hybrid layout that is not `/sys/fs/cgroup`.
///
/// # Errors
///
/// [`CgroupError`].
pub fn root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(CgroupError::Mounts)?;
    find(&mounts).ok_or(CgroupError::NotMounted)
}

fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_found_in_either_layout() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(
            find("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"),
            Some(PathBuf::from("/sys/fs/cgroup"))
        );
        assert_eq!(find("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\nx\n"), None);
    }
}
