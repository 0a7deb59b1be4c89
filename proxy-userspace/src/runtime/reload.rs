//! Reload: a new configuration takes effect as a whole, or not at all.
//!
//! ```text
//! load → validate ──▶ sizes ──▶ health checks ──▶ plan, apply ──▶ attach ──▶ swap
//!    └── refused ◀───────┴──────────── go back ◀───────┴────────────┘
//! ```
//!
//! Until the swap at the end, everything that is kept describes the old configuration, so going
//! back means to make the data plane follow that once more.

use super::certificates::{self, Seen};
use super::control::{Control, SweepTotals};
use super::forwarding;
use super::overlay;
use super::plane::{Plane, PlaneError};
use super::workers::{Prepared, Workers};
use crate::admin::api::{Refusal, RefusalKind, chain};
use crate::config::model::Config;
use crate::health::Seals;
use crate::kernel::apply::{ReplaceError, Target, follow, replace};
use crate::kernel::plan::{Host, Overlay, Plan, Removed};
use std::collections::BTreeSet;
use std::error::Error;
use std::time::SystemTime;
use tracing::error;

/// A configuration with what is laid over it, on the way into force.
struct Next {
    config: Config,
    overlay: Overlay,
    seals: Seals,
    host: Host,
    proxies: Option<Prepared>,
    /// Its files of certificates, before they were read.
    files: Vec<Seen>,
    /// The workers, where this configuration is the first that needs them: they serve nothing yet.
    workers: Option<Workers>,
}

impl<P: Plane> Control<P> {
    /// Makes maps that fit the machine as it is now, for the configuration in force.
    pub(super) fn refit(&mut self) -> Result<(), Refusal> {
        self.follow_to(self.config.clone()).map(drop)
    }

