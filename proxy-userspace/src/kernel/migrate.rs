//! Copies a running data plane into maps of other sizes, so that growing a table loses nothing.
//!
//! Entries that the configuration and the kernel put there are copied when the new maps are made;
//! planning then sees them as if adopted. Flows are copied at the last moment, just before the
//! links get the new program: flows opened within those milliseconds, and flows of which only a SYN
//! was seen, are selected anew, which the ring does the same way. Maps of another ABI version are not copied at all.

use super::handle::MapHandle;
use super::host;
use super::layout::Capacities;
use super::set::MapSet;
use super::store::StoreError;
use super::table::{FlowTable, LiveTable, PortTable};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::flow::{Position, WAYS, counted, slot};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::hash::flow_hash;
use proxy_common::maps;
use proxy_common::service::{
    Affinity, AffinityKey, Service, ServiceKey, ServicePrefix, ServiceRef,
};
use proxy_common::settings::{AddressFilter, Settings};
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::Relaxed;

/// Elements copied by one call.
const CHUNK: u32 = 256;

/// How the copy of the flow table went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CopiedFlows {
    /// Flows in the new table.
    pub(crate) kept: u64,
    /// Flows that found no room there.
    pub(crate) lost: u64,
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        call: "copy",
        map,
        source,
    }
}

/// Copies everything but flows.
pub(crate) fn copy_entries(
    old: &MapSet,
    new: &MapSet,
    sizes: &Capacities,
) -> Result<(), StoreError> {
    array::<AddressFilter>(old, new, maps::ADDRESS_FILTER)?;
    array::<Service>(old, new, maps::SERVICE_TABLE)?;
    array::<Backend>(old, new, maps::BACKENDS)?;
    array::<Addr>(old, new, maps::SNAT_ADDRS)?;
    per_cpu::<u64>(old, new, maps::REASONS)?;
    per_cpu::<BackendStats>(old, new, maps::BACKEND_STATS)?;
    per_cpu::<ServiceStats>(old, new, maps::SERVICE_STATS)?;
    hash::<ServiceKey, ServiceRef>(old, new, maps::SERVICES)?;
    hash::<Key<ServicePrefix>, ServiceRef>(old, new, maps::SERVICE_PREFIXES)?;
    hash::<Key<GuardKey>, GuardRule>(old, new, maps::GUARD_RULES)?;
    hash::<AffinityKey, Affinity>(old, new, maps::AFFINITY)?;
    hash::<AffinityKey, u64>(old, new, maps::GUARD_BUDGETS)?;
    rings(old, new)?;
    let settings = Settings {
        cpus: sizes.cpus,
        sets_per_cpu: sizes.sets_per_cpu,
        ..old.settings()?
    };
    new.get(maps::SETTINGS)?
        .set(&0u32, &settings)
        .map_err(failed(maps::SETTINGS))
}

/// Copies the elements that both arrays have.
fn array<V: Pod>(old: &MapSet, new: &MapSet, name: &'static str) -> Result<(), StoreError> {
    let (from, to) = (old.get(name)?, new.get(name)?);
    let count = from.info().max_entries.min(to.info().max_entries);
    let values = from.read_array::<V>(0, count).map_err(failed(name))?;
    to.fill_array(&values).map_err(failed(name))
}

fn per_cpu<V: Pod>(old: &MapSet, new: &MapSet, name: &'static str) -> Result<(), StoreError> {
    let (from, to) = (old.get(name)?, new.get(name)?);
    let count = from.info().max_entries.min(to.info().max_entries);
    let cpus = host::possible_cpus();
    for first in (0..count).step_by(CHUNK as usize) {
        let chunk = CHUNK.min(count - first);
        let values = from
            .read_per_cpu::<V>(first, chunk, cpus)
            .map_err(failed(name))?;
        for (index, value) in (first..).zip(values) {
            to.set_per_cpu(index, &value).map_err(failed(name))?;
        }
    }
    Ok(())
}

fn hash<K: Pod, V: Pod>(old: &MapSet, new: &MapSet, name: &'static str) -> Result<(), StoreError> {
    let (from, to) = (old.get(name)?, new.get(name)?);
    for (key, value) in from.entries::<K, V>().map_err(failed(name))? {
        to.set(&key, &value).map_err(failed(name))?;
    }
    Ok(())
}

/// Shares the rings: both outer maps then hold the same inner maps, which are never changed but
/// only exchanged.
fn rings(old: &MapSet, new: &MapSet) -> Result<(), StoreError> {
    let (from, to) = (old.get(maps::RINGS)?, new.get(maps::RINGS)?);
    let count = from.info().max_entries.min(to.info().max_entries);
    for index in 0..count {
        let inner: Option<u32> = from.get(&index).map_err(failed(maps::RINGS))?;
        let Some(id) = inner else { continue };
        let ring = MapHandle::by_id(id).map_err(failed(maps::RINGS))?;
        to.set(&index, &ring.as_fd().as_raw_fd())
            .map_err(failed(maps::RINGS))?;
    }
    Ok(())
}

/// Copies flows, full-nat ports and live counts into maps that no program uses yet.
pub(crate) fn copy_flows(
    old: &MapSet,
    new: &MapSet,
    sizes: &Capacities,
) -> Result<CopiedFlows, StoreError> {
    let old_settings = old.settings()?;
    let secrets = new.settings()?.secrets;
    let (from, to) = (FlowTable::open(old)?, FlowTable::open(new)?);
    let live = LiveTable::open(new.get(maps::LIVE_FLOWS)?).map_err(failed(maps::LIVE_FLOWS))?;
    copy_live(old, &live)?;
    let mut copied = CopiedFlows::default();
    for (index, set) in from.sets().enumerate() {
        for (old_slot, entry) in (0..WAYS).filter_map(|way| set.entry(way)) {
            let cpu = index as u32 / old_settings.sets_per_cpu.max(1) % sizes.cpus;
            let hash = flow_hash(entry.key.words(), &secrets);
            let place = Position::of(hash, sizes.sets_per_cpu);
            let target = to.set((cpu * sizes.sets_per_cpu + place.set) as usize);
            let slot = old_slot & !slot::HASH | place.tag;
            if target.insert(place.way, slot, &entry) {
                copied.kept += 1;
            } else {
                copied.lost += 1;
                if let Some(count) = live.counts().get(usize::from(entry.backend)) {
                    count.fetch_sub(i64::from(entry.counted == counted::YES), Relaxed);
                }
            }
        }
    }
    copy_ports(old, new)?;
    Ok(copied)
}

fn copy_live(old: &MapSet, to: &LiveTable) -> Result<(), StoreError> {
    let from = old.get(maps::LIVE_FLOWS)?;
    let values = from
        .read_array::<LiveFlows>(0, from.info().max_entries)
        .map_err(failed(maps::LIVE_FLOWS))?;
    for (to, from) in to.counts().iter().zip(values) {
        to.store(from.count, Relaxed);
    }
    Ok(())
}

/// A larger port table begins with the smaller one: addresses are the slowest index.
fn copy_ports(old: &MapSet, new: &MapSet) -> Result<(), StoreError> {
    let open = |maps: &MapSet| {
        PortTable::open(maps.get(maps::SNAT_PORTS)?).map_err(failed(maps::SNAT_PORTS))
    };
    let (from, to) = (open(old)?, open(new)?);
    for (from, to) in from.ports().iter().zip(to.ports()) {
        if from.usage().is_some() {
            to.copy_from(from);
        }
    }
    Ok(())
}
