//! The control task over a data plane in memory, with paused time.

mod checks;
mod drains;
mod guard;
mod kernel;
mod life;
mod observers;
mod reload;

use super::capture::CaptureHub;
use super::control::{Control, Ended, Ending, Parts};
use super::fake::{FakePlane, World};
use super::history::Beginning;
use super::names::SharedNames;
use super::observe::FlowHub;
use super::source::Source;
use crate::admin::api::{
    BackendAnswer, BackendName, DrainRequest, GuardAction, GuardRequest, Refusal, RefusalKind,
    ReloadAnswer, StopRequest,
};
use crate::admin::control::{Command, Handle};
use crate::config;
use crate::config::model::{Config, HealthCheck};
use crate::health::{self, Failure, FailureKind, Outcome, Passed, ProbeTls, Prober, Target};
use crate::observe::counters::Counters;
use crate::observe::journal::Journal;
use crate::observe::readiness::Readiness;
use crate::observe::view::{BackendView, Daemon, View};
use parking_lot::Mutex;
use proxy_common::backend::BackendState;
use std::net::IpAddr;
use std::sync::Arc;
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
