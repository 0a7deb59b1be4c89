//! What the control task looks after by itself: nobody reports it.

use super::control::Control;
use super::names::NameTable;
use super::overlay;
use super::plane::Plane;
use crate::admin::api::chain;
use crate::config::model::Interface;
use crate::health::Verdict;
use crate::kernel::apply::{Target, follow};
use crate::kernel::attach::Attachment;
use crate::observe::readiness::Check;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tracing::{debug, info, warn};

/// Ticks between comparisons of the maps with what they should hold.
const RECONCILE_TICKS: u64 = 30;

/// Ticks between looks at neighbours and routes.
const NEIGHBOUR_TICKS: u64 = 3;

impl<P: Plane> Control<P> {
    /// Looks after everything that nobody reports.
    pub(super) fn tick(&mut self) {
        if self.is_frozen {
            return super::signals::alive();
        }
        self.ticks += 1;
        if self.behind.is_some() || self.ticks.is_multiple_of(RECONCILE_TICKS) {
            self.reconcile();
        }
        self.expire_guard_rules();
        self.look_after_condemned();
        self.expire_log_level();
        self.ejections_follow();
        self.follow_latency();
        self.watch_interfaces();
        self.watch_machine();
        self.watch_certificates();
        self.look_after_sockets();
        if let Some(workers) = &self.workers {
            workers.look_after_acceleration(Instant::now());
        }
        self.plane.look_for_workloads();
        if self.ticks.is_multiple_of(RECONCILE_TICKS) {
            self.keep_probes_aimed();
        }
        if self.ticks.is_multiple_of(NEIGHBOUR_TICKS) {
            self.resolve_neighbours();
        }
        self.publish_readiness();
        super::signals::alive();
    }

    /// Sweeps a slice of the flow table.
    pub(super) fn sweep(&mut self) {
        match self.plane.sweep() {
            Ok(Some(report)) => {
                self.sweep.last = report;
                self.sweep.expired += report.flows_expired;
            }
            Ok(None) => {}
            Err(error) => self.kernel_failed(&error),
        }
    }

    /// Compares the maps with what they should hold, and repairs them.
    fn reconcile(&mut self) {
        if !self.has_plane() {
            // There are no maps that anybody could have changed.
            return;
        }
        let was_behind = self.behind.is_some();
        let target = Target {
            config: &self.config,
            overlay: &self.overlay,
            host: &self.host,
        };
        match follow(self.plane.store(), &target) {
            Ok(plan) => {
                if !plan.edits.is_empty() && !was_behind {
                    let edits = plan.edits.len() as u64;
                    warn!(
                        edits,
                        "the maps had been changed by somebody else: repaired"
                    );
                    self.parts.counters.reconciled.fetch_add(edits, Relaxed);
                }
                self.take(plan);
                self.publish_names();
            }
            Err(error) => {
                debug!(error = %chain(&error), "still behind");
                self.fall_behind(&error);
            }
        }
    }

    /// Attaches again where an interface has gone and come back.
    fn watch_interfaces(&mut self) {
        self.present = self.plane.interfaces();
        let lost = |attached: &Attachment| !self.is_present(attached.ifindex);
        let wanted = &self.config.data_plane().interfaces;
        let back =
            |interface: &Interface| self.present.iter().any(|(name, _)| *name == interface.name);
        // While one is still missing, the others forward on and `/readyz` says so.
        if !self.attached.iter().any(lost) || !wanted.iter().all(back) {
            return;
        }
        match self.plane.attach(wanted) {
            Ok(attached) => {
                info!("attached again to interfaces that had gone");
                self.attached = attached;
                self.publish_names();
                self.keep_probes_aimed();
            }
            Err(error) => {
                self.parts.counters.kernel_error("attach");
                warn!(error = %chain(&error), "cannot attach again");
            }
        }
    }

    /// Makes new maps when the machine has outgrown them: a CPU that came online later has no part
    /// of the flow table, and packets that reach it are dropped.
    fn watch_machine(&mut self) {
        if self.ticks < self.next_refit || !self.plane.is_outgrown(&self.config) {
            return;
        }
        match self.refit() {
            Ok(()) => info!("more CPUs are online than before: they have a part of the maps now"),
            Err(refusal) => {
                // Making maps is dear, and what stands in the way does not go within a second.
                self.next_refit = self.ticks + RECONCILE_TICKS;
                self.parts.counters.kernel_error("refit");
                warn!(
                    error = %refusal.message,
                    "cannot make maps for all CPUs that are online; trying again in {RECONCILE_TICKS} s"
                );
            }
        }
    }

    /// Puts back what probes to VIPs need, if somebody removed it: network managers like to remove
    /// rules that they did not make.
    fn keep_probes_aimed(&mut self) {
        let Some(interfaces) = overlay::aimed(&self.config) else {
            return;
        };
        if let Err(error) = self.plane.aim_probes(Some(interfaces)) {
            self.parts.counters.kernel_error("steer");
            warn!(error = %chain(&error), "cannot aim health probes to VIPs");
        }
    }

    /// True if there is an interface with this index.
    pub(super) fn is_present(&self, ifindex: u32) -> bool {
        self.present.iter().any(|(_, index)| *index == ifindex)
    }

    /// Backends' neighbours are resolved ahead, so that a first packet need not wait; sources of
    /// tunnels follow the routes.
    pub(super) fn resolve_neighbours(&mut self) {
        let addresses: Vec<IpAddr> = (self.config.services.iter())
            .flat_map(|service| service.backends.iter().map(|backend| backend.address))
            .collect();
        self.plane.resolve(&addresses);
        let host = self.plane.host(&self.config);
        if host.egress_sources != self.host.egress_sources {
            self.host = host;
            self.replan("routes changed");
        }
    }

    /// Replaces the snapshot that the pumps read.
    pub(super) fn publish_names(&mut self) {
        self.present = self.plane.interfaces();
        let interfaces = self
            .present
            .iter()
            .map(|(name, index)| (*index, name.clone()));
        let services = self.config.services.iter();
        let modes = services.map(|service| (service.name.clone(), service.mode.name()));
        self.parts.names.store(Arc::new(NameTable {
            ids: self.ids.clone(),
            interfaces: interfaces.collect(),
            modes: modes.collect(),
        }));
    }

    pub(super) fn publish_readiness(&mut self) {
        let mut checks = vec![
            Check::phase(self.parts.daemon.phase),
            Check::new("data-plane", self.behind.clone()),
            Check::new("health", self.unprobed()),
        ];
        for interface in &self.config.data_plane().interfaces {
            let name = &interface.name;
            let attached = (self.attached.iter())
                .any(|known| known.interface == *name && self.is_present(known.ifindex));
            let wrong = (!attached).then(|| "the interface is missing".to_owned());
            checks.push(Check::new(format!("interface:{name}"), wrong));
        }
        self.parts.readiness.set(checks);
    }

    /// Backends that have never been probed: a balancer that just started would send all to none.
    fn unprobed(&self) -> Option<String> {
        let monitor = &self.parts.monitor;
        let waiting = (self.config.services.iter())
            .flat_map(|service| {
                service
                    .backends
                    .iter()
                    .map(move |backend| (service, backend))
            })
            .filter(|(service, backend)| {
                monitor.verdict(&service.name, &backend.name) == Some(Verdict::Unknown)
            })
            .count();
        (waiting > 0).then(|| format!("{waiting} backends have not been probed yet"))
    }
}
