//! What the maps should look like for a configuration, and whether those that are pinned fit.
//!
//! Pure: the loader gathers facts (CPUs, pinned maps) and carries out the decision.

use super::sys::MapInfo;
use crate::config::model::{Config, L4};
use proxy_common::exceptions::Exceptions;
use proxy_common::flow::{FlowSet, PLANNED_FLOWS_PER_SET, SetTags, SnatPort};
use proxy_common::maps::{self, capacity};
use proxy_common::settings::{
    AddressFilter, Adjacency, CachedRoute, CachedService, CpuState, MAX_CPUS,
};
use proxy_common::{addr::Addr, backend, flow, guard, reason, service, settings, stats};
use std::collections::BTreeSet;
use std::mem::size_of;

/// Ports of one full-nat source address: every port of TCP and of UDP.
const SNAT_PORTS_PER_ADDRESS: u32 = 2 * 65_536;

/// Sizes of the maps that depend on the configuration or the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// CPUs that the flow table is divided among, for `Settings::cpus`.
    pub cpus: u32,
    /// Sets of the flow table per CPU, for `Settings::sets_per_cpu`.
    pub sets_per_cpu: u32,
    /// Entries of `backends`, `backend_stats` and `live_flows`.
    pub backends: u32,
    /// Entries of `snat_ports`.
    pub snat_ports: u32,
}

impl Capacities {
    /// Sizes for a configuration on a machine whose highest CPU number is `cpus - 1`.
    ///
    /// `snat_addresses` is what [`snat_addresses`] counts. The ports of that many addresses,
    /// rounded up to a power of two, get a record of 64 octets each (8 MiB per address), so that
    /// adding one address seldom means new maps; without full-nat there is one unused record.
    pub fn plan(l4: &L4, snat_addresses: u32, cpus: u32) -> Self {
        let cpus = cpus.clamp(1, MAX_CPUS);
        let per_cpu = l4.flow_capacity.div_ceil(cpus);
        let addresses = snat_addresses.min(capacity::SNAT_ADDRS);
        Self {
            cpus,
            sets_per_cpu: per_cpu.div_ceil(PLANNED_FLOWS_PER_SET).max(1),
            backends: l4.backend_capacity.clamp(2, capacity::MAX_BACKENDS),
            snat_ports: match addresses {
                0 => 1,
                some => some.next_power_of_two() * SNAT_PORTS_PER_ADDRESS,
            },
        }
    }

    /// Entries of `flows`.
    pub fn flow_sets(&self) -> u32 {
        self.cpus.saturating_mul(self.sets_per_cpu)
    }

