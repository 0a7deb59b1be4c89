//! Steering, as the control task keeps it in step with the configuration and the listeners' sockets.
//!
//! The program is opened when a configuration first steers something, and removed when one steers
//! nothing any more. It is apart from the packet path: either may be there without the other.

use super::control::Control;
use super::plane::{Plane, PlaneError};
use super::workers::Prepared;
use crate::admin::api::chain;
use crate::config::model::Config;
use crate::config::model::steer::Bindings;
use crate::kernel::load::LoadError;
use crate::observe::view::{SteeredView, SteeringView};
use crate::sockets::redirect;
use crate::sockets::steer::{self, SteerError, Steering, routes};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use tracing::{debug, error, info, warn};

/// What steers, if anything does.
pub(super) struct Steerer {
    open: Option<Open>,
    /// The lock of a predecessor, until it is used.
    lock: Option<OwnedFd>,
}

struct Open {
    steering: Steering,
    /// Where it is pinned.
    pin_dir: PathBuf,
    bindings: usize,
}

impl Steerer {
    /// Nothing steers yet. `lock` is that of a predecessor that still runs.
    pub(super) fn new(lock: Option<OwnedFd>) -> Self {
        Self { open: None, lock }
    }

    /// Follows a configuration; `sockets` has one of each listener, by name.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        sockets: &[(String, BorrowedFd<'_>)],
    ) -> Result<usize, SteerError> {
        let bindings = Bindings::of(config);
        if bindings.steered.is_empty() {
            self.end(config)?;
            return Ok(0);
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let pin_dir = config.data_plane().pin_dir.clone();
                none.insert(Open {
                    steering: Steering::open(&pin_dir, self.lock.take())?,
                    pin_dir,
                    bindings: 0,
                })
            }
        };
        let sockets: Vec<_> = (sockets.iter())
            .map(|(name, socket)| (name.as_str(), *socket))
            .collect();
        let edits = open.steering.follow(&bindings, &sockets)?;
        open.bindings = bindings.count;
        if edits > 0 {
            info!(bindings = bindings.count, edits, "steering follows");
        }
        Ok(edits)
    }

    /// Ends what steers, also what another process has left.
    fn end(&mut self, config: &Config) -> Result<(), SteerError> {
        let pin_dir = &config.data_plane().pin_dir;
        match self.open.take() {
            Some(open) => open.steering.remove()?,
            None if !steer::is_pinned(pin_dir) => return Ok(()),
            None => match Steering::open(pin_dir, self.lock.take()) {
                Ok(left) => left.remove()?,
                // It is of a daemon that runs.
                Err(SteerError::Load(LoadError::Locked { .. })) => return Ok(()),
                Err(error) => return Err(error),
            },
        }
        info!("nothing is steered any more");
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        (self.open, self.lock) = (None, None);
    }

    pub(super) fn lock(&self) -> Option<OwnedFd> {
        let open = self.open.as_ref()?;
        open.steering.lock().try_clone_to_owned().ok()
    }

    /// Ends it, or with `keep` only lets go of it.
    pub(super) fn release(self, keep: bool) -> Result<(), PlaneError> {
        match self.open {
            Some(open) if !keep => Ok(open.steering.remove().map_err(SteerError::from)?),
            _ => Ok(()),
        }
    }

    pub(super) fn view(&self) -> Option<SteeringView> {
        let open = self.open.as_ref()?;
        let counts = open.steering.counts().map_err(|error| {
            debug!(error = %chain(&error), "the counters of steering cannot be read");
        });
        let counts = counts.unwrap_or_default();
        let listeners = counts
            .listeners
            .into_iter()
            .map(|(name, stats)| SteeredView {
                name,
                steered: stats.steered,
                refused: stats.refused,
                passed: stats.passed,
                failed: stats.failed,
            });
        Some(SteeringView {
            bindings: open.bindings as u64,
            entries: open.steering.entries() as u64,
            generation: open.steering.generation().unwrap_or_default(),
            pin_dir: open.pin_dir.join("steer").display().to_string(),
            unmatched: counts.unmatched,
            listeners: listeners.collect(),
        })
    }
}

impl<P: Plane> Control<P> {
    /// Has what is steered reach this process's sockets.
    ///
    /// # Errors
    ///
    /// [`PlaneError::Sockets`].
    pub(crate) fn steer_sockets(&mut self) -> Result<(), PlaneError> {
        let workers = self.workers.as_ref();
        let bindings = Bindings::of(&self.config);
        let sockets = workers.map(|workers| workers.sockets(None, &bindings));
        let sockets = sockets.unwrap_or_default();
        self.plane.steer_sockets(&self.config, &sockets).map(drop)
    }

    /// True if the configuration steers or redirects something.
    pub(crate) fn steers(&self) -> bool {
        self.config.steers() || self.config.redirects()
    }

    /// Has nothing redirected any more: those who serve what is are about to end.
    pub(crate) fn end_redirection(&mut self) {
        if let Err(error) = self.plane.end_redirection() {
            error!(error = %chain(&error), "redirection could not be ended");
        }
    }

    /// As [`Self::steer_sockets`], where there is nobody to tell of a failure.
    pub(crate) fn steer_again(&mut self) {
        if let Err(error) = self.steer_sockets() {
            error!(error = %chain(&error), "what is steered does not reach this process");
        }
    }

    /// Steers as a new configuration wants it, whose listeners are prepared.
    pub(super) fn steer_to(
        &mut self,
        config: &Config,
        begun: Option<&super::workers::Workers>,
        prepared: Option<&Prepared>,
    ) -> Result<(), PlaneError> {
        let workers = begun.or(self.workers.as_ref());
        let bindings = Bindings::of(config);
        let sockets = workers.map(|workers| workers.sockets(prepared, &bindings));
        let sockets = sockets.unwrap_or_default();
        self.plane.steer_sockets(config, &sockets).map(drop)
    }
}

/// Logs that another daemon has left its redirection, which this one has no part in. It is not for
/// any daemon of this host to end it: perhaps it refuses connections because it was told to.
pub(super) fn warn_of_leftovers(config: &Config) {
    let pin_dir = &config.data_plane().pin_dir;
    if !config.redirects() && redirect::is_abandoned(pin_dir) {
        warn!("a daemon that is gone has left its redirection in force: `sluice detach` ends it");
    }
}

/// Logs which steered addresses this host would not take.
pub(super) fn warn_of_routes(config: &Config) {
    for one in routes::missing(config) {
        warn!("{one}: `{}`", one.remedy());
    }
}
