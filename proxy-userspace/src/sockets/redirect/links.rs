//! The links that keep the programs attached to cgroups, pinned by the cgroup's id and the
//! program's name.

use crate::kernel::load::LoadError;
use crate::kernel::pins::{self, Pins};
use crate::kernel::sys;
use crate::sockets::{namespace, pinned};
use proxy_common::redirect::program;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// A loaded program.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) fd: OwnedFd,
}

impl Program {
    /// Where it goes in a cgroup, by the kernel's number.
    fn attach_type(&self) -> u32 {
        match self.name {
            program::MEET | program::HEAR => 3,
            program::CONNECT4 => 10,
            program::CONNECT6 => 11,
            program::PEER4 => 29,
            _ => 30,
        }
    }
}

/// The links.
pub(super) struct Links {
    programs: Vec<Program>,
    links: BTreeMap<(u64, &'static str), OwnedFd>,
}

impl Links {
    /// Takes over the links that are pinned, with these programs in the place of older ones. Those
    /// whose cgroups have gone are removed.
    pub(super) fn adopt(pins: &Pins, programs: Vec<Program>) -> Result<Self, LoadError> {
        let mut links = BTreeMap::new();
        for path in pinned::links(pins) {
            if path == namespace_pin(pins) {
                continue;
            }
            let known = place(&path).and_then(|(id, name)| {
                let program = programs.iter().find(|program| program.name == name)?;
                let link = sys::open_pinned(&path).ok()?;
                let info = sys::link_info(link.as_fd()).ok()?;
                let is_there = info.ifindex == id as u32;
                let is_ours = || sys::link_update(link.as_fd(), program.fd.as_fd()).is_ok();
                (is_there && is_ours()).then_some(((id, program.name), link))
            });
            match known {
                Some((key, link)) => drop(links.insert(key, link)),
                None => pins::remove_link(&path)?,
            }
        }
        Ok(Self { programs, links })
    }

    /// Has these programs attached to a cgroup.
    pub(super) fn attach(
        &mut self,
        pins: &Pins,
        cgroup: u64,
        folder: &Path,
        names: &[&'static str],
    ) -> io::Result<()> {
        let wanted = self.programs.iter().filter(|it| names.contains(&it.name));
        for program in wanted {
            let key = (cgroup, program.name);
            if self.links.contains_key(&key) {
                continue;
            }
            let folder = File::open(folder)?;
            let link =
                sys::link_cgroup_first(program.fd.as_fd(), folder.as_fd(), program.attach_type())?;
            sys::pin(link.as_fd(), &path(pins, key))?;
            self.links.insert(key, link);
        }
        Ok(())
    }

    /// Ends the links to cgroups but those for which `keep` holds, by a cgroup's id and the
    /// program's name.
    pub(super) fn keep(
        &mut self,
        pins: &Pins,
        keep: impl Fn(u64, &'static str) -> bool,
    ) -> Result<(), LoadError> {
        let links = self.links.keys();
        let gone: Vec<_> = links
            .filter(|(id, name)| !keep(*id, name))
            .copied()
            .collect();
        for key in gone {
            self.links.remove(&key);
            pins::remove_link(&path(pins, key))?;
        }
        Ok(())
    }

    /// Has what arrives in the daemon's network namespace looked at, or not.
    pub(super) fn hear(&self, pins: &Pins, is_wanted: bool) -> io::Result<()> {
        let (pin, mut programs) = (namespace_pin(pins), self.programs.iter());
        match programs.find(|it| it.name == program::ARRIVE) {
            Some(arrive) if is_wanted => namespace::attach(&pin, arrive.fd.as_fd()),
            _ => pins::remove_link(&pin).map_err(io::Error::other),
        }
    }
}

/// What keeps [`program::ARRIVE`] attached to the network namespace.
fn namespace_pin(pins: &Pins) -> PathBuf {
    pins.links().join("netns")
}

fn path(pins: &Pins, (cgroup, name): (u64, &str)) -> PathBuf {
    pins.links().join(format!("{cgroup}-{name}"))
}

/// The cgroup's id and the program's name in a path.
fn place(path: &Path) -> Option<(u64, &str)> {
    let (cgroup, name) = path.file_name()?.to_str()?.split_once('-')?;
    Some((cgroup.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_its_cgroup_and_program() {
        let pins = Pins::new("/sys/fs/bpf/x");
        let path = path(&pins, (7042, program::PEER6));
        assert_eq!(place(&path), Some((7042, program::PEER6)));
        assert_eq!(place(Path::new("/x/eth0")), None);
        assert_eq!(place(Path::new("/x/a-b")), None);
    }
}
