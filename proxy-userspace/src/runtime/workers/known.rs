//! What the proxies of a predecessor knew, and those of its successor have to know.
//!
//! All of it may be missing: then it is found out anew, as after a restart.

use crate::balance::l7::{CarriedBackend, Registry, Resolved};
use crate::http::snapshot::{Kept, Snapshot};
use crate::net::Nanos;
use crate::resilience::{CarriedProtection, Protection};
use crate::tls::{CarriedSessions, SessionKeeper};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use tracing::warn;

/// What the proxies of a predecessor knew. Keys are in it: secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// Key of cookies: clients come back with those that the predecessor has given out.
    pub secret: Option<u64>,
    /// What DNS has answered.
    pub answers: Vec<NameAnswer>,
    /// Sessions of TLS.
    sessions: Vec<ListenerSessions>,
    /// What was found out about services.
    services: Vec<ServiceFacts>,
}

/// A server that DNS has named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameAnswer {
    /// The service.
    pub service: String,
    /// The question, as it is written in messages.
    pub question: String,
    /// [`Resolved::rank`].
    pub rank: u8,
    /// Where the server is.
    pub address: SocketAddr,
    /// [`Resolved::weight`].
    pub weight: u16,
}

/// Sessions of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ListenerSessions {
    listener: String,
    address: SocketAddr,
    sessions: CarriedSessions,
}

/// What was found out about a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ServiceFacts {
    service: String,
    backends: Vec<CarriedBackend>,
    protection: Option<CarriedProtection>,
    /// What the protection's settings were: what was learnt under others is not believed.
    settings: String,
}

impl Known {
    pub(super) fn of(snapshot: &Snapshot, kept: &Kept, now: Nanos) -> Self {
        Self {
            secret: Some(kept.secret()),
            answers: answers(snapshot.registry()),
            sessions: sessions(snapshot),
            services: services(snapshot, now),
        }
    }

    /// Before listeners are compiled: whose sessions go on.
    pub(super) fn prepare(&self, kept: &mut Kept) {
        for known in &self.sessions {
            match SessionKeeper::inherited(&known.sessions) {
                Ok(sessions) => kept.inherit(known.listener.clone(), known.address, sessions),
                Err(error) => {
                    let listener = &known.listener;
                    warn!(listener, %error, "TLS sessions of the older process do not go on");
                }
            }
        }
    }

    /// Tells services who their members are before DNS has answered, and what is known of them.
    pub(super) fn tell(&self, snapshot: &Snapshot, now: Nanos) {
        for service in snapshot.services() {
            let state = &service.state;
            for (number, name) in state.spec().names.iter().enumerate() {
                let question = format!("{:?}", name.named.question);
                let answers = self.answers.iter();
                let found = answers
                    .filter(|it| it.service == state.name() && it.question == question)
                    .map(|it| Resolved {
                        rank: it.rank,
                        address: it.address,
                        weight: it.weight,
                    });
                let found: Vec<_> = found.collect();
                if !found.is_empty() {
                    state.set_resolved(number, &found, now);
                }
            }
            let mut services = self.services.iter();
            let Some(facts) = services.find(|it| it.service == state.name()) else {
                continue;
            };
            state.inherit(&facts.backends, now);
            if let Some(protection) = &facts.protection
                && facts.settings == settings(&service.protection)
            {
                service.protection.inherit(protection, now);
            }
        }
    }
}

fn answers(registry: &Registry) -> Vec<NameAnswer> {
    let services = registry.services().iter();
    let answers = services.flat_map(|service| {
        let names = &service.spec().names;
        let resolved = service.resolved().into_iter();
        resolved.filter_map(|(question, found)| {
            Some(NameAnswer {
                service: service.name().to_owned(),
                question: format!("{:?}", names.get(question)?.named.question),
                rank: found.rank,
                address: found.address,
                weight: found.weight,
            })
        })
    });
    answers.collect()
}

fn sessions(snapshot: &Snapshot) -> Vec<ListenerSessions> {
    let sessions = snapshot.tls_plans().filter_map(|(name, address, plan)| {
        Some(ListenerSessions {
            listener: name.to_owned(),
            address,
            sessions: plan.side.sessions.carried()?,
        })
    });
    sessions.collect()
}

fn services(snapshot: &Snapshot, now: Nanos) -> Vec<ServiceFacts> {
    let services = snapshot.services().iter();
    let facts = services.map(|service| ServiceFacts {
        service: service.state.name().to_owned(),
        backends: service.state.carried(now),
        protection: service.protection.carried(now),
        settings: settings(&service.protection),
    });
    let is_worth_it = |it: &ServiceFacts| !it.backends.is_empty() || it.protection.is_some();
    facts.filter(is_worth_it).collect()
}

fn settings(protection: &Protection) -> String {
    format!("{:?}", protection.settings)
}
