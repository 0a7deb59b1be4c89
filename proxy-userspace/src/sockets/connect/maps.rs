//! The maps, opened.

use super::plan::{Edit, Tables};
use crate::kernel::handle::MapHandle;
use crate::kernel::host;
use crate::kernel::store::{StoreError, store_error};
use crate::kernel::sys::{self, INNER_MAP_FLAG};
use crate::sockets::pinned::{self, PinnedMaps};
use proxy_common::connect::{
    BACKENDS, Backend, CONNECT_ABI, Element, Facts, Layout, Name, Open, SERVICES, ServiceStats,
    State, Told, VipKey, VipPrefix, map, state,
};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

/// Every map of the object.
pub(super) const MAPS: PinnedMaps<State> = PinnedMaps {
    all: &[
        map::STATE,
        map::OWNERS,
        map::VIPS,
        map::PREFIXES,
        map::TABLES,
        map::NAMES,
        map::BACKENDS,
        map::OPEN,
        map::ROWS,
        map::PEERS,
        map::TALKS,
        map::SOCKETS,
        map::AFFINITY,
        map::SERVICE_STATS,
        map::BACKEND_STATS,
        map::LAYOUT,
        map::SEEN,
        map::FACTS,
    ],
    state: map::STATE,
    is_ours: |state| state.abi == CONNECT_ABI,
};

/// The maps that user space works with.
pub(super) struct Maps {
    state: MapHandle,
    vips: MapHandle,
    prefixes: MapHandle,
    tables: MapHandle,
    names: MapHandle,
    backends: MapHandle,
    open: MapHandle,
    pub(super) sockets: MapHandle,
    service_stats: MapHandle,
    backend_stats: MapHandle,
    layout: MapHandle,
    pub(super) seen: MapHandle,
    facts: MapHandle,
}

