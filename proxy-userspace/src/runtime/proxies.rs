//! The proxy paths, as the control task keeps them in step with health checks and drains.

use super::control::Control;
use super::plane::Plane;
use super::workers::{Inherited, Known, Workers, WorkersError};
use crate::config::model::Config;
use crate::kernel::plan::{Drain, Health, Overlay};
use crate::net::clock::Clock;
use crate::observe::counters::{Counters, ProxySources};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::{info, warn};

/// Starts the workers, if the configuration has anything for them. They serve when told to.
///
/// # Errors
///
/// [`WorkersError`].
pub(super) fn start(
    config: &Config,
    inherited: Inherited,
    known: Option<&Known>,
) -> Result<Option<Workers>, WorkersError> {
    if config.http_listeners.is_empty() && config.stream_listeners.is_empty() {
        return Ok(None);
    }
    let nothing = Known::default();
    let workers = Workers::take_over(config, inherited, known.unwrap_or(&nothing))?;
    for address in workers.listeners() {
        info!(%address, "listening");
    }
    Ok(Some(workers))
}

/// Has the metrics page show what the workers count. They live as long as the process does: without
/// listeners they have nothing to do.
pub(super) fn publish(workers: &Workers, counters: &Counters) {
    let _ = counters.proxy.set(ProxySources {
        metrics: Arc::clone(workers.metrics()),
        logs: Arc::clone(workers.log_counters()),
        spans: Arc::clone(workers.span_counters()),
        certificates: Arc::clone(workers.certificates()),
        watch: Arc::clone(workers.watch()),
    });
}

/// Tells the balancers of the proxy paths what checks and operators say.
pub(super) fn follow(workers: &Workers, overlay: &Overlay) {
    let now = Clock::new().last();
    for state in workers.snapshot().registry().services() {
        for backend in state.backends() {
            let known = overlay.get(state.name(), backend.name());
            state.set_healthy(backend.name(), known.health == Health::Up, now);
            state.set_draining(backend.name(), known.drain != Drain::No, now);
        }
    }
}

impl<P: Plane> Control<P> {
    /// Ends the proxy paths: connections end with their requests, or when their time is over, or
    /// when somebody is in a hurry.
    pub(super) async fn drain_proxies(&mut self, hurry: &Notify) {
        let Some(mut workers) = self.workers.take() else {
            return;
        };
        let deadline: Duration = self.config.workers.drain_timeout;
        let connections = workers.connections();
        info!(connections, ?deadline, "waiting for connections to end");
        tokio::select! {
            left = workers.drain(deadline) => {
                if left > 0 {
                    warn!(connections = left, "the drain's time is over: cutting them off");
                }
            }
            () = hurry.notified() => {}
        }
    }
}
