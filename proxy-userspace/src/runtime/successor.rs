//! The control task and the process that takes over from it.

use super::control::Control;
use super::history::History;
use super::plane::Plane;
use super::source::Source;
use super::upgrade::{HandOver, Launch, Lines, Offer, Ready, SocketName, Successor, UpgradeError};
use super::workers::{Handed, Workers};
use crate::admin::api::{Refusal, RefusalKind, UpgradeAnswer, UpgradeRequest, chain};
use crate::admin::control::{Command, Reply};
use crate::admin::socket::note_owner;
use crate::config::model::Config;
use crate::observe::build::VERSION;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// How long a new process may take until it is ready: it reads the file, has its program
/// verified, and on a busy machine that takes its time.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often is looked whether connections have ended.
const LOOK: Duration = Duration::from_millis(50);

/// How long the new process is watched at least: one that dies of its first requests gives the
/// service back, also where no connection has kept this process.
const PROBATION: Duration = Duration::from_secs(5);

/// How long connections that wait for a request may take to be closed.
const LAST: Duration = Duration::from_secs(1);

/// What a successor is started with and handed, beside what the control task has.
#[derive(Debug)]
pub(crate) struct Estate {
    /// How this process was started.
    pub(crate) launch: Launch,
    /// The admin sockets and their locks.
    pub(crate) sockets: Vec<(SocketName, OwnedFd)>,
    /// Lines to those who would serve again.
    pub(crate) lines: Lines,
}

impl Estate {
    /// Notes in the admin socket's lock that this process serves it.
    fn note_owner(&self) -> io::Result<()> {
        for (name, lock) in &self.sockets {
            if matches!(name, SocketName::AdminLock { .. }) {
                note_owner(&mut File::from(lock.try_clone()?))?;
            }
        }
        Ok(())
    }

    fn copies(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let sockets = self.sockets.iter();
        let sockets = sockets.map(|(name, socket)| Ok((name.clone(), socket.try_clone()?)));
        // First of all: what has come when this process dies decides who serves.
        let lines = self.lines.copies()?.into_iter();
        let lines = lines.map(|line| Ok((SocketName::Ancestor, line)));
        lines.chain(sockets).collect()
    }
}

/// A hand-over that is under way.
pub(crate) struct Upgrade {
    hand_over: HandOver,
    reply: Reply<UpgradeAnswer>,
}

/// What has come of it, and who wants to know.
pub(crate) type Outcome = (Result<Successor, UpgradeError>, Reply<UpgradeAnswer>);

impl Upgrade {
    /// Waits for the outcome of the one that is under way; for ever if there is none.
    ///
    /// # Cancel safety
    ///
    /// It goes on with the next call.
    pub(crate) async fn outcome(upgrade: &mut Option<Self>) -> Outcome {
        let Some(under_way) = upgrade else {
            return std::future::pending().await;
        };
        let outcome = under_way.hand_over.as_mut().await;
        match upgrade.take() {
            Some(ended) => (outcome, ended.reply),
            None => std::future::pending().await,
        }
    }
}

impl<P: Plane> Control<P> {
    /// Begins a hand-over, unless one is under way; gives the one that then is.
    pub(super) fn upgrade(
        &mut self,
        under_way: Option<Upgrade>,
        request: &UpgradeRequest,
        reply: Reply<UpgradeAnswer>,
    ) -> Option<Upgrade> {
        if under_way.is_some() {
            let _ = reply.send(Err(busy()));
            return under_way;
        }
        match self.begin_upgrade(request) {
            Ok(hand_over) => {
                self.is_frozen = true;
                Some(Upgrade { hand_over, reply })
            }
            Err(refusal) => {
                error!("no new process takes over: {refusal}");
                let _ = reply.send(Err(refusal));
                None
            }
        }
    }

