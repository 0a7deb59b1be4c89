//! One source's datagrams.

use super::{Carried, Given, Key, Socket, connection_number};
use crate::balance::l7::{BackendState, ServiceState, Tried, Unavailable};
use crate::config::model::http::ProxyVersion;
use crate::health::outlier as health;
use crate::http::census::{Live, Spoken};
use crate::http::snapshot::{OpenConnection, ServicePlan};
use crate::http::streams::StreamPlan;
use crate::http::worker::{Counted, Worker};
use crate::net::datagram::{Datagrams, Inbox, Way};
use crate::net::{Nanos, Timer, proxy_protocol};
use crate::observe::access_log::{End, Phase, Traffic};
use crate::observe::http::{ConnectFailure, DatagramDrop, RetryReason, Series, ServiceCells};
use crate::stream::account::{Attempted, Facts, Outcome, Peers, account};
use crate::stream::choose::{self, Held};
use crate::upstream::pool::Place;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tracing::debug;

/// Octets of the longest datagram that is kept until it is answered: questions fit, streams of
/// media gain nothing by it.
const LONGEST_KEPT: usize = 1500;

/// One source's datagrams.
#[derive(Debug)]
pub(super) struct Session {
    key: Key,
    peers: Peers,
    plan: Arc<StreamPlan>,
    /// The way of the answers.
    way: Way,
    /// The socket that they leave by, where it is not the one that was asked.
    answers: Option<Rc<Datagrams>>,
    timer: Timer,
    service: Arc<ServiceState>,
    service_cells: Arc<Series<ServiceCells>>,
    send_proxy: Option<ProxyVersion>,
    link: RefCell<Link>,
    tried: Cell<Tried>,
    facts: RefCell<Facts>,
    /// The first datagram, until there is an answer.
    kept: RefCell<Option<Box<[u8]>>>,
    asked: Cell<u64>,
    answered: Cell<u64>,
    end: Cell<Option<Outcome>>,
    waker: RefCell<Option<Waker>>,
    _open: OpenConnection,
    _counted: Counted,
}

/// The backend that a session has.
#[derive(Debug)]
struct Link {
    socket: Datagrams,
    held: Held,
    /// The PROXY header that each datagram is sent with: any one of them may be lost.
    header: Vec<u8>,
}

impl Session {
    /// A session of a source that has none, with a backend.
    pub(super) fn begin(socket: &Socket, key: Key, now: Nanos) -> Result<Self, DatagramDrop> {
        let worker = &socket.worker;
        let snapshot = worker.snapshot();
        let plan = snapshot.stream(socket.listener);
        let plan = plan.ok_or(DatagramDrop::Draining)?;
        let open = plan.take_place().ok_or(DatagramDrop::TableFull)?;
        if !socket.share.has_room() {
            return Err(DatagramDrop::Exhausted);
        }
        let service = plan
            .service(None)
            .and_then(|service| snapshot.service(service));
        let service = service.ok_or(DatagramDrop::NoBackend)?;
        let peers = peers(socket, key);
        let answers = socket.answers(key).map_err(|error| refusal(&error))?;
        let (mut tried, mut facts) = (Tried::default(), Facts::new(now, live(&peers)));
        let send_proxy = service.settings.send_proxy;
        let chosen = Choice {
            worker,
            service: &service.state,
            peers: &peers,
            send_proxy,
        };
        let link = chosen.link(&mut tried, &mut facts)?;
        Ok(Self::with(
            socket,
            (key, peers, answers),
            (plan, open),
            service,
            link,
            (tried, facts),
        ))
    }

