//! A worker's thread.

use super::socket::Socket;
use super::{busy, mesh};
use crate::http::census::{Found, Wanted};
use crate::http::h1::{self, Accepted};
use crate::http::listening::connection_number;
use crate::http::peer::Peer;
use crate::http::snapshot::{Kept, ListenerId, MeshPlan, Snapshot};
use crate::http::worker::Worker;
use crate::net::Stream;
use crate::net::descriptors::Share;
use crate::net::listen::{Accepted as Taken, Listener};
use crate::net::watch;
use crate::stream;
use crate::stream::udp::{Given, Stop};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::sleep;
use tracing::{debug, error, warn};

/// How often kept connections are looked through for those that were closed or are too old.
const REAP: Duration = Duration::from_secs(1);

/// How often is looked whether a draining worker is done.
const LOOK: Duration = Duration::from_millis(20);

/// How often the tasks of a worker get to run at its end, so that they can say how they ended.
const CUTS: usize = 64;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Serve this snapshot.
    Swap(Arc<Snapshot>),
    /// Serve this socket, and the sessions that it has had before, if it is for datagrams.
    Listen(ListenerId, usize, Socket, Vec<Given>),
    /// Accept no more for this listener.
    Close(ListenerId),
    /// Accept no more, end connections with their requests, give sessions of datagrams away.
    Retire(mpsc::UnboundedSender<Surrendered>),
    /// Take that back; sockets come again by [`Order::Listen`].
    Resume,
    /// Say which connections there are.
    Find(Wanted, oneshot::Sender<Found>),
    /// Say how many connections of these sources behave well.
    Behaving(Arc<[IpNet]>, oneshot::Sender<Vec<u32>>),
    /// Accept no more, end connections with their requests, then end.
    Drain,
}

/// A socket's sessions that were given away: the listener, the socket's number, and they.
pub(super) type Surrendered = (ListenerId, usize, Vec<Given>);

/// A worker's thread, from outside. Dropping it ends the thread and cuts its connections off.
#[derive(Debug)]
pub(super) struct Thread {
    orders: Option<mpsc::UnboundedSender<Order>>,
    ended: oneshot::Receiver<()>,
    handle: Option<std::thread::JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread that serves a snapshot and listens nowhere yet.
    pub(super) fn start(index: usize, snapshot: Arc<Snapshot>, kept: &Kept) -> io::Result<Self> {
        let (metrics, logs) = (Arc::clone(&kept.metrics), Arc::clone(&kept.logs));
        let (wanted, seed) = (Arc::clone(&kept.wanted), fastrand::u64(..));
        let tracers = (kept.spans.clone(), kept.flows.clone());
        let worker = move || Worker::new(index, snapshot, metrics, logs, tracers, wanted, seed);
        let (orders, received) = mpsc::unbounded_channel();
        let (done, ended) = oneshot::channel();
        let handle = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || match main(worker, received) {
                Ok(()) => drop(done.send(())),
                Err(error) => error!(index, %error, "a worker cannot run"),
            })?;
        Ok(Self {
            orders: Some(orders),
            ended,
            handle: Some(handle),
        })
    }

    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that has ended needs no orders.
            let _ = orders.send(order);
        }
    }

    /// Waits until the thread has ended.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            error!("a worker has panicked");
        }
    }
}

fn main(worker: impl FnOnce() -> Worker, orders: mpsc::UnboundedReceiver<Order>) -> io::Result<()> {
    // Not moved between threads, so tasks need no locks to be woken from their own thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let worker = Rc::new(worker());
    runtime.block_on(serve(Rc::clone(&worker), orders));
    worker.flush_logs();
    // Connections that are left are cut off, and what they log then is lost.
    drop(runtime);
    Ok(())
}