    fn begin_upgrade(&self, request: &UpgradeRequest) -> Result<HandOver, Refusal> {
        let deadline = request.timeout_seconds.map(Duration::try_from_secs_f64);
        let deadline = deadline
            .transpose()
            .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("timeout: {error}")))?;
        let Some(estate) = &self.estate else {
            let what = "this process does not know how it was started";
            return Err(Refusal::new(RefusalKind::Conflict, what));
        };
        let offer = self
            .offer(estate)
            .map_err(|error| Refusal::internal(&error))?;
        let binary = request.binary.as_deref().map(Path::new);
        offer
            .begin(&estate.launch, binary, deadline.unwrap_or(DEADLINE))
            .map_err(|error| match error {
                UpgradeError::Refused(refusal) => refusal,
                error => Refusal::internal(&error),
            })
    }

    fn offer(&self, estate: &Estate) -> io::Result<Offer> {
        let mut sockets = estate.copies()?;
        sockets.extend(self.plane.lock().map(|lock| (SocketName::PinLock, lock)));
        let steer_lock = self.plane.steer_lock();
        sockets.extend(steer_lock.map(|lock| (SocketName::SteerLock, lock)));
        let socket_lock = self.plane.socket_lock();
        sockets.extend(socket_lock.map(|lock| (SocketName::ConnectLock, lock)));
        let mesh_lock = self.plane.mesh_lock();
        sockets.extend(mesh_lock.map(|lock| (SocketName::MeshLock, lock)));
        for (place, number, socket) in self.workers.iter().flat_map(|it| it.offered()) {
            let name = SocketName::Listener {
                name: place.name.clone(),
                protocol: place.protocol,
                asked: place.asked,
                bound: place.bound,
                number,
            };
            sockets.push((name, socket.try_clone_to_owned()?));
        }
        Ok(Offer {
            sockets,
            state: self.state(),
        })
    }

    /// Takes note of how a hand-over has ended, and gives who serves now, if it is not this
    /// process.
    pub(super) fn upgraded(&mut self, (outcome, reply): Outcome) -> Option<Successor> {
        match outcome {
            Ok(successor) => {
                let answer = UpgradeAnswer {
                    pid: successor.ready.pid,
                    version: successor.ready.version.clone(),
                    old_pid: std::process::id(),
                    old_version: VERSION.to_owned(),
                };
                info!(pid = answer.pid, version = answer.version, "handed over");
                let _ = reply.send(Ok(answer));
                Some(successor)
            }
            Err(error) => {
                error!(
                    "no new process has taken over, this one serves on: {}",
                    chain(&error)
                );
                self.thaw();
                let refusal = Refusal::new(RefusalKind::Conflict, chain(&error));
                let _ = reply.send(Err(refusal));
                None
            }
        }
    }

    /// Ends a hand-over because this process is to end.
    pub(super) fn give_up(&mut self, upgrade: Upgrade) {
        // The new process is killed before the maps are touched.
        drop(upgrade.hand_over);
        warn!("told to stop: nobody takes over");
        let _ = upgrade.reply.send(Err(Refusal::stopping()));
        self.thaw();
    }

    /// The maps are this process's again. The other one may have changed them, and may have put
    /// its own program in place of ours.
    fn thaw(&mut self) {
        self.is_frozen = false;
        // The other one may have noted itself as the owner just before it died.
        if let Some(Err(error)) = self.estate.as_ref().map(Estate::note_owner) {
            warn!(%error, "the admin socket's lock names another process");
        }
        // What it has put in place of our sockets is gone with it.
        self.plane.forget_steering();
        self.steer_again();
        self.plane.forget_socket_balancing();
        self.balance_sockets();
        if !self.has_plane() {
            return;
        }
        self.keep_to(&self.overlay.clone());
        self.publish_names();
        self.publish_readiness();
    }

    /// Answers what cannot be done while another process is about to take over; gives back what
    /// can.
    pub(super) fn refuse_while_frozen(&self, command: Command) -> Option<Command> {
        if !self.is_frozen {
            return Some(command);
        }
        match command {
            Command::Reload(reply) | Command::Configure(_, reply) => {
                drop(reply.send(Err(busy())));
            }
            Command::Drain(_, reply) => drop(reply.send(Err(busy()))),
            Command::Undrain(_, reply) => drop(reply.send(Err(busy()))),
            Command::GuardAdd(_, reply) => drop(reply.send(Err(busy()))),
            Command::GuardRemove(_, reply) => drop(reply.send(Err(busy()))),
            Command::Observe(_, reply) => drop(reply.send(Err(busy()))),
            Command::Capture(_, reply) => drop(reply.send(Err(busy()))),
            other => return Some(other),
        }
        None
    }
}

