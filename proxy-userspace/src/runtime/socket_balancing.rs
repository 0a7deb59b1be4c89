//! Balancing at connect(), as the control task keeps it in step with the configuration, health and
//! drains.
//!
//! It is a convenience of this host's workloads: where the kernel does not have it, VIPs are dialled
//! over the network as before, everything else runs, and status says why. So nothing here fails; what
//! did not go is tried again.

use super::control::Control;
use super::plane::{Plane, PlaneError};
use crate::admin::api::chain;
use crate::config::model::Config;
use crate::health::Check;
use crate::kernel::load::LoadError;
use crate::kernel::plan::Overlay;
use crate::observe::view::{
    BalancedBackendView, BalancedCgroupView, BalancedServiceView, SocketBalancingView,
};
use crate::sockets::connect::{self, Balancing, ConnectError, Counts};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// How long what could not be opened is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// What balances, if anything does.
pub(super) struct SocketBalancer {
    open: Option<Balancing>,
    /// The lock of a predecessor, until it is used.
    lock: Option<OwnedFd>,
    /// Why it is not as it should be, and when it is tried again.
    failure: Option<(String, Instant)>,
    /// Why sockets are not watched, although it is wanted.
    watch_failure: Option<String>,
    /// A configuration asks for it.
    is_wanted: bool,
    /// It was ended once: what may be pinned at the usual place is another daemon's.
    is_clean: bool,
}

impl SocketBalancer {
    /// Nothing balances yet. `lock` is that of a predecessor that still runs.
    pub(super) fn new(lock: Option<OwnedFd>) -> Self {
        Self {
            open: None,
            lock,
            failure: None,
            watch_failure: None,
            is_wanted: false,
            is_clean: false,
        }
    }

    /// Follows a configuration and what is laid over it.
    pub(super) fn follow(&mut self, config: &Config, overlay: &Overlay) {
        let now = Instant::now();
        self.is_wanted = config.balances_sockets();
        if !self.is_wanted {
            self.failure = None;
            if let Err(error) = self.end(&config.connect_pin_dir()) {
                warn!(error = %chain(&error), "balancing at connect() could not be ended");
            }
            return;
        }
        let followed = self.try_follow(config, overlay, now);
        self.note(followed, now);
    }

