//! The maps of steering, opened.

use super::plan::{Edit, Tables};
use crate::kernel::handle::MapHandle;
use crate::kernel::host;
use crate::kernel::store::{StoreError, store_error};
use crate::sockets::pinned;
use proxy_common::maps;
use proxy_common::steer::{
    GENERATIONS, GROUPS, SteerGroup, SteerPrefix, SteerRanges, SteerState, SteerStats, socket_index,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// The maps, opened.
pub(super) struct Maps {
    state: MapHandle,
    ports: MapHandle,
    prefixes: MapHandle,
    ranges: MapHandle,
    groups: MapHandle,
    pub(super) sockets: MapHandle,
    pub(super) stats: MapHandle,
}

impl Maps {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = |name| pinned::map(folder, name);
        Ok(Self {
            state: open(maps::STEER_STATE)?,
            ports: open(maps::STEER_PORTS)?,
            prefixes: open(maps::STEER_PREFIXES)?,
            ranges: open(maps::STEER_RANGES)?,
            groups: open(maps::STEER_GROUPS)?,
            sockets: open(maps::STEER_SOCKETS)?,
            stats: open(maps::STEER_STATS)?,
        })
    }

    pub(super) fn state(&self) -> Result<SteerState, StoreError> {
        let state = self.state.get(&0u32);
        let state = state.map_err(store_error("read", maps::STEER_STATE))?;
        Ok(state.unwrap_or_default())
    }

    pub(super) fn set_state(&self, state: SteerState) -> Result<(), StoreError> {
        let set = self.state.set(&0u32, &state);
        set.map_err(store_error("write", maps::STEER_STATE))
    }

    pub(super) fn forget_socket(&self, slot: u32) -> Result<(), StoreError> {
        match self.sockets.remove(&slot) {
            // What the kernel says of a slot without a socket.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other
                .map(drop)
                .map_err(store_error("write", maps::STEER_SOCKETS)),
        }
    }

    /// What the maps hold.
    pub(super) fn read(&self) -> Result<Tables, StoreError> {
        let read = |name| store_error("read", name);
        let all = self.groups.read_array::<SteerGroup>(0, GROUPS);
        let all = all.map_err(read(maps::STEER_GROUPS))?;
        let groups = (0u16..).zip(all).filter(|(_, group)| group.name[0] != 0);
        let ports = self.ports.entries::<SteerPrefix, u32>();
        let prefixes = self.prefixes.entries::<SteerPrefix, u32>();
        let mut tables = Tables {
            groups: groups.collect(),
            ports: ports
                .map_err(read(maps::STEER_PORTS))?
                .into_iter()
                .collect(),
            prefixes: prefixes
                .map_err(read(maps::STEER_PREFIXES))?
                .into_iter()
                .collect(),
            lists: BTreeMap::new(),
        };
        for &id in tables.prefixes.values() {
            if let Entry::Vacant(place) = tables.lists.entry(id) {
                let list = self.ranges.get::<u32, SteerRanges>(&id);
                let list = list.map_err(read(maps::STEER_RANGES))?.unwrap_or_default();
                place.insert(list);
            }
        }
        Ok(tables)
    }

    /// Carries edits out in their order; those of a kind that follow each other together.
    pub(super) fn apply(&self, edits: &[Edit]) -> Result<(), StoreError> {
        let mut rest = edits;
        while let Some(first) = rest.first() {
            rest = match first {
                Edit::Port(..) => self.apply_batch(rest, &self.ports, maps::STEER_PORTS)?,
                Edit::Prefix(..) => self.apply_batch(rest, &self.prefixes, maps::STEER_PREFIXES)?,
                _ => {
                    self.apply_one(first)?;
                    &rest[1..]
                }
            };
        }
        Ok(())
    }

    fn apply_batch<'e>(
        &self,
        edits: &'e [Edit],
        map: &MapHandle,
        name: &'static str,
    ) -> Result<&'e [Edit], StoreError> {
        let kind = std::mem::discriminant(&edits[0]);
        let is_alike = |edit: &&Edit| std::mem::discriminant(*edit) == kind;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for edit in edits.iter().take_while(is_alike) {
            if let Edit::Port(key, value) | Edit::Prefix(key, value) = edit {
                keys.push(*key);
                values.push(*value);
            }
        }
        let set = map.set_batch(&keys, &values);
        set.map_err(|(_, source)| store_error("write", name)(source))?;
        Ok(&edits[keys.len()..])
    }

    fn apply_one(&self, edit: &Edit) -> Result<(), StoreError> {
        let write = |name| store_error("write", name);
        match edit {
            Edit::Group(id, group) => {
                let set = self.groups.set(&u32::from(*id), group);
                set.map_err(write(maps::STEER_GROUPS))
            }
            Edit::NoGroup(id) => {
                for generation in 0..GENERATIONS {
                    self.forget_socket(socket_index(generation, (*id).into()))?;
                }
                let set = self.groups.set(&u32::from(*id), &SteerGroup::default());
                set.map_err(write(maps::STEER_GROUPS))?;
                // Whoever gets the group next counts from zero.
                let zeros = vec![SteerStats::default(); host::possible_cpus()];
                let set = self.stats.set_per_cpu(u32::from(*id), &zeros);
                set.map_err(write(maps::STEER_STATS))
            }
            Edit::List(id, list) => {
                let set = self.ranges.set(id, list);
                set.map_err(write(maps::STEER_RANGES))
            }
            Edit::Port(key, group) => {
                let set = self.ports.set(key, group);
                set.map_err(write(maps::STEER_PORTS))
            }
            Edit::Prefix(key, list) => {
                let set = self.prefixes.set(key, list);
                set.map_err(write(maps::STEER_PREFIXES))
            }
            Edit::NoPort(key) => {
                let removed = self.ports.remove(key);
                removed.map(drop).map_err(write(maps::STEER_PORTS))
            }
            Edit::NoPrefix(key) => {
                let removed = self.prefixes.remove(key);
                removed.map(drop).map_err(write(maps::STEER_PREFIXES))
            }
        }
    }
}
