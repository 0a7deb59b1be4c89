//! At which ports workloads listen, as the kernel lists sockets.
//!
//! The kernel side hears of each listen() by itself, so that nothing that arrives afterwards is
//! missed. Here is found what listened before, what has stopped, and what the kernel side cannot
//! see: that a socket is of IPv6 alone, and which addresses others have beside a workload.

use super::cgroups::{self, Place};
use super::plan;
use crate::config::model::mesh::{Direction, is_within};
use crate::sockets::diag::Diag;
use proxy_common::addr::Addr;
use proxy_common::redirect::{LISTENING, Listening, ListeningKey};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Where.
    pub(super) local: SocketAddr,
    /// What comes over IPv4 is not for it.
    pub(super) v6_only: bool,
    /// Id of its cgroup.
    pub(super) cgroup: u64,
    /// The chosen cgroups, by family, that it is of.
    pub(super) chosen4: u64,
    pub(super) chosen6: u64,
}

/// The entries that there ought to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Those that there is room for.
    pub(super) entries: BTreeMap<ListeningKey, Listening>,
    /// Ports of workloads that there is none for.
    pub(super) without_room: usize,
}

impl Wanted {
    /// Ports of workloads that there is room for.
    pub(super) fn ports(&self) -> usize {
        let entries = self.entries.values();
        entries.filter(|it| it.cgroup != 0).count()
    }
}

/// Looks who listens.
#[derive(Default)]
pub(super) struct Listeners {
    /// Chosen cgroups for IPv4 and for IPv6, by cgroup; none of those that are not chosen. Ids are not
    /// given twice.
    known: HashMap<u64, (u64, u64)>,
    /// Whether sockets are the daemon's own, by their inodes, of those in chosen cgroups.
    own: HashMap<u32, bool>,
}

impl Listeners {
    /// Forgets which cgroups are chosen.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// The entries that there ought to be.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn look(
        &mut self,
        root: &Path,
        wanted: &[plan::Wanted],
        places: &[Place],
    ) -> io::Result<Wanted> {
        let diag = Diag::open()?;
        let mut found = diag.listening(libc::AF_INET as u8)?;
        found.extend(diag.listening(libc::AF_INET6 as u8)?);
        if found
            .iter()
            .any(|one| !self.known.contains_key(&one.cgroup))
        {
            self.known = nearest(root, wanted, places);
            for one in &found {
                self.known.entry(one.cgroup).or_default();
            }
        }
        let is_chosen = |cgroup| self.known.get(&cgroup).is_some_and(|it| *it != (0, 0));
        let inodes = found.iter().filter(|one| is_chosen(one.cgroup));
        let inodes: Vec<u32> = inodes.map(|one| one.inode).collect();
        self.learn_own(&inodes);
        let sockets: Vec<Socket> = found
            .iter()
            .map(|one| {
                let is_own = self.own.get(&one.inode).is_some_and(|is_own| *is_own);
                let chosen = self.known.get(&one.cgroup).filter(|_| !is_own);
                let (chosen4, chosen6) = chosen.copied().unwrap_or_default();
                Socket {
                    local: one.local(),
                    v6_only: one.v6_only,
                    cgroup: one.cgroup,
                    chosen4,
                    chosen6,
                }
            })
            .collect();
        Ok(fitting(entries(&sockets), LISTENING as usize))
    }

    /// Finds out whether these are the daemon's own, if one of them has not been seen yet: all of
    /// its descriptors must be looked at.
    fn learn_own(&mut self, inodes: &[u32]) {
        self.own.retain(|inode, _| inodes.contains(inode));
        if inodes.iter().all(|inode| self.own.contains_key(inode)) {
            return;
        }
        let entries = std::fs::read_dir("/proc/self/fd");
        let own: Vec<u32> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| inode_of(std::fs::read_link(entry.path()).ok()?.to_str()?))
            .collect();
        let all = inodes.iter().map(|inode| (*inode, own.contains(inode)));
        self.own = all.collect();
    }
}

