//! The section `services`.

use super::backends::{Used, backends};
use super::upstream::upstream;
use super::uses::Uses;
use super::{Judged, Names, Services, elements, health, host_address, need, or, outlier, time};
use crate::config::decode::{At, Field};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::service as file;
use crate::config::model::{Backend, Service, Timeouts};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use proxy_common::maps::capacity;
use proxy_common::service::{Mode, Selection};
use std::net::IpAddr;

/// Slots that a backend should have, so that shares differ by about 1 % (Maglev, §5.3).
const SLOTS_PER_BACKEND: usize = 100;

/// The section `services`.
pub(super) fn services<'f>(
    report: &Report<'_>,
    field: &'f Field<Vec<Field<file::Service>>>,
    uses: &Uses,
) -> Services<'f> {
    let mut names = Names::default();
    elements(field)
        .map(|at| Judged {
            model: service(report, at, &mut names, uses),
            file: at,
        })
        .collect()
}

/// One service. Its name is empty if it has none, which is noted.
fn service(report: &Report<'_>, at: &At<file::Service>, names: &mut Names, uses: &Uses) -> Service {
    let keys = &at.value;
    let name = need(report, at.node, "name", "web", &keys.name);
    if let Some(name) = name {
        names.add(report, "service", &name.value.0, name.node);
    }
    let name = name.map(|name| name.value.0.clone()).unwrap_or_default();
    let mode = mode(&keys.mode);
    let used = Used {
        in_kernel: uses.in_kernel(&name),
        in_proxies: uses.in_proxies(&name),
        by_mesh: uses.by_mesh(&name),
    };
    let backends = backends(report, at, mode, used);
    idle_keys(report, keys, used);
    let upstream = upstream(report, keys, &backends, used);
    let backends = backends.fixed;
    // Rules about packets hold only where there are packets.
    let (for_kernel, checked_mode): (&[Backend], _) = if used.in_kernel {
        (&backends, mode)
    } else {
        (&[], Mode::Nat)
    };
    let source_addresses = if used.in_kernel {
        source_addresses(report, at, mode, for_kernel)
    } else {
        let sources = elements(&keys.source_addresses);
        sources.map(|at| at.value.0).collect()
    };
    let service = Service {
        name,
        mode,
        selection: selection(&keys.selection),
        ring_size: ring_size(report, &keys.ring_size, for_kernel.len(), at.node),
        source_addresses,
        timeouts: timeouts(report, &keys.timeouts),
        drain_timeout: keys
            .drain_timeout
            .value()
            .map_or(defaults::DRAIN_TIMEOUT, |time| time.0),
        health: health::health(report, &keys.health, checked_mode),
        at_connect: super::connect::at_connect(&keys.at_connect),
        upstream,
        backends,
    };
    health::with_service(report, &keys.health, &service);
    service
}

/// Keys that mean nothing to those who use the service.
fn idle_keys(report: &Report<'_>, keys: &file::Service, used: Used) {
    fn node<T>(field: &Field<T>) -> Option<NodeId> {
        field.given().map(|at| at.node)
    }
    let warn = |keys: &[(&str, Option<NodeId>)], who: &str| {
        for (key, node) in keys {
            if let Some(node) = node {
                report.warn(
                    Place::Key(*node),
                    format!("`{key}` has no effect: {who} the service"),
                    "remove it",
                );
            }
        }
    };
    let timeouts = keys.timeouts.value();
    if !used.in_kernel {
        let flows = timeouts.map(|timeouts| {
            [
                ("syn", node(&timeouts.syn)),
                ("established", node(&timeouts.established)),
                ("closing", node(&timeouts.closing)),
                ("udp", node(&timeouts.udp)),
                ("affinity", node(&timeouts.affinity)),
            ]
        });
        let who = "no listener of kind `l4` uses";
        warn(flows.as_ref().map_or(&[], |flows| flows), who);
        warn(
            &[
                ("mode", node(&keys.mode)),
                ("selection", node(&keys.selection)),
                ("ring_size", node(&keys.ring_size)),
                ("source_addresses", node(&keys.source_addresses)),
            ],
            who,
        );
    }
    if used.in_kernel && !used.in_proxies && !used.by_mesh {
        let waits = timeouts.map(|timeouts| {
            [
                ("connect", node(&timeouts.connect)),
                ("response", node(&timeouts.response)),
                ("idle", node(&timeouts.idle)),
                ("per_try", node(&timeouts.per_try)),
                ("request", node(&timeouts.request)),
            ]
        });
        let who = "only listeners of kind `l4` use";
        warn(waits.as_ref().map_or(&[], |waits| waits), who);
        warn(
            &[
                ("protocol", node(&keys.protocol)),
                ("balance", node(&keys.balance)),
                ("sticky_cookie", node(&keys.sticky_cookie)),
                ("connections", node(&keys.connections)),
                ("send_proxy", node(&keys.send_proxy)),
                ("subset", node(&keys.subset)),
                ("zone", node(&keys.zone)),
                ("retries", node(&keys.retries)),
                ("hedge", node(&keys.hedge)),
                ("circuit", node(&keys.circuit)),
                ("concurrency", node(&keys.concurrency)),
                ("fallback", node(&keys.fallback)),
            ],
            who,
        );
        if !outlier::looks_at_workloads(keys) {
            warn(&[("outlier", node(&keys.outlier))], who);
        }
    }
}

