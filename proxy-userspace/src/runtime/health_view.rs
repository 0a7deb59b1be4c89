//! What is known of backends' health, added to the view: of those with addresses, and of those that
//! DNS has named.

use super::bystanders::Bystanders;
use super::health::Ledger;
use super::view::{health_reason, health_view};
use super::workers::Workers;
use crate::balance::l7::{BackendState, ServiceState, Workloads};
use crate::config::model::outlier::Detector;
use crate::health::outlier::Network;
use crate::health::{BackendName, Snapshot};
use crate::kernel::plan::Overlay;
use crate::net::clock::Clock;
use crate::observe::view::{BackendView, EjectionView, NetworkView, View, WorkloadConnectionsView};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What the view is made from.
pub(super) struct Sources<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) overlay: &'a Overlay,
    pub(super) snapshot: &'a Snapshot,
    pub(super) transitions: &'a HashMap<BackendName, u64>,
    pub(super) workers: Option<&'a Workers>,
    pub(super) bystanders: &'a Bystanders,
}

/// Adds it.
pub(super) fn add(view: &mut View, from: &Sources<'_>) {
    let now = Duration::from_nanos(Clock::new().last());
    for service in &mut view.services {
        let registry = from.workers.map(|workers| workers.snapshot().registry());
        let state = registry.and_then(|registry| registry.service(&service.name));
        let state = state.or_else(|| from.bystanders.service(&service.name));
        let latencies = state.map(|state| state.latencies().1).unwrap_or_default();
        for backend in &mut service.backends {
            let known = latencies.iter().find(|(it, _)| it.name() == backend.name);
            if let Some((known, latency)) = known {
                backend.latency_seconds = latency.map(|nanos| nanos / 1e9);
                backend.network = network(&known.network()).map(|seen| NetworkView {
                    rtt_seconds: state
                        .and_then(|state| state.round_trip(known))
                        .map(|it| it / 1e9),
                    ..seen
                });
                backend.workloads = workloads(&known.workloads());
                eject(backend, state, known, now);
            }
            from.remember(&service.name, backend);
        }
    }
}

/// What the kernel tells of connections, if there were any.
fn network(seen: &Network) -> Option<NetworkView> {
    (*seen != Network::default()).then_some(NetworkView {
        rtt_seconds: None,
        segments: seen.segments,
        retransmits: seen.retransmits,
        disordered: seen.disordered,
        looks: seen.looks,
        zero_windows: seen.zero_windows,
    })
}

/// The same of workloads' connections.
fn workloads(seen: &Workloads) -> Option<WorkloadConnectionsView> {
    (*seen != Workloads::default()).then(|| WorkloadConnectionsView {
        network: network(&seen.network).unwrap_or_default(),
        opened: seen.opened,
        failed: seen.failed,
    })
}

/// The ejection, and what it means.
fn eject(
    view: &mut BackendView,
    state: Option<&Arc<ServiceState>>,
    backend: &BackendState,
    now: Duration,
) {
    let Some(ejected) = state.and_then(|state| state.ejection(backend)) else {
        return;
    };
    let left = ejected.until.saturating_sub(now).as_secs_f64();
    explain(view, &format!("ejected: {}", ejected.evidence));
    if view.state == "up" {
        // Not in the kernel: only proxies use it.
        "ejected".clone_into(&mut view.state);
    }
    view.ejection = Some(EjectionView {
        detector: ejected.evidence.detector().label().to_owned(),
        why: ejected.evidence.to_string(),
        remaining_seconds: left,
        times: ejected.times,
    });
}

fn explain(view: &mut BackendView, why: &str) {
    if !view.why.is_empty() {
        view.why.push_str("; ");
    }
    view.why.push_str(why);
}

impl Sources<'_> {
    /// What has happened to it, and what its checks say.
    fn remember(&self, service: &str, view: &mut BackendView) {
        if let Some(page) = self.ledger.page(service, &view.name) {
            view.history = page.history.iter().cloned().collect();
            let counts = Detector::ALL.iter().zip(page.ejections);
            let counts = counts.filter(|(_, count)| *count > 0);
            view.ejections = counts
                .map(|(detector, count)| (detector.label().to_owned(), count))
                .collect();
        }
        let reduced = self.overlay.get(service, &view.name).reduced;
        if reduced > 0 {
            let left = 100 - reduced.min(100);
            explain(view, &format!("slow: {left} % of its weight"));
            view.steered_percent = Some(left);
        }
        if view.health.is_some() {
            return;
        }
        let mut checked = self.snapshot.backends.iter();
        let found = checked
            .find(|health| *health.name.service == *service && *health.name.backend == *view.name);
        if let Some(health) = found {
            let transitions = self.transitions.get(&health.name).copied().unwrap_or(0);
            view.health = Some(health_view(health, transitions));
            if !health.verdict.is_up() {
                explain(view, &health_reason(health));
            }
        }
    }
}
