//! Cgroups by their paths and their ids.

use super::plan::Wanted;
use crate::config::model::mesh::Direction;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A cgroup that is to be redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its path below the root.
    pub path: String,
    /// Its id, if it exists.
    pub id: Option<u64>,
    /// What its programs open is redirected.
    pub outbound: bool,
    /// What others open to them is.
    pub inbound: bool,
    /// The programs of ours are there.
    pub is_attached: bool,
}

/// The cgroups that are wanted, each once.
pub(super) fn resolve(root: &Path, wanted: &[Wanted]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let all = wanted
        .iter()
        .flat_map(|one| one.cgroups.iter().map(|path| (path, one.direction)));
    for (path, direction) in all {
        let known = places.iter().position(|place| place.path == *path);
        let index = known.unwrap_or_else(|| {
            places.push(Place {
                path: path.clone(),
                id: id(&folder(root, path)),
                outbound: false,
                inbound: false,
                is_attached: false,
            });
            places.len() - 1
        });
        match direction {
            Direction::Outbound => places[index].outbound = true,
            Direction::Inbound => places[index].inbound = true,
        }
    }
    places
}

/// The folder of a cgroup.
pub(super) fn folder(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The id of a cgroup: its folder's inode.
pub(super) fn id(folder: &Path) -> Option<u64> {
    let data = std::fs::metadata(folder).ok()?;
    data.is_dir().then(|| data.ino())
}

/// The cgroups in a folder and below it, with their ids and their paths; at most `most`.
pub(super) fn below(root: &Path, path: &str, most: usize) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    let mut left = vec![path.trim_end_matches('/').to_owned()];
    while let Some(path) = left.pop() {
        let folder = folder(root, &path);
        let Some(id) = id(&folder).filter(|_| all.len() < most) else {
            continue;
        };
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(folders.filter_map(|entry| {
            let name = entry.file_name();
            Some(format!("{path}/{}", name.to_str()?))
        }));
        let path = if path.is_empty() {
            "/".to_owned()
        } else {
            path
        };
        all.push((id, path));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_with_those_below() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["a/b", "a/c/d", "e"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        let of = |path, most| {
            let mut found: Vec<_> = below(root.path(), path, most)
                .into_iter()
                .map(|(_, path)| path)
                .collect();
            found.sort();
            found
        };
        assert_eq!(of("/a", 9), ["/a", "/a/b", "/a/c", "/a/c/d"]);
        assert_eq!(of("/", 9).len(), 6);
        assert_eq!(of("/", 2).len(), 2);
        assert!(of("/x", 9).is_empty());
        let folder = folder(root.path(), "/a/b");
        assert_eq!(
            id(&folder),
            below(root.path(), "/a/b", 1).first().map(|one| one.0)
        );
    }
}
