//! Rules that concern more than one section: here names that refer and what health checks need,
//! in [`super::pairs`] modes and their listeners, in [`super::limits`] what is shared.

use super::pairs::Pair;
use super::{Listeners, Services, limits};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::{self, File};
use crate::config::model::{Guard, L4, Listener, ProbeTarget, Service};
use crate::config::report::{Draft, Place, Report};
use crate::types::{PortMatch, Protocol};
use std::collections::{HashMap, HashSet};

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
    let mut listeners_of = vec![Vec::new(); all.services.len()];
    for (listener, service) in &uses {
        listeners_of[*service].push(&all.listeners[*listener].model);
    }
    // Where a listener's service is unknown, the one that seems unused is probably meant.
    let resolved = all_readable(all) && uses.len() == all.listeners.len();
    let mut names = HashSet::new();
    for (service, listeners) in all.services.iter().zip(&listeners_of) {
        // Of two services with one name, which is a fault of its own, the listeners use the first.
        let first = names.insert(&service.model.name);
        if first && listeners.is_empty() && resolved {
            unused(report, service.file, &service.model);
        }
        if first && (resolved || !listeners.is_empty()) {
            checkable(report, service.file, &service.model, listeners);
        }
    }
    for (listener, service) in &uses {
        let listener = &all.listeners[*listener];
        let service = &all.services[*service];
        Pair { listener, service }.check(report);
    }
    limits::check(report, all, &uses);
}

/// False if some listener could not be read.
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

fn unused(report: &Report<'_>, file: &At<file::service::Service>, service: &Service) {
    if let Some(name) = file.value.name.given() {
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
