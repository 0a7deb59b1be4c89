//! The [`MapStore`] over the real maps.

use super::handle::MapHandle;
use super::host;
use super::ring::{RingMap, window};
use super::set::{MapSet, without_capture};
use super::store::{KernelState, MapEdit, MapStore, StoreError};
use super::sys::{INNER_MAP_FLAG, MMAPABLE_FLAG};
use super::table::{FlowTable, LiveTable, PortTable};
use aya::maps::lpm_trie::Key;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::flow::{WAYS, slot};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::maps::{self, capacity};
use proxy_common::service::{
    AffinityKey, RingChunk, Service, ServiceKey, ServicePrefix, ServiceRef,
};
use proxy_common::settings::{Settings, second, settings_flags};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Writes edits to the kernel's maps.
///
/// There may be several stores of one data plane, but only one that plans.
#[derive(Debug)]
pub struct RealStore {
    settings: MapHandle,
    address_filter: MapHandle,
    services: MapHandle,
    prefixes: MapHandle,
    service_table: MapHandle,
    rings: MapHandle,
    backends: MapHandle,
    snat_addrs: MapHandle,
    guard_rules: MapHandle,
    affinity: MapHandle,
    budgets: MapHandle,
    flows: FlowTable,
    ports: PortTable,
    live: LiveTable,
}

fn failed(call: &'static str, map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError { call, map, source }
}

