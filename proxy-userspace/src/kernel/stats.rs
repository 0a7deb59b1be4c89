//! Reads the counters of the packet path into plain values.

use super::handle::MapHandle;
use super::host;
use super::layout::REASON_SLOTS;
use super::set::MapSet;
use super::store::StoreError;
use super::table::LiveTable;
use aya::Pod;
use proxy_common::maps::{self, capacity};
use proxy_common::reason::Reason;
use proxy_common::settings::CpuState;
use proxy_common::stats::{BackendStats, ServiceStats};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// Elements read by one call: keeps the buffer small on machines with many CPUs.
const CHUNK: u32 = 512;

/// Counters of a backend, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Counters that only grow.
    pub totals: BackendStats,
    /// Flows that are not closing, now.
    pub live_flows: i64,
}

/// Every counter at about one instant. All but `live_flows` only grow while the maps live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Packets by reason, every reason, in code order.
    pub reasons: Vec<(Reason, u64)>,
    /// By service id; only those that were asked for.
    pub services: BTreeMap<u16, ServiceStats>,
    /// By backend id; only those that were asked for.
    pub backends: BTreeMap<u16, BackendCounters>,
    /// Sampled events that found their ring buffer full.
    pub events_lost: u64,
    /// Captured packets that found theirs full.
    pub capture_lost: u64,
}

impl StatsSnapshot {
    /// Packets with this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        let found = self.reasons.iter().find(|(known, _)| *known == reason);
        found.map_or(0, |(_, packets)| *packets)
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Its name.
    pub name: &'static str,
    /// Its entries; `None` where all always exist (arrays) or counting costs too much (LRU).
    pub entries: Option<u32>,
    /// Entries that there is room for.
    pub capacity: u32,
}

/// Reads counters.
#[derive(Debug)]
pub struct StatsReader {
    reasons: MapHandle,
    services: MapHandle,
    backends: MapHandle,
    cpu_state: MapHandle,
    live: LiveTable,
    cpus: usize,
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError {
        call: "read",
        map,
        source,
    }
}

impl StatsReader {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let live = LiveTable::open(set.get(maps::LIVE_FLOWS)?);
        Ok(Self {
            reasons: set.clone_of(maps::REASONS)?,
            services: set.clone_of(maps::SERVICE_STATS)?,
            backends: set.clone_of(maps::BACKEND_STATS)?,
            cpu_state: set.clone_of(maps::CPU_STATE)?,
            live: live.map_err(failed(maps::LIVE_FLOWS))?,
            cpus: host::possible_cpus(),
        })
    }

    /// Reads the counters of these services and backends, and of every reason.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be read.
    pub fn snapshot(
        &self,
        services: &[u16],
        backends: &[u16],
    ) -> Result<StatsSnapshot, StoreError> {
        let cpus = self
            .cpu_state
            .read_per_cpu::<CpuState>(0, 1, self.cpus)
            .map_err(failed(maps::CPU_STATE))?;
        let sum = |lost: fn(&CpuState) -> u64| cpus.iter().flatten().map(lost).sum();
        let mut snapshot = StatsSnapshot {
            reasons: self.reasons()?,
            events_lost: sum(|cpu| cpu.events_lost),
            capture_lost: sum(|cpu| cpu.capture_lost),
            ..StatsSnapshot::default()
        };
        self.each(&self.services, services, |id, cpus: &[ServiceStats]| {
            let sum = cpus.iter().fold(ServiceStats::default(), add_service);
            snapshot.services.insert(id, sum);
        })
        .map_err(failed(maps::SERVICE_STATS))?;
        let live = self.live.counts();
        self.each(&self.backends, backends, |id, cpus: &[BackendStats]| {
            let counters = BackendCounters {
                totals: cpus.iter().fold(BackendStats::default(), add_backend),
                live_flows: live
                    .get(usize::from(id))
                    .map_or(0, |count| count.load(Relaxed)),
            };
            snapshot.backends.insert(id, counters);
        })
        .map_err(failed(maps::BACKEND_STATS))?;
        Ok(snapshot)
    }

    /// Packets by reason.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, StoreError> {
        let counts = self
            .reasons
            .read_per_cpu::<u64>(0, REASON_SLOTS, self.cpus)
            .map_err(failed(maps::REASONS))?;
        Ok(Reason::ALL
            .iter()
            .map(|&reason| {
                let cpus = counts.get(usize::from(reason as u16));
                (reason, cpus.map_or(0, |cpus| cpus.iter().sum()))
            })
            .collect())
    }

    /// Hands over the values of each id, read in runs of neighbouring ids.
    fn each<V: Pod>(
        &self,
        map: &MapHandle,
        ids: &[u16],
        mut take: impl FnMut(u16, &[V]),
    ) -> io::Result<()> {
        for (first, count) in runs(ids) {
            let values = map.read_per_cpu::<V>(u32::from(first), count, self.cpus)?;
            for (id, cpus) in (first..=u16::MAX).zip(&values) {
                take(id, cpus);
            }
        }
        Ok(())
    }
}

