//! Rules that concern more than one section: here names that refer and what health checks need,
//! in [`super::pairs`] modes and their listeners, in [`super::limits`] what is shared.

use super::pairs::Pair;
use super::uses::{self, Uses};
use super::{Listeners, Routes, Services, addresses, limits};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::{self, File};
use crate::config::model::http::ProxyVersion;
use crate::config::model::{Admin, Guard, L4, Listener, ProbeTarget, Service};
use crate::config::report::{Draft, Place, Report};
use crate::types::{PortMatch, Protocol};
use std::collections::{HashMap, HashSet};

/// All sections, each judged by itself.
pub(super) struct Sections<'a, 'f> {
    pub(super) file: &'f File,
    pub(super) l4: Option<&'a L4>,
    pub(super) admin: &'a Admin,
    pub(super) guard: &'a Guard,
    pub(super) uses: &'a Uses,
    pub(super) services: &'a Services<'f>,
    pub(super) listeners: &'a Listeners<'f>,
    pub(super) routes: &'a Routes<'f>,
}

/// Applies every rule.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>) {
    let uses = references(report, all);
    let mut listeners_of = vec![Vec::new(); all.services.len()];
    for (listener, service) in &uses {
        listeners_of[*service].push(&all.listeners.l4[*listener].model);
    }
    // Where a listener's service is unknown, the one that seems unused is probably meant.
    let proxied = proxied(report, all);
    let resolved = all_readable(all) && uses.len() == all.listeners.l4.len() && proxied;
    let mut names = HashSet::new();
    for (service, listeners) in all.services.iter().zip(&listeners_of) {
        // Of two services with one name, which is a fault of its own, the listeners use the first.
        let first = names.insert(&service.model.name);
        if first && !all.uses.is_used(&service.model.name) && resolved {
            unused(report, service.file, &service.model);
        }
        if first && (resolved || !listeners.is_empty()) {
            checkable(report, service.file, &service.model, listeners);
        }
    }
    for (listener, service) in &uses {
        let listener = &all.listeners.l4[*listener];
        let service = &all.services[*service];
        Pair { listener, service }.check(report);
    }
    limits::check(report, all, &uses);
    addresses::check(report, all);
    super::steer::check(report, all);
    super::connect::check(report, all, &uses);
    super::mesh::check(report, all);
    datagram_headers(report, all);
    pointless_l4(report, all);
}

/// The PROXY header of datagrams is that of version 2: version 1 knows TCP only.
fn datagram_headers(report: &Report<'_>, all: &Sections<'_, '_>) {
    for service in all.services {
        let wants_v1 = service.model.upstream.send_proxy == Some(ProxyVersion::V1);
        let by_udp = all.listeners.stream.iter().find(|listener| {
            let listener = &listener.model;
            listener.protocol == Protocol::Udp
                && listener.services().any(|name| name == service.model.name)
        });
        if let (true, Some(listener), Some(at)) =
            (wants_v1, by_udp, service.file.value.send_proxy.given())
        {
            let listener = &listener.model.name;
            let draft = Draft::new(
                Code::Conflict,
                format!("`v1` knows no UDP, which the listener `{listener}` passes on"),
            )
            .expected("`v2`")
            .fix("write `v2`, or give the listener another service");
            report.error(Place::Value(at.node), draft);
        }
    }
}

/// Interfaces whose packets nobody balances.
fn pointless_l4(report: &Report<'_>, all: &Sections<'_, '_>) {
    if let Some(at) = all.file.l4.given()
        && super::l4::names_interfaces(&all.file.l4)
        && all.listeners.l4.is_empty()
        && all.listeners.len() > 0
        && all_readable(all)
    {
        report.warn(
            Place::Key(at.node),
            "no listener has `kind: l4`, so nothing is balanced on these interfaces",
            "remove `interfaces`, or add a listener with `kind: l4`",
        );
    }
}

/// False if some listener or route could not be read.
fn all_readable(all: &Sections<'_, '_>) -> bool {
    let listeners = all.file.listeners.value().map_or(0, Vec::len);
    let routes = all.file.routes.value().map_or(0, Vec::len);
    !matches!(all.file.listeners, Field::Bad)
        && !matches!(all.file.routes, Field::Bad)
        && listeners == all.listeners.len()
        && routes == all.routes.len()
}

