//! The task that owns the data plane: what it keeps, and the order in which it does things.

use super::bystanders::Bystanders;
use super::capture::CaptureHub;
use super::certificates::Watched;
use super::condemn::Hearings;
use super::drains::{Deadlines, Key};
use super::health::{self, Ledger};
use super::history::{Beginning, History};
use super::names::SharedNames;
use super::observe::FlowHub;
use super::overlay;
use super::plane::{Plane, PlaneError};
use super::source::Source;
use super::successor::{Estate, Upgrade};
use super::upgrade::{State, Successor};
use super::workers::Workers;
use crate::admin::access::SharedAccess;
use crate::admin::api::chain;
use crate::admin::control::Command;
use crate::condemn::Register;
use crate::config::model::Config;
use crate::health::{
    BackendName, Check, CheckError, HealthChange, Monitor, Named, SealError, Seals,
};
use crate::kernel::apply::{ApplyError, FollowError, Target, apply, follow};
use crate::kernel::attach::Attachment;
use crate::kernel::plan::{
    Drain, Host, Ids, Inputs, Overlay, Plan, PlanErrors, PlanWarning, Removed, plan,
};
use crate::kernel::store::{KernelState, MapStore as _, StoreError};
use crate::kernel::sweep::{STEP_INTERVAL, SweepReport};
use crate::observe::counters::Counters;
use crate::observe::journal::{Happening, Journal, Topic};
use crate::observe::readiness::Readiness;
use crate::observe::view::{CertificateView, ConfigState, Daemon, Phase};
use crate::privileges::Kept;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

/// How often is looked after what may have gone wrong: a plan that failed, expired guard rules,
/// interfaces that came or went, neighbours.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Health changes that are planned for at once.
const HEALTH_BATCH: usize = 256;

/// How the daemon is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Leave the kernel forwarding.
    pub(crate) keep_dataplane: bool,
}

/// How the control task's loop has ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Somebody has told it to.
    Told(Ending),
    /// Another process has taken over.
    Succeeded(Box<Successor>),
}

/// What the control task is made of, besides the plane and the configuration.
pub(crate) struct Parts {
    /// Health checks; another task drives them.
    pub(crate) monitor: Monitor,
    /// The daemon's own counters.
    pub(crate) counters: Arc<Counters>,
    /// What `/readyz` answers.
    pub(crate) readiness: Arc<Readiness>,
    /// The snapshot for the pumps.
    pub(crate) names: SharedNames,
    /// Those who observe flows.
    pub(crate) flows: FlowHub,
    /// The capture session, if there is one.
    pub(crate) capture: CaptureHub,
    /// What has happened.
    pub(crate) journal: Arc<Journal>,
    /// Who may use the API over TCP, if anybody may.
    pub(crate) access: Option<SharedAccess>,
    /// Facts for the view.
    pub(crate) daemon: Daemon,
}

/// The control task's state.
pub(crate) struct Control<P> {
    pub(super) plane: P,
    pub(super) source: Box<dyn Source>,
    pub(super) config: Config,
    /// `sample_every` of the configuration; a listener may have asked for more.
    pub(super) configured_sampling: u32,
    pub(super) config_state: ConfigState,
    /// Entity tag of the configuration in force.
    pub(super) etag: String,
    /// What the file said when it was last read or written.
    pub(super) saved: Arc<Config>,
    /// The certificates of listeners.
    pub(super) shown: Vec<CertificateView>,
    /// TLS of the health checks.
    pub(super) seals: Seals,
    /// The configurations that were in force.
    pub(super) history: History,
    pub(super) overlay: Overlay,
    /// Configured backends that an operator drains.
    pub(super) drains: Deadlines<Key>,
    /// Backends that the configuration no longer has, by id.
    pub(super) retiring: Deadlines<u16>,
    pub(super) host: Host,
    /// What the maps hold, as of the last plan.
    pub(super) kernel: KernelState,
    pub(super) ids: Ids,
    pub(super) warnings: Vec<PlanWarning>,
    pub(super) attached: Vec<Attachment>,
    /// Interfaces that were there when last looked, with their indices.
    pub(super) present: Vec<(String, u32)>,
    /// Changes of health verdicts by backend.
    pub(super) transitions: HashMap<BackendName, u64>,
    /// What has happened to backends.
    pub(super) ledger: Ledger,
    pub(super) sweep: SweepTotals,
    /// Who is condemned.
    pub(super) condemned: Register,
    pub(super) parts: Parts,
    /// The proxy paths, if there are any.
    pub(super) workers: Option<Workers>,
    /// Services that only workloads' sockets use.
    pub(super) bystanders: Bystanders,
    /// Why the data plane does not follow, if it does not.
    pub(super) behind: Option<String>,
    /// How a new process is started, and what it is handed beside what is kept here; `None` where
    /// that cannot be done.
    pub(super) estate: Option<Estate>,
    /// What the process may do: a configuration that needs more is refused.
    pub(super) kept: Option<Kept>,
    /// Another process is about to take over: the maps are not changed meanwhile.
    pub(super) is_frozen: bool,
    pub(super) ticks: u64,
    /// The files of certificates, as they were when they were read.
    pub(super) certificates: Watched,
    /// The tick from which maps may be made anew for a machine that has outgrown them.
    pub(super) next_refit: u64,
    /// When the log level is that of the command line again.
    pub(super) log_until: Option<Instant>,
}

