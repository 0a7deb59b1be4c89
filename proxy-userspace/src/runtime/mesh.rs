//! Sidecar-less redirection, as the control task keeps it in step with the configuration, the
//! listeners' sockets and the cgroups that there are.
//!
//! The programs are opened when a configuration first redirects something, and removed when one
//! redirects nothing any more.

use super::plane::PlaneError;
use crate::admin::api::chain;
use crate::config::model::Config;
use crate::observe::view::{MeshListenerView, MeshView, WorkloadView};
use crate::sockets::redirect::{self, RedirectError, Redirection, plan};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use tracing::{debug, info, warn};

/// What redirects, if anything does.
pub(super) struct Mesher {
    open: Option<Open>,
    /// The lock of a predecessor, until it is used.
    lock: Option<OwnedFd>,
}

struct Open {
    redirection: Redirection,
    /// Where it is pinned.
    pin_dir: PathBuf,
    /// What went wrong the last time that cgroups were looked for.
    failed: Option<String>,
    /// Ports that found no room then.
    without_room: usize,
}

impl Open {
    /// Says once that ports find no room, and once that they do again.
    fn tell_of_room(&mut self) {
        let ports = self.redirection.ports();
        match (self.without_room, ports.without_room) {
            (0, 0) => {}
            (0, without_room) => warn!(
                without_room,
                redirected = ports.redirected,
                "programs listen at more ports than there is room for: what arrives at some goes to \
                 the programs themselves"
            ),
            (_, 0) => info!("there is room for all ports at which programs listen"),
            _ => {}
        }
        self.without_room = ports.without_room;
    }
}

impl Mesher {
    /// Nothing is redirected yet. `lock` is that of a predecessor that still runs.
    pub(super) fn new(lock: Option<OwnedFd>) -> Self {
        Self { open: None, lock }
    }

    /// Follows a configuration; `sockets` has one of each listener, by name.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        sockets: &[(String, BorrowedFd<'_>)],
    ) -> Result<(), RedirectError> {
        let wanted = plan::wanted(config);
        if wanted.is_empty() {
            return self.end();
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let pin_dir = config.data_plane().pin_dir.clone();
                none.insert(Open {
                    redirection: Redirection::open(&pin_dir, self.lock.take())?,
                    pin_dir,
                    failed: None,
                    without_room: 0,
                })
            }
        };
        let sockets: Vec<_> = (sockets.iter())
            .map(|(name, socket)| (name.as_str(), *socket))
            .collect();
        open.redirection.follow(config, &sockets)?;
        open.failed = None;
        open.tell_of_room();
        let places = open.redirection.places();
        let missing = places.iter().filter(|place| place.id.is_none());
        for place in missing {
            info!(cgroup = place.path, "waiting for a cgroup to be redirected");
        }
        info!(
            listeners = wanted.len(),
            cgroups = places.len(),
            "redirection follows"
        );
        Ok(())
    }

    /// Looks for cgroups that have come or gone.
    pub(super) fn look(&mut self) {
        let Some(open) = &mut self.open else { return };
        let failed = open.redirection.look().err().map(|error| chain(&error));
        if let Some(reason) = failed.as_ref().filter(|_| failed != open.failed) {
            warn!(reason, "a cgroup is not redirected");
        }
        open.failed = failed;
        open.tell_of_room();
    }

    /// Ends what this daemon redirects.
    fn end(&mut self) -> Result<(), RedirectError> {
        if let Some(open) = self.open.take() {
            open.redirection.remove()?;
            info!("nothing is redirected any more");
        }
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        (self.open, self.lock) = (None, None);
    }

    pub(super) fn lock(&self) -> Option<OwnedFd> {
        let open = self.open.as_ref()?;
        open.redirection.lock().try_clone_to_owned().ok()
    }

    /// Ends it, or with `keep` only lets go of it: what holds while nobody listens holds then.
    pub(super) fn release(&mut self, keep: bool) -> Result<(), PlaneError> {
        match self.open.take() {
            Some(open) if !keep => Ok(open.redirection.remove().map_err(RedirectError::from)?),
            _ => Ok(()),
        }
    }

    pub(super) fn view(&self) -> Option<MeshView> {
        let open = self.open.as_ref()?;
        let counts = open.redirection.counts().map_err(|error| {
            debug!(error = %chain(&error), "the counters of redirection cannot be read");
        });
        let mut tallies = redirect::tallies();
        let listeners = counts.unwrap_or_default().into_iter().map(|(name, stats)| {
            let tally = tallies.remove(&name).unwrap_or_default();
            let seen = tally.seen.iter();
            let workloads = tally.workloads.iter();
            MeshListenerView {
                name,
                redirected: stats.redirected,
                excluded: stats.excluded,
                refused: stats.refused,
                passed: stats.passed,
                unreachable: stats.unreachable,
                full: stats.full,
                protocols: seen
                    .map(|(seen, count)| (seen.label().to_owned(), *count))
                    .collect(),
                workloads: workloads
                    .map(|(path, count)| (path.to_string(), *count))
                    .collect(),
            }
        });
        let places = open.redirection.places().iter();
        Some(MeshView {
            listeners: listeners.collect(),
            cgroups: places
                .map(|place| WorkloadView {
                    path: place.path.clone(),
                    id: place.id,
                    state: match (place.id, place.is_attached) {
                        (None, _) => "waiting",
                        (Some(_), true) => "redirected",
                        (Some(_), false) => "failed",
                    }
                    .to_owned(),
                })
                .collect(),
            under_way: open.redirection.waiting() as u64,
            ports: open.redirection.ports().redirected as u64,
            ports_without_room: open.redirection.ports().without_room as u64,
            error: open.failed.clone(),
            pin_dir: open.pin_dir.join("redirect").display().to_string(),
        })
    }
}