/// The index of a service by its name, unless services could not be read.
fn by_name<'a>(all: &'a Sections<'_, '_>) -> HashMap<&'a str, usize> {
    let services = all.services.iter().enumerate().rev();
    services
        .map(|(index, service)| (service.model.name.as_str(), index))
        .collect()
}

/// True if a name that is not there is surely not there.
fn services_readable(all: &Sections<'_, '_>) -> bool {
    !matches!(all.file.services, Field::Bad)
        && all.file.services.value().map_or(0, Vec::len) == all.services.len()
        && all
            .services
            .iter()
            .all(|service| !service.model.name.is_empty())
}

/// Notes names of services in routes and proxying listeners that nothing has. False if there are
/// some.
fn proxied(report: &Report<'_>, all: &Sections<'_, '_>) -> bool {
    let known = by_name(all);
    let mut resolved = true;
    for (name, place) in uses::references(all.file) {
        if known.contains_key(name) {
            continue;
        }
        resolved = false;
        if let Some(place) = place
            && services_readable(all)
        {
            unknown_service(report, all, name, place);
        }
    }
    resolved
}

/// Pairs of indices: an l4 listener and its service.
fn references(report: &Report<'_>, all: &Sections<'_, '_>) -> Vec<(usize, usize)> {
    let by_name = by_name(all);
    let readable = services_readable(all);
    let mut pairs = Vec::new();
    for (index, listener) in all.listeners.l4.iter().enumerate() {
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
            unknown_service(report, all, name, Place::Value(node));
        }
    }
    pairs
}

fn unknown_service(report: &Report<'_>, all: &Sections<'_, '_>, name: &str, place: Place) {
    let draft = Draft::new(Code::UnknownName, format!("there is no service `{name}`"));
    let names = all
        .services
        .iter()
        .map(|service| service.model.name.as_str());
    let draft = match crate::config::report::similar(name, names) {
        Some(word) => draft.fix(format!("did you mean `{word}`?")),
        None => draft.fix(format!("add `- name: {name}` to `services`")),
    };
    report.error(place, draft);
}

fn unused(report: &Report<'_>, file: &At<file::service::Service>, service: &Service) {
    if let Some(name) = file.value.name.given() {
        report.warn(
            Place::Value(name.node),
            format!("no listener or route uses the service `{}`", service.name),
            format!(
                "add a listener or route with `service: {}`, or remove the service",
                service.name
            ),
        );
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
    let by_tcp = |listener: &&Listener| listener.protocol == Protocol::Tcp;
    // Only a TCP listener's port serves checks through the VIP; that there is none is said below.
    let any_port = !through_vip || !listeners.iter().any(by_tcp);
    let one_port =
        |listener: &&Listener| listener.port != PortMatch::All && (any_port || by_tcp(listener));
    let own_ports = || {
        service
            .backends
            .iter()
            .all(|backend| backend.port.is_some())
    };
    let known =
        check.port.is_some() || listeners.iter().any(one_port) || (!through_vip && own_ports());
    if !known && !service.backends.is_empty() {
        let draft = Draft::new(Code::MissingKey, "it is not known which port to check")
            .fix("add `port` to `health`");
        report.error(Place::Key(at.node), draft);
    }
    let by_udp = |listener: &&Listener| listener.protocol == Protocol::Udp;
    if through_vip {
        through(report, at, check.port, listeners);
    } else if check.port.is_none() && listeners.iter().any(by_udp) {
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
    if listeners.iter().any(carries) {
        return;
    }
    let port = at.value.port.given().map(|port| port.node);
    let target = at.value.target.given().map(|target| target.node);
    let draft = Draft::new(
        Code::Conflict,
        "no TCP listener of the service carries this check through the VIP",
    )
    .expected("a listener with `protocol: tcp` and the checked port");
    let draft = match port {
        Some(_) => draft.fix("remove `port`, or use `target: backend`"),
        None => draft.fix("use `target: backend`"),
    };
    report.error(Place::Value(port.or(target).unwrap_or(at.node)), draft);
}
