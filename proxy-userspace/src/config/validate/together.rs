//! Rules that concern more than one section: names that refer, modes and their listeners, limits.

use super::listeners::shown;
use super::{Listeners, Services, family};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::{self, File};
use crate::config::model::{Guard, L4, Listener, ProbeTarget, Service};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::{PortMatch, Protocol};
use proxy_common::maps::capacity;
use proxy_common::service::Mode;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Longest IPv6 prefix of a VIP that NAT cannot carry: answers know 32 bits of the VIP.
const NAT_V6_PREFIX: u8 = 96;

/// All sections, each judged by itself.
pub(super) struct Sections<'a, 'f> {
    pub(super) file: &'f File,
    pub(super) l4: &'a L4,
    pub(super) guard: &'a Guard,
    pub(super) services: &'a Services<'f>,
    pub(super) listeners: &'a Listeners<'f>,
}

/// Applies every rule.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>) {
    let uses = references(report, all);
    for (index, service) in all.services.iter().enumerate() {
        let listeners: Vec<_> = uses
            .iter()
            .filter(|(_, of)| *of == index)
            .map(|(listener, _)| &all.listeners[*listener].model)
            .collect();
        unused(
            report,
            service.file,
            &service.model,
            listeners.is_empty() && all_readable(all),
        );
        checkable(report, service.file, &service.model, &listeners);
    }
    for (listener, service) in &uses {
        let listener = &all.listeners[*listener];
        let service = &all.services[*service];
        let pair = Pair {
            listener: &listener.model,
            listener_file: listener.file,
            service: &service.model,
            service_file: service.file,
        };
        pair.check(report);
    }
    tunnel_sources(report, all);
    shared_sources(report, all);
    limits(report, all, &uses);
}

/// False if some part could not be read, so that what seems to be missing may be there.
fn all_readable(all: &Sections<'_, '_>) -> bool {
    let listeners = all.file.listeners.value().map_or(0, Vec::len);
    !matches!(all.file.listeners, Field::Bad) && listeners == all.listeners.len()
}

/// Pairs of indices: a listener and its service.
fn references(report: &Report<'_>, all: &Sections<'_, '_>) -> Vec<(usize, usize)> {
    let by_name: HashMap<&str, usize> = all
        .services
        .iter()
        .enumerate()
        .rev()
        .map(|(index, service)| (service.model.name.as_str(), index))
        .collect();
    let readable = !matches!(all.file.services, Field::Bad)
        && all.file.services.value().map_or(0, Vec::len) == all.services.len()
        && !by_name.contains_key("");
    let mut pairs = Vec::new();
    for (index, listener) in all.listeners.iter().enumerate() {
        let name = listener.model.service.as_str();
        if let Some(service) = by_name.get(name) {
            pairs.push((index, *service));
        } else if readable {
            let node = listener
                .file
                .value
                .service
                .given()
                .map_or(listener.file.node, |at| at.node);
            let draft = Draft::new(Code::UnknownName, format!("there is no service `{name}`"));
            let names = all
                .services
                .iter()
                .map(|service| service.model.name.as_str());
            let draft = match crate::config::report::similar(name, names) {
                Some(word) => draft.fix(format!("did you mean `{word}`?")),
                None => draft.fix(format!("add `- name: {name}` to `services`")),
            };
            report.error(Place::Value(node), draft);
        }
    }
    pairs
}

fn unused(report: &Report<'_>, file: &At<file::service::Service>, service: &Service, unused: bool) {
    if unused && let Some(name) = file.value.name.given() {
        report.warn(
            Place::Value(name.node),
            format!("no listener uses the service `{}`", service.name),
            format!(
                "add a listener with `service: {}`, or remove the service",
                service.name
            ),
        );
    }
}

/// A listener and the service that answers there.
struct Pair<'a> {
    listener: &'a Listener,
    listener_file: &'a At<file::listener::Listener>,
    service: &'a Service,
    service_file: &'a At<file::service::Service>,
}

