//! A TCP connection, from accepted to ended.
//!
//! An end that one side sends is sent on, and the other direction goes on (half-close). A reset is
//! passed on as a reset, so that nobody takes a part for the whole.

use super::account::{Facts, Outcome, Peers, account};
use super::choose::{Connected, reach};
use super::copy::{self, Broken, Direction};
use super::sealed::seal;
use super::{header, passthrough};
use crate::config::model::http::{ProxyVersion, Splice};
use crate::http::census::{Live, Spoken};
use crate::http::origins;
use crate::http::snapshot::{ListenerId, ServicePlan, SharedSnapshot};
use crate::http::streams::StreamPlan;
use crate::http::worker::Worker;
use crate::message::{Refusal, RefusedBy};
use crate::net::proxy_protocol::{self, Origin};
use crate::net::{Input, Nanos, Stream, Timer};
use crate::observe::access_log::{End, Phase, Traffic};
use crate::observe::http::BackendCells;
use crate::sockets::redirect::Redirected;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// How long a trusted sender may take for its PROXY header.
const HEADER: Nanos = 10_000_000_000;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// The client's end.
    pub client: SocketAddr,
    /// Our end.
    pub server: SocketAddr,
    /// Its number, unique in the life of the process.
    pub number: u64,
    /// Where it came in.
    pub listener: ListenerId,
    /// Whose it is, if it was redirected.
    pub mesh: Option<Mesh>,
}

/// A connection that was redirected.
#[derive(Debug)]
pub struct Mesh {
    /// Whose it is.
    pub redirected: Rc<Redirected>,
    /// How it is passed on.
    pub plan: Arc<StreamPlan>,
    /// The client begins with a ClientHello.
    pub is_tls: bool,
    /// Number of the service whose VIP it has dialled, in the worker's snapshot.
    pub vip: Option<usize>,
}

/// Serves a client's connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let live = Rc::new(Live::new(accepted.number, accepted.client, accepted.server));
    live.set_protocol(Spoken::Tcp);
    let _counted = worker.count_connection(&live, accepted.listener);
    let snapshot = worker.snapshot();
    let plan = match &accepted.mesh {
        Some(mesh) => Some(Arc::clone(&mesh.plan)),
        None => snapshot.stream(accepted.listener).cloned(),
    };
    let Some(plan) = plan else {
        return accepted.stream.abort();
    };
    let cells = plan.cells.at(worker.index);
    let Some(_open) = plan.take_place() else {
        cells.ended(End::QueueFull);
        return accepted.stream.abort();
    };
    cells.connections.add(1);
    cells.connections_active.add(1);
    worker.note_accept(&live, &plan.settings.name);
    let Accepted { mut stream, .. } = accepted;
    let mut peers = Peers {
        client: accepted.client,
        server: accepted.server,
        number: accepted.number,
        listener: accepted.listener,
    };
    let mut facts = Facts::new(worker.clock.read(), Rc::clone(&live));
    facts.is_plain = plan.bulk.is_plain();
    if let Some(mesh) = &accepted.mesh {
        facts.redirected = Some(Rc::clone(&mesh.redirected));
        facts.is_tls = mesh.is_tls;
        facts.vip = mesh.vip.and_then(|index| {
            let service = snapshot.service(index)?;
            Some((index, Arc::clone(&service.state)))
        });
        live.set_ends(accepted.client, accepted.server);
    }
    let begun = begin(
        &worker,
        snapshot,
        &plan,
        &mut stream,
        &mut peers,
        &mut facts,
    )
    .await;
    let mut held = None;
    let (end, phase) = match begun {
        Ok((connected, directions)) => {
            let Connected {
                stream: backend,
                held: of_backend,
                acceleration,
            } = connected;
            stream.expects_another(false);
            let cells = held.insert(of_backend).cells.at(worker.index);
            let timer = worker.timers.timer();
            let pair = copy::Pair {
                client: &stream,
                backend: &backend,
                timer: &timer,
                idle: plan.idle,
                acceleration: acceleration.as_ref().filter(|_| plan.joins()),
                bulk: &plan.bulk,
            };
            let passing = pass_on(&worker, &plan, &pair, cells, directions, &mut facts);
            (passing.await, Phase::Data)
        }
        Err(ended) => ended,
    };
    if end != End::Complete && !facts.is_told {
        stream.abort();
    }
    // Its peer learns of the end no later than the log does.
    drop(stream);
    cells.connections_active.sub(1);
    let ended = (end, phase);
    let service = held.as_ref().map(|held| &**held.lease.service());
    account(&worker, &plan, &peers, &facts, ended, service, Traffic::Tcp);
}

