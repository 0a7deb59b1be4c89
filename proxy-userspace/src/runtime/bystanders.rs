//! Backends judged by the connections of workloads that were balanced at connect().
//!
//! What the kernel has seen of these goes to the same judges as what the proxies see. Services that
//! proxies use, too, have theirs there. The others, the **bystanders**, have theirs here: nobody asks
//! them for a backend, and whom they eject leaves the tables of connect() and the packet path's rings.

use super::control::Control;
use super::plane::Plane;
use super::proxies;
use crate::balance::l7::{CarriedBackend, Registry, ServiceSpec, ServiceState};
use crate::config::model::{Config, Service};
use crate::health::outlier::Outcome;
use crate::kernel::plan::Overlay;
use crate::net::Nanos;
use crate::net::clock::Clock;
use crate::sockets::connect::Seen;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Connections that are reported of one backend at a time, at most: a share of more says the same.
const MOST: u64 = 2000;

/// Services that no proxy uses, and whose backends are judged nevertheless.
pub(super) struct Bystanders {
    registry: Registry,
    /// The clock that their times are of.
    clock: Clock,
}

/// What was found out about a bystander, told to a successor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CarriedBystander {
    service: String,
    backends: Vec<CarriedBackend>,
}

impl Default for Bystanders {
    fn default() -> Self {
        let clock = Clock::new();
        Self {
            registry: Registry::build(None, Vec::new(), 0, 0, clock.last()),
            clock,
        }
    }
}

impl Bystanders {
    /// The judge of a service.
    pub(super) fn service(&self, name: &str) -> Option<&Arc<ServiceState>> {
        self.registry.service(name)
    }

    /// Follows a configuration. `is_used` tells which services proxies use.
    fn follow(&mut self, config: &Config, is_used: impl Fn(&str) -> bool) {
        let judged = |service: &&Service| service.watches_sockets() && !is_used(&service.name);
        let services = config.services.iter().filter(judged);
        let specs: Vec<_> = services
            .map(|service| ServiceSpec::new(service, &service.upstream))
            .collect();
        let known = self.registry.services().iter();
        if known.map(|state| state.spec()).eq(&specs) {
            return;
        }
        let now = self.clock.read();
        let next = Registry::build(Some(&self.registry), specs, 0, 0, now);
        next.activate(Some(&self.registry), now);
        self.registry = next;
    }

    /// Tells what checks and operators say.
    pub(super) fn obey(&self, overlay: &Overlay) {
        let now = self.clock.read();
        for state in self.registry.services() {
            proxies::obey(state, overlay, now);
        }
    }

    /// What was found out, for a successor.
    pub(super) fn carried(&self) -> Vec<CarriedBystander> {
        let now = self.clock.read();
        let services = self.registry.services().iter();
        let carried = services.map(|state| CarriedBystander {
            service: state.name().to_owned(),
            backends: state.carried(now),
        });
        carried.collect()
    }

    fn inherit(&self, carried: &[CarriedBystander]) {
        for one in carried {
            if let Some(state) = self.service(&one.service) {
                state.inherit(&one.backends, self.clock.read());
            }
        }
    }
}

impl<P: Plane> Control<P> {
    /// The judge of a service's backends, if there is one.
    pub(super) fn judge_of(&self, service: &str) -> Option<&Arc<ServiceState>> {
        let of_proxies = self
            .registry()
            .and_then(|registry| registry.service(service));
        of_proxies.or_else(|| self.bystanders.service(service))
    }

    /// Has the bystanders follow the configuration in force.
    pub(super) fn bystanders_follow(&mut self) {
        let workers = self.workers.as_ref();
        let used = workers.map(|workers| workers.snapshot().registry());
        let is_used = |name: &str| used.is_some_and(|used| used.service(name).is_some());
        self.bystanders.follow(&self.config, is_used);
        self.bystanders.obey(&self.overlay);
    }

    /// Goes on with what a predecessor has found out about them.
    pub(super) fn inherit_bystanders(&mut self, carried: &[CarriedBystander]) {
        self.bystanders_follow();
        self.bystanders.inherit(carried);
    }

    /// Takes in what the kernel has seen of workloads' connections, and judges.
    pub(super) fn judge_by_sockets(&mut self) {
        let now = self.bystanders.clock.read();
        for seen in self.plane.seen_of_sockets() {
            let is_bystander = self.bystanders.service(&seen.service).is_some();
            if let Some(state) = self.judge_of(&seen.service) {
                take_in(state, &seen, is_bystander, now);
            }
        }
        let registry = &self.bystanders.registry;
        if registry.services().is_empty() {
            return;
        }
        registry.watch_outliers(now, || fastrand::u64(..));
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(notes) = registry.news().poll(&mut nobody) {
            self.heard(&notes);
        }
    }
}