async fn serve(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    spawn_local(worker.timers.clone().run());
    spawn_local(reap(Rc::clone(&worker)));
    spawn_local(watch_network(Rc::clone(&worker)));
    let polling = Rc::clone(&worker);
    let span = move || polling.snapshot().busy_poll();
    spawn_local(busy::poll(Rc::clone(&worker.clock), span));
    let watching = Rc::clone(&worker);
    spawn_local(async move { watching.watch_lag().await });
    let flushing = Rc::clone(&worker);
    spawn_local(async move { flushing.flush_logs_in_time().await });
    let mut listeners: BTreeMap<ListenerId, Vec<Listening>> = BTreeMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Swap(snapshot) => worker.swap(snapshot),
            Order::Listen(id, number, socket, given) => {
                match listen(&worker, id, socket, number, given) {
                    Ok(listening) => listeners.entry(id).or_default().push(listening),
                    Err(error) => error!(%error, "a worker cannot listen"),
                }
            }
            Order::Close(id) => {
                for listening in listeners.remove(&id).unwrap_or_default() {
                    listening.stop.close();
                }
            }
            Order::Retire(to) => {
                retire(std::mem::take(&mut listeners), &to).await;
                worker.retire();
            }
            Order::Resume => worker.resume(),
            // Whoever asked may have left.
            Order::Find(wanted, reply) => drop(reply.send(worker.find_connections(&wanted))),
            Order::Behaving(sources, reply) => drop(reply.send(worker.behaving(&sources))),
            Order::Drain => {
                for listening in std::mem::take(&mut listeners).into_values().flatten() {
                    listening.stop.close();
                    listening.ended().await;
                }
                worker.drain();
                while worker.connections() > 0 && !orders.is_closed() {
                    sleep(LOOK).await;
                }
                break;
            }
        }
    }
    cut_off(&worker).await;
}

/// Ends connections that are passed on as they are, so that they are counted and logged.
async fn cut_off(worker: &Worker) {
    worker.cut_off();
    for _ in 0..CUTS {
        if worker.connections() == 0 {
            break;
        }
        yield_now().await;
    }
}

/// Leaves the sockets to somebody else, with all sessions of datagrams.
async fn retire(
    listeners: BTreeMap<ListenerId, Vec<Listening>>,
    to: &mpsc::UnboundedSender<Surrendered>,
) {
    for (id, all) in listeners {
        for listening in all {
            let number = listening.number;
            if listening.accepting.is_some() {
                listening.stop.close();
                listening.ended().await;
            } else if let Ok(sessions) = listening.stop.surrender().await {
                // Whoever asked may have given up.
                let _ = to.send((id, number, sessions));
            }
        }
    }
}

/// A listener's socket.
struct Listening {
    /// Its number among those of the listener.
    number: usize,
    stop: Rc<Stop>,
    /// Ends when nothing new is taken any more, for those that then are done with their socket. One
    /// for datagrams is needed as long as it has sessions.
    accepting: Option<JoinHandle<()>>,
}

impl Listening {
    async fn ended(self) {
        if let Some(accepting) = self.accepting {
            let _ = accepting.await;
        }
    }
}

fn listen(
    worker: &Rc<Worker>,
    id: ListenerId,
    socket: Socket,
    number: usize,
    given: Vec<Given>,
) -> io::Result<Listening> {
    let stop: Rc<Stop> = Rc::default();
    let (worker, stopped) = (Rc::clone(worker), Rc::clone(&stop));
    let (socket, begin): (_, Begin) = match socket {
        Socket::Http(socket) => (socket, begin_either),
        Socket::Tcp(socket) => (socket, begin_tcp),
        Socket::Udp(socket) => {
            spawn_local(stream::udp::serve(worker, id, socket, stopped, given));
            return Ok(Listening {
                number,
                stop,
                accepting: None,
            });
        }
    };
    let socket = Listener::new(socket)?;
    let accepting = spawn_local(accept(worker, id, socket, begin, stopped));
    Ok(Listening {
        number,
        stop,
        accepting: Some(accepting),
    })
}

/// Accepts connections, each of which becomes a task, until `stop`; then those that are there
/// already, for whoever has connected must be served.
async fn accept(
    worker: Rc<Worker>,
    id: ListenerId,
    socket: Listener,
    begin: Begin,
    stop: Rc<Stop>,
) {
    let share = Share::of_clients();
    let mut is_exhausted = false;
    // Of a socket for all addresses, each connection has to be asked at which it came in, and of one
    // that gets what is steered to it.
    let bound = socket.local_addr().ok();
    let bound = bound.filter(|address| !address.ip().is_unspecified());
    loop {
        let taken = tokio::select! {
            taken = socket.accept() => taken,
            () = stop.told() => break,
        };
        let error = match taken {
            Taken::Connection(stream, client) => {
                let is_within = share.has(stream.as_raw_fd());
                if worker.turns_away(client.ip()) {
                    turn_away(stream);
                } else {
                    let bound = bound.filter(|_| !is_steered(&worker, id));
                    begin(&worker, id, stream, Ends { client, bound });
                }
                if is_within && share.has_room() {
                    is_exhausted = false;
                    continue;
                }
                None
            }
            Taken::Exhausted(error) => Some(error),
        };
        if !is_exhausted {
            is_exhausted = true;
            let error = error.as_ref().map(tracing::field::display);
            warn!(
                error,
                "no connections are accepted until there is room again"
            );
            count_pause(&worker, id);
        }
        // What is not needed may be any worker's.
        let make_room = || worker.pools.wanted().notify_waiters();
        tokio::select! {
            () = share.wait_for_room(&socket, make_room) => {}
            () = stop.told() => break,
        }
    }
    while let Some((stream, client)) = socket.accept_now() {
        if worker.turns_away(client.ip()) {
            turn_away(stream);
        } else {
            let bound = bound.filter(|_| !is_steered(&worker, id));
            begin(&worker, id, stream, Ends { client, bound });
        }
    }
}

