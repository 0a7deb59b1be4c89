//! The control task over a data plane in memory, with paused time.

use super::capture::CaptureHub;
use super::control::{Control, Ended, Ending, Parts, TICK};
use super::fake::{FakePlane, World};
use super::history::Beginning;
use super::names::SharedNames;
use super::observe::FlowHub;
use super::source::Source;
use crate::admin::api::{
    BackendAnswer, BackendName, CaptureQuery, DrainRequest, FlowQuery, GuardAction, GuardRequest,
    Refusal, RefusalKind, ReloadAnswer, StopRequest,
};
use crate::admin::control::{Command, Handle};
use crate::config;
use crate::config::model::{Config, HealthCheck};
use crate::health::{self, Failure, FailureKind, Outcome, Passed, ProbeTls, Prober, Target};
use crate::observe::counters::Counters;
use crate::observe::flow::ObserveQuery;
use crate::observe::journal::Journal;
use crate::observe::readiness::Readiness;
use crate::observe::view::{BackendView, Daemon, View};
use parking_lot::Mutex;
use proxy_common::backend::{BackendState, probe_mark};
use proxy_common::trace::threshold;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const BASE: &str = "
l4: {interfaces: [eth0], flow_capacity: 1024}
listeners:
  - {name: http, kind: l4, address: 192.0.2.10, port: 80, service: web}
services:
  - name: web
    mode: nat
    ring_size: 251
    drain_timeout: 30s
    backends: [{name: b1, address: '10.0.0.1:80'}, {name: b2, address: '10.0.0.2:80'}]
";

/// A configuration text that the test may replace.
#[derive(Clone, Debug)]
struct TextSource(Arc<Mutex<String>>);