/// What is left of a control task once another process serves.
pub(crate) struct Retired {
    /// The configuration that was in force.
    pub(crate) config: Config,
    /// What the file said.
    pub(crate) saved: Arc<Config>,
    /// The configurations that were in force.
    pub(crate) history: History,
    /// Where it came from.
    pub(crate) source: Box<dyn Source>,
    /// The workers, which end with their connections.
    pub(crate) workers: Option<Workers>,
}

impl<P: Plane> Control<P> {
    /// What this process says of itself once it could serve.
    pub(crate) fn ready(&self) -> Ready {
        Ready {
            pid: std::process::id(),
            version: VERSION.to_owned(),
            has_plane: self.has_plane(),
            unused: self.workers.iter().flat_map(|it| it.unused()).collect(),
        }
    }

    /// Accepts connections from now on.
    pub(crate) fn serve_connections(&mut self) {
        if !self.steers() {
            // Only now nobody needs any more what an older process may have steered.
            self.steer_again();
        }
        if let Some(workers) = &mut self.workers {
            workers.serve();
        }
    }

    /// Takes datagrams from now on, with the sessions of a predecessor.
    pub(crate) fn serve_datagrams(&mut self, handed: Vec<Handed>) {
        if let Some(workers) = &mut self.workers {
            workers.serve_datagrams(handed);
        }
    }

    /// Serves again after all.
    pub(crate) fn serve_again(&mut self) {
        if let Some(workers) = &mut self.workers
            && let Err(error) = workers.resume()
        {
            error!(%error, "some listeners are not served");
        }
    }

    /// Lets go of everything but the connections that there are.
    pub(crate) async fn retire(self, successor: &Successor) -> Retired {
        let Self {
            mut plane,
            config,
            saved,
            history,
            source,
            mut workers,
            ..
        } = self;
        let handed = match &mut workers {
            Some(workers) => workers.retire().await,
            None => Vec::new(),
        };
        plane.forget_steering();
        plane.forget_socket_balancing();
        // The kernel part is the other one's, but for one that it has no use for.
        if config.balances_packets() && !successor.ready.has_plane {
            if let Err(error) = plane.release(false) {
                error!(error = %chain(&error), "the data plane could not be closed");
            }
        } else {
            drop(plane);
        }
        if let Err(error) = successor.release(handed).await {
            warn!(%error, "the new process does not listen any more");
        }
        if let Some(workers) = &mut workers {
            for &(protocol, bound) in &successor.ready.unused {
                workers.forget(protocol, bound);
            }
        }
        Retired {
            config,
            saved,
            history,
            source,
            workers,
        }
    }
}

impl Retired {
    /// Waits until the connections have ended, their time is over, or somebody is in a hurry.
    /// True if the other process is gone before that.
    pub(crate) async fn wind_down(
        &mut self,
        successor: &mut Successor,
        commands: &mut mpsc::Receiver<Command>,
        hurry: &Notify,
    ) -> bool {
        let deadline = self.config.workers.drain_timeout;
        let open = |workers: &Option<Workers>| workers.as_ref().map_or(0, Workers::connections);
        let connections = open(&self.workers);
        info!(connections, ?deadline, "waiting for connections to end");
        let mut over = pin!(sleep(deadline.max(PROBATION)));
        let proven = Instant::now() + PROBATION;
        loop {
            let is_proven = successor.has_left() || Instant::now() >= proven;
            if is_proven && open(&self.workers) == 0 {
                break;
            }
            tokio::select! {
                () = successor.died() => return true,
                () = &mut over => break,
                () = hurry.notified() => break,
                () = sleep(LOOK) => {}
                Some(command) = commands.recv() => match command {
                    Command::ReopenLogs(reply) => {
                        if let Some(workers) = &self.workers {
                            workers.reopen_logs();
                        }
                        let _ = reply.send(Ok(()));
                    }
                    // It ends anyway; a second time is a hurry.
                    Command::Stop(_, reply) => drop(reply.send(Ok(()))),
                    // Whoever asked by way of the old process's last connections, asks again.
                    other => drop(other),
                },
            }
        }
        if let Some(mut workers) = self.workers.take() {
            let left = workers.drain(LAST).await;
            if left > 0 {
                warn!(
                    connections = left,
                    "the drain's time is over: cutting them off"
                );
            }
        }
        false
    }
}

fn busy() -> Refusal {
    let what = "a new process is about to take over: try again in a moment";
    Refusal::new(RefusalKind::Conflict, what)
}
