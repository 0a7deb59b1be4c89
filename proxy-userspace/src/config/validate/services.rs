//! The section `services`.

use super::{Judged, Names, Services, elements, health, host_address, need, or, time};
use crate::config::decode::{At, Field};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::scalar::Endpoint;
use crate::config::file::service as file;
use crate::config::model::http::{BackendTraits, Upstream};
use crate::config::model::{Backend, Service, Timeouts};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use proxy_common::maps::capacity;
use proxy_common::service::{Mode, Selection};
use std::collections::HashMap;
use std::net::IpAddr;

/// Slots that a backend should have, so that shares differ by about 1 % (Maglev, §5.3).
const SLOTS_PER_BACKEND: usize = 100;

/// The section `services`.
pub(super) fn services<'f>(
    report: &Report<'_>,
    field: &'f Field<Vec<Field<file::Service>>>,
) -> Services<'f> {
    let mut names = Names::default();
    elements(field)
        .map(|at| Judged {
            model: service(report, at, &mut names),
            file: at,
        })
        .collect()
}

/// One service. Its name is empty if it has none, which is noted.
fn service(report: &Report<'_>, at: &At<file::Service>, names: &mut Names) -> Service {
    let keys = &at.value;
    let name = need(report, at.node, "name", "web", &keys.name);
    if let Some(name) = name {
        names.add(report, "service", &name.value.0, name.node);
    }
    let mode = mode(&keys.mode);
    let backends = backends(report, at, mode);
    Service {
        name: name.map(|name| name.value.0.clone()).unwrap_or_default(),
        mode,
        selection: selection(&keys.selection),
        ring_size: ring_size(report, &keys.ring_size, backends.len(), at.node),
        source_addresses: source_addresses(report, at, mode, &backends),
        timeouts: timeouts(report, &keys.timeouts),
        drain_timeout: keys
            .drain_timeout
            .value()
            .map_or(defaults::DRAIN_TIMEOUT, |time| time.0),
        health: health::health(report, &keys.health, mode),
        upstream: Upstream {
            traits: vec![BackendTraits::default(); backends.len()],
            ..Upstream::default()
        },
        backends,
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

fn backends(report: &Report<'_>, at: &At<file::Service>, mode: Mode) -> Vec<Backend> {
    let field = &at.value.backends;
    if mode == Mode::Local {
        if let Some(list) = field.given() {
            let draft = Draft::new(
                Code::Conflict,
                "mode `local` has no backends: this host serves the packets",
            )
            .fix("remove `backends`, or choose a mode that forwards, such as `nat`");
            report.error(Place::Key(list.node), draft);
        }
        return Vec::new();
    }
    if let Some(list) = need(report, at.node, "backends", "[10.1.0.1:8080]", field)
        && list.value.is_empty()
    {
        report.warn(
            Place::Key(list.node),
            "the service has no backends: all its packets are dropped",
            "add a backend, such as `10.1.0.1:8080`",
        );
    }
    let mut names = Names::default();
    let mut targets: HashMap<(IpAddr, Option<u16>), NodeId> = HashMap::new();
    let mut backends = Vec::new();
    for at in elements(field) {
        let Some((backend, node)) = backend(report, at) else {
            continue;
        };
        if let Some(first) = targets.insert((backend.address, backend.port), at.node) {
            let draft = Draft::new(
                Code::Conflict,
                format!(
                    "the backend in line {} has the same address and port",
                    report.line(first)
                ),
            )
            .fix("remove one of the two; a higher weight gives a backend more flows");
            report.error(Place::Value(at.node), draft);
        } else if names.add(report, "backend", &backend.name, node) {
            backends.push(backend);
        }
    }
    weights(report, field, &backends);
    backends
}

fn weights(report: &Report<'_>, field: &Field<Vec<Field<file::Backend>>>, backends: &[Backend]) {
    if let Some(list) = field.given()
        && !backends.is_empty()
        && backends.iter().all(|backend| backend.weight == 0)
    {
        report.warn(
            Place::Key(list.node),
            "all backends have weight 0: new flows are dropped",
            "give one of them a weight above 0",
        );
    }
}

/// One backend, and the node that names it.
fn backend(report: &Report<'_>, at: &At<file::Backend>) -> Option<(Backend, NodeId)> {
    let (endpoint, node, name, weight) = match &at.value {
        file::Backend::Endpoint(endpoint) => (endpoint, at.node, None, defaults::WEIGHT),
        file::Backend::Keys(keys) => {
            let address = need(report, at.node, "address", "10.1.0.1:8080", &keys.address);
            let weight = or(&keys.weight, defaults::WEIGHT);
            let address = address?;
            (&address.value, address.node, keys.name.given(), weight)
        }
    };
    host_address(report, node, endpoint.0.address);
    if endpoint.0.address.is_loopback() {
        report.warn(
            Place::Value(node),
            format!(
                "`{}` is a loopback address, which forwarded packets cannot reach",
                endpoint.0.address
            ),
            "give the backend's address in the network, or use mode `local` for this host",
        );
    }
    let backend = Backend {
        name: name.map_or_else(|| default_name(endpoint), |name| name.value.0.clone()),
        address: endpoint.0.address,
        port: endpoint.0.port,
        weight,
    };
    Some((backend, name.map_or(node, |name| name.node)))
}

/// The address and port in their usual form.
fn default_name(endpoint: &Endpoint) -> String {
    match endpoint.0.port {
        Some(port) => std::net::SocketAddr::new(endpoint.0.address, port).to_string(),
        None => endpoint.0.address.to_string(),
    }
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