/// From the client and to it.
type Directions = (Direction, Direction);

/// Finds out who the client is, and connects to a backend. The snapshot is given back before
/// octets are passed on: connections may live long, and it is large.
async fn begin(
    worker: &Worker,
    snapshot: SharedSnapshot,
    plan: &StreamPlan,
    client: &mut Stream,
    peers: &mut Peers,
    facts: &mut Facts,
) -> Result<(Connected, Directions), Outcome> {
    let timer = worker.timers.timer();
    let splices = plan.settings.splice != Splice::Off;
    let mut up = Direction::new(&worker.buffers, splices);
    let down = Direction::new(&worker.buffers, splices);
    let cells = plan.cells.at(worker.index);
    let senders = &plan.settings.proxy_protocol_from;
    let peer = peers.client.ip().to_canonical();
    if senders.iter().any(|net| net.contains(&peer)) {
        if !read_header(worker, client, peers, &mut up.input, &timer).await {
            cells.refused(RefusedBy::Client, Refusal::ProxyHeader);
            return Err((End::ClientProtocol, Phase::Request));
        }
        facts.live.set_ends(peers.client, peers.server);
        worker.note_proxy(&facts.live);
    }
    if let Some(tls) = &plan.tls {
        // Boxed: a plain connection has no room for it.
        let input = &mut up.input;
        let live = &facts.live;
        let tls = (&*plan.settings.name, tls);
        let sealed = seal(worker, tls, client, input, live, &timer);
        let sealed = Box::pin(sealed).await;
        facts.secured = Some(Box::new(sealed.map_err(|(outcome, refusal)| {
            facts.is_told = refusal == Some(Refusal::TlsHandshake);
            facts.refusal = refusal;
            if let Some(refusal) = refusal {
                cells.refused(RefusedBy::Client, refusal);
            }
            outcome
        })?));
    }
    if let Some(names) = plan.names.as_ref().filter(|_| facts.is_tls) {
        let asked = passthrough::ask(worker, names, client, &mut up.input, &timer, facts);
        let asked = asked.await;
        if let Some(refusal) = facts.refusal {
            cells.refused(RefusedBy::Client, refusal);
            worker.refused(&facts.live, refusal);
        }
        asked?;
    }
    let vip = facts.vip.as_ref().filter(|_| facts.rule().is_none());
    let service = match vip {
        Some((index, _)) => Some(*index),
        None => plan.service(facts.rule()),
    };
    let service = service.and_then(|service| snapshot.service(service));
    let origin = match service {
        Some(_) => None,
        None => origin(worker, plan, facts),
    };
    let service = service.or(origin.as_deref());
    let service = service.ok_or((End::NoBackend, Phase::Queue))?;
    let introduction = introduction(service, peers, facts);
    let connected = {
        let mut reaching = pin!(reach(
            worker,
            service,
            peers.client.ip(),
            &introduction,
            facts,
            &timer
        ));
        let mut failed = pin!(client.failed());
        poll_fn(|cx| match reaching.as_mut().poll(cx) {
            Poll::Ready(reached) => Poll::Ready(reached),
            Poll::Pending if failed.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Err((End::ClientClosed, Phase::Connect)))
            }
            Poll::Pending if worker.is_over() => Poll::Ready(Err((End::Stopped, Phase::Connect))),
            Poll::Pending => Poll::Pending,
        })
        .await?
    };
    // TLS begins behind it, so it is sent already then.
    if service.tls.is_none() {
        up.preamble = introduction;
    }
    Ok((connected, (up, down)))
}