    /// Goes on with a session of another process. `None` if its listener, its service or its
    /// backend is gone, or has no room.
    pub(super) fn adopt(
        socket: &Socket,
        carried: &Carried,
        descriptor: OwnedFd,
        now: Nanos,
    ) -> Option<Self> {
        let worker = &socket.worker;
        let snapshot = worker.snapshot();
        let plan = snapshot.stream(socket.listener)?;
        let open = plan.take_place()?;
        let service = plan
            .service(None)
            .and_then(|service| snapshot.service(service))?;
        let lease = service.state.lease_of(carried.backend)?;
        let backend = Arc::clone(lease.backend());
        let place = Place::new(&backend, limit_of(&backend))?;
        let key = carried.key();
        let peers = peers(socket, key);
        let answers = socket.answers(key).ok()?;
        let (mut tried, mut facts) = (Tried::default(), Facts::new(now, live(&peers)));
        tried.add(backend.slot());
        facts.attempts.push(Attempted::new(&backend, now));
        let link = Link {
            socket: Datagrams::new(UdpSocket::from(descriptor)).ok()?.claimed(),
            held: Held::new(worker, lease, place),
            header: header(service.settings.send_proxy, &peers),
        };
        let session = Self::with(
            socket,
            (key, peers, answers),
            (plan, open),
            service,
            link,
            (tried, facts),
        );
        session.asked.set(carried.asked);
        session.answered.set(carried.answered);
        let idle = socket.idle(plan.idle);
        let left = carried.left.map_or(idle, |left| left.min(idle));
        session.timer.set(now.saturating_add(left));
        Some(session)
    }

    fn with(
        socket: &Socket,
        (key, peers, answers): (Key, Peers, Option<Rc<Datagrams>>),
        (plan, open): (&Arc<StreamPlan>, OpenConnection),
        service: &ServicePlan,
        link: Link,
        (tried, facts): (Tried, Facts),
    ) -> Self {
        let worker = &socket.worker;
        let cells = plan.cells.at(worker.index);
        cells.connections.add(1);
        cells.connections_active.add(1);
        let counted = worker.count_connection(&facts.live, socket.listener);
        Self {
            key,
            peers,
            way: Way::new(key.source, key.local.filter(|_| answers.is_none())),
            answers,
            timer: worker.timers.timer(),
            service: Arc::clone(&service.state),
            service_cells: Arc::clone(&service.cells),
            send_proxy: service.settings.send_proxy,
            link: RefCell::new(link),
            tried: Cell::new(tried),
            facts: RefCell::new(facts),
            kept: RefCell::default(),
            asked: Cell::new(0),
            answered: Cell::new(0),
            end: Cell::new(None),
            waker: RefCell::default(),
            _open: open,
            _counted: counted,
            plan: Arc::clone(plan),
        }
    }