    /// Puts a configuration in force; gives the number of edits, and what the plan warns of.
    pub(super) fn follow_to(&mut self, config: Config) -> Result<(u64, Vec<String>), Refusal> {
        let mut next = self.prepare(config)?;
        let plan = match self.put_in_force(&mut next) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.restore_checks();
                return Err(refusal);
            }
        };
        let edits = plan.edits.len() as u64;
        let warnings = plan.warnings.iter().map(ToString::to_string).collect();
        self.swap(next, plan);
        Ok((edits, warnings))
    }

    /// Switches of the kernel that the first interfaces need and that are off.
    pub(super) fn missing_switches(&self, config: &Config) -> Vec<String> {
        if self.has_plane() || !config.balances_packets() {
            return Vec::new();
        }
        let off = forwarding::switched_off(config, forwarding::read);
        off.iter().map(|key| forwarding::advice(key)).collect()
    }

    /// Replaces the health checks and lays health and drains over the new configuration. What the
    /// proxy paths need (sockets, files) is had first: that may be refused.
    fn prepare(&mut self, config: Config) -> Result<Next, Refusal> {
        let reasons = self.kept.iter().flat_map(|kept| kept.refuse(&config));
        let reasons: Vec<_> = reasons.collect();
        if !reasons.is_empty() {
            return Err(Refusal {
                kind: RefusalKind::Conflict,
                message: "the daemon has given up what this configuration needs".to_owned(),
                details: reasons,
            });
        }
        let files = certificates::all(&config);
        let mut begun = None;
        let workers = match &mut self.workers {
            Some(workers) => Some(workers),
            None if !config.has_proxies() => None,
            None => Some(begun.insert(Workers::idle(&config).map_err(internal)?)),
        };
        let proxies = workers.map(|workers| workers.prepare(&config));
        let proxies = proxies.transpose().map_err(internal)?;
        let named = self.named();
        let seals = Seals::read(&config, SystemTime::now()).map_err(internal)?;
        let checks = self
            .checks_for(&config, &named, &seals)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        self.parts.monitor.reconcile(checks);
        let mut overlay = self.overlay.clone();
        overlay.retain_configured(&config);
        overlay::update_health(&mut overlay, &config, &named, &self.parts.monitor);
        let host = self.plane.host(&config);
        Ok(Next {
            config,
            overlay,
            seals,
            host,
            proxies,
            files,
            workers: begun,
        })
    }

    /// Makes the data plane follow the new configuration, or the old one again.
    fn put_in_force(&mut self, next: &mut Next) -> Result<Plan, Refusal> {
        let renewed = self.plane.fit(&next.config).map_err(internal)?;
        if renewed {
            // What a plan depends on is told by the maps, too, and these are others.
            next.host = self.plane.host(&next.config);
        }
        let plan = if renewed {
            self.fill_renewed(next)?
        } else {
            self.replace(next)?
        };
        let attach =
            renewed || next.config.data_plane().interfaces != self.config.data_plane().interfaces;
        if attach {
            match self.plane.attach(&next.config.data_plane().interfaces) {
                Ok(attached) => self.attached = attached,
                Err(error) => {
                    let refusal = internal(error);
                    self.go_back(renewed);
                    return Err(refusal);
                }
            }
        }
        if let Err(error) = self.plane.aim_probes(overlay::aimed(&next.config)) {
            let refusal = internal(error);
            self.go_back(renewed);
            return Err(refusal);
        }
        let steered = self.steer_to(&next.config, next.workers.as_ref(), next.proxies.as_ref());
        if let Err(error) = steered {
            let refusal = internal(error);
            self.go_back(renewed);
            return Err(refusal);
        }
        Ok(plan)
    }

    /// Fills maps that are not in force yet.
    fn fill_renewed(&mut self, next: &Next) -> Result<Plan, Refusal> {
        let target = Target {
            config: &next.config,
            overlay: &next.overlay,
            host: &next.host,
        };
        follow(self.plane.store(), &target).map_err(|error| {
            let refusal = internal(error);
            self.go_back(true);
            refusal
        })
    }

    /// Changes the maps that are in force.
    fn replace(&mut self, next: &Next) -> Result<Plan, Refusal> {
        let before = self.overlay_before();
        let old = Target {
            config: &self.config,
            overlay: &before,
            host: &self.host,
        };
        let new = Target {
            config: &next.config,
            overlay: &next.overlay,
            host: &next.host,
        };
        match replace(self.plane.store(), &old, &new) {
            Ok(plan) => Ok(plan),
            Err(error) => {
                let refusal = internal_ref(&error);
                match error {
                    ReplaceError::Refused(_) => {}
                    ReplaceError::WentBack { plan, .. } => drop(self.take(*plan)),
                    ReplaceError::Stuck { back, .. } => self.fall_behind(&back),
                }
                Err(refusal)
            }
        }
    }

    /// The overlay to go back with: a backend that the failed reload brought in does not drain, as
    /// removed ones do, but goes at once.
    fn overlay_before(&self) -> Overlay {
        let mut overlay = self.overlay.clone();
        if let Removed::Drain { released } = &mut overlay.removed {
            let known: BTreeSet<u16> = self.kernel.backends.iter().map(|(id, _)| *id).collect();
            released.extend((1..=u16::MAX).filter(|id| !known.contains(id)));
        }
        overlay
    }

    /// Makes the data plane follow the configuration that is still in force. What fails here is
    /// tried again with each tick.
    fn go_back(&mut self, renewed: bool) {
        if renewed && let Err(error) = self.plane.fit(&self.config) {
            error!(error = %chain(&error), "cannot go back to the old maps");
        }
        self.keep_to(&self.overlay_before());
        self.steer_again();
    }

    /// Has maps, programs and probes be as the configuration in force and this overlay have them.
    /// What fails is tried again with each tick.
    pub(super) fn keep_to(&mut self, overlay: &Overlay) {
        let target = Target {
            config: &self.config,
            overlay,
            host: &self.host,
        };
        match follow(self.plane.store(), &target) {
            Ok(plan) => drop(self.take(plan)),
            Err(error) => self.fall_behind(&error),
        }
        match self.plane.attach(&self.config.data_plane().interfaces) {
            Ok(attached) => self.attached = attached,
            Err(error) => error!(error = %chain(&error), "cannot attach as before"),
        }
        if let Err(error) = self.plane.aim_probes(overlay::aimed(&self.config)) {
            error!(error = %chain(&error), "cannot aim probes as before");
        }
    }

    /// Goes back to the health checks of the configuration in force.
    fn restore_checks(&mut self) {
        match self.checks_for(&self.config, &self.named(), &self.seals) {
            Ok(checks) => drop(self.parts.monitor.reconcile(checks)),
            Err(error) => error!(%error, "cannot go back to the old health checks"),
        }
    }

    /// The point of no return: from here on the new configuration is the one in force.
    fn swap(&mut self, next: Next, plan: Plan) {
        let rules = self.carried_rules();
        self.configured_sampling = next.config.data_plane().sample_every;
        self.config = next.config;
        self.certificates.taken(next.files);
        self.overlay = next.overlay;
        self.seals = next.seals;
        self.host = next.host;
        self.take(plan);
        self.plane.settle();
        if !self.has_plane() {
            self.sweep = SweepTotals::default();
        }
        let pin_dir = self.config.data_plane().pin_dir.display();
        self.parts.daemon.pin_dir = pin_dir.to_string();
        if let Some(workers) = next.workers {
            super::proxies::publish(&workers, &self.parts.counters);
            self.workers = Some(workers);
        }
        if let (Some(workers), Some(prepared)) = (&mut self.workers, next.proxies) {
            workers.put_in_force(prepared);
        }
        self.members_changed();
        if self.has_plane() {
            // They were in no map, if there are any.
            self.inherit_rules(&rules);
        }
        self.condemn_as_configured();
        self.look_after_condemned();
        self.ejections_follow();
        let config = &self.config;
        self.drains.retain(|(service, backend)| {
            let service = config.service(service);
            service.is_some_and(|service| service.backends.iter().any(|b| b.name == *backend))
        });
        self.balance_sockets();
        self.mark_probes();
        self.sample();
        self.publish_names();
        self.resolve_neighbours();
    }
}