impl Maps {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = |name| pinned::map(folder, name);
        Ok(Self {
            state: open(map::STATE)?,
            vips: open(map::VIPS)?,
            prefixes: open(map::PREFIXES)?,
            tables: open(map::TABLES)?,
            names: open(map::NAMES)?,
            backends: open(map::BACKENDS)?,
            open: open(map::OPEN)?,
            sockets: open(map::SOCKETS)?,
            service_stats: open(map::SERVICE_STATS)?,
            backend_stats: open(map::BACKEND_STATS)?,
            layout: open(map::LAYOUT)?,
            seen: open(map::SEEN)?,
            facts: open(map::FACTS)?,
        })
    }

    pub(super) fn state(&self) -> Result<State, StoreError> {
        let state = self.state.get(&0u32);
        let state = state.map_err(store_error("read", map::STATE))?;
        Ok(state.unwrap_or_default())
    }

    pub(super) fn set_state(&self, state: State) -> Result<(), StoreError> {
        let set = self.state.set(&0u32, &state);
        set.map_err(store_error("write", map::STATE))
    }

    /// What the maps hold. Tables are not read: they are written anew.
    pub(super) fn read(&self) -> Result<Tables, StoreError> {
        let read = |name| store_error("read", name);
        let names = self.names.read_array::<Name>(0, SERVICES);
        let names = names.map_err(read(map::NAMES))?;
        let names = (0u32..).zip(names).filter(|(_, name)| name.name[0] != 0);
        let backends = self.backends.read_array::<Backend>(0, BACKENDS);
        let backends = backends.map_err(read(map::BACKENDS))?;
        let vips = self.vips.entries::<VipKey, u32>();
        let prefixes = self.prefixes.entries::<VipPrefix, u32>();
        let mut tables = Tables {
            services: names
                .map(|(id, name)| (id, (name_of(&name), None)))
                .collect(),
            vips: vips.map_err(read(map::VIPS))?.into_iter().collect(),
            prefixes: prefixes.map_err(read(map::PREFIXES))?.into_iter().collect(),
            kinds: self.state()?.kinds,
            ..Tables::default()
        };
        for (number, backend) in (0u32..).zip(backends).skip(1) {
            if backend.epoch != 0 {
                tables.epochs.insert(number, backend.epoch);
            }
            if backend.state != state::ABSENT {
                tables.backends.insert(number, backend);
            }
        }
        Ok(tables)
    }

    /// Carries edits out in their order.
    pub(super) fn apply(&self, edits: &[Edit]) -> Result<(), StoreError> {
        let mut has_waited = false;
        for edit in edits {
            if let Edit::NoService(_) | Edit::NoBackend(..) = edit
                && !has_waited
            {
                // A call may have been given them and not have been counted yet.
                sys::wait_for_running_programs();
                has_waited = true;
            }
            self.apply_one(edit)?;
        }
        Ok(())
    }

    fn apply_one(&self, edit: &Edit) -> Result<(), StoreError> {
        let write = |name| store_error("write", name);
        match edit {
            Edit::Kinds(kinds) => self.set_state(State {
                abi: CONNECT_ABI,
                kinds: *kinds,
            }),
            Edit::Name(id, name) => {
                let set = self.names.set(id, &name_for(name));
                set.map_err(write(map::NAMES))
            }
            Edit::Backend(number, backend) => {
                let set = self.backends.set(number, backend);
                set.map_err(write(map::BACKENDS))
            }
            Edit::Table(id, table) => {
                let set = build(*id, table)
                    .and_then(|table| self.tables.set(id, &table.as_fd().as_raw_fd()));
                set.map_err(write(map::TABLES))
            }
            Edit::Vip(key, id) => self.vips.set(key, id).map_err(write(map::VIPS)),
            Edit::Prefix(key, id) => {
                let set = self.prefixes.set(key, id);
                set.map_err(write(map::PREFIXES))
            }
            Edit::NoVip(key) => {
                let removed = self.vips.remove(key);
                removed.map(drop).map_err(write(map::VIPS))
            }
            Edit::NoPrefix(key) => {
                let removed = self.prefixes.remove(key);
                removed.map(drop).map_err(write(map::PREFIXES))
            }
            Edit::NoService(id) => self.forget_service(*id),
            Edit::NoBackend(number, epoch) => self.forget_backend(*number, *epoch),
        }
    }

    /// Whoever gets the number next counts from zero.
    fn forget_service(&self, id: u32) -> Result<(), StoreError> {
        let write = |name| store_error("write", name);
        let removed = self.tables.remove(&id);
        removed.map(drop).map_err(write(map::TABLES))?;
        let zeros = vec![ServiceStats::default(); host::possible_cpus()];
        let set = self.service_stats.set_per_cpu(id, &zeros);
        set.map_err(write(map::SERVICE_STATS))?;
        let set = self.names.set(&id, &Name::default());
        set.map_err(write(map::NAMES))
    }

    /// As [`Self::forget_service`]; sockets that it still has are not counted down any more.
    fn forget_backend(&self, number: u32, epoch: u32) -> Result<(), StoreError> {
        let write = |name| store_error("write", name);
        let gone = Backend {
            epoch: epoch.wrapping_add(1).max(1),
            ..Backend::default()
        };
        let set = self.backends.set(&number, &gone);
        set.map_err(write(map::BACKENDS))?;
        let set = self.open.set(&number, &Open::default());
        set.map_err(write(map::OPEN))?;
        let zeros = vec![0u64; host::possible_cpus()];
        let set = self.backend_stats.set_per_cpu(number, &zeros);
        set.map_err(write(map::BACKEND_STATS))?;
        let set = self.facts.set(&number, &Facts::default());
        set.map_err(write(map::FACTS))
    }

    /// Tells where the kernel keeps what TCP counts.
    pub(super) fn set_layout(&self, layout: &Layout) -> Result<(), StoreError> {
        let set = self.layout.set(&0u32, layout);
        set.map_err(store_error("write", map::LAYOUT))
    }

    /// What was seen of a backend's sockets so far.
    pub(super) fn facts(&self, number: u32) -> Result<Facts, StoreError> {
        let facts = self.facts.get(&number);
        Ok(facts
            .map_err(store_error("read", map::FACTS))?
            .unwrap_or_default())
    }

    /// What became of those who dialled a service.
    pub(super) fn service_stats(&self, id: u32) -> Result<ServiceStats, StoreError> {
        let read = self
            .service_stats
            .read_per_cpu::<ServiceStats>(id, 1, host::possible_cpus());
        let read = read.map_err(store_error("read", map::SERVICE_STATS))?;
        let all = read.into_iter().flatten();
        Ok(all.fold(ServiceStats::default(), |sum, one| ServiceStats {
            connected: sum.connected + one.connected,
            opened: sum.opened + one.opened,
            datagrams: sum.datagrams + one.datagrams,
            refused: sum.refused + one.refused,
            passed: sum.passed + one.passed,
            unrecorded: sum.unrecorded + one.unrecorded,
        }))
    }

    /// How often a backend was given, and the connected sockets that it has.
    pub(super) fn backend_stats(&self, number: u32) -> Result<(u64, u64), StoreError> {
        let cpus = host::possible_cpus();
        let given = self.backend_stats.read_per_cpu::<u64>(number, 1, cpus);
        let given = given.map_err(store_error("read", map::BACKEND_STATS))?;
        let open = self.open.get::<u32, Open>(&number);
        let open = open.map_err(store_error("read", map::OPEN))?;
        // Counts of several CPUs may for a moment be seen in the wrong order.
        let open = open.unwrap_or_default().sockets.cast_signed().max(0);
        Ok((given.into_iter().flatten().sum(), open.cast_unsigned()))
    }

    /// The sockets that are to be told, by their cookies.
    pub(super) fn told(sockets: &MapHandle) -> io::Result<Vec<(u64, Told)>> {
        sockets.entries::<u64, Told>()
    }
}

/// Makes a service's table.
fn build(id: u32, elements: &[Element]) -> io::Result<MapHandle> {
    let table = MapHandle::create_array(
        &format!("connect_tab{id}"),
        size_of::<Element>() as u32,
        elements.len() as u32,
        INNER_MAP_FLAG,
    )?;
    table.fill_array(elements)?;
    Ok(table)
}

fn name_for(text: &str) -> Name {
    let mut name = Name::default();
    // One octet stays zero: names of services have at most 63.
    for (to, from) in name.name.iter_mut().take(63).zip(text.bytes()) {
        *to = from;
    }
    name
}

fn name_of(name: &Name) -> String {
    let octets = name.name.split(|octet| *octet == 0).next();
    String::from_utf8_lossy(octets.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(name_of(&name_for("redis")), "redis");
        assert_eq!(name_of(&name_for(&"x".repeat(80))).len(), 63);
    }
}