/// The inode of a socket, by what its descriptor's link says.
fn inode_of(link: &str) -> Option<u32> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// The nearest chosen cgroups of all cgroups that are chosen or below one that is.
fn nearest(root: &Path, wanted: &[plan::Wanted], places: &[Place]) -> HashMap<u64, (u64, u64)> {
    let mut all = HashMap::new();
    let inbound = wanted
        .iter()
        .filter(|one| one.direction == Direction::Inbound);
    let chosen: Vec<(u32, &str, u64)> = inbound
        .flat_map(|one| one.cgroups.iter().map(|path| (one.family, path.as_str())))
        .filter_map(|(family, path)| {
            let place = places.iter().find(|place| place.path == path)?;
            Some((family, path, place.id?))
        })
        .collect();
    for (_, path, _) in &chosen {
        for (id, below) in cgroups::below(root, path, usize::MAX) {
            let of = |wanted: u32| {
                let above = chosen
                    .iter()
                    .filter(|(family, path, _)| *family == wanted && is_within(&below, path));
                let nearest = above.max_by_key(|(_, path, _)| path.trim_end_matches('/').len());
                nearest.map_or(0, |(_, _, id)| *id)
            };
            all.insert(id, (of(4), of(6)));
        }
    }
    all
}

/// The entries for sockets: those of workloads, and those of others beside one that is for all
/// addresses. Pure.
fn entries(sockets: &[Socket]) -> BTreeMap<ListeningKey, Listening> {
    let mut entries = BTreeMap::new();
    for socket in sockets {
        let key = key(socket.local);
        let is_v4 = key.addr.is_v4();
        let is_both = key.addr == Addr::UNSPECIFIED && !socket.v6_only;
        let value = Listening {
            cgroup: socket.cgroup,
            chosen4: if is_v4 || is_both { socket.chosen4 } else { 0 },
            chosen6: if is_v4 { 0 } else { socket.chosen6 },
        };
        let is_chosen = value.chosen4 != 0 || value.chosen6 != 0;
        if is_chosen && !key.addr.is_of_one_host() {
            entries.entry(key).or_insert(value);
        }
    }
    let mut others = Vec::new();
    for socket in sockets {
        let key = key(socket.local);
        let at = |addr: Addr| entries.contains_key(&ListeningKey { addr, ..key });
        let is_beside = at(Addr::UNSPECIFIED) || key.addr.is_v4() && at(Addr::v4([0; 4]));
        if is_beside && !at(key.addr) && !key.addr.is_of_one_host() {
            others.push(key);
        }
    }
    entries.extend(others.into_iter().map(|key| (key, Listening::default())));
    entries
}

/// Leaves out what finds no room: the highest ports, each with all that listen there, for whoever is
/// beside a workload must be known where the workload is. Pure.
fn fitting(entries: BTreeMap<ListeningKey, Listening>, room: usize) -> Wanted {
    let mut by_port: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (key, value) in entries {
        by_port.entry(key.port).or_default().push((key, value));
    }
    let mut wanted = Wanted::default();
    let mut is_full = false;
    for group in by_port.into_values() {
        is_full |= wanted.entries.len() + group.len() > room;
        if is_full {
            wanted.without_room += group.iter().filter(|(_, it)| it.cgroup != 0).count();
        } else {
            wanted.entries.extend(group);
        }
    }
    wanted
}