/// What the sweeper found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SweepTotals {
    /// The last complete pass.
    pub(crate) last: SweepReport,
    /// Flows expired by all passes.
    pub(crate) expired: u64,
}

/// The control task could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The health checks make no sense.
    #[error(transparent)]
    Checks(#[from] CheckError),
    /// TLS of a health check cannot be spoken.
    #[error(transparent)]
    Seals(#[from] SealError),
    /// The data plane cannot follow the configuration.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The maps cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The program cannot be attached.
    #[error(transparent)]
    Plane(#[from] super::plane::PlaneError),
}

impl<P: Plane> Control<P> {
    /// Takes over a data plane, makes it follow the configuration and attaches it. `state` is what
    /// an earlier control task knew that is not in the maps.
    pub(crate) fn begin(
        mut plane: P,
        source: Box<dyn Source>,
        beginning: Beginning,
        parts: Parts,
        state: Option<&State>,
    ) -> Result<Self, BeginError> {
        let config = beginning.config;
        let kernel = plane.store().state()?;
        let ids = Ids::recover(&config, &kernel);
        let mut overlay = Overlay::adopt(&config, &kernel);
        overlay.removed = Removed::Drain {
            released: BTreeSet::new(),
        };
        let host = plane.host(&config);
        let config_state = ConfigState {
            path: source.name(),
            generation: state.map_or(1, |state| state.generation.max(1)),
            loaded_at_seconds: epoch_seconds(),
            last_reload_successful: true,
            ..ConfigState::default()
        };
        let mut control = Self {
            plane,
            source,
            configured_sampling: config.data_plane().sample_every,
            etag: String::new(),
            saved: beginning.saved,
            shown: Vec::new(),
            seals: Seals::default(),
            history: beginning.history,
            certificates: Watched::of(&config),
            config,
            config_state,
            overlay,
            drains: Deadlines::default(),
            retiring: Deadlines::default(),
            host,
            kernel,
            ids,
            warnings: Vec::new(),
            attached: Vec::new(),
            present: Vec::new(),
            transitions: HashMap::new(),
            ledger: Ledger::default(),
            sweep: SweepTotals::default(),
            condemned: Register::default(),
            parts,
            workers: None,
            bystanders: Bystanders::default(),
            behind: None,
            estate: None,
            kept: None,
            is_frozen: false,
            ticks: 0,
            next_refit: 0,
            log_until: None,
        };
        control.resume(state)?;
        Ok(control)
    }

    fn resume(&mut self, state: Option<&State>) -> Result<(), BeginError> {
        if let Some(state) = state {
            self.inherit(state);
            self.inherit_pages(&state.pages);
        }
        let named = self.named();
        self.seals = Seals::read(&self.config, SystemTime::now())?;
        let mut checks = self.checks_for(&self.config, &named, &self.seals)?;
        self.adopt_sockets(&mut checks);
        if let Some(state) = state {
            state.tell(&mut checks);
        }
        self.parts.monitor.reconcile(checks);
        overlay::update_health(&mut self.overlay, &self.config, &named, &self.parts.monitor);
        self.begin_adopted_drains();
        if let Some(state) = state {
            self.inherit_deadlines(state);
        }
        let target = Target {
            config: &self.config,
            overlay: &self.overlay,
            host: &self.host,
        };
        let plan = follow(self.plane.store(), &target)?;
        self.take(plan);
        self.inherit_condemned(state);
        self.attached = self.plane.attach(&self.config.data_plane().interfaces)?;
        self.plane.aim_probes(overlay::aimed(&self.config))?;
        self.mark_probes();
        self.resolve_neighbours();
        self.plane.settle();
        self.balance_sockets();
        if let Some(state) = state {
            self.inherit_bystanders(&state.bystanders);
        }
        self.parts.counters.loaded(true, epoch_seconds() as u64);
        self.publish_names();
        self.tag();
        self.remember_beginning();
        self.note(Happening::new(Topic::Daemon, "started"));
        self.set_phase(Phase::Serving);
        Ok(())
    }

    /// The health checks of a configuration whose TLS is this.
    pub(super) fn checks_for(
        &self,
        config: &Config,
        named: &Named,
        seals: &Seals,
    ) -> Result<Vec<Check>, CheckError> {
        overlay::checks_for(config, named, seals, &self.kernel, &self.overlay)
    }

    /// Tells the probes to VIPs by which mark their packets find their backend.
    pub(super) fn mark_probes(&self) {
        if !overlay::probes_vips(&self.config) {
            return;
        }
        match self.checks_for(&self.config, &self.named(), &self.seals) {
            Ok(checks) => drop(self.parts.monitor.reconcile(checks)),
            Err(error) => error!(%error, "probes to VIPs cannot be marked"),
        }
    }

    /// Gives draining backends of an earlier process their whole time again.
    fn begin_adopted_drains(&mut self) {
        let now = Instant::now();
        for (service, backend) in overlay::draining(&self.overlay, &self.config) {
            let timeout = self
                .config
                .service(service)
                .map(|service| service.drain_timeout);
            self.drains.begin(
                (service.to_owned(), backend.to_owned()),
                now + timeout.unwrap_or_default(),
            );
            info!(service, backend, ?timeout, "still draining");
        }
    }

    /// Serves until told to stop; returns how to.
    ///
    /// Once told, it reports itself as not ready and serves on for `stop_delay`, so that load
    /// balancers in front have time to notice. `hurry`, or being told again, cuts that short.
    pub(crate) async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        changes: &mut mpsc::UnboundedReceiver<HealthChange>,
        stop_delay: Duration,
        hurry: &Notify,
    ) -> Ended {
        let mut ticks = interval(TICK);
        let mut sweeps = interval(STEP_INTERVAL);
        for timer in [&mut ticks, &mut sweeps] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut batch = Vec::new();
        let mut ending = Ending::default();
        let mut stop_at: Option<Instant> = None;
        let mut upgrade: Option<Upgrade> = None;
        let mut hearings = Hearings::new();
        loop {
            let drain_end = self.next_drain_end();
            // In this order: what people and checks say comes before housekeeping.
            tokio::select! {
                biased;
                () = hurry.notified(), if stop_at.is_some() => {
                    // Nobody waits for connections either.
                    hurry.notify_one();
                    return Ended::Told(ending);
                }
                () = until(stop_at) => return Ended::Told(ending),
                outcome = Upgrade::outcome(&mut upgrade) => {
                    if let Some(successor) = self.upgraded(outcome) {
                        return Ended::Succeeded(Box::new(successor));
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Stop(request, reply)) => {
                        // The asker may have left.
                        let _ = reply.send(Ok(()));
                        ending.keep_dataplane = request.keep_dataplane;
                        if let Some(upgrade) = upgrade.take() {
                            self.give_up(upgrade);
                        }
                        if request.now || stop_delay.is_zero() || stop_at.is_some() {
                            return Ended::Told(ending);
                        }
                        info!(delay = ?stop_delay, "not ready any more, still forwarding");
                        self.set_phase(Phase::Stopping);
                        stop_at = Some(Instant::now() + stop_delay);
                    }
                    Some(Command::Upgrade(request, reply)) if stop_at.is_none() => {
                        upgrade = self.upgrade(upgrade, &request, reply);
                    }
                    Some(command) => self.answer(command),
                    None => return Ended::Told(Ending::default()),
                },
                heard = hearings.next(self.watch()), if !self.is_frozen => {
                    self.hear(&mut hearings, heard);
                }
                notes = health::news(self.news_of_proxies()) => self.heard(&notes),
                count = changes.recv_many(&mut batch, HEALTH_BATCH) => {
                    if count > 0 {
                        self.health_changed(&batch);
                        batch.clear();
                    }
                }
                () = until(drain_end), if !self.is_frozen => self.end_drains(Instant::now()),
                () = self.parts.flows.ended(), if !self.is_frozen => self.sample(),
                () = self.parts.capture.ended(), if !self.is_frozen => self.stop_capture(),
                _ = ticks.tick() => self.tick(),
                _ = sweeps.tick(), if !self.is_frozen => self.sweep(),
            }
        }
    }

    /// When the next drain ends.
    fn next_drain_end(&self) -> Option<Instant> {
        let drains = self.drains.next().into_iter();
        drains.chain(self.retiring.next()).min()
    }

    /// Reports itself as not ready; the data plane still forwards.
    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.parts.daemon.phase = phase;
        self.publish_readiness();
    }

    /// True if anything is balanced in the kernel.
    pub(crate) fn has_plane(&self) -> bool {
        self.config.balances_packets()
    }

    /// Ends the data plane, or lets go of it.
    pub(crate) fn release(self, keep: bool) -> Result<(), PlaneError> {
        self.plane.release(keep)
    }

    /// Takes the proxy paths over, which serve this configuration already.
    pub(crate) fn adopt_workers(&mut self, workers: Option<Workers>) {
        self.workers = workers;
        self.bystanders_follow();
        self.sample();
        self.members_changed();
        self.ejections_follow();
        self.note_rounds();
        self.publish_barred();
    }

    fn end_drains(&mut self, now: Instant) {
        let drained = self.drains.take_ended(now);
        for (service, backend) in &drained {
            info!(
                service,
                backend, "drain deadline passed: remaining flows are selected anew"
            );
            self.remembering(
                (service, backend),
                "the drain's deadline has passed",
                |it| {
                    it.overlay.entry(service, backend).drain = Drain::Expired;
                },
            );
            let message = format!("the drain of {service}/{backend} has ended");
            self.note(Happening::new(Topic::Drain, message).of(service, backend));
        }
        let retired = self.retiring.take_ended(now);
        if let Removed::Drain { released } = &mut self.overlay.removed {
            for &id in &retired {
                info!(id, "a removed backend's drain deadline passed");
                released.insert(id);
            }
        }
        if !drained.is_empty() || !retired.is_empty() {
            self.replan("drain deadline");
        }
    }

    /// Notes the backends that began to retire with the last plan, and forgets those that are gone.
    fn track_retiring(&mut self) {
        let now = Instant::now();
        let mut known = BTreeSet::new();
        for listener in self.ids.listeners() {
            let timeout = self
                .config
                .service(&listener.service)
                .map(|one| one.drain_timeout);
            for (backend, id) in &listener.retiring {
                known.insert(*id);
                if !self.retiring.contains(id) {
                    self.retiring.begin(*id, now + timeout.unwrap_or_default());
                    let service = &listener.service;
                    info!(
                        service,
                        backend,
                        ?timeout,
                        "removed from the configuration: draining"
                    );
                }
            }
        }
        self.retiring.retain(|id| known.contains(id));
        if let Removed::Drain { released } = &mut self.overlay.removed {
            released.retain(|id| known.contains(id));
        }
    }

    /// Plans from what the maps are known to hold, and applies. A failure is logged and made up
    /// for by the ticks.
    pub(super) fn replan(&mut self, why: &'static str) {
        if let Err(error) = self.try_replan() {
            error!(why, error = %chain(&error), "the data plane did not follow");
            self.fall_behind(&error);
        }
    }

    /// As [`Self::replan`], for callers that report the failure.
    pub(super) fn try_replan(&mut self) -> Result<usize, FollowError> {
        if self.behind.is_some() {
            // What the maps hold is not known.
            let target = Target {
                config: &self.config,
                overlay: &self.overlay,
                host: &self.host,
            };
            let plan = follow(self.plane.store(), &target)?;
            let edits = self.take(plan);
            self.balance_sockets();
            return Ok(edits);
        }
        let plan = self.plan().map_err(FollowError::Plan)?;
        self.apply(&plan).map_err(FollowError::Apply)?;
        let edits = self.take(plan);
        self.balance_sockets();
        Ok(edits)
    }

    fn plan(&self) -> Result<Plan, PlanErrors> {
        plan(&Inputs {
            config: &self.config,
            overlay: &self.overlay,
            kernel: &self.kernel,
            host: &self.host,
        })
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        apply(self.plane.store(), &plan.edits)
    }

    /// Takes over what a plan led to; returns the number of its edits.
    pub(super) fn take(&mut self, plan: Plan) -> usize {
        for warning in plan
            .warnings
            .iter()
            .filter(|warning| !self.warnings.contains(warning))
        {
            warn!("{warning}");
        }
        let edits = plan.edits.len();
        if edits > 0 {
            debug!(edits, "data plane edited");
        }
        let before = std::mem::replace(&mut self.kernel, plan.state);
        if !self.has_plane() {
            // No map keeps them.
            self.keep_rules(before.guard);
        }
        self.ids = plan.ids;
        self.track_retiring();
        self.warnings = plan.warnings;
        if let Some(reason) = self.behind.take() {
            info!(reason, "the data plane follows again");
        }
        edits
    }

    pub(super) fn fall_behind(&mut self, error: &FollowError) {
        if let FollowError::Read(source) | FollowError::Apply(ApplyError { source, .. }) = error {
            self.parts.counters.kernel_error(source.call);
        }
        self.behind = Some(chain(error));
        self.publish_readiness();
    }

    pub(super) fn kernel_failed(&self, error: &StoreError) {
        self.parts.counters.kernel_error(error.call);
        debug!(error = %chain(error), "kernel operation failed");
    }
}

/// Waits until this instant; for ever if there is none.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Seconds since the epoch.
pub(super) fn epoch_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