/// Keeps what cannot change while the daemon runs; returns a warning for each such change. As long as
/// there are no workers, any number of them can be had.
pub(super) fn keep_fixed(old: &Config, new: &mut Config, has_workers: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str| {
        warnings.push(format!(
            "`{key}` has changed: this takes effect when the daemon is restarted"
        ));
    };
    if has_workers && new.workers.count != old.workers.count {
        warn("workers.count");
        new.workers.count = old.workers.count;
    }
    if let (Some(old), Some(new)) = (&old.l4, &mut new.l4)
        && new.pin_dir != old.pin_dir
    {
        warn("l4.pin_dir");
        new.pin_dir.clone_from(&old.pin_dir);
    }
    if new.process != old.process {
        warn("process");
        new.process = old.process.clone();
    }
    if new.admin.socket != old.admin.socket {
        warn("admin.socket");
        new.admin.socket.clone_from(&old.admin.socket);
    }
    if new.admin.listen != old.admin.listen {
        warn("admin.listen");
        new.admin.listen = old.admin.listen;
    }
    if new.admin.api != old.admin.api {
        warn("admin.api");
        new.admin.api.clone_from(&old.admin.api);
    }
    warnings
}

fn internal(error: impl Error + 'static) -> Refusal {
    Refusal::internal(&error)
}

fn internal_ref(error: &(dyn Error + 'static)) -> Refusal {
    Refusal::internal(error)
}

impl From<PlaneError> for Refusal {
    fn from(error: PlaneError) -> Self {
        internal(error)
    }
}
