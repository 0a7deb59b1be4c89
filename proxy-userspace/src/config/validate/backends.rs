//! The section `services[].backends`.

use super::{Names, elements, host_address, need, number, or};
use crate::config::decode::{At, Field, Pairs};
use crate::config::defaults;
use crate::config::fault::Code;
use crate::config::file::scalar::{Endpoint, Text};
use crate::config::file::service as file;
use crate::config::model::Backend;
use crate::config::model::http::{BackendTraits, DnsQuestion, NamedBackend};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use proxy_common::service::Mode;
use std::collections::HashMap;
use std::net::IpAddr;

/// Who uses a service.
#[derive(Clone, Copy)]
pub(super) struct Used {
    pub(super) in_kernel: bool,
    pub(super) in_proxies: bool,
    /// Programs of the mesh may dial it by its VIP.
    pub(super) by_mesh: bool,
}

/// The backends of a service.
#[derive(Default)]
pub(super) struct Backends {
    /// Those with addresses.
    pub(super) fixed: Vec<Backend>,
    /// Their traits, in the same order.
    pub(super) traits: Vec<BackendTraits>,
    /// Those that must be found by name.
    pub(super) names: Vec<NamedBackend>,
}

/// Highest tier.
const LAST_TIER: u8 = 15;

/// The backends of a service with this mode.
pub(super) fn backends(
    report: &Report<'_>,
    at: &At<file::Service>,
    mode: Mode,
    used: Used,
) -> Backends {
    let field = &at.value.backends;
    if mode == Mode::Local && used.in_kernel {
        if let Some(list) = field.given() {
            let draft = Draft::new(
                Code::Conflict,
                "mode `local` has no backends: this host serves the packets",
            )
            .fix("remove `backends`, or choose a mode that forwards, such as `nat`");
            report.error(Place::Key(list.node), draft);
        }
        return Backends::default();
    }
    if let Some(list) = need(report, at.node, "backends", "[10.1.0.1:8080]", field)
        && list.value.is_empty()
    {
        let effect = if used.in_kernel {
            "all its packets are dropped"
        } else {
            "all its requests are answered with 503"
        };
        report.warn(
            Place::Key(list.node),
            format!("the service has no backends: {effect}"),
            "add a backend, such as `10.1.0.1:8080`",
        );
    }
    let mut names = Names::default();
    let mut targets: HashMap<(IpAddr, Option<u16>), NodeId> = HashMap::new();
    let mut backends = Backends::default();
    for at in elements(field) {
        let (backend, node, traits) = match one(report, at, used) {
            Some(One::Fixed(backend, node, traits)) => (backend, node, traits),
            Some(One::Named(named)) => {
                backends.names.push(named);
                continue;
            }
            None => continue,
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
            backends.fixed.push(backend);
            backends.traits.push(traits);
        }
    }
    weights(report, field, &backends, used);
    backends
}

fn weights(
    report: &Report<'_>,
    field: &Field<Vec<Field<file::Backend>>>,
    backends: &Backends,
    used: Used,
) {
    let fixed = backends.fixed.iter().map(|backend| backend.weight);
    let named = backends.names.iter().map(|backend| backend.weight);
    let mut weights = fixed.chain(named).peekable();
    if let Some(list) = field.given()
        && weights.peek().is_some()
        && weights.all(|weight| weight == 0)
    {
        let effect = if used.in_kernel {
            "new flows are dropped"
        } else {
            "requests are answered with 503"
        };
        report.warn(
            Place::Key(list.node),
            format!("all backends have weight 0: {effect}"),
            "give one of them a weight above 0",
        );
    }
}

/// One element of the list.
enum One {
    /// With the node that names it.
    Fixed(Backend, NodeId, BackendTraits),
    Named(NamedBackend),
}

fn one(report: &Report<'_>, at: &At<file::Backend>, used: Used) -> Option<One> {
    let keys = match &at.value {
        file::Backend::Endpoint(endpoint) => {
            let backend = fixed(report, endpoint, at.node, None, defaults::WEIGHT, used);
            return Some(One::Fixed(backend, at.node, BackendTraits::default()));
        }
        file::Backend::Keys(keys) => keys,
    };
    let traits = traits(report, keys);
    if used.in_kernel {
        kernel_only(report, keys, used);
    }
    let weight = or(&keys.weight, defaults::WEIGHT);
    if keys.dns.is_absent() && keys.srv.is_absent() {
        let address = need(report, at.node, "address", "10.1.0.1:8080", &keys.address)?;
        let name = keys.name.given();
        let spelled = name.map(|name| name.value.0.clone());
        let backend = fixed(report, &address.value, address.node, spelled, weight, used);
        let node = name.map_or(address.node, |name| name.node);
        return Some(One::Fixed(backend, node, traits));
    }
    named(report, at, keys, weight, traits)
}