fn key(local: SocketAddr) -> ListeningKey {
    ListeningKey {
        addr: Addr::from(match local.ip() {
            IpAddr::V6(ip) if !ip.is_unspecified() => IpAddr::V6(ip).to_canonical(),
            ip => ip,
        }),
        port: local.port().into(),
        _pad: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, chosen: (u64, u64)) -> Socket {
        Socket {
            local: local.parse().expect("an address"),
            v6_only: false,
            cgroup: 7,
            chosen4: chosen.0,
            chosen6: chosen.1,
        }
    }

    fn of(sockets: &[Socket]) -> Vec<(String, (u64, u64))> {
        let text = |key: &ListeningKey| {
            SocketAddr::new(IpAddr::from(key.addr), key.port as u16).to_string()
        };
        let entries = entries(sockets).into_iter();
        let all = entries.map(|(key, value)| (text(&key), (value.chosen4, value.chosen6)));
        all.collect()
    }

    fn entry(text: &str, chosen: (u64, u64)) -> (String, (u64, u64)) {
        (text.to_owned(), chosen)
    }

    #[test]
    fn ports_of_workloads_are_known_by_family() {
        let mut only = socket("[::]:82", (1, 2));
        only.v6_only = true;
        let sockets = [
            socket("10.0.0.1:80", (1, 2)),
            socket("[fd09::1]:80", (1, 2)),
            socket("[::]:81", (1, 2)),
            only,
            socket("[fd09::1]:83", (1, 0)),
            socket("127.0.0.1:84", (1, 2)),
            socket("0.0.0.0:85", (0, 0)),
        ];
        let mut found = of(&sockets);
        found.sort();
        let wanted = [
            entry("10.0.0.1:80", (1, 0)),
            entry("[::]:81", (1, 2)),
            entry("[::]:82", (0, 2)),
            entry("[fd09::1]:80", (0, 2)),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn others_are_known_beside_a_workload_alone() {
        let sockets = [
            socket("0.0.0.0:80", (1, 0)),
            socket("10.0.0.1:80", (0, 0)),
            socket("127.0.0.1:80", (0, 0)),
            socket("10.0.0.1:81", (0, 0)),
            socket("[::]:82", (1, 2)),
            socket("0.0.0.0:82", (0, 0)),
            socket("[fd09::1]:82", (0, 0)),
            // Two sockets share one address; either may be listed first.
            socket("0.0.0.0:83", (0, 0)),
            socket("0.0.0.0:83", (1, 0)),
        ];
        let mut found = of(&sockets);
        found.sort();
        let wanted = [
            entry("0.0.0.0:80", (1, 0)),
            entry("0.0.0.0:82", (0, 0)),
            entry("0.0.0.0:83", (1, 0)),
            entry("10.0.0.1:80", (0, 0)),
            entry("[::]:82", (1, 2)),
            entry("[fd09::1]:82", (0, 0)),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_port_fits_with_all_that_listen_there_or_not_at_all() {
        let sockets = [
            socket("0.0.0.0:80", (1, 0)),
            socket("10.0.0.1:80", (0, 0)),
            socket("0.0.0.0:81", (1, 0)),
            socket("10.0.0.1:81", (0, 0)),
            socket("10.0.0.1:82", (1, 0)),
        ];
        let all = entries(&sockets);
        let fitting = |room| fitting(all.clone(), room);
        assert_eq!(fitting(5).entries, all);
        assert_eq!((fitting(5).ports(), fitting(5).without_room), (3, 0));
        for (room, kept, ports, without_room) in [
            (4, &[80, 80, 81, 81][..], 2, 1),
            (3, &[80, 80], 1, 2),
            (1, &[], 0, 3),
            (0, &[], 0, 3),
        ] {
            let found = fitting(room);
            let mut at: Vec<u32> = found.entries.keys().map(|key| key.port).collect();
            at.sort_unstable();
            assert_eq!(at, kept, "{room}");
            let counts = (found.ports(), found.without_room);
            assert_eq!(counts, (ports, without_room), "{room}");
        }
    }

    #[test]
    fn a_descriptor_tells_its_socket() {
        assert_eq!(inode_of("socket:[4711]"), Some(4711));
        assert_eq!(inode_of("pipe:[4711]"), None);
        assert_eq!(inode_of("/dev/null"), None);
    }
}
