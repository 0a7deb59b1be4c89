//! Datagrams of many sources over one socket, each source with a session of its own.
//!
//! A session is a source and the address of ours that it has asked. It has one backend and a
//! socket of its own, so that the kernel sorts the answers, and lasts until nothing has moved for
//! the listener's idle time or the expected answers have come. Nothing here waits for room, and no
//! datagram is kept but the first of a session until it is answered: should the network say that
//! nobody listens at the backend, it is sent to another one.
//!
//! Sources can be forged. What is not of a session costs one: their number is bounded over all
//! workers, and a datagram that finds no place is dropped and counted, without a line in a log.

mod carried;
mod session;

pub use carried::{Carried, Given, Stop};

use crate::http::listening::connection_number;
use crate::http::snapshot::ListenerId;
use crate::http::worker::Worker;
use crate::net::Nanos;
use crate::net::datagram::{Datagrams, Inbox, Local, Outbox, answer_from};
use crate::net::descriptors::Share;
use crate::observe::http::{DatagramDrop, Series, StreamCells};
use session::Session;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::{debug, error};

/// How long nothing may move in a session of a listener that ends: long enough for an answer that
/// is under way.
const LAST_IDLE: Nanos = 1_000_000_000;

/// How long nothing is read after the socket has failed: trying at once again would only burn the
/// CPU.
const PAUSE: Duration = Duration::from_millis(10);

/// Sockets for answers that are kept in mind before those that are gone are looked for.
const ANSWERING: usize = 64;

/// Whose session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: SocketAddr,
    /// The address of ours that it has asked, where the socket has several.
    local: Option<Local>,
    /// The port that it has asked, where that is not the socket's: it was steered here.
    port: Option<u16>,
}

/// A worker's part of a listener.
#[derive(Debug)]
struct Socket {
    worker: Rc<Worker>,
    listener: ListenerId,
    datagrams: Datagrams,
    /// The descriptors that sessions may have.
    share: Share,
    address: SocketAddr,
    flow: Arc<Series<StreamCells>>,
    sessions: RefCell<HashMap<Key, Rc<Session>>>,
    /// Sockets that answers to what was steered here leave by; those that are gone are taken out when
    /// there are `answering_most`.
    answering: RefCell<HashMap<SocketAddr, Weak<Datagrams>>>,
    answering_most: Cell<usize>,
    /// Room for a batch, used by whoever runs: never over an `await`.
    inbox: RefCell<Inbox>,
    outbox: RefCell<Outbox>,
    is_closing: Cell<bool>,
    /// A session of a closing listener has ended.
    ended: Notify,
}

/// What a listener waits for.
enum Event {
    Received(io::Result<usize>),
    Close,
    Ended,
}

/// Serves a socket until `close`; from then on only the sessions that there are, to their ends.
/// `given` are sessions that another process has had at this socket.
pub async fn serve(
    worker: Rc<Worker>,
    listener: ListenerId,
    socket: UdpSocket,
    close: Rc<Stop>,
    given: Vec<Given>,
) {
    let flow = worker
        .snapshot()
        .stream(listener)
        .map(|plan| Arc::clone(&plan.flow));
    let (Some(flow), Ok(address)) = (flow, socket.local_addr()) else {
        return;
    };
    let datagrams = match Datagrams::new(socket) {
        Ok(datagrams) => datagrams,
        Err(error) => return error!(%error, %address, "a worker cannot listen"),
    };
    let socket = Rc::new(Socket {
        worker,
        listener,
        datagrams,
        share: Share::of_lesser(),
        address,
        flow,
        sessions: RefCell::default(),
        answering: RefCell::default(),
        answering_most: Cell::new(ANSWERING),
        inbox: RefCell::default(),
        outbox: RefCell::default(),
        is_closing: Cell::new(false),
        ended: Notify::new(),
    });
    socket.adopt(given);
    socket.run(&close).await;
}

impl Socket {
    async fn run(self: &Rc<Self>, close: &Stop) {
        while !(self.is_closing.get() && self.sessions.borrow().is_empty()) {
            let received = poll_fn(|cx| {
                self.datagrams
                    .poll_receive(cx, &mut self.inbox.borrow_mut())
            });
            let event = tokio::select! {
                received = received => Event::Received(received),
                () = close.told(), if !self.is_closing.get() => Event::Close,
                () = self.ended.notified(), if self.is_closing.get() => Event::Ended,
            };
            match event {
                Event::Received(Ok(count)) => self.dispatch(count),
                Event::Received(Err(error)) => {
                    debug!(%error, address = %self.address, "receiving datagrams");
                    tokio::time::sleep(PAUSE).await;
                }
                Event::Close => match close.asked() {
                    Some(to) => return self.surrender(to),
                    None => self.close(),
                },
                Event::Ended => {}
            }
        }
    }

