//! What a successor has to know beside the file and the maps, so that nothing is down at first and
//! no decision of an operator is forgotten.

use crate::condemn::register::Carried;
use crate::health::{Check, Verdict};
use crate::kernel::plan::{BackendOverlay, Drain, Health};
use crate::runtime::bystanders::CarriedBystander;
use crate::runtime::condemn::CarriedRule;
use crate::runtime::control::Control;
use crate::runtime::health::LedgerPage;
use crate::runtime::history::Configured;
use crate::runtime::plane::Plane;
use crate::runtime::workers::Known;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// The state of a control task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The configuration's generation.
    pub(crate) generation: u64,
    /// What is known of backends.
    pub(crate) backends: Vec<BackendFacts>,
    /// What the proxies know.
    #[serde(default, rename = "names")]
    pub(crate) proxies: Known,
    /// What has happened to backends.
    #[serde(default)]
    pub(crate) pages: Vec<LedgerPage>,
    /// What was found out about services that only workloads' sockets use.
    #[serde(default)]
    pub(crate) bystanders: Vec<CarriedBystander>,
    /// Who is condemned, or was.
    #[serde(default)]
    pub(crate) condemned: Vec<Carried>,
    /// An operator's rules for sources, where no map keeps them.
    #[serde(default)]
    pub(crate) rules: Vec<CarriedRule>,
    /// The configuration in force, and those before.
    #[serde(default)]
    pub(crate) configured: Option<Configured>,
}

/// What is known of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackendFacts {
    /// Its service.
    pub(crate) service: String,
    /// Its name.
    pub(crate) backend: String,
    /// The server: what is known of one says nothing of another.
    pub(crate) server: (IpAddr, Option<u16>),
    /// What its checks say; `None` if it has none, or they have not said anything yet.
    pub(crate) healthy: Option<bool>,
    /// How far its drain is, as in maps.
    pub(crate) drain: u8,
    /// How long it still drains, in milliseconds.
    pub(crate) drain_left: Option<u64>,
    /// A weight that an operator has set.
    pub(crate) weight: Option<u16>,
    /// The proxies have ejected it.
    #[serde(default)]
    pub(crate) ejected: bool,
    /// By how many percent latency has reduced its weight.
    #[serde(default)]
    pub(crate) reduced: u8,
}

impl State {
    /// What is known of a backend of this name, if it is this server.
    pub(crate) fn facts(
        &self,
        service: &str,
        backend: &str,
        server: (IpAddr, Option<u16>),
    ) -> Option<&BackendFacts> {
        let mut backends = self.backends.iter();
        let found = backends.find(|it| it.service == service && it.backend == backend);
        found.filter(|it| it.server == server)
    }

    /// Tells checks what their backends' health was.
    pub(crate) fn tell(&self, checks: &mut [Check]) {
        for check in checks {
            let name = &check.name;
            let known = self.facts(&name.service, &name.backend, check.server);
            if let Some(healthy) = known.and_then(|it| it.healthy) {
                check.adopted = Some(healthy);
            }
        }
    }
}

impl<P: Plane> Control<P> {
    /// What a successor has to know.
    pub(crate) fn state(&self) -> State {
        let now = Instant::now();
        let services = self.config.services.iter();
        let backends = services.flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(|backend| {
                let monitor = &self.parts.monitor;
                let known = self.overlay.get(&service.name, &backend.name);
                let key = (service.name.clone(), backend.name.clone());
                let left = self.drains.remaining(&key, now);
                let healthy = match monitor.verdict(&service.name, &backend.name) {
                    None | Some(Verdict::Unknown) => None,
                    Some(_) => monitor.is_up(&service.name, &backend.name),
                };
                BackendFacts {
                    service: key.0,
                    backend: key.1,
                    server: (backend.address, backend.port),
                    healthy,
                    drain: known.drain.code(),
                    drain_left: left.map(|left| left.as_millis() as u64),
                    weight: known.weight,
                    ejected: known.ejected,
                    reduced: known.reduced,
                }
            })
        });
        State {
            generation: self.config_state.generation,
            backends: backends.collect(),
            proxies: self
                .workers
                .as_ref()
                .map(|it| it.known())
                .unwrap_or_default(),
            pages: self.ledger_pages(),
            bystanders: self.bystanders.carried(),
            condemned: self.condemned.carried(self.plane.now_ns()),
            rules: self.carried_rules(),
            configured: Some(self.configured()),
        }
    }

    /// Lays what a predecessor knew over the configuration: what an operator asked for, which the
    /// maps know of the kernel part's backends only. Health follows from the checks.
    pub(crate) fn inherit(&mut self, state: &State) {
        for service in &self.config.services {
            for backend in &service.backends {
                let server = (backend.address, backend.port);
                let Some(facts) = state.facts(&service.name, &backend.name, server) else {
                    continue;
                };
                let laid = BackendOverlay {
                    health: match facts.healthy {
                        Some(false) => Health::Down,
                        _ => Health::Up,
                    },
                    drain: Drain::from_code(facts.drain),
                    weight: facts.weight,
                    ejected: facts.ejected,
                    reduced: facts.reduced.min(100),
                };
                if laid != self.overlay.get(&service.name, &backend.name) {
                    *self.overlay.entry(&service.name, &backend.name) = laid;
                }
            }
        }
    }

    /// Lets drains end when they would have ended.
    pub(crate) fn inherit_deadlines(&mut self, state: &State) {
        let now = Instant::now();
        for facts in &state.backends {
            let key = (facts.service.clone(), facts.backend.clone());
            if let Some(left) = facts.drain_left
                && self.drains.contains(&key)
            {
                self.drains.begin(key, now + Duration::from_millis(left));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_inherits_nothing() {
        let server = ([192, 0, 2, 1].into(), Some(80));
        let state = State {
            backends: vec![BackendFacts {
                service: "web".to_owned(),
                backend: "b1".to_owned(),
                server,
                healthy: Some(false),
                drain: Drain::Draining.code(),
                drain_left: Some(5000),
                weight: Some(3),
                ejected: true,
                reduced: 30,
            }],
            ..State::default()
        };
        let text = serde_json::to_string(&state).expect("written");
        assert_eq!(serde_json::from_str::<State>(&text).expect("read"), state);
        assert!(state.facts("web", "b1", server).is_some());
        let other = ([192, 0, 2, 2].into(), Some(80));
        assert!(state.facts("web", "b1", other).is_none());
        assert!(state.facts("web", "b2", server).is_none());
    }
}