/// Groups ids into runs of neighbours, none longer than [`CHUNK`].
fn runs(ids: &[u16]) -> Vec<(u16, u32)> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(u16, u32)> = Vec::new();
    for id in sorted {
        match runs.last_mut() {
            Some((first, count))
                if u32::from(*first) + *count == u32::from(id) && *count < CHUNK =>
            {
                *count += 1;
            }
            _ => runs.push((id, 1)),
        }
    }
    runs
}

fn add_service(sum: ServiceStats, cpu: &ServiceStats) -> ServiceStats {
    ServiceStats {
        local_packets: sum.local_packets.wrapping_add(cpu.local_packets),
        local_bytes: sum.local_bytes.wrapping_add(cpu.local_bytes),
        local_new_flows: sum.local_new_flows.wrapping_add(cpu.local_new_flows),
        dropped: sum.dropped.wrapping_add(cpu.dropped),
        untracked_flows: sum.untracked_flows.wrapping_add(cpu.untracked_flows),
        replaced_flows: sum.replaced_flows.wrapping_add(cpu.replaced_flows),
    }
}

fn add_backend(sum: BackendStats, cpu: &BackendStats) -> BackendStats {
    BackendStats {
        packets: sum.packets.wrapping_add(cpu.packets),
        bytes: sum.bytes.wrapping_add(cpu.bytes),
        new_flows: sum.new_flows.wrapping_add(cpu.new_flows),
        return_packets: sum.return_packets.wrapping_add(cpu.return_packets),
        return_bytes: sum.return_bytes.wrapping_add(cpu.return_bytes),
        entered: sum.entered.wrapping_add(cpu.entered),
    }
}

/// How full each map is, for metrics and `sluice status`.
///
/// The flow table and the full-nat ports are counted by the sweeper instead.
///
/// # Errors
///
/// [`StoreError`] if a map cannot be read.
pub fn map_usage(set: &MapSet) -> Result<Vec<MapUsage>, StoreError> {
    use proxy_common::guard::GuardKey;
    use proxy_common::service::{Service, ServiceKey, ServicePrefix};
    type Trie<K> = aya::maps::lpm_trie::Key<K>;
    let mut usage = Vec::new();
    let mut push = |name, entries: Option<usize>| -> Result<(), StoreError> {
        usage.push(MapUsage {
            name,
            entries: entries.map(|count| count as u32),
            capacity: set.get(name)?.info().max_entries,
        });
        Ok(())
    };
    let services = set.get(maps::SERVICES)?.keys::<ServiceKey>();
    let services = services.map_err(failed(maps::SERVICES))?.len();
    push(maps::SERVICES, Some(services))?;
    let prefixes = set
        .get(maps::SERVICE_PREFIXES)?
        .keys::<Trie<ServicePrefix>>();
    let prefixes = prefixes.map_err(failed(maps::SERVICE_PREFIXES))?.len();
    push(maps::SERVICE_PREFIXES, Some(prefixes))?;
    let rules = set.get(maps::GUARD_RULES)?.keys::<Trie<GuardKey>>();
    let rules = rules.map_err(failed(maps::GUARD_RULES))?.len();
    push(maps::GUARD_RULES, Some(rules))?;
    let table = set.get(maps::SERVICE_TABLE)?;
    let table = table.read_array::<Service>(0, capacity::SERVICES);
    let used = |services: Vec<Service>| services.iter().filter(|one| one.mode != 0).count();
    let table = table.map(used).map_err(failed(maps::SERVICE_TABLE))?;
    push(maps::SERVICE_TABLE, Some(table))?;
    for name in [
        maps::BACKENDS,
        maps::FRAGMENTS,
        maps::AFFINITY,
        maps::GUARD_BUDGETS,
    ] {
        push(name, None)?;
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_runs() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[5, 3, 4, 9, 4]), [(3, 3), (9, 1)]);
        let many: Vec<u16> = (0..1_000).collect();
        assert_eq!(runs(&many), [(0, 512), (512, 488)]);
        assert_eq!(runs(&[65_534, 65_535]), [(65_534, 2)]);
    }

    #[test]
    fn counters_add_up_over_cpus() {
        let one = BackendStats {
            packets: 1,
            bytes: 2,
            new_flows: 3,
            return_packets: 4,
            return_bytes: 5,
            entered: 6,
        };
        let sum = [one, one].iter().fold(BackendStats::default(), add_backend);
        assert_eq!((sum.packets, sum.return_bytes, sum.entered), (2, 10, 12));
    }

    #[test]
    fn a_reason_that_was_not_read_counts_zero() {
        assert_eq!(StatsSnapshot::default().reason(Reason::DropDenied), 0);
    }
}