/// A backend that is found by name.
fn named(
    report: &Report<'_>,
    at: &At<file::Backend>,
    keys: &file::BackendKeys,
    weight: u16,
    traits: BackendTraits,
) -> Option<One> {
    let there = [
        ("address", !keys.address.is_absent()),
        ("dns", !keys.dns.is_absent()),
        ("srv", !keys.srv.is_absent()),
    ];
    super::exactly_one(
        report,
        Place::Value(at.node),
        "where the backend is",
        "address: 10.1.0.1:8080",
        &there,
    )?;
    if let Some(name) = keys.name.given() {
        let draft = Draft::new(
            Code::Conflict,
            "backends that are found by name are named after their addresses",
        )
        .fix("remove `name`");
        report.error(Place::Key(name.node), draft);
    }
    let dns = keys.dns.value().map(|target| {
        let (host, port) = &target.0;
        DnsQuestion::Host(host.clone(), *port)
    });
    let srv = keys.srv.value();
    let question = dns.or_else(|| srv.map(|name| DnsQuestion::Service(name.0.clone())))?;
    Some(One::Named(NamedBackend {
        question,
        weight,
        traits,
    }))
}

/// Keys that the kernel's way of balancing does not know.
fn kernel_only(report: &Report<'_>, keys: &file::BackendKeys, used: Used) {
    let found = [
        ("dns", keys.dns.given().map(|at| at.node)),
        ("srv", keys.srv.given().map(|at| at.node)),
    ];
    for (key, node) in found {
        if let Some(node) = node {
            let draft = Draft::new(
                Code::Conflict,
                format!("`{key}` is not for listeners of kind `l4`, and one may use this service"),
            )
            .expected("`address`")
            .fix("give the backend's address, or use a listener of kind `http`, `tcp` or `udp`");
            report.error(Place::Key(node), draft);
        }
    }
    let ignored = [
        ("tier", keys.tier.given().map(|at| at.node)),
        ("backup", keys.backup.given().map(|at| at.node)),
        ("labels", keys.labels.given().map(|at| at.node)),
        ("zone", keys.zone.given().map(|at| at.node)),
        (
            "max_connections",
            keys.max_connections.given().map(|at| at.node),
        ),
    ];
    if used.in_proxies || used.by_mesh {
        return;
    }
    for (key, node) in ignored {
        if let Some(node) = node {
            report.warn(
                Place::Key(node),
                format!("`{key}` has no effect: only listeners of kind `l4` use the service"),
                "remove it",
            );
        }
    }
}

fn traits(report: &Report<'_>, keys: &file::BackendKeys) -> BackendTraits {
    let tier = number(report, &keys.tier, 0..=LAST_TIER, 0);
    let is_backup = or(&keys.backup, false);
    if let (Some(backup), Field::Given(_)) = (keys.backup.given(), &keys.tier) {
        let draft = Draft::new(Code::Conflict, "`tier` and `backup` are given together")
            .fix("remove `backup`, which is `tier: 1`");
        report.error(Place::Key(backup.node), draft);
    }
    BackendTraits {
        tier: if is_backup { 1 } else { tier },
        labels: labels(&keys.labels),
        zone: keys.zone.value().map(|zone| zone.0.clone()),
        max_connections: keys.max_connections.value().copied(),
    }
}

/// Names and values.
pub(super) fn labels(field: &Field<Pairs<Text>>) -> Vec<(String, String)> {
    let pairs = field.value().map_or(&[][..], |pairs| &pairs.0);
    pairs
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.value()?.0.clone())))
        .collect()
}

fn fixed(
    report: &Report<'_>,
    endpoint: &Endpoint,
    node: NodeId,
    name: Option<String>,
    weight: u16,
    used: Used,
) -> Backend {
    let address = endpoint.0.address;
    host_address(report, node, address);
    if address.is_loopback() && used.in_kernel {
        report.warn(
            Place::Value(node),
            format!("`{address}` is a loopback address, which forwarded packets cannot reach"),
            "give the backend's address in the network, or use mode `local` for this host",
        );
    }
    if endpoint.0.port.is_none() && used.in_proxies {
        let draft = Draft::new(Code::InvalidValue, format!("`{address}` has no port"))
            .expected("an address and port; only l4 listeners can keep the client's port")
            .fix(format!(
                "write `{}`, with the port on which it listens",
                default_name(address, Some(8080))
            ));
        report.error(Place::Value(node), draft);
    }
    Backend {
        name: name.unwrap_or_else(|| default_name(address, endpoint.0.port)),
        address,
        port: endpoint.0.port,
        weight,
    }
}

/// The address and port in their usual form.
fn default_name(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}
