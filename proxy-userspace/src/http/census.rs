//! The connections of a worker, for those who ask which there are.
//!
//! A connection keeps a few cells of its own and enters them in a list when it begins; a request adds
//! to them at its end. Nothing is shared between workers and nothing is written for those who might
//! ask: a worker that is asked goes through its list, between two other things.

use crate::net::Nanos;
use crate::observe::trace::ConnectionTrace;
use ipnet::IpNet;
use proxy_common::service::protocol;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// What is spoken over a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.
    #[default]
    H1,
    /// HTTP/2.
    H2,
    /// TCP that is passed on.
    Tcp,
    /// A session of UDP.
    Udp,
}

impl Spoken {
    /// The word used in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What is known of a connection while it lives.
#[derive(Debug)]
pub struct Live {
    number: u64,
    /// As the kernel sees them, whatever a PROXY header says.
    socket: (SocketAddr, SocketAddr),
    ends: Cell<(SocketAddr, SocketAddr)>,
    protocol: Cell<Spoken>,
    listener: Cell<usize>,
    since: Cell<Nanos>,
    requests: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    /// The client is whom somebody else names.
    is_told: Cell<bool>,
    has_offended: Cell<bool>,
    /// The trace that began with it, if its flow's spans are exported.
    trace: Cell<Option<ConnectionTrace>>,
}

impl Live {
    /// Of a connection between these two, the client first.
    pub const fn new(number: u64, client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            number,
            socket: (client, server),
            ends: Cell::new((client, server)),
            protocol: Cell::new(Spoken::H1),
            listener: Cell::new(0),
            since: Cell::new(0),
            requests: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
            is_told: Cell::new(false),
            has_offended: Cell::new(false),
            trace: Cell::new(None),
        }
    }

    /// It is between these two, as a PROXY header says.
    pub fn set_ends(&self, client: SocketAddr, server: SocketAddr) {
        self.is_told.set(true);
        self.ends.set((client, server));
    }

    /// Its two ends, the client first.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        self.ends.get()
    }

    /// The ends of its socket, the client's first.
    pub fn socket(&self) -> (SocketAddr, SocketAddr) {
        self.socket
    }

    /// IP protocol.
    pub fn ip_protocol(&self) -> u8 {
        match self.protocol.get() {
            Spoken::Udp => protocol::UDP,
            Spoken::H1 | Spoken::H2 | Spoken::Tcp => protocol::TCP,
        }
    }

    /// A trace has begun with it.
    pub fn set_trace(&self, trace: ConnectionTrace) {
        self.trace.set(Some(trace));
    }

    /// The trace that began with it.
    pub fn trace(&self) -> Option<ConnectionTrace> {
        self.trace.get()
    }

    /// The client's address, and whether that is our peer's own.
    pub fn client(&self) -> (IpAddr, bool) {
        (self.ends.get().0.ip(), !self.is_told.get())
    }

    /// The client has offended.
    pub fn note_offence(&self) {
        self.has_offended.set(true);
    }

    /// True if something was served to our peer, and it has not offended.
    pub fn has_behaved(&self) -> bool {
        let is_served = match self.protocol.get() {
            Spoken::H1 | Spoken::H2 => self.requests.get() > 0,
            Spoken::Tcp => self.sent.get() > 0,
            Spoken::Udp => false,
        };
        is_served && !self.is_told.get() && !self.has_offended.get()
    }

    /// This is spoken over it.
    pub fn set_protocol(&self, protocol: Spoken) {
        self.protocol.set(protocol);
    }

    /// A request has ended.
    #[inline]
    pub fn request(&self, received: u64, sent: u64) {
        self.requests.set(self.requests.get() + 1);
        self.moved(received, sent);
    }

    /// This much more has come from the client, and gone to it.
    #[inline]
    pub fn moved(&self, received: u64, sent: u64) {
        self.received.set(self.received.get() + received);
        self.sent.set(self.sent.get() + sent);
    }
}

/// Which connections are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only those of these listeners.
    pub listeners: Option<Vec<usize>>,
    /// Only those of clients in this prefix.
    pub client: Option<IpNet>,
    /// So many at most, the oldest.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Connections, the oldest first.
    pub connections: Vec<Connection>,
    /// How many are wanted, whatever the limit.
    pub total: usize,
}

/// A connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number.
    pub number: u64,
    /// Id of its listener.
    pub listener: usize,
    /// What is spoken.
    pub protocol: Spoken,
    /// The client.
    pub client: SocketAddr,
    /// Our end.
    pub server: SocketAddr,
    /// How long it has been there.
    pub age: Duration,
    /// Requests that have ended.
    pub requests: u64,
    /// Octets received from the client.
    pub received: u64,
    /// Octets sent to it.
    pub sent: u64,
}

