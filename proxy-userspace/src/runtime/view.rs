//! Builds the view: what is configured, what the kernel holds, what was counted, in one place.

use super::control::{Control, epoch_seconds};
use super::plane::Plane;
use crate::config::model::{Backend, Config, Listener, Service};
use crate::health::{BackendHealth, BackendName, FailureKind, Snapshot, Verdict};
use crate::kernel::plan::{Drain, Ids, Overlay, PlanWarning};
use crate::kernel::stats::{MapUsage as KernelUsage, StatsSnapshot};
use crate::kernel::store::{KernelState, StoreError};
use crate::observe::view::{
    BackendView, FlowTable, HealthView, InterfaceView, ListenerView, Lost, MapUsage, ReasonCount,
    ServiceView, Traffic, View,
};
use proxy_common::backend::BackendState;
use proxy_common::maps;
use proxy_common::stats::BackendStats;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// What is going on, as of now.
pub(super) fn view<P: Plane>(control: &mut Control<P>) -> Result<View, StoreError> {
    let (listener_ids, backend_ids) = all_ids(&control.ids);
    let stats = control.plane.stats(&listener_ids, &backend_ids)?;
    let usage = control.plane.usage()?;
    let now = Instant::now();
    let snapshot = control.parts.monitor.snapshot();
    let remaining = |service: &str, backend: &str| {
        control
            .drains
            .remaining(&(service.to_owned(), backend.to_owned()), now)
    };
    let retiring = |id: u16| control.retiring.remaining(&id, now);
    let services = Services {
        config: &control.config,
        overlay: &control.overlay,
        ids: &control.ids,
        kernel: &control.kernel,
        warnings: &control.warnings,
        stats: &stats,
        health: Health::new(&snapshot),
        transitions: &control.transitions,
        remaining: &remaining,
        retiring: &retiring,
    };
    let counters = &control.parts.counters;
    let mut view = View {
        acceleration: None,
        daemon: control.parts.daemon.clone(),
        config: control.config_state.clone(),
        interfaces: interfaces(control),
        flow_table: FlowTable {
            capacity: control
                .sweep
                .last
                .occupancy
                .capacity
                .max(flow_capacity(&control.kernel)),
            entries: control.sweep.last.occupancy.used,
            expired: control.sweep.expired,
        },
        maps: map_usage(&usage, control),
        steering: control.plane.steering(),
        socket_balancing: control.plane.socket_balancing(),
        mesh: control.plane.mesh(),
        services: control
            .config
            .services
            .iter()
            .map(|service| services.service(service))
            .collect(),
        http_listeners: Vec::new(),
        stream_listeners: Vec::new(),
        certificates: control.certificates(),
        routes: Vec::new(),
        duration_bounds: Vec::new(),
        reasons: reasons(&stats),
        lost: Lost {
            events: stats.events_lost + counters.events_lost.load(Relaxed),
            capture: stats.capture_lost + counters.capture_lost.load(Relaxed),
        },
        read_at_seconds: epoch_seconds(),
    };
    if let Some(workers) = &control.workers {
        super::proxy_view::add(&mut view, &control.config, workers);
    }
    let sources = super::health_view::Sources {
        ledger: &control.ledger,
        overlay: &control.overlay,
        snapshot: &snapshot,
        transitions: &control.transitions,
        workers: control.workers.as_ref(),
        bystanders: &control.bystanders,
    };
    super::health_view::add(&mut view, &sources);
    Ok(view)
}

/// Ids of all listeners and of all backends.
fn all_ids(ids: &Ids) -> (Vec<u16>, Vec<u16>) {
    let listeners = ids.listeners();
    let backends = listeners
        .iter()
        .flat_map(|listener| listener.all_backends());
    (
        listeners.iter().map(|listener| listener.id).collect(),
        backends.map(|(_, id)| *id).collect(),
    )
}

fn flow_capacity(kernel: &KernelState) -> u64 {
    let sets = u64::from(kernel.settings.cpus) * u64::from(kernel.settings.sets_per_cpu);
    sets * proxy_common::flow::WAYS as u64
}

fn interfaces<P: Plane>(control: &Control<P>) -> Vec<InterfaceView> {
    let configured = control.config.data_plane().interfaces.iter();
    configured
        .map(|interface| {
            let attached = control
                .attached
                .iter()
                .find(|known| known.interface == interface.name);
            let present = attached.filter(|known| control.is_present(known.ifindex));
            InterfaceView {
                name: interface.name.clone(),
                index: present.map_or(0, |known| known.ifindex),
                attached: present
                    .map_or("detached", |known| known.mode.name())
                    .to_owned(),
            }
        })
        .collect()
}