    fn try_follow(
        &mut self,
        config: &Config,
        overlay: &Overlay,
        now: Instant,
    ) -> Result<(), ConnectError> {
        let pin_dir = config.connect_pin_dir();
        if let Some(moved) = self.open.take_if(|open| open.pin_dir() != pin_dir) {
            moved.remove()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Balancing::open(&pin_dir, self.lock.take())?),
        };
        self.is_clean = false;
        let edits = open.follow(config, overlay, now)?;
        if edits > 0 {
            debug!(edits, "balancing at connect() follows");
        }
        Ok(())
    }

    /// Looks after cgroups and drains, and tries again what has failed.
    pub(super) fn look_after(&mut self, config: &Config, overlay: &Overlay) {
        let now = Instant::now();
        if !self.is_wanted {
            return;
        }
        match &mut self.open {
            Some(open) => {
                let looked = open.look_after(config, overlay, now);
                self.note(looked, now);
            }
            None if self.failure.as_ref().is_none_or(|(_, again)| *again <= now) => {
                self.follow(config, overlay);
            }
            None => {}
        }
    }

    /// What the kernel has seen of the connections of workloads since the last call.
    pub(super) fn seen(&mut self) -> Vec<connect::Seen> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        let failure = open.watch_failure().map(chain);
        if failure != self.watch_failure {
            if let Some(reason) = &failure {
                warn!(%reason, "backends are not judged by the connections of workloads");
            }
            self.watch_failure = failure;
        }
        open.seen().unwrap_or_else(|error| {
            debug!(error = %chain(&error), "what was seen of sockets cannot be read");
            Vec::new()
        })
    }

    /// Remembers what has failed, and says it once.
    fn note(&mut self, outcome: Result<(), ConnectError>, now: Instant) {
        match outcome {
            Ok(()) => {
                if self.failure.take().is_some() {
                    info!("balancing at connect() follows again");
                }
            }
            Err(error) => {
                let reason = chain(&error);
                let is_known = self.failure.as_ref().is_some_and(|(why, _)| *why == reason);
                if !is_known {
                    warn!(%reason, "sockets are not balanced at connect(), or not as configured");
                }
                self.failure = Some((reason, now + PAUSE));
            }
        }
    }

    /// Ends it, also what another process has left.
    fn end(&mut self, pin_dir: &Path) -> Result<(), LoadError> {
        match self.open.take() {
            Some(open) => open.remove()?,
            None if self.is_clean || !connect::is_pinned(pin_dir) => return Ok(()),
            None => {
                // Where it is of a daemon that runs, it is not ours to end.
                self.is_clean = true;
                let _lock = self.lock.take();
                match connect::remove(pin_dir) {
                    Err(LoadError::Locked { .. }) => return Ok(()),
                    other => other?,
                }
            }
        }
        self.is_clean = true;
        info!("nobody is balanced at connect() any more");
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        (self.open, self.lock) = (None, None);
    }

    pub(super) fn lock(&self) -> Option<OwnedFd> {
        let open = self.open.as_ref()?;
        open.lock().try_clone_to_owned().ok()
    }

    /// Ends it, or with `keep` only lets go of it.
    pub(super) fn release(self, keep: bool) -> Result<(), PlaneError> {
        match self.open {
            Some(open) if !keep => Ok(open.remove().map_err(ConnectError::from)?),
            _ => Ok(()),
        }
    }

    pub(super) fn view(&self) -> Option<SocketBalancingView> {
        let reason = self.failure.as_ref().map(|(why, _)| why.clone());
        let reason = reason.or_else(|| {
            let why = self.watch_failure.as_ref()?;
            Some(format!("backends are not judged by its sockets: {why}"))
        });
        let Some(open) = &self.open else {
            return self.is_wanted.then(|| SocketBalancingView {
                state: "off".to_owned(),
                reason,
                ..SocketBalancingView::default()
            });
        };
        let counts = open.counts().map_err(|error| {
            debug!(error = %chain(&error), "the counters of connect() cannot be read");
        });
        let counts: Counts = counts.unwrap_or_default();
        let cgroups = open.attached().iter().map(|one| BalancedCgroupView {
            path: one.path.display().to_string(),
            id: one.id,
        });
        let cgroups: Vec<_> = cgroups.collect();
        let is_on = cgroups.iter().any(|one| one.id.is_some());
        Some(SocketBalancingView {
            state: if is_on { "on" } else { "off" }.to_owned(),
            reason: reason.or_else(|| (!is_on).then(|| "there is none of its cgroups".to_owned())),
            pin_dir: open.pin_dir().display().to_string(),
            cgroups,
            services: counts.services.into_iter().map(service_view).collect(),
            ended: counts.ended,
            unreached: counts.unreached,
        })
    }
}

fn service_view(counts: connect::ServiceCounts) -> BalancedServiceView {
    let stats = counts.stats;
    let backends = counts.backends.into_iter();
    BalancedServiceView {
        name: counts.name,
        connected: stats.connected,
        opened: stats.opened,
        datagrams: stats.datagrams,
        refused: stats.refused,
        passed: stats.passed,
        unrecorded: stats.unrecorded,
        backends: backends
            .map(|one| BalancedBackendView {
                name: one.name,
                takes_new: one.takes_new,
                given: one.given,
                open: one.open,
            })
            .collect(),
    }
}

impl<P: Plane> Control<P> {
    /// Has sockets that dial follow what is in force.
    pub(super) fn balance_sockets(&mut self) {
        self.plane.balance_sockets(&self.config, &self.overlay);
        self.bystanders_follow();
    }

    /// Takes over what an earlier process knew of backends, where there is no packet path that knows it
    /// as well: drains go on, and a backend that is down gets no sockets until it has passed its checks.
    pub(super) fn adopt_sockets(&mut self, checks: &mut [Check]) {
        if self.has_plane() {
            return;
        }
        let known = self.plane.adopted_sockets(&self.config);
        for service in &self.config.services {
            for backend in &service.backends {
                let port = backend.port.unwrap_or(0);
                let place = (service.name.clone(), backend.address, port);
                if let Some(known) = known.get(&place) {
                    self.overlay.entry(&service.name, &backend.name).drain = known.drain;
                }
            }
        }
        for check in checks.iter_mut().filter(|check| check.adopted.is_none()) {
            let (address, port) = check.server;
            let place = (check.name.service.to_string(), address, port.unwrap_or(0));
            check.adopted = known.get(&place).map(|known| known.up);
        }
    }

    /// See [`SocketBalancer::look_after`].
    pub(super) fn look_after_sockets(&mut self) {
        if !self.is_frozen {
            self.plane.look_after_sockets(&self.config, &self.overlay);
            self.judge_by_sockets();
        }
    }
}