/// Reports what was seen of a backend. Where connections were opened, they came last: whoever is to be
/// out for failing every time has none. The time that opening took is that of a bystander's only: proxies
/// may know how long answers take, which is longer.
fn take_in(state: &ServiceState, seen: &Seen, is_bystander: bool, now: Nanos) {
    let backends = state.backends();
    let Some(backend) = backends.iter().find(|it| it.name() == seen.backend) else {
        return;
    };
    let known = &seen.workloads;
    backend.saw_workloads(known);
    let (opened, failed) = reported(known.opened, known.failed);
    for _ in 0..failed {
        state.report(backend, Outcome::ConnectFailure, now, || fastrand::u64(..));
    }
    let outcome = match is_bystander {
        true => Outcome::Connected(seen.opening_ns / known.opened.max(1)),
        false => Outcome::Reached,
    };
    for _ in 0..opened {
        state.report(backend, outcome, now, || fastrand::u64(..));
    }
}

/// As many, or fewer in the same proportion; each kind at least once.
fn reported(opened: u64, failed: u64) -> (u64, u64) {
    let all = opened.saturating_add(failed);
    if all <= MOST {
        return (opened, failed);
    }
    let part = |of: u64| (of as f64 / all as f64 * MOST as f64).ceil() as u64;
    (part(opened), part(failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::l7::Workloads;
    use crate::health::outlier::Network;

    /// A service that is balanced at connect(), with this more.
    fn config(more: &str) -> Config {
        let text = format!(
            "
connect: {{cgroups: [/]}}
listeners:
  - {{name: db, kind: l4, address: 192.0.2.10, port: 80, service: db}}
services:
  - name: db
    backends: ['10.1.0.1:80', '10.1.0.2:80', '10.1.0.3:80']
    at_connect: {{}}
{more}"
        );
        let loaded = crate::config::parse("test", &text);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        loaded.config
    }

    const JUDGED: &str = "    outlier: {network: {}}";

    #[test]
    fn who_asks_for_it_and_is_used_by_no_proxy_is_a_bystander() {
        let mut bystanders = Bystanders::default();
        bystanders.follow(&config(""), |_| false);
        assert!(bystanders.service("db").is_none());
        bystanders.follow(&config(JUDGED), |_| true);
        assert!(bystanders.service("db").is_none());
        bystanders.follow(&config(JUDGED), |_| false);
        let before = Arc::clone(bystanders.service("db").expect("a judge"));
        bystanders.follow(&config(JUDGED), |_| false);
        let after = bystanders.service("db").expect("a judge");
        assert!(Arc::ptr_eq(&before, after));
    }

    #[test]
    fn whose_connections_all_fail_is_ejected_and_that_is_told_to_a_successor() {
        let mut bystanders = Bystanders::default();
        bystanders.follow(&config(JUDGED), |_| false);
        let state = bystanders.service("db").expect("a judge");
        let seen = |opened, failed| Seen {
            service: "db".to_owned(),
            backend: "10.1.0.2:80".to_owned(),
            workloads: Workloads {
                network: Network {
                    segments: 7,
                    ..Network::default()
                },
                opened,
                failed,
            },
            opening_ns: 1000 * opened,
        };
        let now = bystanders.clock.read();
        take_in(state, &seen(1, 4), true, now);
        take_in(state, &seen(0, 4), false, now);
        assert!(state.ejected().is_empty());
        take_in(state, &seen(0, 1), true, now);
        let out = state.ejected();
        assert_eq!(out.len(), 1);
        let known = out[0].workloads();
        assert_eq!(
            (known.network.segments, known.opened, known.failed),
            (21, 1, 9)
        );
        assert_eq!(out[0].network(), known.network);

        let mut next = Bystanders::default();
        next.follow(&config(JUDGED), |_| false);
        next.inherit(&bystanders.carried());
        assert_eq!(next.service("db").expect("a judge").ejected().len(), 1);
    }

    #[test]
    fn many_connections_are_reported_in_proportion() {
        assert_eq!(reported(3, 2), (3, 2));
        assert_eq!(reported(30_000, 10_000), (1500, 500));
        assert_eq!(reported(u64::MAX, 1), (MOST, 1));
    }
}