/// The flow table is shown apart; arrays that always are full say nothing.
fn map_usage<P>(usage: &[KernelUsage], control: &Control<P>) -> Vec<MapUsage> {
    let backends = control.kernel.backends.len() as u64;
    let occupancy = &control.sweep.last.occupancy;
    let ports = MapUsage {
        map: maps::SNAT_PORTS.to_owned(),
        entries: occupancy.snat_used,
        capacity: occupancy.snat_capacity,
    };
    let known = usage.iter().filter_map(|usage| {
        let entries = match usage.name {
            maps::BACKENDS => Some(backends),
            _ => usage.entries.map(u64::from),
        };
        Some(MapUsage {
            map: usage.name.to_owned(),
            entries: entries?,
            capacity: u64::from(usage.capacity),
        })
    });
    known.chain((ports.capacity > 0).then_some(ports)).collect()
}

/// Reasons that were seen.
fn reasons(stats: &StatsSnapshot) -> Vec<ReasonCount> {
    let seen = stats.reasons.iter().filter(|(_, packets)| *packets > 0);
    seen.map(|(reason, packets)| ReasonCount {
        reason: reason.name().to_owned(),
        outcome: reason.outcome().name().to_owned(),
        text: reason.text().to_owned(),
        packets: *packets,
    })
    .collect()
}

/// Health by service and backend.
struct Health<'s> {
    by_name: HashMap<(&'s str, &'s str), &'s BackendHealth>,
}

impl<'s> Health<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        let by_name = snapshot.backends.iter().map(|health| {
            let name = &health.name;
            ((&*name.service, &*name.backend), health)
        });
        Self {
            by_name: by_name.collect(),
        }
    }

    fn get(&self, service: &str, backend: &str) -> Option<&'s BackendHealth> {
        self.by_name.get(&(service, backend)).copied()
    }
}

/// What the views of services are made from.
struct Services<'a> {
    config: &'a Config,
    overlay: &'a Overlay,
    ids: &'a Ids,
    kernel: &'a KernelState,
    warnings: &'a [PlanWarning],
    stats: &'a StatsSnapshot,
    health: Health<'a>,
    transitions: &'a HashMap<BackendName, u64>,
    remaining: &'a dyn Fn(&str, &str) -> Option<Duration>,
    retiring: &'a dyn Fn(u16) -> Option<Duration>,
}

