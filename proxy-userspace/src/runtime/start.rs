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

mod admin;
mod error;
mod life;

pub use error::StartError;

use super::control::{Control, Ended, Ending, TICK, epoch_seconds};
use super::history::Beginning;
use super::on_demand::OnDemand;
use super::signals::{self, Signals};
use super::source::{FileSource, Source as _};
use super::successor::{Estate, Retired};
use super::upgrade::{self, Launch, Lines, Predecessor, Sockets, State, Successor};
use super::{forwarding, proxies};
use crate::admin::api::chain;
use crate::admin::control::{Command, Handle};
use crate::admin::routes::Shared;
use crate::admin::socket::AdminSocket;
use crate::config::model::Admin;
use crate::observe::journal::Journal;
use crate::observe::view::Phase;
use crate::privileges::Kept;
use admin::{AdminSockets, Serving, access, listen, serve};
use error::system;
use life::{Life, Locks, Tasks, end};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
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
