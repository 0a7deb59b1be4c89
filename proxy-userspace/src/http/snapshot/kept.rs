//! What outlives a snapshot, and is handed from one to the next.

use super::ListenerId;
use crate::acme::Challenges;
use crate::condemn::Watch;
use crate::config::model::http::HttpListener;
use crate::http::listening::ListenerKind;
use crate::observe::access_log::Writer;
use crate::observe::certificates::CertificateBoard;
use crate::observe::flow::FlowTap;
use crate::observe::http::ProxyMetrics;
use crate::observe::trace::SpanQueue;
use crate::sockets::{Acceleration, Bulk};
use crate::tls::SessionKeeper;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// What outlives a snapshot.
#[derive(Debug)]
pub struct Kept {
    /// The series that are counted in.
    pub metrics: Arc<ProxyMetrics>,
    /// Who writes access logs.
    pub logs: Arc<Writer>,
    /// Who exports spans.
    pub spans: SpanQueue,
    /// Which flows are traced.
    pub flows: FlowTap,
    /// See [`crate::upstream::pool::Pools::wanted`].
    pub wanted: Arc<Notify>,
    /// Open connections, by [`ListenerId`].
    open: Vec<Arc<AtomicU32>>,
    /// Those of all listeners.
    open_all: Arc<AtomicU32>,
    /// What flows through tunnels, likewise.
    bulks: Vec<Arc<Bulk>>,
    /// Listeners by kind and address; where the system chooses the port, by name, too. A listener
    /// that gets another name stays the same one: connections that wait in the queues of its
    /// sockets would be lost with those.
    ids: HashMap<(ListenerKind, SocketAddr, Option<String>), ListenerId>,
    /// What authorities are answered that ask whether names are ours.
    pub challenges: Arc<Challenges>,
    /// What becomes of certificates that look after themselves.
    pub board: Arc<CertificateBoard>,
    /// Who offends, and who may not connect.
    pub watch: Arc<Watch>,
    /// Same-host acceleration, once a configuration has asked for it and the host has it.
    pub acceleration: Option<Arc<Acceleration>>,
    /// Key of cookies.
    pub(super) secret: u64,
    /// Sessions of TLS that began in another process, until their listeners are compiled.
    sessions: Vec<(String, SocketAddr, Arc<SessionKeeper>)>,
}

impl Kept {
    /// For a process whose workers count in `metrics`. `secret` keys the cookies.
    pub fn new(
        metrics: Arc<ProxyMetrics>,
        logs: Arc<Writer>,
        (spans, flows): (SpanQueue, FlowTap),
        secret: u64,
    ) -> Self {
        Self {
            metrics,
            logs,
            spans,
            flows,
            wanted: Arc::default(),
            open: Vec::new(),
            open_all: Arc::default(),
            bulks: Vec::new(),
            ids: HashMap::new(),
            challenges: Arc::default(),
            board: Arc::default(),
            watch: Arc::default(),
            acceleration: None,
            secret,
            sessions: Vec::new(),
        }
    }

    /// Has a listener that is compiled for the first time go on with sessions of another process.
    pub fn inherit(&mut self, name: String, address: SocketAddr, sessions: SessionKeeper) {
        self.sessions.push((name, address, Arc::new(sessions)));
    }

    /// Nobody goes on with what is left.
    pub fn forget_inherited(&mut self) {
        self.sessions.clear();
    }

    /// Sessions of another process for a listener, as its sockets are found: by the address, or,
    /// where the system chooses the port, by the name.
    pub(in crate::http) fn inherited(
        &self,
        name: &str,
        address: SocketAddr,
    ) -> Option<&Arc<SessionKeeper>> {
        let all = || {
            self.sessions
                .iter()
                .filter(|(_, known, _)| *known == address)
        };
        let named = all().find(|(known, ..)| known == name);
        let found = named.or_else(|| all().find(|_| address.port() != 0));
        found.map(|(.., sessions)| sessions)
    }

    /// Key of cookies.
    pub fn secret(&self) -> u64 {
        self.secret
    }

    /// The number of a listener.
    pub fn listener(&mut self, listener: &HttpListener) -> ListenerId {
        self.number(ListenerKind::Http, &listener.name, listener.address)
    }

    /// The number of a listener of any kind.
    pub(super) fn number(
        &mut self,
        kind: ListenerKind,
        name: &str,
        address: SocketAddr,
    ) -> ListenerId {
        let next = self.ids.len();
        let name = (address.port() == 0).then(|| name.to_owned());
        let key = (kind, address, name);
        let id = *self.ids.entry(key).or_insert(next);
        if self.open.len() <= id {
            self.open.resize_with(id + 1, Arc::default);
            self.bulks.resize_with(id + 1, Arc::default);
        }
        id
    }

    /// Open connections of a listener, which has its number by [`Kept::number`].
    pub(in crate::http) fn opened(&self, id: ListenerId) -> Opened {
        Opened([Arc::clone(&self.open[id]), Arc::clone(&self.open_all)])
    }

    /// What flows through the tunnels of a listener, likewise.
    pub(in crate::http) fn bulk(&self, id: ListenerId) -> Arc<Bulk> {
        Arc::clone(&self.bulks[id])
    }
}

/// Open connections: at a listener, and at all of them.
#[derive(Clone, Debug)]
pub(in crate::http) struct Opened([Arc<AtomicU32>; 2]);

impl Opened {
    /// How many there are.
    pub(in crate::http) fn counts(&self) -> [u32; 2] {
        self.0.each_ref().map(|it| it.load(Ordering::Relaxed))
    }

    /// One more, unless there are `most` at the listener (0: no limit).
    pub(in crate::http) fn among(&self, most: u32) -> Option<OpenConnection> {
        let before = self
            .0
            .each_ref()
            .map(|it| it.fetch_add(1, Ordering::Relaxed));
        let place = OpenConnection(self.clone());
        (most == 0 || before[0] < most).then_some(place)
    }
}

/// A connection that is counted as open as long as this lives.
#[derive(Debug)]
pub struct OpenConnection(Opened);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        for count in &self.0.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