impl Pair<'_> {
    fn check(&self, report: &Report<'_>) {
        self.prefix(report);
        self.all_ports(report);
        let nodes = self
            .service_file
            .value
            .backends
            .value()
            .into_iter()
            .flatten()
            .filter_map(Field::given);
        for at in nodes {
            let (endpoint, node) = match &at.value {
                file::service::Backend::Endpoint(endpoint) => (endpoint, at.node),
                file::service::Backend::Keys(keys) => match keys.address.given() {
                    Some(address) => (&address.value, address.node),
                    None => continue,
                },
            };
            if self.service.mode != Mode::Local {
                self.family(report, node, endpoint.0.address);
                self.port(report, node, endpoint.0.port);
                self.not_itself(report, node, endpoint.0.address);
            }
        }
    }

    /// Answers carry only the last 32 bits of the VIP.
    fn prefix(&self, report: &Report<'_>) {
        let vip = self.listener.vip;
        let too_short = vip.addr().is_ipv6() && vip.prefix_len() < NAT_V6_PREFIX;
        if too_short && self.service.mode.is_nat() {
            let node = self
                .listener_file
                .value
                .address
                .given()
                .map_or(self.listener_file.node, |at| at.node);
            let draft = Draft::new(
                Code::Conflict,
                format!("mode `{}` cannot serve the prefix `{vip}`: answers remember 32 bits of the VIP", self.service.mode.name()),
            )
            .expected("an IPv6 prefix of `/96` or longer")
            .fix("use a longer prefix, or a DSR mode");
            report.error(Place::Value(node), draft);
        }
    }

    fn all_ports(&self, report: &Report<'_>) {
        let translated = self.service.mode == Mode::Nat
            && self.listener.port == PortMatch::All
            && self
                .service
                .backends
                .iter()
                .any(|backend| backend.port.is_some());
        if translated {
            let node = self
                .listener_file
                .value
                .port
                .given()
                .map_or(self.listener_file.node, |at| at.node);
            report.warn(
                Place::Value(node),
                format!(
                    "service `{}` sends all ports to one port: two connections from one client port to two ports of the VIP cannot be told apart",
                    self.service.name
                ),
                "leave the port out at the backends, or use mode `full-nat`",
            );
        }
    }

    fn family(&self, report: &Report<'_>, node: NodeId, backend: IpAddr) {
        let vip = self.listener.vip.addr();
        let mode = self.service.mode;
        let carried = match mode {
            Mode::Nat | Mode::FullNat | Mode::DsrL2 => vip.is_ipv4() == backend.is_ipv4(),
            Mode::DsrIpip | Mode::DsrGue => vip.is_ipv4() || backend.is_ipv6(),
            Mode::Local => true,
        };
        if carried {
            return;
        }
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "mode `{}` cannot carry packets for the {} address `{}` of listener `{}` to an {} backend",
                mode.name(),
                family(vip),
                shown(self.listener.vip),
                self.listener.name,
                family(backend),
            ),
        )
        .expected(format!("an {} backend", family(vip)));
        let draft = if vip.is_ipv4() {
            draft.fix("give the backend's IPv4 address, or use mode `dsr-ipip` or `dsr-gue`, which carry IPv4 in IPv6")
        } else {
            draft.fix("give the backend's IPv6 address")
        };
        report.error(Place::Value(node), draft);
    }

    fn port(&self, report: &Report<'_>, node: NodeId, port: Option<u16>) {
        let Some(port) = port else { return };
        if !self.service.mode.is_dsr() || self.listener.port == PortMatch::One(port) {
            return;
        }
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "mode `{}` cannot translate ports: listener `{}` has port {}, this backend {port}",
                self.service.mode.name(),
                self.listener.name,
                match self.listener.port {
                    PortMatch::All => "`all`".to_owned(),
                    PortMatch::One(port) => port.to_string(),
                },
            ),
        );
        let draft = match self.listener.port {
            PortMatch::All => draft.fix(
                "leave the port out here, or use mode `nat` or `full-nat`, which translate ports",
            ),
            PortMatch::One(port) => draft.fix(format!(
                "serve port {port} at the backend, or use mode `nat` or `full-nat`, which translate ports"
            )),
        };
        report.error(Place::Value(node), draft);
    }

    fn not_itself(&self, report: &Report<'_>, node: NodeId, backend: IpAddr) {
        if self.listener.vip.contains(&backend) {
            let draft = Draft::new(
                Code::Conflict,
                format!("the backend `{backend}` lies in the address of listener `{}`: packets would come back here", self.listener.name),
            )
            .fix("give the backend's own address");
            report.error(Place::Value(node), draft);
        }
    }
}

/// Is it known which port a health check asks, and does its way exist?
fn checkable(
    report: &Report<'_>,
    file: &At<file::service::Service>,
    service: &Service,
    listeners: &[&Listener],
) {
    let (Some(check), Some(at)) = (&service.health, file.value.health.given()) else {
        return;
    };
    let through_vip = check.target == ProbeTarget::Vip;
    let known = check.port.is_some()
        || listeners
            .iter()
            .any(|listener| listener.port != PortMatch::All)
        || (!through_vip
            && service
                .backends
                .iter()
                .all(|backend| backend.port.is_some()));
    if !known && !service.backends.is_empty() {
        let draft = Draft::new(Code::MissingKey, "it is not known which port to check")
            .fix("add `port` to `health`");
        report.error(Place::Key(at.node), draft);
    }
    if through_vip {
        through(report, at, check.port, listeners);
    } else if check.port.is_none()
        && listeners
            .iter()
            .any(|listener| listener.protocol == Protocol::Udp)
    {
        report.warn(
            Place::Key(at.node),
            "checks speak TCP, but the service is reached by UDP",
            "add to `health` the `port` on which the backends answer TCP",
        );
    }
}

/// A check through the VIP is a TCP flow of a listener.
fn through(
    report: &Report<'_>,
    at: &At<file::health::Health>,
    port: Option<u16>,
    listeners: &[&Listener],
) {
    let carries = |listener: &&Listener| {
        listener.protocol == Protocol::Tcp
            && match (port, listener.port) {
                (Some(port), PortMatch::One(listens)) => port == listens,
                _ => true,
            }
    };
    if !listeners.is_empty() && !listeners.iter().any(carries) {
        let node = at
            .value
            .port
            .given()
            .map(|port| port.node)
            .or(at.value.target.given().map(|target| target.node))
            .unwrap_or(at.node);
        let draft = Draft::new(
            Code::Conflict,
            "no TCP listener of the service carries this check through the VIP",
        )
        .expected("a listener with `protocol: tcp` and the checked port")
        .fix("remove `port`, or use `target: backend`");
        report.error(Place::Value(node), draft);
    }
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
