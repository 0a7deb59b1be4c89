//! The proxy paths, as the control task keeps them in step with health checks and drains.

use super::control::Control;
use super::plane::Plane;
use super::workers::{Inherited, Known, Workers, WorkersError};
use crate::balance::l7::ServiceState;
use crate::config::model::Config;
use crate::kernel::plan::{Drain, Health, Overlay};
use crate::net::Nanos;
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
        obey(state, overlay, now);
    }
}

/// Tells a balancer what checks and operators say.
pub(super) fn obey(state: &ServiceState, overlay: &Overlay, now: Nanos) {
    for backend in state.backends() {
        let known = overlay.get(state.name(), backend.name());
        match known.health {
            Health::Unknown => state.set_unseen(backend.name(), now),
            health => state.set_healthy(backend.name(), health == Health::Up, now),
        };
        state.set_draining(backend.name(), known.drain != Drain::No, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::l7::{Registry, ServiceSpec};

    /// Nobody begins slowly when all begin; who was down does.
    #[test]
    fn a_first_verdict_is_no_return() {
        let text = "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 80, service: web}]
services:
  - name: web
    backends: ['127.0.0.1:81', '127.0.0.1:82']
    balance: {slow_start: 10m}
    health: {tcp: {}}";
        let loaded = crate::config::parse("test", text);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        let service = &loaded.config.services[0];
        let spec = ServiceSpec::new(service, &service.upstream);
        let registry = Registry::build(None, vec![spec], 0, 0, 1);
        registry.activate(None, 1);
        let state = &registry.services()[0];
        let tell = |health, now| {
            let mut overlay = Overlay::default();
            for backend in state.backends() {
                overlay.entry("web", backend.name()).health = health;
            }
            obey(state, &overlay, now);
        };
        let are_up = |up| state.backends().iter().all(|it| it.is_passing() == up);
        tell(Health::Unknown, 2);
        assert!(are_up(false));
        tell(Health::Up, 3);
        assert!(are_up(true));
        assert_eq!(state.next_change(), None, "somebody begins slowly");
        tell(Health::Down, 4);
        assert!(are_up(false));
        tell(Health::Up, 5);
        assert!(state.next_change().is_some(), "nobody begins slowly");
    }
}