/// Closes the connection of a source that is not heard, with a reset: nothing of it is left here,
/// not even the time that the kernel waits after a farewell.
fn turn_away(stream: TcpStream) {
    // Where it fails the socket is gone already.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// True if connections come in at other addresses than the socket's.
fn is_steered(worker: &Worker, id: ListenerId) -> bool {
    let snapshot = worker.snapshot();
    if let Some(plan) = snapshot.listener(id) {
        let mesh = plan.mesh.as_ref();
        return plan.settings.steer.is_some() || mesh.is_some_and(MeshPlan::is_inbound);
    }
    (snapshot.stream(id)).is_some_and(|plan| plan.settings.steer.is_some())
}

fn count_pause(worker: &Worker, id: ListenerId) {
    let snapshot = worker.snapshot();
    let of_http = snapshot.listener(id).map(|plan| &plan.cells);
    let cells = of_http.or_else(|| snapshot.stream(id).map(|plan| &plan.cells));
    if let Some(cells) = cells {
        cells.at(worker.index).accept_pauses.add(1);
    }
}

/// What is known of a connection's ends without asking.
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    /// Our end, if all connections of the listener have the same.
    bound: Option<SocketAddr>,
}

/// Serves a connection as a task of its own.
type Begin = fn(&Rc<Worker>, ListenerId, TcpStream, Ends);

pub(super) fn begin_http(worker: &Rc<Worker>, listener: ListenerId, stream: TcpStream, ends: Ends) {
    let Some((stream, server)) = socket(stream, &ends) else {
        return;
    };
    let accepted = Accepted {
        stream,
        peer: Peer::new(ends.client, server, connection_number()),
        listener,
    };
    // Boxed: as a value it would be moved several times on its way into the task and out of it.
    spawn_local(Box::pin(h1::serve(Rc::clone(worker), accepted)));
}

/// At a listener that speaks HTTP: others may be redirected there.
fn begin_either(worker: &Rc<Worker>, listener: ListenerId, stream: TcpStream, ends: Ends) {
    let snapshot = worker.snapshot();
    let plan = snapshot.listener(listener);
    match plan.is_some_and(|plan| plan.mesh.is_some()) {
        true => mesh::begin(worker, listener, stream, ends),
        false => begin_http(worker, listener, stream, ends),
    }
}

fn begin_tcp(worker: &Rc<Worker>, listener: ListenerId, stream: TcpStream, ends: Ends) {
    let Some((mut stream, server)) = socket(stream, &ends) else {
        return;
    };
    stream.expects_another(true);
    let accepted = stream::Accepted {
        stream,
        client: ends.client,
        server,
        number: connection_number(),
        listener,
        mesh: None,
    };
    spawn_local(stream::serve(Rc::clone(worker), accepted));
}

/// A connection and our end of it; `None` if the client is gone already.
pub(super) fn socket(stream: TcpStream, ends: &Ends) -> Option<(Stream, SocketAddr)> {
    if let Ok(server) = ends.bound.map_or_else(|| stream.local_addr(), Ok) {
        let mut stream = Stream::accepted(stream);
        stream.is_between(ends.client.ip(), server.ip());
        return Some((stream, server));
    }
    debug!("a connection was gone before it was served");
    None
}

/// Looks how connections to backends fare.
async fn watch_network(worker: Rc<Worker>) {
    loop {
        sleep(watch::EVERY).await;
        if !worker.watches.is_empty() {
            worker.clock.read();
            worker.watches.look();
        }
    }
}

/// Closes kept connections that are of no use any more, and all that is kept where descriptors run
/// short.
async fn reap(worker: Rc<Worker>) {
    let share = Share::of_clients();
    loop {
        tokio::select! {
            () = sleep(REAP) => {}
            () = worker.pools.wanted().notified() => {}
        }
        if !share.has_room() {
            worker.buffers.pipes().shed();
            worker.pools.shed();
        }
        let now = worker.clock.read();
        if worker.pools.kept() > 0 {
            worker.pools.reap(now);
        }
        worker.pools.h2.reap(now);
    }
}
