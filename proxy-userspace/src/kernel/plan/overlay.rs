//! What is laid over the configuration: health, operators' drains, weights changed at run time.

use super::entries::is_tunnel;
use super::ids::Ids;
use crate::config::model::{Backend as ConfiguredBackend, Config, Service};
use crate::kernel::store::KernelState;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState, drain};
use proxy_common::service::Mode;
use std::collections::{BTreeSet, HashMap};

/// What weights that follow latency are multiplied with, where there is room.
const LATENCY_SCALE: u32 = 100;

/// Facts about backends that are not in the configuration, by service and backend name.
///
/// A backend that is not mentioned is up, not draining, and has its configured weight. Names that
/// the configuration does not have are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    services: HashMap<String, HashMap<String, BackendOverlay>>,
    /// What becomes of backends that the configuration no longer has.
    pub removed: Removed,
}

/// What becomes of a backend that the configuration no longer has, although its listener is
/// still there and has the same mode. (With the listener, everything goes at once.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Removed {
    /// It is removed at once: its flows are selected anew.
    #[default]
    AtOnce,
    /// It drains: it keeps its flows and is listed in [`super::ListenerIds::retiring`]. As it is
    /// found in the maps themselves, a restart of the daemon does not end the drain.
    Drain {
        /// Backend ids whose deadline has passed; they are removed.
        released: BTreeSet<u16>,
    },
}

/// Facts about one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendOverlay {
    /// What its health checks say.
    pub health: Health,
    /// What an operator asked for.
    pub drain: Drain,
    /// A weight that an operator set in place of the configured one.
    pub weight: Option<u16>,
    /// Proxies that use the service have ejected it: it keeps its flows and takes no new ones. What
    /// it does to requests says little about connections that are open, so those are not torn.
    pub ejected: bool,
    /// What it has lost of its weight because it is slow, in percent.
    pub reduced: u8,
}

/// Whether a backend answers its health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does, or has none.
    #[default]
    Up,
    /// It does not: its flows are selected anew.
    Down,
    /// Nothing is known of it yet: it is treated as one that is down.
    Unknown,
}

/// How far an operator's drain is. Whoever keeps the overlay also watches the deadline: planning
/// has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// Not draining.
    #[default]
    No,
    /// Keeps its flows, takes no new ones.
    Draining,
    /// The deadline has passed: the flows that are left are selected anew.
    Expired,
}

impl Drain {
    /// The code stored in maps.
    pub const fn code(self) -> u8 {
        match self {
            Self::No => drain::NO,
            Self::Draining => drain::DRAINING,
            Self::Expired => drain::EXPIRED,
        }
    }

    /// The drain with this code; an unknown one counts as none.
    pub const fn from_code(code: u8) -> Self {
        match code {
            drain::DRAINING => Self::Draining,
            drain::EXPIRED => Self::Expired,
            _ => Self::No,
        }
    }
}

impl BackendOverlay {
    /// The state that follows. A backend that fails its checks is down even while it drains.
    pub const fn state(&self) -> BackendState {
        match (self.health, self.drain) {
            (Health::Down | Health::Unknown, _) | (_, Drain::Expired) => BackendState::Down,
            (Health::Up, Drain::Draining) => BackendState::Draining,
            (Health::Up, Drain::No) if self.ejected => BackendState::Draining,
            (Health::Up, Drain::No) => BackendState::Up,
        }
    }
}

impl Overlay {
    /// The facts about a backend.
    pub fn get(&self, service: &str, backend: &str) -> BackendOverlay {
        self.services
            .get(service)
            .and_then(|backends| backends.get(backend))
            .copied()
            .unwrap_or_default()
    }

    /// The weight in the maps. Weights that follow latency are scaled up, or a weight of 1 would
    /// have no parts; only their proportions count.
    pub fn weight(&self, service: &Service, backend: &ConfiguredBackend) -> u16 {
        let of = |backend: &ConfiguredBackend| {
            let set = self.get(&service.name, &backend.name).weight;
            set.unwrap_or(backend.weight)
        };
        let own = of(backend);
        if service.upstream.steer_by_latency.is_none() || own == 0 {
            return own;
        }
        let heaviest = service.backends.iter().map(of).max().unwrap_or(own).max(1);
        let scale = u32::from(u16::MAX / heaviest).min(LATENCY_SCALE);
        let left = 100 - u32::from(self.get(&service.name, &backend.name).reduced.min(100));
        let weight = u32::from(own) * scale * left / 100;
        u16::try_from(weight).unwrap_or(u16::MAX).max(1)
    }

    /// The facts about a backend, to be changed.
    pub fn entry(&mut self, service: &str, backend: &str) -> &mut BackendOverlay {
        self.services
            .entry(service.to_owned())
            .or_default()
            .entry(backend.to_owned())
            .or_default()
    }

    /// Forgets the backends that the configuration no longer has.
    pub fn retain_configured(&mut self, config: &Config) {
        self.retain(|service, name| {
            let service = config.service(service);
            service.is_some_and(|service| service.backends.iter().any(|b| b.name == *name))
        });
    }

    /// Forgets the backends that `is_known`, told service and backend, does not know.
    pub fn retain(&mut self, is_known: impl Fn(&str, &str) -> bool) {
        self.services.retain(|service, backends| {
            backends.retain(|backend, _| is_known(service, backend));
            !backends.is_empty()
        });
    }

    /// Reads back what an earlier process had laid over, so that adopting its data plane changes
    /// nothing before the first health check has answered. Drains start their time anew.
    ///
    /// A backend of a service with checks that is down, but not for its drain's sake, is taken to
    /// have failed them. Weights are not read back, because one that differs from the
    /// configuration's may as well be due to a new configuration.
    pub fn adopt(config: &Config, kernel: &KernelState) -> Self {
        let entries: HashMap<u16, &Backend> =
            kernel.backends.iter().map(|(id, b)| (*id, b)).collect();
        let mut overlay = Self::default();
        for listener in Ids::recover(config, kernel).listeners() {
            let checked = (config.service(&listener.service)).is_some_and(|s| s.health.is_some());
            for (name, id) in &listener.backends {
                let facts = entries.get(id).and_then(|entry| facts_of(entry, checked));
                if let Some(facts) = facts {
                    *overlay.entry(&listener.service, name) = facts;
                }
            }
        }
        overlay
    }
}

/// What an entry tells beyond the configuration.
fn facts_of(entry: &Backend, checked: bool) -> Option<BackendOverlay> {
    let lacks_source =
        Mode::from_code(entry.mode).is_some_and(is_tunnel) && entry.encap_src == Addr::UNSPECIFIED;
    let drain = Drain::from_code(entry.drain);
    let health = match BackendState::from_code(entry.state)? {
        BackendState::Absent => return None,
        // Planning holds it down, and will again if it must.
        BackendState::Down if lacks_source => Health::Up,
        // Down for its drain's sake says nothing about its health.
        BackendState::Down if checked && drain != Drain::Expired => Health::Down,
        BackendState::Up | BackendState::Draining | BackendState::Down => Health::Up,
    };
    let facts = BackendOverlay {
        health,
        drain,
        ..BackendOverlay::default()
    };
    (facts != BackendOverlay::default()).then_some(facts)
}
