//! What services share: tunnel sources, source addresses, and the room in the data plane's maps.

use super::together::Sections;
use crate::config::decode::Field;
use crate::config::fault::Code;
use crate::config::model::Service;
use crate::config::report::{Draft, Place, Report};
use proxy_common::maps::capacity;
use proxy_common::service::Mode;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Applies every rule; `uses` pairs listeners and their services by index.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    tunnel_sources(report, all);
    shared_sources(report, all);
    limits(report, all, uses);
}

/// Tunnel modes work without a source, but then all packets have the same outer addresses.
fn tunnel_sources(report: &Report<'_>, all: &Sections<'_, '_>) {
    for service in all.services {
        let mode = service.model.mode;
        if !matches!(mode, Mode::DsrIpip | Mode::DsrGue) {
            continue;
        }
        let place = service
            .file
            .value
            .mode
            .given()
            .map_or(Place::Value(service.file.node), |at| Place::Value(at.node));
        let uses = |v4: bool| {
            service
                .model
                .backends
                .iter()
                .any(|backend| backend.address.is_ipv4() == v4)
        };
        let missing = if uses(true) && all.l4.tunnel_source_v4.is_none() {
            Some(("source_v4", "172.16.0.0/16"))
        } else if uses(false) && all.l4.tunnel_source_v6.is_none() {
            Some(("source_v6", "\"0100::/96\""))
        } else {
            None
        };
        if let Some((key, example)) = missing {
            report.warn(
                place,
                format!(
                    "`l4.tunnel.{key}` is not given: all packets of mode `{}` get the egress address as source, so that receivers cannot spread them over their CPUs",
                    mode.name()
                ),
                format!("add to `l4`: `tunnel: {{{key}: {example}}}`"),
            );
        }
        if uses(true) && uses(false) {
            report.warn(
                place,
                "the service has IPv4 and IPv6 backends: the room for packets depends on which one a flow gets",
                "use backends of one family",
            );
        }
    }
}

/// Source addresses of full-nat belong to one use each: answers are recognised by them.
fn shared_sources(report: &Report<'_>, all: &Sections<'_, '_>) {
    let mut owners: HashMap<IpAddr, &Service> = HashMap::new();
    for service in all.services {
        let nodes = service
            .file
            .value
            .source_addresses
            .value()
            .into_iter()
            .flatten()
            .filter_map(Field::given);
        for at in nodes {
            let address = at.value.0;
            if !service.model.source_addresses.contains(&address) {
                continue;
            }
            let vip = all
                .listeners
                .iter()
                .find(|listener| listener.model.vip.contains(&address));
            if let Some(listener) = vip {
                let draft = Draft::new(
                    Code::Conflict,
                    format!(
                        "`{address}` is an address of listener `{}`",
                        listener.model.name
                    ),
                )
                .fix("use an address of this balancer that nothing else uses");
                report.error(Place::Value(at.node), draft);
            }
            let owner = owners.entry(address).or_insert(&service.model);
            if owner.source_addresses != service.model.source_addresses {
                let draft = Draft::new(
                    Code::Conflict,
                    format!(
                        "service `{}` uses `{address}` together with other addresses",
                        owner.name
                    ),
                )
                .expected(
                    "services that share a source address to have the same `source_addresses`",
                );
                report.error(Place::Value(at.node), draft);
            }
        }
    }
}

/// What the data plane's maps can hold.
fn limits(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    let listeners = place(&all.file.listeners);
    let services = place(&all.file.services);
    let prefixes = all
        .listeners
        .iter()
        .filter(|listener| listener.model.vip.prefix_len() < listener.model.vip.max_prefix_len())
        .count();
    let vips: HashSet<_> = all
        .listeners
        .iter()
        .map(|listener| listener.model.vip)
        .collect();
    let sources: HashSet<_> = all
        .services
        .iter()
        .flat_map(|service| service.model.source_addresses.iter().copied())
        .collect();
    let backends: usize = uses
        .iter()
        .map(|(_, service)| all.services[*service].model.backends.len())
        .sum();
    let rules = all
        .listeners
        .iter()
        .map(|listener| &listener.model.guard)
        .chain([all.guard])
        .map(|guard| guard.allow.len() + guard.deny.len())
        .sum();
    let keys = all.listeners.len() - prefixes + vips.len() + sources.len();
    let most = |capacity: u32| capacity as usize;
    let table: [(Place, &str, usize, usize); 7] = [
        (
            listeners,
            "listeners",
            all.listeners.len(),
            most(capacity::SERVICES) - 1,
        ),
        (
            services,
            "services",
            all.services.len(),
            most(capacity::SERVICES) - 1,
        ),
        (
            listeners,
            "listeners with a prefix",
            prefixes,
            most(capacity::SERVICE_PREFIXES),
        ),
        (
            listeners,
            "addresses and ports",
            keys,
            most(capacity::SERVICE_KEYS),
        ),
        (
            services,
            "source addresses of full-nat",
            sources.len(),
            most(capacity::SNAT_ADDRS),
        ),
        (listeners, "guard rules", rules, most(capacity::GUARD_RULES)),
        (
            services,
            "backends (once for each listener)",
            backends,
            (all.l4.backend_capacity as usize).saturating_sub(1),
        ),
    ];
    for (place, what, count, most) in table {
        if count > most {
            let draft = Draft::new(Code::Limit, format!("there are {count} {what}"))
                .expected(format!("at most {most}"));
            let draft = if what.starts_with("backends") {
                draft.fix(format!(
                    "set `l4.backend_capacity: {}` (at most {})",
                    count + 1,
                    capacity::MAX_BACKENDS
                ))
            } else {
                draft
            };
            report.error(place, draft);
        }
    }
}

fn place<T>(field: &Field<T>) -> Place {
    field.given().map_or(Place::Whole, |at| Place::Key(at.node))
}
