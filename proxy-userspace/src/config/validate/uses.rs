//! Who uses which service: decides which of a service's keys mean anything.

use super::elements;
use crate::config::decode::{Field, Pairs};
use crate::config::file::File;
use crate::config::file::listener::ListenerKind;
use crate::config::file::mesh::Direction;
use crate::config::file::scalar::Name;
use crate::config::report::Place;
use std::collections::HashSet;

/// Names of services by who uses them. Taken from what was written, before it is judged.
pub(super) struct Uses {
    /// By l4 listeners, and by listeners without a kind.
    l4: HashSet<String>,
    /// By listeners whose kind cannot be read.
    unknown: HashSet<String>,
    /// By other listeners, and by routes.
    proxies: HashSet<String>,
    /// Connections of programs to elsewhere are redirected, so that VIPs of l4 listeners are dialled
    /// through the proxy paths, too.
    redirects: bool,
}

impl Uses {
    /// What this file uses.
    pub(super) fn of(file: &File) -> Self {
        let services = |is: fn(&Field<ListenerKind>) -> bool| {
            let listeners = elements(&file.listeners).filter(|at| is(&at.value.kind));
            listeners
                .filter_map(|at| Some(at.value.service.value()?.0.clone()))
                .collect()
        };
        Self {
            l4: services(|kind| match kind {
                Field::Given(kind) => kind.value == ListenerKind::L4,
                Field::Absent => true,
                Field::Bad => false,
            }),
            unknown: services(|kind| matches!(kind, Field::Bad)),
            proxies: references(file).map(|(name, _)| name.to_owned()).collect(),
            redirects: elements(&file.listeners)
                .filter_map(|at| at.value.mesh.value())
                .any(|mesh| !matches!(mesh.direction.value(), Some(Direction::Inbound))),
        }
    }

    /// True if the service's packets are balanced in the kernel. Services that nothing uses are
    /// judged as if they were.
    pub(super) fn in_kernel(&self, service: &str) -> bool {
        self.l4.contains(service)
            || !(self.proxies.contains(service) || self.unknown.contains(service))
    }

    /// True if the proxy paths use the service.
    pub(super) fn in_proxies(&self, service: &str) -> bool {
        self.proxies.contains(service)
    }

    /// True if programs whose connections are redirected may dial the service by its VIP.
    pub(super) fn by_mesh(&self, service: &str) -> bool {
        self.redirects && self.l4.contains(service)
    }

    /// True if anything uses the service.
    pub(super) fn is_used(&self, service: &str) -> bool {
        self.l4.contains(service) || self.proxies.contains(service)
    }
}

/// Names of services in proxying listeners, routes and fallbacks, and their places, if these are known.
pub(super) fn references(file: &File) -> impl Iterator<Item = (&str, Option<Place>)> {
    let is_proxy = |kind: Option<&ListenerKind>| kind.is_some_and(|kind| *kind != ListenerKind::L4);
    let listeners = elements(&file.listeners)
        .filter(move |at| is_proxy(at.value.kind.value()))
        .flat_map(|at| {
            let rules = elements(&at.value.names).map(|at| &at.value.service);
            let mesh = at.value.mesh.value().into_iter();
            let of_mesh = mesh.flat_map(|mesh| elements(&mesh.names));
            let of_mesh = of_mesh.map(|at| &at.value.service);
            [&at.value.service].into_iter().chain(rules).chain(of_mesh)
        })
        .filter_map(name);
    let routes = elements(&file.routes).flat_map(|at| {
        let route = &at.value;
        let split = route.split.value().map(|split| &split.services);
        let mirror = route.mirror.value().map(|mirror| &mirror.service);
        let shares = split.and_then(Field::value).into_iter().flat_map(names);
        let single = [Some(&route.service), mirror];
        single.into_iter().flatten().filter_map(name).chain(shares)
    });
    let fallbacks = elements(&file.services).filter_map(|at| {
        let fallback = at.value.fallback.value()?;
        name(&fallback.service)
    });
    listeners.chain(routes).chain(fallbacks)
}

fn name(field: &Field<Name>) -> Option<(&str, Option<Place>)> {
    let at = field.given()?;
    Some((at.value.0.as_str(), Some(Place::Value(at.node))))
}

fn names(pairs: &Pairs<u32>) -> impl Iterator<Item = (&str, Option<Place>)> {
    pairs.0.iter().map(|(name, weight)| {
        let place = weight.given().map(|at| Place::Key(at.node));
        (name.as_str(), place)
    })
}
