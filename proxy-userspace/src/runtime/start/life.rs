//! The control task and what it lives with.

use super::error::StartError;
use crate::admin::api::chain;
use crate::admin::routes::Shared;
use crate::config::model::Config;
use crate::health::{self, HealthChange};
use crate::kernel::attach;
use crate::kernel::load::Adoption;
use crate::observe::build::VERSION;
use crate::observe::view::{self, Phase};
use crate::runtime::capture::{CaptureHub, CapturePump};
use crate::runtime::control::{Control, Parts, epoch_seconds};
use crate::runtime::history::Beginning;
use crate::runtime::mesh::Mesher;
use crate::runtime::names::SharedNames;
use crate::runtime::observe::{FlowHub, FlowPump};
use crate::runtime::on_demand::OnDemand;
use crate::runtime::plane::Plane;
use crate::runtime::probing::CountingProber;
use crate::runtime::real::Readers;
use crate::runtime::socket_balancing::SocketBalancer;
use crate::runtime::source::Source;
use crate::runtime::steering::Steerer;
use crate::runtime::upgrade::State;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// The control task, and what it lives with.
pub(super) struct Life {
    pub(super) control: Control<OnDemand>,
    changes: mpsc::UnboundedReceiver<HealthChange>,
    tasks: Tasks,
    pumps: (FlowPump, CapturePump),
}

impl Life {
    /// Opens the data plane and makes it follow the configuration.
    pub(super) fn begin(
        beginning: Beginning,
        source: Box<dyn Source>,
        shared: &Shared,
        locks: Locks,
        state: Option<State>,
    ) -> Result<Self, StartError> {
        let counters = &shared.counters;
        let (monitor, driver, changes) = health::monitor(
            CountingProber::new(health::NetProber, Arc::clone(counters)),
            health::Options::default(),
        );
        let mut tasks = Tasks::default();
        let (parts, readers, pumps) = parts(&beginning.config, monitor, shared);
        tasks.spawn(driver.run(std::future::pending()));
        let state = state.as_ref();
        Ok(Self {
            control: begin(beginning, source, parts, readers, locks, state)?,
            changes,
            tasks,
            pumps,
        })
    }

    /// Has what is steered reach the workers' sockets: those of a predecessor are the same ones, others
    /// keep what comes until it is accepted. Where that fails, what was there before stays as it is.
    pub(super) fn steer(mut self, is_heir: bool) -> Result<Self, StartError> {
        if !self.control.steers() {
            return Ok(self);
        }
        match self.control.steer_sockets() {
            Ok(()) => Ok(self),
            Err(error) => {
                let keep = is_heir || self.control.parts.daemon.adopted;
                end(self.control, keep)?;
                Err(StartError::Plane(error))
            }
        }
    }

    /// Reads what the kernel part tells, which one process at a time may.
    pub(super) fn read_rings(
        self,
    ) -> (
        Control<OnDemand>,
        mpsc::UnboundedReceiver<HealthChange>,
        Tasks,
    ) {
        let mut tasks = self.tasks;
        tasks.spawn(self.pumps.0.run());
        tasks.spawn(self.pumps.1.run());
        (self.control, self.changes, tasks)
    }
}

/// Locks of a predecessor that still runs.
#[derive(Default)]
pub(super) struct Locks {
    pub(super) pins: Option<OwnedFd>,
    pub(super) steering: Option<OwnedFd>,
    pub(super) sockets: Option<OwnedFd>,
    pub(super) mesh: Option<OwnedFd>,
}

/// Makes what surrounds the control task, and where the plane's readers go.
fn parts(
    config: &Config,
    monitor: health::Monitor,
    shared: &Shared,
) -> (Parts, Readers, (FlowPump, CapturePump)) {
    let names = SharedNames::default();
    let counters = &shared.counters;
    let (events_to, events_from) = mpsc::unbounded_channel();
    let (captures_to, captures_from) = mpsc::unbounded_channel();
    let (flows, flow_pump) = FlowHub::new(events_from, names.clone(), counters.clone());
    let (capture, capture_pump) = CaptureHub::new(captures_from, names.clone(), counters.clone());
    let daemon = view::Daemon {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        phase: Phase::Starting,
        started_at_seconds: epoch_seconds(),
        adopted: false,
        pin_dir: config.data_plane().pin_dir.display().to_string(),
        privileges: BTreeMap::new(),
    };
    let parts = Parts {
        monitor,
        counters: Arc::clone(counters),
        readiness: Arc::clone(&shared.readiness),
        names,
        flows,
        capture,
        journal: Arc::clone(&shared.journal),
        access: shared.access.clone(),
        daemon,
    };
    (
        parts,
        Readers {
            events: events_to,
            captures: captures_to,
        },
        (flow_pump, capture_pump),
    )
}

fn begin(
    beginning: Beginning,
    source: Box<dyn Source>,
    mut parts: Parts,
    readers: Readers,
    locks: Locks,
    state: Option<&State>,
) -> Result<Control<OnDemand>, StartError> {
    let config = &beginning.config;
    let plane = {
        let steering = Steerer::new(locks.steering);
        let beside = (steering, Mesher::new(locks.mesh));
        let sockets = SocketBalancer::new(locks.sockets);
        let opened = OnDemand::open(config, readers, locks.pins, beside, sockets);
        opened.map_err(StartError::Plane)?
    };
    let is_fresh = plane.tentative() == Some(&Adoption::Fresh);
    parts.daemon.adopted = match plane.tentative() {
        None | Some(Adoption::Fresh) => false,
        Some(Adoption::Adopted { .. }) => true,
        Some(Adoption::Replaced { copied, .. }) => *copied,
    };
    let pin_dir = config.data_plane().pin_dir.clone();
    Control::begin(plane, source, beginning, parts, state).map_err(|error| {
        // What was there before forwards on; what was made for nothing is removed.
        if is_fresh && let Err(error) = attach::remove(&pin_dir) {
            warn!(error = %chain(&error), "the unused pins remain");
        }
        error.into()
    })
}

/// Ends: detached or let go of.
pub(super) fn end<P: Plane>(control: Control<P>, keep: bool) -> Result<(), StartError> {
    let is_kernel = control.has_plane();
    control.release(keep).map_err(|error| {
        warn!(error = %chain(&error), "the data plane could not be closed");
        StartError::Plane(error)
    })?;
    if !is_kernel {
        return Ok(());
    }
    if keep {
        info!("the kernel goes on forwarding; `sluice run` adopts it, `sluice detach` removes it");
    } else {
        info!("detached");
    }
    Ok(())
}

/// Tasks that end with this value.
#[derive(Default)]
pub(super) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    /// Ends them; none runs any more afterwards.
    pub(super) async fn end(mut self) {
        for task in std::mem::take(&mut self.0) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
