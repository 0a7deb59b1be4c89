//! The order in which the daemon starts and ends.
//!
//! ```text
//! start   configuration ▶ admin socket (refuses a second daemon) ▶ data plane opened or adopted
//!         ▶ planned, applied ▶ attached ▶ health checks ▶ admin served ▶ READY
//! end     not ready ▶ stop delay ▶ detached (or kept) ▶ admin closed
//! ```
//!
//! The socket is taken before the data plane is touched, so that a second daemon can do no harm.
//! It is served last, so that nobody is told anything that is not yet so.

use super::capture::CaptureHub;
use super::control::{BeginError, Control, Parts, TICK, epoch_seconds};
use super::events::EventHub;
use super::forwarding;
use super::names::SharedNames;
use super::on_demand::OnDemand;
use super::plane::{Plane, PlaneError};
use super::probing::CountingProber;
use super::proxies;
use super::real::Readers;
use super::signals::{self, Signals};
use super::source::{FileSource, Source};
use super::workers::{Workers, WorkersError};
use crate::admin::api::{Refusal, chain};
use crate::admin::control::{Command, Handle};
use crate::admin::guard::HostPolicy;
use crate::admin::routes::{self, Shared};
use crate::admin::server;
use crate::admin::socket::{AdminSocket, SocketError};
use crate::config::model::{Admin, Config};
use crate::health::{self, HealthChange};
use crate::kernel::attach;
use crate::kernel::load::{Adoption, LoadError};
use crate::observe::build::VERSION;
use crate::observe::counters::Counters;
use crate::observe::readiness::Readiness;
use crate::observe::view::{Daemon, Phase};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// What the command line says about a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Leave the kernel forwarding at the end.
    pub keep_dataplane: bool,
    /// Time between reporting as not ready and detaching.
    pub stop_delay: Duration,
}

/// The daemon could not start, or not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has faults.
    #[error("{0}")]
    Config(Refusal),
    /// The admin socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The admin address cannot be had.
    #[error("cannot listen on {address} (admin.listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The proxy paths cannot be served.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// The data plane cannot be opened or closed.
    #[error(transparent)]
    Plane(PlaneError),
    /// The data plane cannot be made to follow the configuration.
    #[error(transparent)]
    Begin(#[from] BeginError),
}