impl RealStore {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let ports = PortTable::open(set.get(maps::SNAT_PORTS)?);
        let live = LiveTable::open(set.get(maps::LIVE_FLOWS)?);
        Ok(Self {
            settings: set.clone_of(maps::SETTINGS)?,
            address_filter: set.clone_of(maps::ADDRESS_FILTER)?,
            services: set.clone_of(maps::SERVICES)?,
            prefixes: set.clone_of(maps::SERVICE_PREFIXES)?,
            service_table: set.clone_of(maps::SERVICE_TABLE)?,
            rings: set.clone_of(maps::RINGS)?,
            backends: set.clone_of(maps::BACKENDS)?,
            snat_addrs: set.clone_of(maps::SNAT_ADDRS)?,
            guard_rules: set.clone_of(maps::GUARD_RULES)?,
            affinity: set.clone_of(maps::AFFINITY)?,
            budgets: set.clone_of(maps::GUARD_BUDGETS)?,
            flows: FlowTable::open(set)?,
            ports: ports.map_err(failed("map", maps::SNAT_PORTS))?,
            live: live.map_err(failed("map", maps::LIVE_FLOWS))?,
        })
    }

    fn settings(&self) -> Result<Settings, StoreError> {
        let settings = self.settings.get(&0u32);
        settings
            .map(Option::unwrap_or_default)
            .map_err(failed("read", maps::SETTINGS))
    }

    fn write_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        self.settings
            .set(&0u32, settings)
            .map_err(failed("update", maps::SETTINGS))
    }

    /// Starts a capture of this many octets of each packet, or stops it.
    ///
    /// It is no part of planning: edits of the settings leave it as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the settings cannot be read or written.
    pub fn set_capture(&mut self, octets: Option<u32>) -> Result<(), StoreError> {
        let plain = without_capture(self.settings()?);
        self.write_settings(&with_capture(plain, octets))
    }

    /// Replaces the settings, but for a capture that is running.
    fn set_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        let now = self.settings()?;
        if settings.selection_seed != now.selection_seed {
            self.unsettle_rings()?;
        }
        let capturing = now.flags & settings_flags::CAPTURE != 0;
        let octets = capturing.then_some(now.capture_octets);
        self.write_settings(&with_capture(without_capture(*settings), octets))
    }

    /// Builds a ring and swaps it in with one pointer: packets see the old one or the new one.
    fn set_ring(&self, service: u16, slots: &[u16]) -> Result<(), StoreError> {
        self.set_rings(&[(service, slots)])
            .map_err(|(_, error)| error)
    }

    /// Swaps several rings in: the kernel waits for a grace period (milliseconds) once per call. An
    /// error comes with how many are in force.
    fn set_rings(&self, rings: &[(u16, &[u16])]) -> Result<(), (usize, StoreError)> {
        let failed = |done, source| (done, failed("update", maps::RINGS)(source));
        let now = second(host::now_ns());
        let mut changed = Vec::with_capacity(rings.len());
        for (position, (service, slots)) in rings.iter().enumerate() {
            let next = (self.next_ring(*service, slots, now))
                .and_then(|next| next.map(|ring| build_ring(*service, &ring)).transpose())
                .map_err(|source| failed(0, source))?;
            changed.extend(next.map(|ring| (position, u32::from(*service), ring)));
        }
        self.swap_rings(&changed)
            .map_err(|(done, source)| failed(changed[done].0, source))
    }

    /// The map that follows a service's ring map if the ring becomes this one.
    fn next_ring(&self, service: u16, slots: &[u16], now: u32) -> io::Result<Option<RingMap>> {
        let slots = slots.to_vec();
        match self.ring(service)? {
            Some(ring) => Ok(ring.changed(slots, now, self.window(service)?)),
            None if slots.is_empty() => Ok(None),
            None => Ok(Some(RingMap::first(slots, now))),
        }
    }

    /// What a service's ring map holds.
    fn ring(&self, service: u16) -> io::Result<Option<RingMap>> {
        let Some(id) = self.rings.get::<u32, u32>(&u32::from(service))? else {
            return Ok(None);
        };
        let map = MapHandle::by_id(id)?;
        let chunks = map.read_array(0, map.info().max_entries)?;
        Ok(Some(RingMap::of(&chunks)))
    }

    fn window(&self, service: u16) -> io::Result<u32> {
        let service: Option<Service> = self.service_table.get(&u32::from(service))?;
        Ok(window(service.unwrap_or_default().syn_ticks))
    }

    fn swap_rings(&self, rings: &[(usize, u32, MapHandle)]) -> Result<(), (usize, io::Error)> {
        let keys: Vec<u32> = rings.iter().map(|(_, id, _)| *id).collect();
        let fds: Vec<i32> = (rings.iter())
            .map(|(.., ring)| ring.as_fd().as_raw_fd())
            .collect();
        self.rings.set_batch(&keys, &fds)
    }

    /// Has SYNs leave flows again for a while, because all rings are about to lead elsewhere.
    fn unsettle_rings(&self) -> Result<(), StoreError> {
        let failed = failed("update", maps::RINGS);
        let now = second(host::now_ns());
        let mut all = Vec::new();
        for service in 1..capacity::SERVICES as u16 {
            if let Some(ring) = self.ring(service).map_err(&failed)? {
                let window = self.window(service).map_err(&failed)?;
                let ring = build_ring(service, &ring.unsettled(now, window)).map_err(&failed)?;
                all.push((all.len(), u32::from(service), ring));
            }
            if all.len() == RINGS_AT_ONCE {
                self.swap_rings(&all).map_err(|(_, error)| failed(error))?;
                all.clear();
            }
        }
        self.swap_rings(&all).map_err(|(_, error)| failed(error))
    }

    fn remove_ring(&self, service: u16) -> Result<(), StoreError> {
        let removed = self.rings.remove(&u32::from(service));
        removed.map(drop).map_err(failed("clear", maps::RINGS))
    }

    /// Forgets every flow of a service: tracked ones, full-nat ports, affinity and budgets.
    fn purge(&self, service: u16) -> Result<(), StoreError> {
        let live = self.live.counts();
        let backends = self.read_backends()?;
        let is_own = |id: u16| {
            let backend = backends.get(usize::from(id));
            backend.is_none_or(|backend| backend.service == service)
        };
        for set in self.flows.sets().filter(|set| set.used() != 0) {
            for way in 0..WAYS {
                let slot = set.slot(way);
                if slot & slot::BARE != 0 && is_own(slot as u16) {
                    set.free(way, slot);
                } else if let Some((slot, entry)) = set.entry(way)
                    && entry.service == service
                {
                    set.end(way, slot, &entry, live);
                }
            }
        }
        self.purge_ports(service)?;
        self.purge_sources(&self.affinity, maps::AFFINITY, service)?;
        self.purge_sources(&self.budgets, maps::GUARD_BUDGETS, service)
    }

    fn purge_ports(&self, service: u16) -> Result<(), StoreError> {
        let backends = self.read_backends()?;
        for port in self.ports.ports() {
            let Some(usage) = port.usage() else { continue };
            let foreign = backends
                .get(usize::from(usage.backend))
                .is_some_and(|backend| {
                    backend.service != service && backend.state != BackendState::Absent.code()
                });
            if !foreign {
                port.free(usage.backend);
            }
        }
        Ok(())
    }

    fn purge_sources(
        &self,
        map: &MapHandle,
        name: &'static str,
        service: u16,
    ) -> Result<(), StoreError> {
        let keys = map.keys::<AffinityKey>().map_err(failed("read", name))?;
        for key in keys.iter().filter(|key| key.service == service) {
            map.remove(key).map_err(failed("remove from", name))?;
        }
        Ok(())
    }

    fn read_backends(&self) -> Result<Vec<Backend>, StoreError> {
        self.backends
            .read_array(0, self.backends.info().max_entries)
            .map_err(failed("read", maps::BACKENDS))
    }
}