    /// Ends here, and goes on elsewhere.
    pub(super) fn surrender(&self) -> Option<Given> {
        if self.is_ended() {
            return None;
        }
        let link = self.link.borrow();
        let carried = Carried {
            source: self.key.source,
            local: Carried::local(self.key),
            port: self.key.port,
            backend: link.held.lease.backend().address(),
            asked: self.asked.get(),
            answered: self.answered.get(),
            left: self.timer.left(),
        };
        let descriptor = link.socket.try_clone();
        self.end.set(Some((End::Complete, Phase::Data)));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        descriptor.ok().map(|descriptor| (carried, descriptor))
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn is_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Passes answers on until the session ends, which is then counted and logged.
    pub(super) async fn run(self: Rc<Self>, socket: &Socket) {
        let ended = poll_fn(|cx| self.poll(cx, socket)).await;
        socket.forget(&self);
        let worker = &socket.worker;
        self.plan.cells.at(worker.index).connections_active.sub(1);
        let facts = &mut *self.facts.borrow_mut();
        if let Some(last) = facts.attempts.last_mut() {
            last.total = worker.clock.last().saturating_sub(last.began);
        }
        let (plan, peers, service) = (&self.plan, &self.peers, Some(&*self.service));
        account(worker, plan, peers, facts, ended, service, Traffic::Udp);
    }

    /// Lets the session end soon, for its listener does.
    pub(super) fn hurry(&self, socket: &Socket) {
        self.timer.set_after(socket.idle(self.plan.idle));
    }

    /// Passes datagrams of the inbox on to the backend.
    pub(super) fn forward(
        &self,
        socket: &Socket,
        inbox: &Inbox,
        datagrams: Range<usize>,
        now: Nanos,
    ) {
        self.timer
            .set(now.saturating_add(socket.idle(self.plan.idle)));
        self.asked.set(self.asked.get() + datagrams.len() as u64);
        self.keep(inbox.datagram(datagrams.start));
        let octets = datagrams.clone().map(|index| inbox.datagram(index).len());
        let octets = octets.sum::<usize>() as u64;
        {
            let mut facts = self.facts.borrow_mut();
            facts.received += octets;
            facts.live.moved(octets, 0);
        }
        let Range { mut start, end } = datagrams;
        while start < end && !self.is_ended() {
            let sent = {
                let link = self.link.borrow();
                let rest = (start..end).map(|index| inbox.datagram(index));
                let mut outbox = socket.outbox.borrow_mut();
                outbox.send(&link.socket, None, &link.header, rest)
            };
            match sent {
                Ok(sent) => {
                    let sent = start..start + sent.max(1);
                    start = sent.end;
                    self.count_sent(socket, sent.map(|index| inbox.datagram(index).len()).sum());
                }
                Err(error) => match Trouble::of(&error) {
                    Trouble::Congested => {
                        return socket.dropped(DatagramDrop::Congested, end - start);
                    }
                    Trouble::Backend => self.refused(socket, &error),
                    Trouble::Datagram(why) => {
                        socket.dropped(why, 1);
                        start += 1;
                    }
                },
            }
        }
        socket.dropped(DatagramDrop::Refused, end - start);
    }

    /// Keeps the first datagram for another backend, if there may be one.
    fn keep(&self, datagram: &[u8]) {
        let is_first = self.answered.get() == 0 && self.kept.borrow().is_none();
        if is_first && datagram.len() <= LONGEST_KEPT {
            *self.kept.borrow_mut() = Some(datagram.into());
        }
    }

    fn count_sent(&self, socket: &Socket, octets: usize) {
        let link = self.link.borrow();
        let cells = link.held.cells.at(socket.worker.index);
        cells.stream_sent.add(octets as u64);
        if let Some(last) = self.facts.borrow_mut().attempts.last_mut() {
            last.sent += octets as u64;
        }
    }

    /// The network says that nobody listens at the backend. It is that backend's failure, and the
    /// session goes on with another one, if there is one.
    fn refused(&self, socket: &Socket, error: &io::Error) {
        let worker = &socket.worker;
        let failure = choose::failure(error);
        {
            let link = self.link.borrow();
            let backend = link.held.lease.backend();
            worker.count_backend(self.service.name(), backend, |cells| {
                cells.connect_failed(failure);
            });
            let now = worker.clock.last();
            backend.latency().observe_failure(now);
            let outcome = health::Outcome::ConnectFailure;
            let random = || worker.random();
            self.service.report(backend, outcome, now, random);
        }
        let facts = &mut *self.facts.borrow_mut();
        if let Some(last) = facts.attempts.last_mut() {
            last.end = End::ConnectFailed;
            last.total = worker.clock.last().saturating_sub(last.began);
        }
        let chosen = Choice {
            worker,
            service: &self.service,
            peers: &self.peers,
            send_proxy: self.send_proxy,
        };
        let mut tried = self.tried.get();
        let next = if (tried.count() as usize) < Tried::CAPACITY {
            chosen.link(&mut tried, facts)
        } else {
            Err(DatagramDrop::Refused)
        };
        self.tried.set(tried);
        match next {
            Ok(link) => {
                self.service_cells
                    .at(worker.index)
                    .retried(RetryReason::Connect);
                if let Some(kept) = &*self.kept.borrow() {
                    let mut outbox = socket.outbox.borrow_mut();
                    let again = std::iter::once(&**kept);
                    // Should this backend refuse as well, it will be told in the same way.
                    let _ = outbox.send(&link.socket, None, &link.header, again);
                }
                self.link.replace(link);
            }
            Err(_) => self.end.set(Some((End::ConnectFailed, Phase::Connect))),
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>, socket: &Socket) -> Poll<Outcome> {
        loop {
            if let Some(end) = self.end.get() {
                return Poll::Ready(end);
            }
            let received = {
                let link = self.link.borrow();
                let mut inbox = socket.inbox.borrow_mut();
                match link.socket.poll_receive(cx, &mut inbox) {
                    Poll::Ready(received) => received,
                    Poll::Pending => match link.socket.poll_error(cx) {
                        Poll::Ready(error) => Err(error),
                        Poll::Pending => break,
                    },
                }
            };
            match received {
                Ok(_) => self.answer(socket),
                Err(error) => self.refused(socket, &error),
            }
        }
        if socket.worker.is_over() {
            return Poll::Ready((End::Stopped, Phase::Data));
        }
        if self.timer.poll_expired(cx) {
            return Poll::Ready((End::Complete, Phase::Data));
        }
        match &mut *self.waker.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Passes the datagrams of the inbox on to the source.
    fn answer(&self, socket: &Socket) {
        let (worker, inbox) = (&socket.worker, socket.inbox.borrow());
        let now = worker.clock.read();
        self.timer
            .set(now.saturating_add(socket.idle(self.plan.idle)));
        *self.kept.borrow_mut() = None;
        let octets = (0..inbox.len()).map(|index| inbox.datagram(index).len());
        let octets = octets.sum::<usize>() as u64;
        let mut start = 0;
        let mut sent_octets = 0;
        while start < inbox.len() {
            let rest = (start..inbox.len()).map(|index| inbox.datagram(index));
            let mut outbox = socket.outbox.borrow_mut();
            let from = self.answers.as_deref().unwrap_or(&socket.datagrams);
            match outbox.send(from, Some(&self.way), b"", rest) {
                Ok(sent) => {
                    let end = start + sent.max(1);
                    let sent = (start..end).map(|index| inbox.datagram(index).len());
                    sent_octets += sent.sum::<usize>() as u64;
                    start = end;
                }
                Err(error) => match Trouble::of(&error) {
                    Trouble::Congested => {
                        socket.dropped(DatagramDrop::Congested, inbox.len() - start);
                        break;
                    }
                    Trouble::Backend => {
                        socket.dropped(DatagramDrop::Unreachable, 1);
                        start += 1;
                    }
                    Trouble::Datagram(why) => {
                        socket.dropped(why, 1);
                        start += 1;
                    }
                },
            }
        }
        self.count_answers(socket, inbox.len(), octets, sent_octets, now);
    }

    fn count_answers(
        &self,
        socket: &Socket,
        datagrams: usize,
        received: u64,
        sent: u64,
        now: Nanos,
    ) {
        let index = socket.worker.index;
        let cells = socket.flow.at(index);
        cells.sent.add(sent);
        self.facts.borrow().live.moved(0, sent);
        cells.datagrams_sent.add(datagrams as u64);
        self.link
            .borrow()
            .held
            .cells
            .at(index)
            .stream_received
            .add(received);
        let facts = &mut *self.facts.borrow_mut();
        facts.sent += sent;
        if let Some(last) = facts.attempts.last_mut() {
            last.received += received;
            last.first.get_or_insert_with(|| {
                // That it can be sent to is all that is known before.
                let outcome = health::Outcome::Answered(None);
                let random = || socket.worker.random();
                self.service.report(&last.backend, outcome, now, random);
                now.saturating_sub(last.began)
            });
        }
        self.answered.set(self.answered.get() + datagrams as u64);
        let expected = self.plan.settings.responses.map(u64::from);
        let is_all = |expected| self.answered.get() >= self.asked.get().saturating_mul(expected);
        if expected.is_some_and(is_all) {
            self.end.set(Some((End::Complete, Phase::Data)));
        }
    }
}

/// What is told of a session while it lives.
fn live(peers: &Peers) -> Rc<Live> {
    let live = Live::new(peers.number, peers.client, peers.server);
    live.set_protocol(Spoken::Udp);
    Rc::new(live)
}

/// The ends of a session.
fn peers(socket: &Socket, key: Key) -> Peers {
    let local = key.local.map_or(socket.address.ip(), |local| local.ip());
    Peers {
        client: key.source,
        server: SocketAddr::new(local, key.port.unwrap_or(socket.address.port())),
        number: connection_number(),
        listener: socket.listener,
    }
}

/// The PROXY header that each datagram is sent with.
fn header(send_proxy: Option<ProxyVersion>, peers: &Peers) -> Vec<u8> {
    let mut header = Vec::new();
    if send_proxy.is_some() {
        let (client, server) = (peers.client, peers.server);
        proxy_protocol::write_v2(client, server, true, &[], false, &mut header);
    }
    header
}

/// Why a session is refused that cannot be answered.
fn refusal(error: &io::Error) -> DatagramDrop {
    debug!(%error, "a socket for answers cannot be had");
    match is_exhaustion(error) {
        true => DatagramDrop::Exhausted,
        false => DatagramDrop::Failed,
    }
}

/// Sessions of a backend at once; 0 for no limit.
fn limit_of(backend: &BackendState) -> u32 {
    match backend.limit() {
        u32::MAX => 0,
        limit => limit,
    }
}

/// Who is to get a session, and what of.
struct Choice<'a> {
    worker: &'a Worker,
    service: &'a Arc<ServiceState>,
    peers: &'a Peers,
    send_proxy: Option<ProxyVersion>,
}

impl Choice<'_> {
    /// Chooses a backend that has not been tried, and makes a socket for it.
    fn link(&self, tried: &mut Tried, facts: &mut Facts) -> Result<Link, DatagramDrop> {
        let (worker, client) = (self.worker, self.peers.client);
        let ask = choose::ask(worker, self.service, client.ip(), tried);
        let lease = self.service.lease(&ask).map_err(|error| match error {
            Unavailable::Busy => DatagramDrop::Busy,
            Unavailable::Tried | Unavailable::NoBackend => DatagramDrop::NoBackend,
        })?;
        let backend = Arc::clone(lease.backend());
        tried.add(backend.slot());
        let place = Place::new(&backend, limit_of(&backend)).ok_or(DatagramDrop::Busy)?;
        let began = worker.clock.last();
        let mut attempted = Attempted::new(&backend, began);
        let connected = Datagrams::connect(backend.address());
        let name = self.service.name();
        let socket = connected.map_err(|error| {
            let is_ours = is_exhaustion(&error);
            let reason = if is_ours {
                ConnectFailure::Local
            } else {
                choose::failure(&error)
            };
            worker.count_backend(name, &backend, |cells| cells.connect_failed(reason));
            if is_ours {
                DatagramDrop::Exhausted
            } else {
                DatagramDrop::Unreachable
            }
        })?;
        worker.count_backend(name, &backend, |cells| {
            cells.connects.observe(Duration::ZERO);
        });
        attempted.connect = Some(0);
        facts.attempts.push(attempted);
        Ok(Link {
            socket,
            held: Held::new(worker, lease, place),
            header: header(self.send_proxy, self.peers),
        })
    }
}

/// What an error of a socket is about.
enum Trouble {
    /// There is no room just now.
    Congested,
    /// The peer, or the way there.
    Backend,
    /// This datagram.
    Datagram(DatagramDrop),
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Self::Congested,
            Some(
                libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO,
            ) => Self::Backend,
            Some(libc::EMSGSIZE) => Self::Datagram(DatagramDrop::TooLarge),
            _ => Self::Datagram(DatagramDrop::Failed),
        }
    }
}

/// True if this host lacks something: `EAGAIN` is what it says when it has no port left.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EAGAIN
        )
    )
}
