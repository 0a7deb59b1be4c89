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

use super::capture::{CaptureHub, CapturePump};
use super::control::{BeginError, Control, Ended, Ending, Parts, TICK, epoch_seconds};
use super::forwarding;
use super::history::Beginning;
use super::mesh::Mesher;
use super::names::SharedNames;
use super::observe::{FlowHub, FlowPump};
use super::on_demand::OnDemand;
use super::plane::{Plane, PlaneError};
use super::probing::CountingProber;
use super::proxies;
use super::real::Readers;
use super::signals::{self, Signals};
use super::socket_balancing::SocketBalancer;
use super::source::{FileSource, Source};
use super::steering::Steerer;
use super::successor::{Estate, Retired};
use super::upgrade::{self, Launch, Lines, Predecessor, SocketName, Sockets, State, Successor};
use super::workers::WorkersError;
use crate::admin::access::{Access, AccessError, SharedAccess};
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
use crate::observe::journal::Journal;
use crate::observe::view::{self, Phase};
use crate::privileges::Kept;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
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
    /// Where the process id is written once this process serves.
    pub pid_file: Option<PathBuf>,
    /// What the process was restricted to, if it was.
    pub kept: Option<Kept>,
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
    /// What the API over TCP needs cannot be had.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The proxy paths cannot be served.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The process lacks something that it needs to run at all.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process that this one is to take over from is not understood.
    #[error("cannot take over from the older process")]
    Predecessor(#[source] io::Error),
    /// Sockets that the service manager has opened cannot be used.
    #[error("cannot take the sockets of the service manager (LISTEN_FDS)")]
    Activation(#[source] io::Error),
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

/// Runs the daemon until it is told to stop. `predecessor` is the line to a process that it is to
/// take over from, see [`super::predecessor`].
///
/// # Errors
///
/// [`StartError`]; whatever was forwarding before still is.
pub async fn run(options: Options, predecessor: Option<OwnedFd>) -> Result<(), StartError> {
    let Some(line) = predecessor else {
        let sockets = upgrade::activated().map_err(StartError::Activation)?;
        let (daemon, life) = start(options, sockets, None).await?;
        return daemon.serve(life, None).await;
    };
    let received = Predecessor::receive(line).await;
    let (predecessor, sockets, state) = received.map_err(StartError::Predecessor)?;
    match start(options, sockets, Some(state)).await {
        Ok((daemon, life)) => daemon.serve(life, Some(predecessor)).await,
        Err(error) => {
            predecessor.failed(&chain(&error)).await;
            Err(error)
        }
    }
}

/// Makes everything ready; nothing is served yet.
async fn start(
    options: Options,
    mut sockets: Sockets,
    state: Option<State>,
) -> Result<(Daemon, Life), StartError> {
    let mut source = FileSource::new(&options.config);
    let (file, warnings) = source.load().map_err(StartError::Config)?;
    let beginning = Beginning::new(file, state.as_ref());
    let config = &beginning.config;
    if options.kept.is_none() && config.process.user.is_some() {
        warn!("`process` is not applied to a configuration from standard input");
    }
    for warning in warnings {
        warn!("{warning}");
    }
    let signals = Signals::new().map_err(system("receive signals"))?;
    let path = &config.admin.socket;
    let (socket, unix) = match sockets.take_admin_socket(path) {
        Some(given) => AdminSocket::adopt(path, given)?,
        None => AdminSocket::bind(path)?,
    };
    let tcp = listen(config.admin.listen, &mut sockets).await?;
    let access = access(&config.admin)?;
    signals::check_watchdog(TICK);
    for key in forwarding::switched_off(config, forwarding::read) {
        warn!("{}", forwarding::advice(&key));
    }
    super::steering::warn_of_routes(config);
    if config.balances_sockets() {
        crate::sockets::connect::introduce(&config.connect_pin_dir());
    }
    super::steering::warn_of_leftovers(config);
    let (handle, commands) = Handle::new();
    let journal = Arc::new(Journal::new(epoch_seconds() as u64));
    let mut shared = Shared::new(handle, Arc::default(), Arc::default(), journal);
    shared.access = access;
    let known = state.as_ref().map(|it| &it.proxies);
    let listeners = std::mem::take(&mut sockets.listeners);
    let workers = proxies::start(config, listeners, known)?;
    if let Some(workers) = &workers {
        proxies::publish(workers, &shared.counters);
    }
    let daemon = Daemon {
        admin: config.admin.clone(),
        sockets: AdminSockets::of(&unix, tcp.as_ref()).map_err(system("copy a descriptor"))?,
        launch: Launch::of_this_process().map_err(system("find this program"))?,
        socket,
        shared,
        signals: Some(signals),
        commands,
        hurry: Arc::default(),
        options,
        predecessor: None,
        lines: Lines::default(),
    };
    for line in std::mem::take(&mut sockets.ancestors) {
        daemon
            .lines
            .keep(line)
            .map_err(system("copy a descriptor"))?;
    }
    let locks = Locks {
        pins: sockets.pin_lock,
        steering: sockets.steer_lock,
        sockets: sockets.connect_lock,
        mesh: sockets.mesh_lock,
    };
    let is_heir = state.is_some();
    let mut life = Life::begin(beginning, Box::new(source), &daemon.shared, locks, state)?;
    life.control.adopt_workers(workers);
    let mut life = life.steer(is_heir)?;
    daemon.enable_upgrade(&mut life)?;
    Ok((daemon, life))
}

/// What the daemon is, around its control task.
struct Daemon {
    admin: Admin,
    /// Descriptors of the admin sockets, for serving them again and for a successor.
    sockets: AdminSockets,
    launch: Launch,
    socket: AdminSocket,
    shared: Shared,
    signals: Option<Signals>,
    commands: mpsc::Receiver<Command>,
    hurry: Arc<Notify>,
    options: Options,
    /// The process that this one has taken over from.
    predecessor: Option<Predecessor>,
    /// Lines to it and to those before it.
    lines: Lines,
}

/// The control task, and what it lives with.
struct Life {
    control: Control<OnDemand>,
    changes: mpsc::UnboundedReceiver<HealthChange>,
    tasks: Tasks,
    pumps: (FlowPump, CapturePump),
}

/// The admin server, while it runs.
type Serving = (watch::Sender<bool>, Vec<JoinHandle<()>>);

impl Life {
    /// Opens the data plane and makes it follow the configuration.
    fn begin(
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
    fn steer(mut self, is_heir: bool) -> Result<Self, StartError> {
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
    fn read_rings(
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

impl Daemon {
    /// Lets the control task hand over to another process, and tells it what this one may do.
    fn enable_upgrade(&self, life: &mut Life) -> Result<(), StartError> {
        let sockets = self.sockets.offered(&self.admin, &self.socket);
        life.control.estate = Some(Estate {
            launch: self.launch.clone(),
            sockets: sockets.map_err(system("copy a descriptor"))?,
            lines: self.lines.clone(),
        });
        life.control.kept.clone_from(&self.options.kept);
        if let Some(kept) = &self.options.kept {
            life.control.parts.daemon.privileges = kept.describe().into_iter().collect();
        }
        Ok(())
    }

    /// Serves until told to stop, or until another process does, and ends.
    async fn serve(
        mut self,
        mut life: Life,
        predecessor: Option<Predecessor>,
    ) -> Result<(), StartError> {
        let mut serving = self.take_over(&mut life, predecessor).await?;
        let socket = self.admin.socket.display();
        match self.admin.listen {
            Some(listen) => info!(%socket, %listen, "ready"),
            None => info!(%socket, "ready"),
        }
        let mut signalled = Tasks::default();
        if let Some(signals) = self.signals.take() {
            let handle = self.shared.handle.clone();
            signalled.spawn(signals.forward(handle, Arc::clone(&self.hurry)));
        }
        loop {
            let (mut control, mut changes, tasks) = life.read_rings();
            let (commands, delay) = (&mut self.commands, self.options.stop_delay);
            let ended = control.run(commands, &mut changes, delay, &self.hurry);
            let successor = match ended.await {
                Ended::Told(ending) => return self.end(control, ending, tasks, serving).await,
                Ended::Succeeded(successor) => *successor,
            };
            tasks.end().await;
            match self.retire(control, successor, serving).await? {
                Some(again) => (life, serving) = again,
                None => return Ok(()),
            }
        }
    }

    /// Begins to serve; if another process did until now, as agreed with it.
    async fn take_over(
        &mut self,
        life: &mut Life,
        predecessor: Option<Predecessor>,
    ) -> Result<Serving, StartError> {
        let Some(mut predecessor) = predecessor else {
            life.control.serve_connections();
            life.control.serve_datagrams(Vec::new());
            self.socket.own_unless_given()?;
            let serving = self.serve_admin()?;
            self.note_process();
            signals::ready();
            return Ok(serving);
        };
        let could = predecessor.ready(life.control.ready()).await;
        could.map_err(StartError::Predecessor)?;
        life.control.serve_connections();
        self.socket.own()?;
        let serving = self.serve_admin()?;
        let handed = predecessor.serving().await;
        life.control.serve_datagrams(handed);
        let line = predecessor.line().and_then(|line| self.lines.keep(line));
        line.map_err(system("copy a descriptor"))?;
        self.predecessor = Some(predecessor);
        self.note_process();
        signals::main_process(std::process::id());
        Ok(serving)
    }

    /// Lets an older process that still ends with its connections know that it is not needed.
    async fn farewell(&mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.farewell().await;
        }
    }

    fn serve_admin(&self) -> Result<Serving, StartError> {
        let (unix, tcp) = self.sockets.again().map_err(system("copy a descriptor"))?;
        Ok(serve(self.shared.clone(), unix, tcp))
    }

    /// Writes the process id where it was asked for.
    fn note_process(&self) {
        let Some(path) = &self.options.pid_file else {
            return;
        };
        if let Err(error) = std::fs::write(path, format!("{}\n", std::process::id())) {
            warn!(%error, path = %path.display(), "the process id cannot be written");
        }
    }

    /// Ends, because somebody has told us to.
    async fn end(
        mut self,
        mut control: Control<OnDemand>,
        ending: Ending,
        tasks: Tasks,
        (stopping, admin_tasks): Serving,
    ) -> Result<(), StartError> {
        self.farewell().await;
        signals::stopping();
        control.set_phase(Phase::Stopping);
        let keep = ending.keep_dataplane || self.options.keep_dataplane;
        if !keep {
            control.end_redirection();
        }
        control.drain_proxies(&self.hurry).await;
        end(control, keep)?;
        drop(tasks);
        let _ = stopping.send(true);
        for task in admin_tasks {
            let _ = task.await;
        }
        if let Some(path) = &self.options.pid_file {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
        info!("stopped");
        Ok(())
    }

    /// Ends with its connections, because another process serves. If that dies meanwhile, gives
    /// what is to serve again.
    async fn retire(
        &mut self,
        control: Control<OnDemand>,
        mut successor: Successor,
        (stop_admin, admin_tasks): Serving,
    ) -> Result<Option<(Life, Serving)>, StartError> {
        self.farewell().await;
        signals::main_process(successor.ready.pid);
        self.socket.disown();
        let _ = stop_admin.send(true);
        let state = control.state();
        let mut retired = control.retire(&successor).await;
        let is_alone = retired
            .wind_down(&mut successor, &mut self.commands, &self.hurry)
            .await;
        for task in admin_tasks {
            let _ = task.await;
        }
        // A third one may have taken over from the second.
        if !is_alone || self.socket.owner() != Some(successor.ready.pid) {
            info!("ended: another process serves");
            return Ok(None);
        }
        let how = successor.end();
        warn!(how, "the new process has died: this one serves again");
        self.socket.own()?;
        let Retired {
            config,
            saved,
            history,
            source,
            workers,
        } = retired;
        // What was in force here still is, whatever the file says by now.
        let beginning = Beginning {
            config,
            saved,
            history,
        };
        let mut life = Life::begin(
            beginning,
            source,
            &self.shared,
            Locks::default(),
            Some(state),
        )?;
        life.control.adopt_workers(workers);
        life.control.steer_again();
        life.control.serve_again();
        self.enable_upgrade(&mut life)?;
        let serving = self.serve_admin()?;
        self.note_process();
        signals::main_process(std::process::id());
        Ok(Some((life, serving)))
    }
}

/// Locks of a predecessor that still runs.
#[derive(Default)]
struct Locks {
    pins: Option<OwnedFd>,
    steering: Option<OwnedFd>,
    sockets: Option<OwnedFd>,
    mesh: Option<OwnedFd>,
}

/// Descriptors of the admin sockets.
struct AdminSockets {
    unix: StdUnixListener,
    tcp: Option<std::net::TcpListener>,
}

impl AdminSockets {
    fn of(unix: &UnixListener, tcp: Option<&TcpListener>) -> io::Result<Self> {
        let tcp = tcp
            .map(|tcp| tcp.as_fd().try_clone_to_owned())
            .transpose()?;
        Ok(Self {
            unix: unix.as_fd().try_clone_to_owned()?.into(),
            tcp: tcp.map(Into::into),
        })
    }

    /// The sockets, to be served.
    fn again(&self) -> io::Result<(UnixListener, Option<TcpListener>)> {
        let tcp = self
            .tcp
            .as_ref()
            .map(|tcp| TcpListener::from_std(tcp.try_clone()?));
        Ok((
            UnixListener::from_std(self.unix.try_clone()?)?,
            tcp.transpose()?,
        ))
    }

    /// What a successor is given.
    fn offered(
        &self,
        admin: &Admin,
        socket: &AdminSocket,
    ) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let path = || admin.socket.clone();
        let mut offered = vec![
            (
                SocketName::AdminSocket { path: path() },
                self.unix.try_clone()?.into(),
            ),
            (
                SocketName::AdminLock { path: path() },
                socket.lock().try_clone_to_owned()?,
            ),
        ];
        if let (Some(tcp), Some(asked)) = (&self.tcp, admin.listen) {
            offered.push((SocketName::AdminListener { asked }, tcp.try_clone()?.into()));
        }
        Ok(offered)
    }
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

/// The error of a call that every process may expect to succeed.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { what, source }
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

async fn listen(
    address: Option<SocketAddr>,
    sockets: &mut Sockets,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = match sockets.take_admin_listener(address) {
        Some(given) => {
            let socket = std::net::TcpListener::from(given);
            let set = socket.set_nonblocking(true);
            set.and_then(|()| TcpListener::from_std(socket))
        }
        None => TcpListener::bind(address).await,
    };
    listener
        .map(Some)
        .map_err(|source| StartError::Listen { address, source })
}

/// Reads what the API over TCP needs, if it is to be served there.
fn access(admin: &Admin) -> Result<Option<SharedAccess>, StartError> {
    let Some(api) = &admin.api else {
        return Ok(None);
    };
    let access = Access::load(api)?;
    Ok(Some(Arc::new(ArcSwap::from_pointee(access))))
}

/// Serves the admin API until the sender says to stop.
fn serve(shared: Shared, unix: UnixListener, tcp: Option<TcpListener>) -> Serving {
    let (stop, stopping) = watch::channel(false);
    let router = routes::local(shared.clone());
    let open = |stream, _| server::process(stream);
    let local = server::serve(unix, open, router, stopping.clone());
    let mut tasks = vec![tokio::spawn(local)];
    if let Some(tcp) = tcp {
        let policy = policy(&tcp);
        let access = shared.access.clone();
        let router = match &access {
            None => routes::public(shared, policy),
            Some(access) => routes::remote(shared, policy, Arc::clone(access)),
        };
        let open = move |stream, address| {
            let access = access.as_ref().map(|access| access.load_full());
            server::remote(stream, address, access)
        };
        tasks.push(tokio::spawn(server::serve(tcp, open, router, stopping)));
    }
    (stop, tasks)
}

/// Which names of this host requests may call it by.
fn policy(tcp: &TcpListener) -> HostPolicy {
    let address = tcp.local_addr();
    let loopback = address.is_ok_and(|address| address.ip().is_loopback());
    let host_name = nix::unistd::gethostname().unwrap_or_default();
    HostPolicy {
        loopback,
        host_name: host_name.to_string_lossy().to_lowercase(),
        any_label: false,
    }
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

impl Tasks {
    /// Ends them; none runs any more afterwards.
    async fn end(mut self) {
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