impl MapStore for RealStore {
    fn apply(&mut self, edit: &MapEdit) -> Result<(), StoreError> {
        const UPDATE: &str = "update";
        const REMOVE: &str = "remove from";
        match edit {
            MapEdit::Settings(settings) => self.set_settings(settings),
            MapEdit::AddressFilter(filter) => self
                .address_filter
                .set(&0u32, filter.as_ref())
                .map_err(failed(UPDATE, maps::ADDRESS_FILTER)),
            MapEdit::Service(id, service) => self
                .service_table
                .set(&u32::from(*id), service)
                .map_err(failed(UPDATE, maps::SERVICE_TABLE)),
            MapEdit::Backend(id, backend) => self
                .backends
                .set(&u32::from(*id), backend)
                .map_err(failed(UPDATE, maps::BACKENDS)),
            MapEdit::Ring(service, slots) => self.set_ring(*service, slots),
            MapEdit::RemoveRing(service) => self.remove_ring(*service),
            MapEdit::SnatAddr(index, addr) => self
                .snat_addrs
                .set(index, addr)
                .map_err(failed(UPDATE, maps::SNAT_ADDRS)),
            MapEdit::SetKey(key, target) => self
                .services
                .set(key, target)
                .map_err(failed(UPDATE, maps::SERVICES)),
            MapEdit::RemoveKey(key) => gone(self.services.remove(key), REMOVE, maps::SERVICES),
            MapEdit::SetPrefix(bits, prefix, target) => self
                .prefixes
                .set(&Key::new(*bits, *prefix), target)
                .map_err(failed(UPDATE, maps::SERVICE_PREFIXES)),
            MapEdit::RemovePrefix(bits, prefix) => gone(
                self.prefixes.remove(&Key::new(*bits, *prefix)),
                REMOVE,
                maps::SERVICE_PREFIXES,
            ),
            MapEdit::SetGuard(bits, key, rule) => self
                .guard_rules
                .set(&Key::new(*bits, *key), rule)
                .map_err(failed(UPDATE, maps::GUARD_RULES)),
            MapEdit::RemoveGuard(bits, key) => gone(
                self.guard_rules.remove(&Key::new(*bits, *key)),
                REMOVE,
                maps::GUARD_RULES,
            ),
            MapEdit::PurgeService(service) => self.purge(*service),
        }
    }