impl StartError {
    /// True if the host lacks something, as opposed to a fault of the configuration.
    pub fn is_host(&self) -> bool {
        let plane = match self {
            Self::Plane(error) | Self::Begin(BeginError::Plane(error)) => error,
            _ => return false,
        };
        matches!(
            plane,
            PlaneError::Load(
                LoadError::NoPrivilege { .. }
                    | LoadError::NoObject
                    | LoadError::MountBpffs { .. }
                    | LoadError::Refused { .. }
                    | LoadError::Object(_)
            )
        )
    }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// [`StartError`]; whatever was forwarding before still is.
pub async fn run(options: Options) -> Result<(), StartError> {
    let mut source = FileSource::new(&options.config);
    let (config, warnings) = source.load().map_err(StartError::Config)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let signals = Signals::new().map_err(StartError::Signals)?;
    let (_socket, unix) = AdminSocket::bind(&config.admin.socket)?;
    let tcp = listen(config.admin.listen).await?;
    signals::check_watchdog(TICK);
    for key in forwarding::switched_off(&config, forwarding::read) {
        warn!("{}", forwarding::advice(&key));
    }

    let counters: Arc<Counters> = Arc::default();
    let readiness: Arc<Readiness> = Arc::default();
    let (handle, commands) = Handle::new();
    let (monitor, driver, changes) = health::monitor(
        CountingProber::new(health::NetProber, Arc::clone(&counters)),
        health::Options::default(),
    );

    let mut tasks = Tasks::default();
    let workers = proxies::start(&config)?;
    if let Some(workers) = &workers {
        proxies::publish(workers, &counters);
    }
    let (parts, readers) = parts(&config, monitor, &counters, &readiness, &mut tasks);
    tasks.spawn(driver.run(std::future::pending()));
    let shared = Shared {
        handle: handle.clone(),
        counters,
        readiness,
    };
    let around = Surroundings {
        admin: config.admin.clone(),
        shared,
        sockets: (unix, tcp),
        signals,
        commands,
        changes,
        workers,
        options,
    };
    let control = begin(config, source, parts, readers)?;
    around.serve(control, tasks).await
}

/// What the daemon is, around its control task.
struct Surroundings {
    admin: Admin,
    shared: Shared,
    sockets: (UnixListener, Option<TcpListener>),
    signals: Signals,
    commands: mpsc::Receiver<Command>,
    changes: mpsc::UnboundedReceiver<HealthChange>,
    workers: Option<Workers>,
    options: Options,
}

impl Surroundings {
    /// Serves until told to stop, and ends.
    async fn serve(
        self,
        mut control: Control<OnDemand>,
        mut tasks: Tasks,
    ) -> Result<(), StartError> {
        control.adopt_workers(self.workers);
        let handle = self.shared.handle.clone();
        let (stopping, admin_tasks) = serve(self.shared, self.sockets.0, self.sockets.1);
        let socket = self.admin.socket.display();
        match self.admin.listen {
            Some(listen) => info!(%socket, %listen, "ready"),
            None => info!(%socket, "ready"),
        }
        signals::ready();
        let hurry: Arc<Notify> = Arc::default();
        tasks.spawn(self.signals.forward(handle, Arc::clone(&hurry)));
        let ending = control
            .run(self.commands, self.changes, self.options.stop_delay, &hurry)
            .await;
        signals::stopping();
        control.set_phase(Phase::Stopping);
        control.drain_proxies(&hurry).await;
        end(
            control,
            ending.keep_dataplane || self.options.keep_dataplane,
        )?;
        drop(tasks);
        let _ = stopping.send(true);
        for task in admin_tasks {
            let _ = task.await;
        }
        info!("stopped");
        Ok(())
    }
}

/// Makes what surrounds the control task, and where the plane's readers go.
fn parts(
    config: &Config,
    monitor: health::Monitor,
    counters: &Arc<Counters>,
    readiness: &Arc<Readiness>,
    tasks: &mut Tasks,
) -> (Parts, Readers) {
    let names = SharedNames::default();
    let (events_to, events_from) = mpsc::unbounded_channel();
    let (captures_to, captures_from) = mpsc::unbounded_channel();
    let (events, event_pump) = EventHub::new(events_from, names.clone(), counters.clone());
    let (capture, capture_pump) = CaptureHub::new(captures_from, names.clone(), counters.clone());
    tasks.spawn(event_pump.run());
    tasks.spawn(capture_pump.run());
    let daemon = Daemon {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        phase: Phase::Starting,
        started_at_seconds: epoch_seconds(),
        adopted: false,
        pin_dir: config.data_plane().pin_dir.display().to_string(),
    };
    let parts = Parts {
        monitor,
        counters: Arc::clone(counters),
        readiness: Arc::clone(readiness),
        names,
        events,
        capture,
        daemon,
    };
    (
        parts,
        Readers {
            events: events_to,
            captures: captures_to,
        },
    )
}

fn begin(
    config: Config,
    source: FileSource,
    mut parts: Parts,
    readers: Readers,
) -> Result<Control<OnDemand>, StartError> {
    let plane = OnDemand::open(&config, readers).map_err(StartError::Plane)?;
    let is_fresh = plane.tentative() == Some(&Adoption::Fresh);
    parts.daemon.adopted = match plane.tentative() {
        None | Some(Adoption::Fresh) => false,
        Some(Adoption::Adopted { .. }) => true,
        Some(Adoption::Replaced { copied, .. }) => *copied,
    };
    let pin_dir = config.data_plane().pin_dir.clone();
    Control::begin(plane, Box::new(source), config, parts).map_err(|error| {
        // What was there before forwards on; what was made for nothing is removed.
        if is_fresh && let Err(error) = attach::remove(&pin_dir) {
            warn!(error = %chain(&error), "the unused pins remain");
        }
        error.into()
    })
}

async fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await;
    listener
        .map(Some)
        .map_err(|source| StartError::Listen { address, source })
}

/// Serves the admin API until the sender says to stop.
fn serve(
    shared: Shared,
    unix: UnixListener,
    tcp: Option<TcpListener>,
) -> (watch::Sender<bool>, Vec<JoinHandle<()>>) {
    let (stop, stopping) = watch::channel(false);
    let local = server::serve(unix, routes::local(shared.clone()), stopping.clone());
    let mut tasks = vec![tokio::spawn(local)];
    if let Some(tcp) = tcp {
        let loopback = tcp
            .local_addr()
            .is_ok_and(|address| address.ip().is_loopback());
        let host_name = nix::unistd::gethostname().unwrap_or_default();
        let host_name = host_name.to_string_lossy().to_lowercase();
        let router = routes::public(
            shared,
            HostPolicy {
                loopback,
                host_name,
            },
        );
        tasks.push(tokio::spawn(server::serve(tcp, router, stopping)));
    }
    (stop, tasks)
}

/// Ends: detached or let go of.
fn end<P: Plane>(control: Control<P>, keep: bool) -> Result<(), StartError> {
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
struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