    fn close(&self) {
        self.is_closing.set(true);
        for session in self.sessions.borrow().values() {
            session.hurry(self);
        }
    }

    /// Gives the datagrams in the inbox to their sessions, those that follow each other together.
    fn dispatch(self: &Rc<Self>, count: usize) {
        let now = self.worker.clock.read();
        let inbox = self.inbox.borrow();
        let mut octets = 0;
        let mut next = 0;
        while next < count {
            let key = |index| self.key(&inbox, index);
            let (begin, first) = (next, key(next));
            octets += inbox.datagram(begin).len();
            next += 1;
            while next < count && key(next) == first {
                octets += inbox.datagram(next).len();
                next += 1;
            }
            if let Some(key) = first {
                self.forward(key, &inbox, begin..next, now);
            }
        }
        let cells = self.flow.at(self.worker.index);
        cells.received.add(octets as u64);
        cells.datagrams_received.add(count as u64);
    }

    /// Whose session a datagram belongs to. What was sent to the socket's own address and port is
    /// told as little as where the socket gets nothing else, so that a session stays the same one
    /// when something is steered here from now on.
    fn key(&self, inbox: &Inbox, index: usize) -> Option<Key> {
        let source = inbox.source(index)?;
        let port = inbox
            .port(index)
            .filter(|port| *port != self.address.port());
        let is_own = |local: &Local| port.is_none() && local.ip() == self.address.ip();
        let local = inbox.local(index).filter(|local| !is_own(local));
        Some(Key {
            source,
            local,
            port,
        })
    }

    /// The socket that answers of a session leave by, where it is not this one: a socket has one port.
    fn answers(&self, key: Key) -> io::Result<Option<Rc<Datagrams>>> {
        let (Some(port), Some(local)) = (key.port, key.local) else {
            return Ok(None);
        };
        let local = match local {
            Local::V4(ip) => SocketAddr::from((ip, port)),
            Local::V6(ip, scope) => SocketAddrV6::new(ip, port, 0, scope).into(),
        };
        let mut all = self.answering.borrow_mut();
        if let Some(known) = all.get(&local).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        if all.len() >= self.answering_most.get() {
            all.retain(|_, socket| socket.strong_count() > 0);
            self.answering_most.set((all.len() * 2).max(ANSWERING));
        }
        let socket = Rc::new(Datagrams::new(answer_from(local)?)?.claimed());
        all.insert(local, Rc::downgrade(&socket));
        Ok(Some(socket))
    }

    fn forward(self: &Rc<Self>, key: Key, inbox: &Inbox, datagrams: Range<usize>, now: Nanos) {
        let known = self.sessions.borrow().get(&key).cloned();
        let session = match known.map_or_else(|| self.begin(key, now), Ok) {
            Ok(session) => session,
            Err(why) => return self.dropped(why, datagrams.len()),
        };
        session.forward(self, inbox, datagrams, now);
        if session.is_ended() {
            // Its task has yet to run, and the source's next datagram is of another session.
            self.forget(&session);
        }
    }

    fn begin(self: &Rc<Self>, key: Key, now: Nanos) -> Result<Rc<Session>, DatagramDrop> {
        if self.is_closing.get() {
            return Err(DatagramDrop::Draining);
        }
        let session = Rc::new(Session::begin(self, key, now)?);
        self.begun(&session);
        Ok(session)
    }

    fn begun(self: &Rc<Self>, session: &Rc<Session>) {
        let key = session.key();
        self.sessions.borrow_mut().insert(key, Rc::clone(session));
        let (socket, own) = (Rc::clone(self), Rc::clone(session));
        spawn_local(async move { own.run(&socket).await });
    }

    /// Takes a session out of the table, unless it has been replaced there.
    fn forget(&self, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        let key = session.key();
        if sessions
            .get(&key)
            .is_some_and(|known| Rc::ptr_eq(known, session))
        {
            sessions.remove(&key);
        }
        if self.is_closing.get() {
            self.ended.notify_one();
        }
    }

    fn dropped(&self, why: DatagramDrop, datagrams: usize) {
        self.flow.at(self.worker.index).dropped(why, datagrams);
    }

    /// How long nothing may move in a session that may be idle for so long.
    fn idle(&self, configured: Nanos) -> Nanos {
        if self.is_closing.get() {
            configured.min(LAST_IDLE)
        } else {
            configured
        }
    }
}
