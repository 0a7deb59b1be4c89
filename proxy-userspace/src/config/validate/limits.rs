//! What services share: tunnel sources, source addresses, and the room in the data plane's maps.

use super::together::Sections;
use super::{Judged, elements, family};
use crate::config::decode::Field;
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::model::Service;
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use ipnet::IpNet;
use proxy_common::maps::capacity;
use proxy_common::service::Mode;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// The services that concern the kernel.
fn balanced<'a, 'f>(
    all: &'a Sections<'_, 'f>,
) -> impl Iterator<Item = &'a Judged<'f, Service, crate::config::file::service::Service>> {
    let services = all.services.iter();
    services.filter(|service| all.uses.in_kernel(&service.model.name))
}

/// Applies every rule; `uses` pairs listeners and their services by index.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    tunnel_sources(report, all);
    shared_sources(report, all);
    limits(report, all, uses);
}

/// Tunnel modes work without a source, but then all packets have the same outer addresses.
fn tunnel_sources(report: &Report<'_>, all: &Sections<'_, '_>) {
    let Some(l4) = all.l4 else { return };
    for service in balanced(all) {
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
        let missing = if uses(true) && l4.tunnel_source_v4.is_none() {
            Some(("source_v4", "172.16.0.0/16"))
        } else if uses(false) && l4.tunnel_source_v6.is_none() {
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

/// Source addresses of full-nat belong to one use each: answers are recognised by them. The data
/// plane names the addresses that a service has of a family by a range, so services share all of
/// them or none.
fn shared_sources(report: &Report<'_>, all: &Sections<'_, '_>) {
    let mut owners: HashMap<IpAddr, &Service> = HashMap::new();
    let full_nat = balanced(all).filter(|service| service.model.mode == Mode::FullNat);
    for service in full_nat {
        for at in elements(&service.file.value.source_addresses) {
            let address = at.value.0;
            source_is_no_vip(report, all, at.node, address);
            let owner = owners.entry(address).or_insert(&service.model);
            let v4 = address.is_ipv4();
            if sources(owner, v4) != sources(&service.model, v4) {
                let family = family(address);
                let draft = Draft::new(
                    Code::Conflict,
                    format!(
                        "service `{}` uses `{address}` with other {family} addresses beside it",
                        owner.name
                    ),
                )
                .expected("the same list in both services, or lists without common addresses");
                report.error(Place::Value(at.node), draft);
            }
        }
    }
}

/// The source addresses of one family.
fn sources(service: &Service, v4: bool) -> BTreeSet<IpAddr> {
    let addresses = service.source_addresses.iter().copied();
    addresses
        .filter(|address| address.is_ipv4() == v4)
        .collect()
}

fn source_is_no_vip(report: &Report<'_>, all: &Sections<'_, '_>, node: NodeId, address: IpAddr) {
    let holds = |vip: &IpNet| vip.prefix_len() > 0 && vip.contains(&address);
    let listener = all
        .listeners
        .l4
        .iter()
        .find(|listener| holds(&listener.model.vip));
    if let Some(listener) = listener {
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "`{address}` is an address of listener `{}`",
                listener.model.name
            ),
        )
        .fix("use an address of this balancer that nothing else uses");
        report.error(Place::Value(node), draft);
    }
}

/// What the data plane's maps can hold.
fn limits(report: &Report<'_>, all: &Sections<'_, '_>, uses: &[(usize, usize)]) {
    for need in needs(all, uses) {
        if need.count <= need.most {
            continue;
        }
        let Need {
            what, count, most, ..
        } = need;
        let draft = Draft::new(Code::Limit, format!("there are {count} {what}"))
            .expected(format!("at most {most}"));
        let draft = match need.fix {
            Some(fix) => draft.fix(fix),
            None => draft,
        };
        report.error(need.place, draft);
    }
}

/// How much of something is needed, and how much there may be.
struct Need {
    place: Place,
    what: &'static str,
    count: usize,
    most: usize,
    fix: Option<String>,
}

fn needs(all: &Sections<'_, '_>, uses: &[(usize, usize)]) -> [Need; 7] {
    let at_listeners = |what, count, most: u32| Need {
        place: place(&all.file.listeners),
        what,
        count,
        most: most as usize,
        fix: None,
    };
    let at_services = |what, count, most: u32| Need {
        place: place(&all.file.services),
        ..at_listeners(what, count, most)
    };
    let vips = all.listeners.l4.iter().map(|listener| listener.model.vip);
    let is_prefix = |vip: &IpNet| vip.prefix_len() < vip.max_prefix_len();
    let (prefixes, addresses): (Vec<_>, Vec<_>) = vips.partition(is_prefix);
    // Each VIP has one more entry, by which echo requests to it are answered.
    let echo = |vips: &[IpNet]| vips.iter().collect::<HashSet<_>>().len();
    let services = balanced(all).map(|service| &service.model);
    let sources: HashSet<_> = services
        .flat_map(|service| &service.source_addresses)
        .collect();
    let backends = uses
        .iter()
        .map(|(_, service)| all.services[*service].model.backends.len())
        .sum();
    let guards = all
        .listeners
        .l4
        .iter()
        .map(|listener| &listener.model.guard);
    let rules = guards
        .chain([all.guard])
        .map(|guard| guard.allow.len() + guard.deny.len())
        .sum();
    // Index 0 of the tables by id is never used.
    let ids = capacity::SERVICES - 1;
    let capacity = all
        .l4
        .map_or(defaults::BACKEND_CAPACITY, |l4| l4.backend_capacity);
    let room = capacity.saturating_sub(1);
    [
        at_listeners("listeners", all.listeners.l4.len(), ids),
        at_services("services", balanced(all).count(), ids),
        at_listeners(
            "prefixes with their ports, and once more without",
            prefixes.len() + echo(&prefixes),
            capacity::SERVICE_PREFIXES,
        ),
        at_listeners(
            "addresses with their ports, and once more without",
            addresses.len() + echo(&addresses) + sources.len(),
            capacity::SERVICE_KEYS,
        ),
        at_services(
            "source addresses of `full-nat`",
            sources.len(),
            capacity::SNAT_ADDRS,
        ),
        at_listeners("guard rules", rules, capacity::GUARD_RULES),
        Need {
            fix: Some(format!(
                "set `l4.backend_capacity: {}` (at most {})",
                backends + 1,
                capacity::MAX_BACKENDS
            )),
            ..at_services("backends (once for each listener)", backends, room)
        },
    ]
}

fn place<T>(field: &Field<T>) -> Place {
    field.given().map_or(Place::Whole, |at| Place::Key(at.node))
}