/// All connections of a worker.
#[derive(Debug, Default)]
pub struct Census(RefCell<Slab<Rc<Live>>>);

impl Census {
    /// Enters a connection of a listener. Returns where it stands.
    pub fn enter(&self, live: &Rc<Live>, listener: usize, now: Nanos) -> usize {
        live.listener.set(listener);
        live.since.set(now);
        self.0.borrow_mut().insert(Rc::clone(live))
    }

    /// A connection has ended.
    pub fn leave(&self, place: usize) -> Option<Rc<Live>> {
        self.0.borrow_mut().try_remove(place)
    }

    /// Shows each connection.
    pub fn each(&self, mut show: impl FnMut(&Live)) {
        for (_, live) in self.0.borrow().iter() {
            show(live);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Those that are wanted.
    pub fn find(&self, wanted: &Wanted, now: Nanos) -> Found {
        let all = self.0.borrow();
        let mut found: Vec<&Rc<Live>> = all
            .iter()
            .map(|(_, live)| live)
            .filter(|live| wanted.is_met_by(live))
            .collect();
        let total = found.len();
        let age = |live: &Rc<Live>| (live.since.get(), live.number);
        if total > wanted.limit {
            found.select_nth_unstable_by_key(wanted.limit, |live| age(live));
            found.truncate(wanted.limit);
        }
        found.sort_unstable_by_key(|live| age(live));
        Found {
            connections: found.iter().map(|live| shown(live, now)).collect(),
            total,
        }
    }
}

impl Wanted {
    fn is_met_by(&self, live: &Live) -> bool {
        let (client, _) = live.ends.get();
        self.listeners
            .as_ref()
            .is_none_or(|listeners| listeners.contains(&live.listener.get()))
            && self
                .client
                .is_none_or(|net| net.contains(&client.ip().to_canonical()))
    }
}

fn shown(live: &Live, now: Nanos) -> Connection {
    let (client, server) = live.ends.get();
    Connection {
        number: live.number,
        listener: live.listener.get(),
        protocol: live.protocol.get(),
        client: SocketAddr::new(client.ip().to_canonical(), client.port()),
        server,
        age: Duration::from_nanos(now.saturating_sub(live.since.get())),
        requests: live.requests.get(),
        received: live.received.get(),
        sent: live.sent.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(number: u64, client: &str) -> Rc<Live> {
        let server = "127.0.0.1:80".parse().expect("an address");
        Rc::new(Live::new(
            number,
            client.parse().expect("an address"),
            server,
        ))
    }

    fn census() -> Census {
        let census = Census::default();
        census.enter(&live(3, "192.0.2.3:1"), 1, 30);
        census.enter(&live(1, "192.0.2.1:1"), 1, 10);
        census.enter(&live(2, "[2001:db8::2]:1"), 2, 20);
        census
    }

    fn numbers(wanted: Wanted) -> (Vec<u64>, usize) {
        let found = census().find(&wanted, 100);
        let numbers = found.connections.iter().map(|one| one.number);
        (numbers.collect(), found.total)
    }

    #[test]
    fn the_oldest_come_first_and_the_limit_cuts_the_youngest() {
        let all = |limit| Wanted {
            limit,
            ..Wanted::default()
        };
        assert_eq!(numbers(all(10)), (vec![1, 2, 3], 3));
        assert_eq!(numbers(all(2)), (vec![1, 2], 3));
    }

    #[test]
    fn listeners_and_clients_are_told_apart() {
        let of_listener = Wanted {
            listeners: Some(vec![2]),
            limit: 10,
            ..Wanted::default()
        };
        assert_eq!(numbers(of_listener), (vec![2], 1));
        let of_client = Wanted {
            client: Some("192.0.2.0/24".parse().expect("a prefix")),
            limit: 10,
            ..Wanted::default()
        };
        assert_eq!(numbers(of_client), (vec![1, 3], 2));
    }

    #[test]
    fn a_connection_that_has_left_is_not_found_and_its_numbers_add_up() {
        let census = Census::default();
        let one = live(1, "192.0.2.1:1");
        let place = census.enter(&one, 1, 10);
        one.request(100, 1000);
        one.moved(1, 2);
        let found = census.find(
            &Wanted {
                limit: 1,
                ..Wanted::default()
            },
            1_000_000_010,
        );
        let seen = &found.connections[0];
        assert_eq!((seen.requests, seen.received, seen.sent), (1, 101, 1002));
        assert_eq!(seen.age, Duration::from_millis(1000));
        census.leave(place);
        assert!(census.is_empty());
    }
}
