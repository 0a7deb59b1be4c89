//! Entries of `service_table` and `backends`, with everything that the packet path would otherwise
//! have to work out.

use super::check::snat_list;
use super::snat;
use crate::config::model::{Budget, L4, Listener, Service};
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::flow::ticks_from_ms;
use proxy_common::service::{Mode, Service as ServiceEntry, service_flags};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// The entry of a listener. `ring_size` is 0 if no backend takes new flows; `guarded` tells
/// whether its scope has guard rules.
pub(super) fn service_entry(
    listener: &Listener,
    service: &Service,
    ring_size: u32,
    guarded: bool,
    snat_addrs: &BTreeMap<u32, Addr>,
) -> ServiceEntry {
    let timeouts = &service.timeouts;
    let (budget_interval_ns, budget_burst_ns) = listener.guard.budget.map_or((0, 0), gcra);
    let (snat4_first, snat4_count) = snat::range(&snat_list(service, true), snat_addrs);
    let (snat6_first, snat6_count) = snat::range(&snat_list(service, false), snat_addrs);
    ServiceEntry {
        vip: Addr::from(listener.vip.network()),
        flags: flags(listener, guarded),
        ring_size,
        syn_ticks: ticks(timeouts.syn),
        established_ticks: ticks(timeouts.established),
        closing_ticks: ticks(timeouts.closing),
        udp_ticks: ticks(timeouts.udp),
        affinity_ticks: ticks(timeouts.affinity),
        port: listener.port.number(),
        snat4_first,
        snat4_count,
        snat6_first,
        snat6_count,
        mode: service.mode.code(),
        selection: service.selection.code(),
        protocol: listener.protocol.number(),
        _pad: [0; 3],
        budget_interval_ns,
        budget_burst_ns,
    }
}

fn flags(listener: &Listener, guarded: bool) -> u32 {
    let guard = &listener.guard;
    [
        (service_flags::GUARDED, guarded),
        (service_flags::DEFAULT_DENY, !guard.allow.is_empty()),
        (service_flags::BUDGET, guard.budget.is_some()),
    ]
    .into_iter()
    .filter_map(|(flag, wanted)| wanted.then_some(flag))
    .sum()
}

/// Emission interval and burst tolerance, nanoseconds, of [`proxy_common::guard::gcra`].
fn gcra(budget: Budget) -> (u64, u64) {
    let interval = 1_000_000_000 / u64::from(budget.per_second.max(1));
    (
        interval,
        interval * u64::from(budget.burst.saturating_sub(1)),
    )
}

/// Whole milliseconds, rounded up, as ticks.
fn ticks(time: Duration) -> u32 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    ticks_from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Source of the outer header of a tunnel, and which of its last 32 bits carry the flow's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TunnelSource {
    pub(super) addr: Addr,
    pub(super) mask: u32,
}

/// The tunnel source that the configuration gives for a backend's family.
pub(super) fn configured_source(l4: &L4, backend: IpAddr) -> Option<TunnelSource> {
    let net = match backend {
        IpAddr::V4(_) => l4.tunnel_source_v4.map(IpNet::V4),
        IpAddr::V6(_) => l4.tunnel_source_v6.map(IpNet::V6),
    }?;
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    Some(TunnelSource {
        addr: Addr::from(net.network()),
        mask: 1u32.checked_shl(host_bits).map_or(u32::MAX, |bit| bit - 1),
    })
}

/// True for the modes with an outer header.
pub(super) const fn is_tunnel(mode: Mode) -> bool {
    matches!(mode, Mode::DsrIpip | Mode::DsrGue)
}
