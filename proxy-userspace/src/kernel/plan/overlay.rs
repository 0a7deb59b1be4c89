//! What is laid over the configuration: health, operators' drains, weights changed at run time.

use crate::config::model::Config;
use crate::kernel::plan::ids::Ids;
use crate::kernel::store::KernelState;
use proxy_common::backend::BackendState;
use std::collections::HashMap;

/// Facts about backends that are not in the configuration, by service and backend name.
///
/// A backend that is not mentioned is up, not draining, and has its configured weight. Names that
/// the configuration does not have are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    services: HashMap<String, HashMap<String, BackendOverlay>>,
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
}

/// Whether a backend answers its health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does, or has none.
    #[default]
    Up,
    /// It does not: its flows are selected anew.
    Down,
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

impl BackendOverlay {
    /// The state that follows. A backend that fails its checks is down even while it drains.
    pub const fn state(&self) -> BackendState {
        match (self.health, self.drain) {
            (Health::Down, _) | (_, Drain::Expired) => BackendState::Down,
            (Health::Up, Drain::Draining) => BackendState::Draining,
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
        self.services.retain(|name, backends| {
            let Some(service) = config.service(name) else {
                return false;
            };
            backends.retain(|name, _| service.backends.iter().any(|b| b.name == *name));
            !backends.is_empty()
        });
    }

    /// Reads back what an earlier process had laid over, so that adopting its data plane changes
    /// nothing before the first health check has answered.
    ///
    /// A backend that is down is taken to have failed its checks where its service has some, and
    /// to have been drained by an operator otherwise: the maps do not tell the two apart. Weights
    /// are not read back, because one that differs from the configuration's may as well be due to
    /// a new configuration.
    pub fn adopt(config: &Config, kernel: &KernelState) -> Self {
        let states: HashMap<u16, u8> = kernel
            .backends
            .iter()
            .map(|(id, b)| (*id, b.state))
            .collect();
        let mut overlay = Self::default();
        for listener in Ids::recover(config, kernel).listeners() {
            let checked = (config.service(&listener.service)).is_some_and(|s| s.health.is_some());
            for (name, id) in &listener.backends {
                let Some(state) = states
                    .get(id)
                    .and_then(|code| BackendState::from_code(*code))
                else {
                    continue;
                };
                let entry = match state {
                    BackendState::Draining => BackendOverlay {
                        drain: Drain::Draining,
                        ..BackendOverlay::default()
                    },
                    BackendState::Down if checked => BackendOverlay {
                        health: Health::Down,
                        ..BackendOverlay::default()
                    },
                    BackendState::Down => BackendOverlay {
                        drain: Drain::Expired,
                        ..BackendOverlay::default()
                    },
                    BackendState::Up | BackendState::Absent => continue,
                };
                *overlay.entry(&listener.service, name) = entry;
            }
        }
        overlay
    }
}