    fn apply_all(&mut self, edits: &[MapEdit]) -> Result<(), (usize, StoreError)> {
        let mut done = 0;
        while let Some(edit) = edits.get(done) {
            let rings = leading_rings(&edits[done..]);
            if rings.is_empty() {
                self.apply(edit).map_err(|error| (done, error))?;
                done += 1;
            } else {
                self.set_rings(&rings)
                    .map_err(|(rings_done, error)| (done + rings_done, error))?;
                done += rings.len();
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<KernelState, StoreError> {
        let services: Vec<Service> = self
            .service_table
            .read_array(0, capacity::SERVICES)
            .map_err(failed("read", maps::SERVICE_TABLE))?;
        let addrs: Vec<Addr> = self
            .snat_addrs
            .read_array(0, capacity::SNAT_ADDRS)
            .map_err(failed("read", maps::SNAT_ADDRS))?;
        let prefixes = self
            .prefixes
            .entries::<Key<ServicePrefix>, ServiceRef>()
            .map_err(failed("read", maps::SERVICE_PREFIXES))?;
        let guard = self
            .guard_rules
            .entries::<Key<GuardKey>, GuardRule>()
            .map_err(failed("read", maps::GUARD_RULES))?;
        Ok(KernelState {
            settings: without_capture(self.settings()?),
            keys: self
                .services
                .entries::<ServiceKey, ServiceRef>()
                .map_err(failed("read", maps::SERVICES))?,
            prefixes: prefixes
                .into_iter()
                .map(|(key, target)| (key.prefix_len(), key.data(), target))
                .collect(),
            services: used(services, |service| service.mode != 0),
            backends: used(self.read_backends()?, |backend| {
                backend.state != BackendState::Absent.code()
            }),
            snat_addrs: (0..)
                .zip(addrs)
                .filter(|(_, addr)| *addr != Addr::UNSPECIFIED)
                .collect(),
            guard: guard
                .into_iter()
                .map(|(key, rule)| (key.prefix_len(), key.data(), rule))
                .collect(),
            backend_capacity: self.backends.info().max_entries,
        })
    }
}

/// A key that is not there is as good as removed.
fn gone(result: io::Result<bool>, call: &'static str, map: &'static str) -> Result<(), StoreError> {
    result.map(drop).map_err(failed(call, map))
}

/// The used entries of a table by id. Ids are 16 bits, and so are the tables.
fn used<V>(values: Vec<V>, is_used: impl Fn(&V) -> bool) -> Vec<(u16, V)> {
    (0..=u16::MAX)
        .zip(values)
        .filter(|(_, value)| is_used(value))
        .collect()
}

fn with_capture(settings: Settings, octets: Option<u32>) -> Settings {
    match octets {
        Some(capture_octets) => Settings {
            flags: settings.flags | settings_flags::CAPTURE,
            capture_octets,
            ..settings
        },
        None => settings,
    }
}

/// Rings that are swapped in together: each is an open file until then.
const RINGS_AT_ONCE: usize = 64;

/// The rings (not the clearings of rings) that a list of edits begins with.
fn leading_rings(edits: &[MapEdit]) -> Vec<(u16, &[u16])> {
    edits
        .iter()
        .map_while(|edit| match edit {
            MapEdit::Ring(service, slots) if !slots.is_empty() => Some((*service, &slots[..])),
            _ => None,
        })
        .take(RINGS_AT_ONCE)
        .collect()
}

/// Makes an inner map with these contents.
fn build_ring(service: u16, ring: &RingMap) -> io::Result<MapHandle> {
    let chunks = ring.chunks();
    let ring = MapHandle::create_array(
        &format!("ring_{service}"),
        size_of::<RingChunk>() as u32,
        chunks.len() as u32,
        INNER_MAP_FLAG | MMAPABLE_FLAG,
    )?;
    ring.fill_array(&chunks)?;
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_rings_are_taken_together() {
        let ring = |id| MapEdit::Ring(id, vec![1]);
        let edits = [ring(1), ring(2), MapEdit::PurgeService(9), ring(3)];
        let taken = |edits| leading_rings(edits).iter().map(|(id, _)| *id).collect();
        let (first, second): (Vec<u16>, Vec<u16>) = (taken(&edits), taken(&edits[2..]));
        assert_eq!((first, second), (vec![1, 2], vec![]));
        assert_eq!(leading_rings(&[MapEdit::Ring(1, vec![])]), []);
        let many: Vec<MapEdit> = (0..1_000).map(ring).collect();
        assert_eq!(leading_rings(&many).len(), RINGS_AT_ONCE);
    }

    #[test]
    fn a_running_capture_is_hidden_from_planning_and_kept_by_its_edits() {
        let planned = Settings {
            flags: settings_flags::NAT,
            ..Settings::default()
        };
        let running = with_capture(planned, Some(128));
        assert_eq!(running.flags, settings_flags::NAT | settings_flags::CAPTURE);
        assert_eq!(without_capture(running), planned);
    }
}