    /// The map sizes to be set when the object is loaded.
    pub(crate) fn overrides(&self) -> [(&'static str, u32); 6] {
        [
            (maps::FLOWS, self.flow_sets()),
            (maps::FLOW_TAGS, self.flow_sets()),
            (maps::BACKENDS, self.backends),
            (maps::BACKEND_STATS, self.backends),
            (maps::LIVE_FLOWS, self.backends),
            (maps::SNAT_PORTS, self.snat_ports),
        ]
    }

    /// Why maps made for `self` do not do for `wanted`, if they do not.
    ///
    /// The flow table must have exactly the size asked for: it is the one that costs memory, and
    /// shrinking it must free some. Of the others only growth counts.
    pub fn misfit(&self, wanted: &Self) -> Option<String> {
        if (self.cpus, self.sets_per_cpu) != (wanted.cpus, wanted.sets_per_cpu) {
            return Some(format!(
                "the flow table has {} sets for each of {} CPUs, {} for each of {} are wanted",
                self.sets_per_cpu, self.cpus, wanted.sets_per_cpu, wanted.cpus
            ));
        }
        if self.backends < wanted.backends {
            return Some(format!(
                "there is room for {} backends, {} are wanted",
                self.backends, wanted.backends
            ));
        }
        (self.snat_ports < wanted.snat_ports).then(|| {
            format!(
                "there are records for {} full-nat ports, {} are wanted",
                self.snat_ports, wanted.snat_ports
            )
        })
    }
}

/// Distinct source addresses of full-nat in a configuration.
pub fn snat_addresses(config: &Config) -> u32 {
    let addresses: BTreeSet<_> = config
        .services
        .iter()
        .flat_map(|service| &service.source_addresses)
        .collect();
    addresses.len() as u32
}

/// Sizes of a map's key and value in this build.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// An LPM trie's key: the prefix length, then the data.
const fn lpm<T>() -> usize {
    4 + size_of::<T>()
}

const fn shape(name: &'static str, key: usize, value: usize) -> Shape {
    Shape { name, key, value }
}

/// Every map of the balancer, with what this build puts into it.
pub(crate) const SHAPES: &[Shape] = &[
    shape(maps::SETTINGS, 4, size_of::<settings::Settings>()),
    shape(maps::ADDRESS_FILTER, 4, size_of::<AddressFilter>()),
    shape(
        maps::SERVICES,
        size_of::<service::ServiceKey>(),
        size_of::<service::ServiceRef>(),
    ),
    shape(
        maps::SERVICE_PREFIXES,
        lpm::<service::ServicePrefix>(),
        size_of::<service::ServiceRef>(),
    ),
    shape(maps::SERVICE_TABLE, 4, size_of::<service::Service>()),
    shape(maps::RINGS, 4, 4),
    shape(maps::BACKENDS, 4, size_of::<backend::Backend>()),
    shape(maps::LIVE_FLOWS, 4, size_of::<stats::LiveFlows>()),
    shape(maps::FLOWS, 4, size_of::<FlowSet>()),
    shape(maps::FLOW_TAGS, 4, size_of::<SetTags>()),
    shape(maps::EXCEPTIONS, 4, size_of::<Exceptions>()),
    shape(maps::SNAT_ADDRS, 4, size_of::<Addr>()),
    shape(maps::SNAT_PORTS, 4, size_of::<SnatPort>()),
    shape(
        maps::FRAGMENTS,
        size_of::<flow::FragmentKey>(),
        size_of::<flow::Fragment>(),
    ),
    shape(
        maps::AFFINITY,
        size_of::<service::AffinityKey>(),
        size_of::<service::Affinity>(),
    ),
    shape(
        maps::GUARD_RULES,
        lpm::<guard::GuardKey>(),
        size_of::<guard::GuardRule>(),
    ),
    shape(maps::GUARD_BUDGETS, size_of::<service::AffinityKey>(), 8),
    shape(maps::CPU_STATE, 4, size_of::<CpuState>()),
    shape(maps::SERVICE_CACHE, 4, size_of::<CachedService>()),
    shape(maps::ROUTE_CACHE, 4, size_of::<CachedRoute>()),
    shape(maps::ADJACENCIES, 4, size_of::<Adjacency>()),
    shape(maps::REASONS, 4, 8),
    shape(maps::BACKEND_STATS, 4, size_of::<stats::BackendStats>()),
    shape(maps::SERVICE_STATS, 4, size_of::<stats::ServiceStats>()),
    shape(maps::EVENTS, 0, 0),
    shape(maps::CAPTURE, 0, 0),
];

impl Shape {
    /// Why a pinned map is not one of this build, if it is not.
    pub(crate) fn misfit(&self, found: &MapInfo) -> Option<String> {
        let (key, value) = (found.key_size as usize, found.value_size as usize);
        ((key, value) != (self.key, self.value)).then(|| {
            format!(
                "map `{}` has keys of {key} and values of {value} octets, not {} and {}",
                self.name, self.key, self.value
            )
        })
    }
}

/// Slots of `reasons` that are read.
pub(crate) const REASON_SLOTS: u32 = reason::REASON_SLOTS;

/// CPUs that the flow table should be divided among: one more than the highest online number in
/// a list such as `0-3,8`. Offline CPUs beyond get no part, because a machine that could have 128
/// CPUs but has 2 would otherwise leave 98 % of its table unused.
pub(crate) fn cpus_in(list: &str) -> Option<u32> {
    list.trim()
        .split(',')
        .filter_map(|range| range.rsplit('-').next()?.parse::<u32>().ok())
        .max()
        .map(|highest| highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn l4(flows: u32) -> L4 {
        L4 {
            interfaces: Vec::new(),
            pin_dir: "/sys/fs/bpf/sluice".into(),
            flow_capacity: flows,
            backend_capacity: 16_384,
            tunnel_source_v4: None,
            tunnel_source_v6: None,
            gue_port: 6080,
            selection_seed: 0,
            route_ttl: Duration::from_secs(1),
            icmp_per_second: 100,
            sample_every: 0,
            kernel_log: crate::config::model::KernelLog::Off,
        }
    }

    #[test]
    fn flows_are_divided_among_cpus_rounding_up() {
        let planned = Capacities::plan(&l4(1_000_000), 0, 3);
        assert_eq!(planned.sets_per_cpu, 41_667);
        assert!(planned.flow_sets() * PLANNED_FLOWS_PER_SET >= 1_000_000);
        assert_eq!(Capacities::plan(&l4(0), 0, 2).sets_per_cpu, 1);
        assert_eq!(Capacities::plan(&l4(64), 0, 10_000).cpus, MAX_CPUS);
    }

    #[test]
    fn snat_ports_cost_nothing_until_full_nat_is_used() {
        assert_eq!(Capacities::plan(&l4(64), 0, 1).snat_ports, 1);
        assert_eq!(Capacities::plan(&l4(64), 1, 1).snat_ports, 131_072);
        assert_eq!(Capacities::plan(&l4(64), 3, 1).snat_ports, 4 * 131_072);
        assert_eq!(Capacities::plan(&l4(64), 99, 1).snat_ports, 8 * 131_072);
    }

    #[test]
    fn growth_is_a_misfit_and_shrinking_only_for_flows() {
        let small = Capacities::plan(&l4(1_000), 1, 2);
        let more_flows = Capacities::plan(&l4(2_000), 1, 2);
        assert!(small.misfit(&more_flows).is_some());
        assert!(more_flows.misfit(&small).is_some());
        let more_ports = Capacities::plan(&l4(1_000), 2, 2);
        assert!(small.misfit(&more_ports).is_some());
        assert_eq!(more_ports.misfit(&small), None);
        assert_eq!(small.misfit(&small), None);
    }

    #[test]
    fn cpu_lists_are_understood() {
        assert_eq!(cpus_in("0-1\n"), Some(2));
        assert_eq!(cpus_in("0"), Some(1));
        assert_eq!(cpus_in("0-3,8,10-11"), Some(12));
        assert_eq!(cpus_in(""), None);
    }

    #[test]
    fn map_names_fit_the_kernels_fifteen_octets() {
        for shape in SHAPES {
            assert!(shape.name.len() <= 15, "{}", shape.name);
        }
    }
}