fn mode(field: &Field<file::ForwardingMode>) -> Mode {
    match or(field, file::ForwardingMode::Nat) {
        file::ForwardingMode::Nat => Mode::Nat,
        file::ForwardingMode::FullNat => Mode::FullNat,
        file::ForwardingMode::DsrL2 => Mode::DsrL2,
        file::ForwardingMode::DsrIpip => Mode::DsrIpip,
        file::ForwardingMode::DsrGue => Mode::DsrGue,
        file::ForwardingMode::Local => Mode::Local,
    }
}

fn selection(field: &Field<file::SelectionMethod>) -> Selection {
    match or(field, file::SelectionMethod::Maglev) {
        file::SelectionMethod::Maglev => Selection::Maglev,
        file::SelectionMethod::SourceAffinity => Selection::SourceAffinity,
        file::SelectionMethod::TwoChoices => Selection::TwoChoices,
    }
}

fn timeouts(report: &Report<'_>, field: &Field<file::Timeouts>) -> Timeouts {
    let Some(keys) = field.value() else {
        return defaults::TIMEOUTS;
    };
    Timeouts {
        syn: time(report, &keys.syn, defaults::TIMEOUTS.syn),
        established: time(report, &keys.established, defaults::TIMEOUTS.established),
        closing: time(report, &keys.closing, defaults::TIMEOUTS.closing),
        udp: time(report, &keys.udp, defaults::TIMEOUTS.udp),
        affinity: time(report, &keys.affinity, defaults::TIMEOUTS.affinity),
    }
}

fn ring_size(report: &Report<'_>, field: &Field<u32>, backends: usize, service: NodeId) -> u32 {
    let size = or(field, defaults::RING_SIZE);
    let node = field.given().map_or(service, |at| at.node);
    if !(2..=capacity::MAX_RING_SIZE).contains(&size) {
        let draft = Draft::new(Code::InvalidValue, format!("{size} is out of range"))
            .expected(format!("a prime from 2 to {}", capacity::MAX_RING_SIZE));
        report.error(Place::Value(node), draft);
    } else if !is_prime(size) {
        let draft = Draft::new(Code::InvalidValue, format!("{size} is not a prime"))
            .expected("a prime, so that every backend's permutation covers the whole ring")
            .fix(format!("write {}", prime_from(size)));
        report.error(Place::Value(node), draft);
    } else if (size as usize) < backends * SLOTS_PER_BACKEND {
        let wanted = u32::try_from(backends * SLOTS_PER_BACKEND)
            .map_or(capacity::MAX_RING_SIZE, prime_from)
            .min(capacity::MAX_RING_SIZE);
        report.warn(
            Place::Value(node),
            format!(
                "a ring of {size} slots is small for {backends} backends: shares will be uneven"
            ),
            format!("write `ring_size: {wanted}`"),
        );
    }
    size
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= u64::from(number))
            .all(|divisor| !u64::from(number).is_multiple_of(divisor))
}

/// The least prime from `number` on, at most [`capacity::MAX_RING_SIZE`], which is one.
fn prime_from(number: u32) -> u32 {
    (number..=capacity::MAX_RING_SIZE)
        .find(|candidate| is_prime(*candidate))
        .unwrap_or(capacity::MAX_RING_SIZE)
}

fn source_addresses(
    report: &Report<'_>,
    at: &At<file::Service>,
    mode: Mode,
    backends: &[Backend],
) -> Vec<IpAddr> {
    let field = &at.value.source_addresses;
    if mode != Mode::FullNat {
        if let Some(list) = field.given()
            && !list.value.is_empty()
        {
            let draft = Draft::new(
                Code::Conflict,
                format!("mode `{}` has no source addresses", mode.name()),
            )
            .fix("remove `source_addresses`, or use mode `full-nat`");
            report.error(Place::Key(list.node), draft);
        }
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for address in elements(field) {
        host_address(report, address.node, address.value.0);
        if addresses.contains(&address.value.0) {
            report.warn(
                Place::Value(address.node),
                format!("`{}` is in this list already", address.value.0),
                "remove one of the two",
            );
        } else {
            addresses.push(address.value.0);
        }
    }
    if !matches!(field, Field::Bad) {
        cover_families(report, at, &addresses, backends);
    }
    addresses
}

/// A full-nat service needs a source of each family that its backends have.
fn cover_families(
    report: &Report<'_>,
    at: &At<file::Service>,
    sources: &[IpAddr],
    backends: &[Backend],
) {
    let place = at
        .value
        .source_addresses
        .given()
        .map_or(Place::Value(at.node), |list| Place::Key(list.node));
    let families = [
        ("IPv4", true, "10.0.0.5"),
        ("IPv6", false, "\"2001:db8::5\""),
    ];
    for (family, is_v4, example) in families {
        let used = backends
            .iter()
            .any(|backend| backend.address.is_ipv4() == is_v4);
        let covered = sources.iter().any(|source| source.is_ipv4() == is_v4);
        if used && !covered {
            let draft = Draft::new(
                Code::MissingKey,
                format!("mode `full-nat` needs an {family} source address for its {family} backends"),
            )
            .fix(format!(
                "add `source_addresses: [{example}]`, an address of this balancer that nothing else uses"
            ));
            report.error(place, draft);
        } else if covered && !used && !backends.is_empty() {
            report.warn(
                place,
                format!("the service has no {family} backends, so its {family} source addresses are not used"),
                "remove them",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_the_largest_ring_are_primes() {
        assert!(is_prime(defaults::RING_SIZE));
        assert!(is_prime(capacity::MAX_RING_SIZE));
        assert_eq!(prime_from(65_536), 65_537);
        assert_eq!(prime_from(u32::MAX), capacity::MAX_RING_SIZE);
        assert!(!is_prime(1) && !is_prime(0) && is_prime(2) && !is_prime(9));
    }
}