impl Services<'_> {
    fn service(&self, service: &Service) -> ServiceView {
        let listeners = self.config.listeners.iter();
        let own = listeners.filter(|listener| listener.service == service.name);
        let configured = service
            .backends
            .iter()
            .map(|one| self.backend(service, one));
        ServiceView {
            name: service.name.clone(),
            mode: service.mode.name().to_owned(),
            selection: service.selection.name().to_owned(),
            listeners: own.map(|listener| self.listener(listener)).collect(),
            backends: configured.chain(self.retiring(service)).collect(),
            proxy: None,
        }
    }

    fn listener(&self, listener: &Listener) -> ListenerView {
        let id = self.ids.listener(&listener.name).map_or(0, |ids| ids.id);
        let stats = self.stats.services.get(&id).copied().unwrap_or_default();
        let vip = match listener.vip {
            net if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            net => net.to_string(),
        };
        ListenerView {
            name: listener.name.clone(),
            vip,
            port: listener.port.to_string(),
            protocol: listener.protocol.to_string(),
            id,
            local_packets: stats.local_packets,
            local_bytes: stats.local_bytes,
            local_new_flows: stats.local_new_flows,
            dropped: stats.dropped,
            untracked_flows: stats.untracked_flows,
            replaced_flows: stats.replaced_flows,
        }
    }

    fn backend(&self, service: &Service, backend: &Backend) -> BackendView {
        let ids: Vec<u16> = self
            .ids
            .of_backend(&service.name, &backend.name)
            .map(|(_, id)| id)
            .collect();
        let (live, traffic) = self.counted(&ids);
        let health = self.health.get(&service.name, &backend.name);
        BackendView {
            name: backend.name.clone(),
            address: backend.address.to_string(),
            port: backend.port,
            weight: backend.weight,
            state: self.state(service, backend, &ids).name().to_owned(),
            why: self.why(service, backend, health),
            drain_remaining_seconds: (self.remaining)(&service.name, &backend.name)
                .map(|left| left.as_secs_f64()),
            health: health.map(|health| health_view(health, self.transitions_of(health))),
            live_flows: live,
            traffic,
            ids,
            ..BackendView::default()
        }
    }

    /// Live flows and traffic of these backend ids together.
    fn counted(&self, ids: &[u16]) -> (u64, Traffic) {
        let counters = ids.iter().filter_map(|id| self.stats.backends.get(id));
        counters.fold((0, Traffic::default()), |(live, sum), counters| {
            let sum = sum.plus(traffic(&counters.totals));
            (live + counters.live_flows.max(0) as u64, sum)
        })
    }

    /// Backends that the configuration no longer has, but that still have flows.
    fn retiring(&self, service: &Service) -> Vec<BackendView> {
        let mut ids: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for listener in self.ids.of_service(&service.name) {
            for (name, id) in &listener.retiring {
                ids.entry(name).or_default().push(*id);
            }
        }
        let view = |(name, ids): (&str, Vec<u16>)| {
            let (live_flows, traffic) = self.counted(&ids);
            let left = ids.iter().filter_map(|id| (self.retiring)(*id)).max();
            BackendView {
                name: name.to_owned(),
                address: name.to_owned(),
                state: BackendState::Draining.name().to_owned(),
                why: "removed from the configuration".to_owned(),
                drain_remaining_seconds: left.map(|left| left.as_secs_f64()),
                live_flows,
                traffic,
                ids,
                ..BackendView::default()
            }
        };
        ids.into_iter().map(view).collect()
    }

    /// The state in the kernel; what is wanted where no listener uses the service.
    fn state(&self, service: &Service, backend: &Backend, ids: &[u16]) -> BackendState {
        let entry = ids.first().and_then(|id| {
            let found = self
                .kernel
                .backends
                .binary_search_by_key(id, |(id, _)| *id)
                .ok()?;
            BackendState::from_code(self.kernel.backends[found].1.state)
        });
        entry.unwrap_or_else(|| self.overlay.get(&service.name, &backend.name).state())
    }

    fn transitions_of(&self, health: &BackendHealth) -> u64 {
        self.transitions.get(&health.name).copied().unwrap_or(0)
    }

    fn why(&self, service: &Service, backend: &Backend, health: Option<&BackendHealth>) -> String {
        let mut reasons = Vec::new();
        match self.overlay.get(&service.name, &backend.name).drain {
            Drain::No => {}
            Drain::Draining => reasons.push("drained by operator".to_owned()),
            Drain::Expired => reasons.push("drain deadline passed".to_owned()),
        }
        if let Some(health) = health.filter(|health| !health.verdict.is_up()) {
            reasons.push(health_reason(health));
        }
        let lacks_source = self.warnings.iter().any(|warning| match warning {
            PlanWarning::NoTunnelSource {
                service: of,
                backend: name,
                ..
            } => *of == service.name && *name == backend.name,
        });
        if lacks_source {
            reasons.push("no route, so the tunnel has no source address".to_owned());
        }
        if backend.weight == 0 {
            reasons.push("weight 0 takes no new flows".to_owned());
        }
        reasons.join("; ")
    }
}

fn traffic(stats: &BackendStats) -> Traffic {
    Traffic {
        packets: stats.packets,
        bytes: stats.bytes,
        new_flows: stats.new_flows,
        return_packets: stats.return_packets,
        return_bytes: stats.return_bytes,
    }
}

pub(super) fn health_reason(health: &BackendHealth) -> String {
    match (health.verdict, &health.last_failure) {
        (Verdict::Unknown, _) => "not probed yet".to_owned(),
        (Verdict::Held, _) => format!("flaps: held down (penalty {:.1})", health.penalty),
        (_, Some((_, failure))) => format!("health: {failure}"),
        (_, None) => "health: down when adopted".to_owned(),
    }
}

pub(super) fn health_view(health: &BackendHealth, transitions: u64) -> HealthView {
    let failed = FailureKind::ALL
        .iter()
        .map(|kind| (kind.label().to_owned(), health.tally.failed[kind.index()]));
    HealthView {
        verdict: health.verdict.label().to_owned(),
        passed: health.tally.passed,
        failed: failed.filter(|(_, count)| *count > 0).collect(),
        transitions,
        last_probe_seconds: health.last_latency.map(|latency| latency.as_secs_f64()),
        last_error: health
            .last_failure
            .as_ref()
            .map(|(_, failure)| failure.to_string()),
    }
}