impl Source for TextSource {
    fn load(&mut self) -> Result<(Config, Vec<String>), Refusal> {
        match config::parse("test.yaml", &self.0.lock()) {
            Ok(loaded) => Ok((loaded.config, Vec::new())),
            Err(errors) => Err(Refusal {
                kind: RefusalKind::Invalid,
                message: "faults".to_owned(),
                details: errors.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    fn name(&self) -> String {
        "test.yaml".to_owned()
    }
}

/// Backends that fail their probes, and the targets that were probed.
#[derive(Clone, Debug, Default)]
struct Sick(Arc<Mutex<Vec<IpAddr>>>, Arc<Mutex<Vec<Target>>>);

impl Prober for Sick {
    fn probe(
        &self,
        target: Target,
        _: Arc<HealthCheck>,
        _: Option<ProbeTls>,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        let sick = self.0.lock().contains(&target.address.ip());
        self.1.lock().push(target);
        async move {
            sleep(Duration::from_millis(1)).await;
            match sick {
                true => Err(Failure::new(FailureKind::Refused, "refused")),
                false => Ok(Passed {
                    latency: Duration::from_millis(1),
                }),
            }
        }
    }
}

/// A running control task and everything around it.
struct Daemoned {
    handle: Handle,
    world: Arc<Mutex<World>>,
    text: Arc<Mutex<String>>,
    sick: Sick,
    counters: Arc<Counters>,
    readiness: Arc<Readiness>,
    hurry: Arc<Notify>,
    task: JoinHandle<Ending>,
}

fn start(text: &str) -> Daemoned {
    start_in(World::new(1024), text, Sick::default())
}

fn start_in(world: Arc<Mutex<World>>, text: &str, sick: Sick) -> Daemoned {
    start_with(world, text, sick, Duration::ZERO)
}

fn start_with(world: Arc<Mutex<World>>, text: &str, sick: Sick, stop_delay: Duration) -> Daemoned {
    let counters: Arc<Counters> = Arc::default();
    let readiness: Arc<Readiness> = Arc::default();
    let (monitor, driver, mut changes) = health::monitor(
        sick.clone(),
        health::Options {
            max_running: 64,
            seed: 1,
        },
    );
    let names = SharedNames::default();
    let (_, events_from) = mpsc::unbounded_channel();
    let (_, captures_from) = mpsc::unbounded_channel();
    let (flows, flow_pump) = FlowHub::new(events_from, names.clone(), counters.clone());
    let (capture, capture_pump) = CaptureHub::new(captures_from, names.clone(), counters.clone());
    tokio::spawn(flow_pump.run());
    tokio::spawn(capture_pump.run());
    tokio::spawn(driver.run(std::future::pending()));
    let parts = Parts {
        monitor,
        counters: counters.clone(),
        readiness: readiness.clone(),
        names,
        flows,
        capture,
        journal: Arc::new(Journal::new(1)),
        access: None,
        daemon: Daemon::default(),
    };
    let mut source = TextSource(Arc::new(Mutex::new(text.to_owned())));
    let (config, _) = source.load().expect("a valid configuration");
    let plane = FakePlane::new(world.clone());
    let text = source.0.clone();
    let beginning = Beginning::new(config, None);
    let control = Control::begin(plane, Box::new(source), beginning, parts, None);
    let mut control = control.expect("begins");
    let (handle, mut commands) = Handle::new();
    let hurry: Arc<Notify> = Arc::default();
    let hurried = Arc::clone(&hurry);
    let task = tokio::spawn(async move {
        // As in a daemon, whose checks have results before all else is ready.
        sleep(Duration::from_millis(5)).await;
        control.adopt_workers(None);
        let ended = control.run(&mut commands, &mut changes, stop_delay, &hurried);
        let Ended::Told(ending) = ended.await else {
            panic!("nobody takes over here");
        };
        control.release(ending.keep_dataplane).expect("released");
        ending
    });
    Daemoned {
        handle,
        world,
        text,
        sick,
        counters,
        readiness,
        hurry,
        task,
    }
}

impl Daemoned {
    async fn view(&self) -> View {
        let view = self.handle.ask(Command::View).await.expect("a view");
        Arc::unwrap_or_clone(view)
    }

    async fn backend(&self, name: &str) -> BackendView {
        let view = self.view().await;
        let mut backends = view
            .services
            .into_iter()
            .flat_map(|service| service.backends);
        backends
            .find(|backend| backend.name == name)
            .expect("a backend of that name")
    }

    async fn drain(&self, backend: &str, timeout: Option<f64>) -> Result<BackendAnswer, Refusal> {
        let request = DrainRequest {
            service: "web".to_owned(),
            backend: backend.to_owned(),
            timeout_seconds: timeout,
        };
        self.handle
            .ask(|reply| Command::Drain(request, reply))
            .await
    }

    async fn undrain(&self, backend: &str) -> Result<BackendAnswer, Refusal> {
        let name = BackendName {
            service: "web".to_owned(),
            backend: backend.to_owned(),
        };
        self.handle.ask(|reply| Command::Undrain(name, reply)).await
    }

    async fn reload(&self, text: &str) -> Result<ReloadAnswer, Refusal> {
        text.clone_into(&mut self.text.lock());
        self.handle.ask(Command::Reload).await
    }

    async fn guard_add(&self, source: &str, seconds: Option<f64>) -> Result<(), Refusal> {
        let request = GuardRequest {
            source: source.to_owned(),
            listener: None,
            action: GuardAction::Deny,
            expires_in_seconds: seconds,
        };
        self.handle
            .ask(|reply| Command::GuardAdd(request, reply))
            .await
            .map(drop)
    }

    /// State of the backend with this address in the maps.
    fn kernel_state(&self, ip: &str) -> Option<BackendState> {
        let ip: IpAddr = ip.parse().expect("an address");
        let world = self.world.lock();
        let mut entries = world.store.tables.backends.values();
        let entry = entries.find(|entry| IpAddr::from(entry.addr) == ip)?;
        BackendState::from_code(entry.state)
    }

    async fn stop(self, keep_dataplane: bool) -> Arc<Mutex<World>> {
        let request = StopRequest {
            keep_dataplane,
            now: false,
        };
        self.handle
            .ask(|reply| Command::Stop(request, reply))
            .await
            .expect("stops");
        assert_eq!(
            self.task.await.expect("no panic").keep_dataplane,
            keep_dataplane
        );
        self.world
    }

    /// As SIGKILL would: nothing is released.
    async fn kill(self) -> Arc<Mutex<World>> {
        self.task.abort();
        let _ = self.task.await;
        self.world
    }
}

fn checked(text: &str) -> String {
    format!(
        "{text}    health: {{tcp: {{}}, interval: 1s, timeout: 500ms, jitter: 0%, rise: 2, fall: 2}}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_start_plans_attaches_and_is_ready() {
    let daemon = start(BASE);
    assert_eq!(
        daemon.world.lock().attached.as_deref(),
        Some(&["eth0".to_owned()][..])
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    assert!(daemon.readiness.ready());
    let view = daemon.view().await;
    assert_eq!(view.config.generation, 1);
    assert_eq!(view.interfaces[0].attached, "native");
    let reasons: Vec<&str> = view
        .reasons
        .iter()
        .map(|count| count.reason.as_str())
        .collect();
    assert_eq!(reasons, ["translated"], "reasons never seen are left out");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline() {
    let daemon = start(BASE);
    daemon.world.lock().live = 3;
    let answer = daemon.drain("b2", Some(10.0)).await.expect("drains");
    assert_eq!((answer.state.as_str(), answer.live_flows), ("draining", 3));
    assert_eq!(answer.drain_remaining_seconds, Some(10.0));
    sleep(Duration::from_millis(9_990)).await;
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_millis(20)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert_eq!(daemon.backend("b2").await.why, "drain deadline passed");
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_undrained_backend_is_not_taken_down_by_the_old_deadline() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(10.0)).await.expect("drains");
    assert_eq!(daemon.undrain("b2").await.expect("undrains").state, "up");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_timeout_takes_the_services() {
    let daemon = start(BASE);
    let answer = daemon.drain("b2", None).await.expect("drains");
    assert_eq!(answer.drain_remaining_seconds, Some(30.0));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_refused_with_a_suggestion() {
    let daemon = start(BASE);
    let refusal = daemon
        .drain("b22", None)
        .await
        .expect_err("no such backend");
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert!(refusal.message.contains("did you mean `b2`?"), "{refusal}");
    for timeout in [-1.0, f64::NAN, 1e300] {
        let refusal = daemon
            .drain("b2", Some(timeout))
            .await
            .expect_err("no such time");
        assert_eq!(refusal.kind, RefusalKind::Invalid);
    }
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_drain_survives_the_daemon_and_gets_its_time_again() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(10.0)).await.expect("drains");
    sleep(Duration::from_secs(9)).await;
    let world = daemon.kill().await;
    let daemon = start_in(world, BASE, Sick::default());
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(29)).await;
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
}

#[tokio::test(start_paused = true)]
async fn a_restart_edits_nothing_that_is_as_it_should_be() {
    let daemon = start(BASE);
    let world = daemon.kill().await;
    let applied = world.lock().store.applied;
    let daemon = start_in(world, BASE, Sick::default());
    assert_eq!(daemon.world.lock().store.applied, applied);
}

#[tokio::test(start_paused = true)]
async fn a_drained_backend_stays_down_over_a_restart_although_it_is_healthy() {
    let daemon = start(&checked(BASE));
    sleep(Duration::from_secs(1)).await;
    daemon.drain("b2", Some(5.0)).await.expect("drains");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    let world = daemon.kill().await;
    let daemon = start_in(world, &checked(BASE), Sick::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    daemon.undrain("b2").await.expect("undrains");
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_sick_backend_goes_down_and_comes_back() {
    let daemon = start(&checked(BASE));
    assert!(!daemon.readiness.ready(), "not before the first probes");
    sleep(Duration::from_millis(500)).await;
    assert!(daemon.readiness.ready());
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    daemon
        .sick
        .0
        .lock()
        .push("10.0.0.1".parse().expect("an address"));
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Down));
    let view = daemon.backend("b1").await;
    assert_eq!(view.why, "health: refused: refused");
    let health = view.health.expect("checked");
    assert_eq!((health.verdict.as_str(), health.transitions), ("down", 2));
    daemon.sick.0.lock().clear();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_adopted_backend_serves_on_before_its_first_probe() {
    let daemon = start(&checked(BASE));
    sleep(Duration::from_secs(1)).await;
    let world = daemon.kill().await;
    let daemon = start_in(world, &checked(BASE), Sick::default());
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    assert!(daemon.readiness.ready());
}

#[tokio::test(start_paused = true)]
async fn a_reload_says_what_changed() {
    let daemon = start(BASE);
    let answer = daemon
        .reload(&BASE.replace("10.0.0.2:80", "10.0.0.9:80"))
        .await
        .expect("valid");
    assert_eq!(answer.generation, 2);
    assert!(
        answer.changes.iter().any(|change| change.contains("b2")),
        "{:?}",
        answer.changes
    );
    assert_eq!(daemon.kernel_state("10.0.0.9"), Some(BackendState::Up));
    assert_eq!(daemon.counters.reloads_succeeded.load(Relaxed), 1);
    let same = daemon.text.lock().clone();
    let answer = daemon.reload(&same).await.expect("valid");
    assert_eq!((answer.generation, answer.edits), (3, 0));
    assert!(answer.changes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_with_faults_leaves_the_old_configuration_in_force() {
    let daemon = start(BASE);
    let before = daemon.world.lock().store.tables.clone();
    let broken = BASE
        .replace("mode: nat", "mode: gnat")
        .replace("port: 80", "port: 0");
    let refusal = daemon.reload(&broken).await.expect_err("two faults");
    assert_eq!(refusal.details.len(), 2, "{refusal}");
    assert_eq!(daemon.world.lock().store.tables, before);
    let config = daemon.view().await.config;
    assert!(!config.last_reload_successful);
    assert!(config.last_reload_error.expect("told").contains("gnat"));
    assert_eq!(daemon.counters.reloads_failed.load(Relaxed), 1);
    daemon.reload(BASE).await.expect("valid again");
    assert!(daemon.view().await.config.last_reload_successful);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_the_kernel_refuses_is_undone() {
    let daemon = start(BASE);
    let before = daemon.world.lock().store.tables.clone();
    daemon.world.lock().store.fail_after(4);
    let more = BASE.replace("10.0.0.2:80", "10.0.0.3:80");
    let refusal = daemon.reload(&more).await.expect_err("refused");
    assert_eq!(refusal.kind, RefusalKind::Internal);
    assert!(
        refusal.message.contains("the previous one is again"),
        "{refusal}"
    );
    let after = daemon.world.lock().store.tables.clone();
    assert_eq!((after.keys, after.backends), (before.keys, before.backends));
    assert_eq!(daemon.view().await.config.generation, 1);
    daemon
        .reload(&more)
        .await
        .expect("the kernel has recovered");
    assert_eq!(daemon.kernel_state("10.0.0.3"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_reload_to_a_missing_interface_goes_back() {
    let daemon = start(BASE);
    let other = BASE
        .replace("[eth0]", "[eth0, eth7]")
        .replace("10.0.0.2:80", "10.0.0.3:80");
    let refusal = daemon.reload(&other).await.expect_err("no such interface");
    assert!(refusal.message.contains("eth7"), "{refusal}");
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
    assert_eq!(daemon.kernel_state("10.0.0.3"), None);
    assert_eq!(
        daemon.world.lock().attached.as_deref(),
        Some(&["eth0".to_owned()][..])
    );
    assert!(daemon.readiness.ready());
}

#[tokio::test(start_paused = true)]
async fn new_sizes_mean_new_maps_and_a_failure_keeps_the_old_ones() {
    let daemon = start(BASE);
    let larger = BASE.replace("flow_capacity: 1024", "flow_capacity: 2048");
    daemon
        .reload(&larger.replace("[eth0]", "[eth7]"))
        .await
        .expect_err("no such interface");
    assert!(
        daemon.world.lock().staged.is_none(),
        "the old maps are in use again"
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    let attachments = daemon.world.lock().attachments;
    daemon.reload(&larger).await.expect("fits");
    assert_eq!(
        daemon.world.lock().attachments,
        attachments + 1,
        "attached to put them in force"
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_backend_removed_by_a_reload_drains() {
    let daemon = start(BASE);
    let fewer = BASE.replace(", {name: b2, address: '10.0.0.2:80'}", "");
    daemon.reload(&fewer).await.expect("valid");
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    let view = daemon.backend("10.0.0.2:80").await;
    assert_eq!(view.why, "removed from the configuration");
    assert!(view.drain_remaining_seconds.is_some_and(|left| left > 29.0));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), None);
    assert_eq!(daemon.view().await.services[0].backends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_outlives_a_reload() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(20.0)).await.expect("drains");
    daemon
        .reload(&BASE.replace("10.0.0.1:80', weight", "x"))
        .await
        .expect("valid");
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(21)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_at_run_time_is_kept_with_a_warning() {
    let daemon = start(BASE);
    let text = format!("{BASE}admin: {{socket: /run/other.sock}}\n");
    let answer = daemon.reload(&text).await.expect("valid");
    assert!(
        answer
            .warnings
            .iter()
            .any(|warning| warning.contains("admin.socket"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_daemon_catches_up_with_what_the_kernel_refused() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(5.5)).await.expect("drains");
    sleep(Duration::from_millis(5_400)).await;
    daemon.world.lock().store.fail_after(0);
    sleep(Duration::from_millis(150)).await;
    assert!(!daemon.readiness.ready(), "behind");
    assert_eq!(daemon.counters.kernel_errors().get("update"), Some(&1));
    sleep(2 * TICK).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert!(daemon.readiness.ready());
}

#[tokio::test(start_paused = true)]
async fn maps_that_somebody_else_changed_are_repaired() {
    let daemon = start(BASE);
    daemon.world.lock().store.tables.keys.clear();
    sleep(31 * TICK).await;
    assert!(!daemon.world.lock().store.tables.keys.is_empty());
    assert!(daemon.counters.reconciled.load(Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_comes_back_is_attached_again() {
    let daemon = start(BASE);
    daemon.world.lock().present.clear();
    sleep(2 * TICK).await;
    assert!(!daemon.readiness.ready());
    assert_eq!(daemon.view().await.interfaces[0].attached, "detached");
    daemon.world.lock().present = vec![("eth0".to_owned(), 9)];
    sleep(2 * TICK).await;
    assert!(daemon.readiness.ready());
    assert_eq!(daemon.view().await.interfaces[0].index, 9);
}

#[tokio::test(start_paused = true)]
async fn a_cpu_that_comes_online_gets_a_part_of_the_maps() {
    let daemon = start(BASE);
    let attachments = daemon.world.lock().attachments;
    let generation = daemon.view().await.config.generation;
    daemon.world.lock().cpus = 2;
    sleep(2 * TICK).await;
    {
        let world = daemon.world.lock();
        assert_eq!(world.fitted_cpus, 2);
        assert!(world.staged.is_none(), "the new maps are in force");
        assert!(!world.store.tables.keys.is_empty(), "and filled");
        assert_eq!(world.attachments, attachments + 1, "once");
    }
    assert_eq!(
        daemon.view().await.config.generation,
        generation,
        "no reload"
    );
}

#[tokio::test(start_paused = true)]
async fn maps_that_cannot_be_made_are_not_tried_at_every_tick() {
    let daemon = start(BASE);
    {
        let mut world = daemon.world.lock();
        (world.cpus, world.cannot_grow) = (2, true);
    }
    sleep(20 * TICK).await;
    assert_eq!(daemon.counters.kernel_errors().get("refit"), Some(&1));
    daemon.world.lock().cannot_grow = false;
    sleep(20 * TICK).await;
    assert_eq!(daemon.world.lock().fitted_cpus, 2, "it is tried again");
}

#[tokio::test(start_paused = true)]
async fn a_guard_rule_expires_and_known_flows_are_judged_anew() {
    let daemon = start(BASE);
    let generation = || daemon.world.lock().store.tables.settings.guard_generation;
    let rules = || daemon.world.lock().store.tables.guard.len();
    let before = generation();
    daemon
        .guard_add("203.0.113.0/24", Some(10.0))
        .await
        .expect("valid");
    assert_eq!(rules(), 1);
    let added = generation();
    assert_ne!(added, before, "known flows are judged once more");
    sleep(Duration::from_secs(12)).await;
    assert_eq!(rules(), 0);
    assert_ne!(generation(), added);
}

#[tokio::test(start_paused = true)]
async fn operators_rules_outlive_reloads_and_restarts() {
    let daemon = start(BASE);
    daemon
        .guard_add("203.0.113.0/24", None)
        .await
        .expect("valid");
    daemon
        .reload(&BASE.replace("10.0.0.2:80", "10.0.0.3:80"))
        .await
        .expect("valid");
    assert_eq!(daemon.world.lock().store.tables.guard.len(), 1);
    let daemon = start_in(daemon.kill().await, BASE, Sick::default());
    let rules = daemon.handle.ask(Command::GuardList).await.expect("listed");
    assert_eq!(rules[0].source, "203.0.113.0/24");
    let request = GuardRequest {
        source: "203.0.113.0/24".to_owned(),
        listener: None,
        action: GuardAction::Deny,
        expires_in_seconds: None,
    };
    let removed = daemon
        .handle
        .ask(|reply| Command::GuardRemove(request, reply))
        .await;
    assert_eq!(removed.expect("removed").owner, "operator");
    assert!(daemon.world.lock().store.tables.guard.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_removed_operators_rule_gives_way_to_the_configured_one() {
    let text = format!("{BASE}guard: {{deny: [203.0.113.0/24]}}\n");
    let daemon = start(&text);
    let request = |action| GuardRequest {
        source: "203.0.113.0/24".to_owned(),
        listener: None,
        action,
        expires_in_seconds: None,
    };
    let allow = request(GuardAction::Allow);
    daemon
        .handle
        .ask(|reply| Command::GuardAdd(allow, reply))
        .await
        .expect("valid");
    let list = async || daemon.handle.ask(Command::GuardList).await.expect("listed");
    assert_eq!(
        (list().await[0].action.as_str(), list().await.len()),
        ("allow", 1)
    );
    let remove = request(GuardAction::Deny);
    daemon
        .handle
        .ask(|reply| Command::GuardRemove(remove, reply))
        .await
        .expect("removed");
    assert_eq!(
        (
            list().await[0].action.as_str(),
            list().await[0].owner.as_str()
        ),
        ("deny", "config")
    );
}

#[tokio::test(start_paused = true)]
async fn tracing_follows_the_observers() {
    let daemon = start(BASE);
    let below = || daemon.world.lock().store.tables.settings.trace_below;
    assert_eq!(below(), 0);
    let query = ObserveQuery {
        sample: Some(10),
        ..ObserveQuery::default()
    };
    let told = daemon
        .handle
        .ask(|reply| Command::Observe(Box::new(query), reply))
        .await
        .expect("listens");
    assert_eq!(below(), threshold(10));
    daemon
        .reload(&BASE.replace("{interfaces", "{sample_every: 500, interfaces"))
        .await
        .expect("valid");
    assert_eq!(below(), threshold(10));
    drop(told);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(below(), threshold(500));
}

#[tokio::test(start_paused = true)]
async fn packets_are_copied_only_while_somebody_captures() {
    let daemon = start(BASE);
    let query = CaptureQuery {
        snaplen: Some(64),
        ..CaptureQuery::default()
    };
    let pieces = daemon
        .handle
        .ask(|reply| Command::Capture(query, reply))
        .await
        .expect("starts");
    assert_eq!(daemon.world.lock().capture, Some(64));
    drop(pieces);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(daemon.world.lock().capture, None);
}

#[tokio::test(start_paused = true)]
async fn flows_are_filtered_by_names_and_bounded() {
    let daemon = start(BASE);
    let id = daemon.backend("b2").await.ids[0];
    let service = daemon.view().await.services[0].listeners[0].id;
    let flow = |port: u16, backend| crate::kernel::sweep::FlowView {
        protocol: 6,
        source: format!("203.0.113.5:{port}").parse().expect("an address"),
        destination: "192.0.2.10:80".parse().expect("an address"),
        service,
        backend,
        phase: None,
        idle: Duration::from_secs(1),
        confirmed: true,
        is_return: false,
    };
    daemon.world.lock().flows = vec![flow(1, id), flow(2, id), flow(3, id + 1), flow(4, 999)];
    let ask = async |query: FlowQuery| {
        daemon
            .handle
            .ask(|reply| Command::Flows(query, reply))
            .await
            .expect("listed")
    };
    let named = FlowQuery {
        backend: Some("b2".to_owned()),
        ..FlowQuery::default()
    };
    assert_eq!(ask(named.clone()).await.flows.len(), 2);
    let bounded = ask(FlowQuery {
        limit: Some(1),
        ..named
    })
    .await;
    assert!(bounded.truncated);
    assert_eq!(bounded.flows[0].backend, "b2");
    let client = FlowQuery {
        client: Some("203.0.113.0/24".to_owned()),
        ..FlowQuery::default()
    };
    assert_eq!(ask(client).await.flows[3].backend, "#999");
    let client = FlowQuery {
        client: Some("198.51.100.0/24".to_owned()),
        ..FlowQuery::default()
    };
    assert!(ask(client).await.flows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_detaches_unless_told_to_keep() {
    let world = start(BASE).stop(true).await;
    assert!(world.lock().attached.is_some());
    let world = start_in(world, BASE, Sick::default()).stop(false).await;
    assert!(world.lock().attached.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stop_delay_is_served_not_ready_and_can_be_cut_short() {
    let delay = Duration::from_secs(10);
    let daemon = start_with(World::new(1024), BASE, Sick::default(), delay);
    let stop = async |daemon: &Daemoned| {
        let request = StopRequest::default();
        daemon
            .handle
            .ask(|reply| Command::Stop(request, reply))
            .await
            .expect("accepted");
    };
    stop(&daemon).await;
    assert!(!daemon.readiness.ready());
    daemon.drain("b2", Some(3.0)).await.expect("still served");
    sleep(Duration::from_secs(9)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert!(daemon.world.lock().attached.is_some());
    sleep(Duration::from_secs(2)).await;
    assert!(daemon.world.lock().attached.is_none());

    let daemon = start_with(World::new(1024), BASE, Sick::default(), delay);
    stop(&daemon).await;
    daemon.hurry.notify_one();
    sleep(Duration::from_millis(1)).await;
    assert!(daemon.world.lock().attached.is_none());
    let again = tokio::time::timeout(Duration::from_millis(1), daemon.hurry.notified());
    assert!(again.await.is_ok(), "who waits next does not wait either");
}

/// [`BASE`] with tunnels, and checks of the backends at `target`.
fn checked_through(target: &str) -> String {
    let text = BASE
        .replace(
            "{interfaces",
            "{tunnel: {source_v4: 10.0.0.254}, interfaces",
        )
        .replace("mode: nat", "mode: dsr-ipip")
        .replace("10.0.0.1:80", "10.0.0.1")
        .replace("10.0.0.2:80", "10.0.0.2");
    format!("{text}    health: {{tcp: {{}}, target: {target}}}\n")
}

#[tokio::test(start_paused = true)]
async fn probes_to_a_vip_carry_their_backends_id() {
    let daemon = start(&checked_through("vip"));
    sleep(Duration::from_secs(1)).await;
    let ids: Vec<u16> = daemon.view().await.services[0]
        .backends
        .iter()
        .map(|backend| backend.ids[0])
        .collect();
    let targets = daemon.sick.1.lock().clone();
    assert!(!targets.is_empty());
    for target in targets {
        assert_eq!(target.address.to_string(), "192.0.2.10:80");
        let mark = target.mark.expect("marked");
        assert!(ids.iter().any(|id| probe_mark(*id) == mark), "{mark:#x}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_steered_only_while_a_check_targets_a_vip() {
    let daemon = start(&checked_through("backend"));
    assert_eq!(daemon.world.lock().steered, None);
    let through_vip = checked_through("vip");
    daemon.reload(&through_vip).await.expect("reloaded");
    let on_eth0 = Some(vec!["eth0".to_owned()]);
    assert_eq!(daemon.world.lock().steered, on_eth0);
    // Somebody removes it.
    daemon.world.lock().steered = None;
    sleep(TICK * 31).await;
    assert_eq!(daemon.world.lock().steered, on_eth0);
    let direct = checked_through("backend");
    daemon.reload(&direct).await.expect("reloaded");
    assert_eq!(daemon.world.lock().steered, None);
}

#[tokio::test(start_paused = true)]
async fn a_reload_whose_probes_cannot_be_steered_is_refused() {
    let daemon = start(&checked_through("backend"));
    daemon.world.lock().cannot_steer = true;
    let refusal = daemon.reload(&checked_through("vip")).await.unwrap_err();
    assert!(
        refusal.message.contains("steer health probes"),
        "{refusal:?}"
    );
    sleep(Duration::from_secs(5)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}