/// The PROXY header that the service's backends are sent, if they are sent one.
fn introduction(service: &ServicePlan, peers: &Peers, facts: &Facts) -> Vec<u8> {
    let mut octets = Vec::new();
    let (client, server) = (peers.client, peers.server);
    match service.settings.send_proxy {
        None => {}
        Some(ProxyVersion::V1) => proxy_protocol::write_v1(client, server, &mut octets),
        Some(ProxyVersion::V2) => {
            let (asked, secured) = (facts.asked.iter(), facts.secured.iter());
            let asked = asked.flat_map(|asked| asked.additions());
            let secured = secured.flat_map(|secured| secured.additions());
            let additions: Vec<_> = asked.chain(secured).collect();
            proxy_protocol::write_v2(client, server, false, &additions, false, &mut octets);
        }
    }
    octets
}

/// Where a redirected connection was to go, if nobody is named for it and that is wanted.
fn origin(worker: &Worker, plan: &StreamPlan, facts: &Facts) -> Option<Arc<ServicePlan>> {
    let redirected = facts.redirected.as_ref()?;
    let is_wanted = plan.service_name(facts.rule()) == Some(origins::NAME);
    is_wanted.then(|| worker.origin(redirected.destination, false))
}

/// Passes on until both sides, client and backend, have ended.
async fn pass_on(
    worker: &Worker,
    plan: &StreamPlan,
    pair: &copy::Pair<'_>,
    cells: &BackendCells,
    (mut up, mut down): Directions,
    facts: &mut Facts,
) -> End {
    let flow = plan.flow.at(worker.index);
    let live = Rc::clone(&facts.live);
    let count = |up: u64, down: u64| {
        live.moved(up, down);
        flow.received.add(up);
        flow.sent.add(down);
        cells.stream_sent.add(up);
        cells.stream_received.add(down);
    };
    let moved = copy::both(pair, &mut up, &mut down, count, || worker.is_over()).await;
    (facts.received, facts.sent) = (up.octets, down.octets);
    let end = match moved {
        Ok(()) => End::Complete,
        Err(Broken::Client) => End::ClientClosed,
        Err(Broken::Backend) => End::BackendReset,
        Err(Broken::Idle) => End::ClientTimeout,
        Err(Broken::Over) => End::Stopped,
    };
    if end != End::Complete {
        pair.backend.abort();
    }
    if let Some(last) = facts.attempts.last_mut() {
        last.total = worker.clock.last().saturating_sub(last.began);
        last.first = down.first_at.map(|at| at.saturating_sub(last.began));
        (last.sent, last.received) = (up.octets, down.octets);
        last.end = end;
    }
    end
}

/// Reads the PROXY header that the sender must send. What follows it stays in `input`.
async fn read_header(
    worker: &Worker,
    stream: &Stream,
    peers: &mut Peers,
    input: &mut Input,
    timer: &Timer,
) -> bool {
    let origin =
        header::read(
            worker,
            stream,
            input,
            (timer, HEADER),
            |input| match proxy_protocol::parse(input.filled()) {
                Ok(Some((header, consumed))) => {
                    let origin = header.origin;
                    input.consume(consumed);
                    Ok(Some(origin))
                }
                Ok(None) if input.filled().len() < proxy_protocol::MAX_LENGTH => Ok(None),
                Ok(None) | Err(_) => Err(()),
            },
        );
    match origin.await {
        Ok(Origin::Client { client, server, .. }) => {
            (peers.client, peers.server) = (client, server);
            true
        }
        Ok(Origin::Local | Origin::Unknown) => true,
        Err(_) => false,
    }
}
