//! The maps of redirection, opened.

use super::plan::{Set, prefix};
use crate::kernel::handle::MapHandle;
use crate::kernel::host;
use crate::kernel::store::{StoreError, store_error};
use crate::sockets::pinned;
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::redirect::{
    ChosenKey, Listening, ListeningKey, Meeting, MeshPrefix, MeshSet, MeshState, MeshStats,
    PREFIX_FIXED_BITS, SETS, UserKey, map, set_flag,
};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

/// The maps, opened.
pub(super) struct Maps {
    state: MapHandle,
    chosen: MapHandle,
    sets: MapHandle,
    prefixes: MapHandle,
    users: MapHandle,
    sockets: MapHandle,
    daemons: MapHandle,
    waiting: MapHandle,
    listening: MapHandle,
    stats: MapHandle,
}

impl Maps {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = |name| pinned::map(folder, name);
        Ok(Self {
            state: open(map::STATE)?,
            chosen: open(map::CHOSEN)?,
            sets: open(map::SETS)?,
            prefixes: open(map::PREFIXES)?,
            users: open(map::USERS)?,
            sockets: open(map::SOCKETS)?,
            daemons: open(map::DAEMONS)?,
            waiting: open(map::WAITING)?,
            listening: open(map::LISTENING)?,
            stats: open(map::STATS)?,
        })
    }

    pub(super) fn state(&self) -> Result<MeshState, StoreError> {
        let state = self.state.get(&0u32);
        Ok(state
            .map_err(store_error("read", map::STATE))?
            .unwrap_or_default())
    }

    pub(super) fn set_state(&self, state: MeshState) -> Result<(), StoreError> {
        self.state
            .set(&0u32, &state)
            .map_err(store_error("write", map::STATE))
    }

    /// Says that this process is the daemon, and that those that have gone are not.
    pub(super) fn enter_daemon(&self) -> Result<(), StoreError> {
        let failed = store_error("write", map::DAEMONS);
        let own = std::process::id();
        for other in self.daemons.keys::<u32>().map_err(&failed)? {
            if other != own && !Path::new(&format!("/proc/{other}")).exists() {
                self.daemons.remove(&other).map_err(&failed)?;
            }
        }
        self.daemons.set(&own, &1u32).map_err(&failed)
    }

    /// The sets that are in use, by the names of their listeners.
    pub(super) fn sets(&self) -> Result<BTreeMap<String, (u32, Set)>, StoreError> {
        let all = self.sets.read_array::<MeshSet>(0, SETS);
        let all = all.map_err(store_error("read", map::SETS))?;
        let prefixes = self.prefixes.entries::<MeshPrefix, u32>();
        let prefixes = prefixes.map_err(store_error("read", map::PREFIXES))?;
        let users = self.users.entries::<UserKey, u32>();
        let users = users.map_err(store_error("read", map::USERS))?;
        let used = (0..)
            .zip(all)
            .filter(|(_, set)| set.flags & set_flag::USED != 0);
        let mut named = BTreeMap::new();
        for (number, settings) in used {
            let own = prefixes.iter().filter(|(key, _)| key.key.set == number);
            let own = own.filter_map(|(key, value)| Some((net(key)?, *value != 0)));
            let of = users.iter().filter(|(key, _)| key.set == number);
            let set = Set {
                settings,
                prefixes: own.collect(),
                users: of.map(|(key, value)| (key.user, *value != 0)).collect(),
            };
            let end = settings.name.iter().position(|&octet| octet == 0);
            let name = &settings.name[..end.unwrap_or(settings.name.len())];
            let name = String::from_utf8_lossy(name).into_owned();
            // One that an earlier process was about to replace: nobody is sent to it.
            if let Some((stale, set)) = named.insert(name, (number, set)) {
                self.clear(stale, &set)?;
            }
        }
        Ok(named)
    }

    /// Fills a set in; nobody is judged by it yet.
    pub(super) fn fill(&self, number: u32, set: &Set) -> Result<(), StoreError> {
        for (net, is_in) in &set.prefixes {
            let written = self.prefixes.set(&prefix(number, *net), &u32::from(*is_in));
            written.map_err(store_error("write", map::PREFIXES))?;
        }
        for (user, is_in) in &set.users {
            let written = self.users.set(&user_key(number, *user), &u32::from(*is_in));
            written.map_err(store_error("write", map::USERS))?;
        }
        // Whoever gets the number counts from zero.
        let zeros = vec![MeshStats::default(); host::possible_cpus()];
        let written = self.stats.set_per_cpu(number, &zeros);
        written.map_err(store_error("write", map::STATS))?;
        let written = self.sets.set(&number, &set.settings);
        written.map_err(store_error("write", map::SETS))
    }

    /// Forgets a set that nobody is judged by any more; returns what it has counted.
    pub(super) fn clear(&self, number: u32, set: &Set) -> Result<MeshStats, StoreError> {
        let counted = self.stats(number)?;
        let written = self.sets.set(&number, &MeshSet::default());
        written.map_err(store_error("write", map::SETS))?;
        match self.sockets.remove(&number) {
            // What the kernel says of a slot without a socket.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => drop(other.map_err(store_error("write", map::SOCKETS))?),
        }
        for net in set.prefixes.keys() {
            let removed = self.prefixes.remove(&prefix(number, *net));
            removed.map_err(store_error("write", map::PREFIXES))?;
        }
        for user in set.users.keys() {
            let removed = self.users.remove(&user_key(number, *user));
            removed.map_err(store_error("write", map::USERS))?;
        }
        Ok(counted)
    }

    /// Enters the listening socket of a set.
    pub(super) fn set_socket(&self, number: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set(&number, &(socket.as_raw_fd() as u32))
    }

    /// Makes these the chosen cgroups, and no others.
    pub(super) fn choose(&self, entries: &BTreeMap<ChosenKey, u32>) -> Result<(), StoreError> {
        let failed = store_error("write", map::CHOSEN);
        let old = self.chosen.entries::<ChosenKey, u32>();
        let old: BTreeMap<_, _> = old.map_err(&failed)?.into_iter().collect();
        for (key, set) in entries {
            if old.get(key) != Some(set) {
                self.chosen.set(key, set).map_err(&failed)?;
            }
        }
        for key in old.keys().filter(|key| !entries.contains_key(key)) {
            self.chosen.remove(key).map_err(&failed)?;
        }
        Ok(())
    }

    /// Ports of workloads, and what stands beside them.
    pub(super) fn listening(&self) -> Result<BTreeMap<ListeningKey, Listening>, StoreError> {
        let entries = self.listening.entries::<ListeningKey, Listening>();
        let entries = entries.map_err(store_error("read", map::LISTENING))?;
        Ok(entries.into_iter().collect())
    }

    /// Makes these the ports, instead of those that were there when it was looked: what the kernel
    /// side has added since stays. How many ports of workloads find no room for that.
    pub(super) fn listen(
        &self,
        before: &BTreeMap<ListeningKey, Listening>,
        wanted: &BTreeMap<ListeningKey, Listening>,
    ) -> Result<usize, StoreError> {
        let failed = store_error("write", map::LISTENING);
        for key in before.keys().filter(|key| !wanted.contains_key(key)) {
            self.listening.remove(key).map_err(&failed)?;
        }
        let is_new = |(key, value): &(&ListeningKey, &Listening)| before.get(key) != Some(value);
        let new: Vec<_> = wanted.iter().filter(is_new).collect();
        // Whoever is beside a workload must not be taken for it: those first.
        let (workloads, others): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|(_, it)| it.cgroup != 0);
        let mut without_room = 0;
        for (key, value) in others.into_iter().chain(workloads) {
            match self.listening.set(key, value) {
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                    without_room += usize::from(value.cgroup != 0);
                }
                other => other.map_err(&failed)?,
            }
        }
        Ok(without_room)
    }

    /// What was counted by a set.
    pub(super) fn stats(&self, number: u32) -> Result<MeshStats, StoreError> {
        let values = self
            .stats
            .read_per_cpu::<MeshStats>(number, 1, host::possible_cpus());
        let values = values.map_err(store_error("read", map::STATS))?;
        let mut sum = MeshStats::default();
        for one in values.iter().flatten() {
            super::add(&mut sum, one);
        }
        Ok(sum)
    }

    /// Connections between the establishment of their two ends.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.keys::<Meeting>().map_or(0, |keys| keys.len())
    }
}

fn user_key(set: u32, user: u32) -> UserKey {
    UserKey { set, user }
}

/// The prefix of a key.
fn net(key: &MeshPrefix) -> Option<IpNet> {
    let addr = IpAddr::from(Addr::v6(key.key.addr));
    let before = if addr.is_ipv4() { 96 } else { 0 };
    let length = key.bits.checked_sub(PREFIX_FIXED_BITS + before)?;
    IpNet::new(addr, u8::try_from(length).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_were_written() {
        for text in ["10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32", "::1/128"] {
            let written: IpNet = text.parse().expect("a prefix");
            assert_eq!(net(&prefix(3, written)), Some(written));
        }
    }
}
