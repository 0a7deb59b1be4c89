//! The workers: a thread per core, each with a runtime of its own, sharing nothing on the way of a
//! request.
//!
//! ```text
//!            ┌ orders ─▶ worker 0: listeners, connections, pools ┐
//!  Workers ──┤                                                   ├─ counts, health (atomics)
//!            └ orders ─▶ worker 1: …                             ┘
//! ```
//!
//! A reload builds all that is new beforehand (sockets are bound, the snapshot is compiled), so
//! that it can still be refused; only then do the workers get it. Connections that are open are
//! not touched: they look at the new snapshot at their next request.

mod acceleration;
mod busy;
mod house;
mod inherited;
mod known;
mod mesh;
mod retire;
mod socket;
mod spans;
mod thread;

use crate::condemn::Watch;
use crate::config::model::Config;
use crate::config::model::steer::Bindings;
use crate::http::census::{Found, Wanted};
use crate::http::snapshot::{CompileError, Kept, ListenerId, Snapshot};
use crate::net::clock::Clock;
use crate::net::descriptors::{self, Claim};
use crate::net::{datagram, listen};
use crate::observe::access_log::{LogCounters, Writer};
use crate::observe::certificates::CertificateBoard;
use crate::observe::flow::{FlowReceiver, FlowTap};
use crate::observe::http::ProxyMetrics;
use crate::observe::trace::{SpanCounters, SpanQueue};
use crate::sockets::{self, AccelerationError};
use crate::types::Protocol;
use house::House;
pub use inherited::{Inherited, Place};
use ipnet::IpNet;
pub use known::Known;
pub use retire::Handed;
use socket::{Kind, Socket};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use thread::{Order, Thread};
use tokio::sync::oneshot;
use tracing::warn;

/// How long access logs may take to be written at the end.
const LOG_END: Duration = Duration::from_secs(2);

/// Notes of flows that may wait for whoever brings them together.
const NOTES: usize = 4096;

/// The workers cannot follow a configuration.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// A listener's address cannot be had.
    #[error("cannot listen on {address} (listener `{name}`)")]
    Listen {
        /// Its name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The configuration cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// What is to be accelerated cannot be.
    #[error(
        "same-host acceleration cannot be had: grant what is missing, or use `accelerate: auto`"
    )]
    Acceleration(#[source] AccelerationError),
    /// A thread or its runtime cannot be had.
    #[error("cannot start a worker")]
    Thread(#[source] io::Error),
}

/// The workers of a process.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    house: House,
    kept: Kept,
    /// What workers note of flows, until somebody takes it.
    noted: Option<FlowReceiver>,
    snapshot: Arc<Snapshot>,
    listeners: BTreeMap<ListenerId, Open>,
    /// Sockets from others that no listener has taken.
    inherited: Inherited,
    /// Why same-host acceleration is off though it was asked for, and in a word.
    not_accelerated: Option<(String, &'static str)>,
    /// Sockets that nobody serves before [`Workers::serve`]; `None` once that was called.
    waiting: Option<Vec<Waiting>>,
    clock: Clock,
}

/// A socket that is not served yet: of a listener, with its number.
type Waiting = (ListenerId, usize, Socket);

/// A listener's sockets.
#[derive(Debug)]
struct Open {
    place: Place,
    /// A second descriptor of each, for a successor.
    sockets: Vec<Socket>,
    /// Both of each.
    _claim: Claim,
}

/// A configuration that is ready to be put in force.
#[derive(Debug)]
pub struct Prepared {
    snapshot: Arc<Snapshot>,
    /// Sockets for listeners that are new, as a rule one for each worker.
    opened: Vec<(ListenerId, Open, Vec<Socket>)>,
    closed: Vec<ListenerId>,
}

/// How many workers: as configured, or the CPUs that this process may use (affinity mask and
/// cgroup quota).
pub fn count(config: &Config) -> usize {
    let usable = || std::thread::available_parallelism().map_or(1, usize::from);
    config
        .workers
        .count
        .map_or_else(usable, |count| count as usize)
        .max(1)
}

impl Workers {
    /// Starts the workers for a configuration; they listen when this returns.
    ///
    /// # Errors
    ///
    /// [`WorkersError`]; then nothing was started.
    pub fn start(config: &Config) -> Result<Self, WorkersError> {
        let mut workers = Self::idle(config)?;
        let prepared = workers.prepare(config)?;
        workers.put_in_force(prepared);
        Ok(workers)
    }

    /// As [`Workers::start`], with sockets that others have opened. Nothing is accepted before
    /// [`Workers::serve`].
    ///
    /// # Errors
    ///
    /// [`WorkersError`]; then nothing was started.
    pub fn take_over(
        config: &Config,
        inherited: Inherited,
        known: &Known,
    ) -> Result<Self, WorkersError> {
        let secret = known.secret.unwrap_or_else(|| fastrand::u64(..));
        let mut workers = Self::idle_with(config, secret)?;
        if !inherited.unused().is_empty() {
            sockets::expect_use();
        }
        workers.inherited = inherited;
        workers.waiting = Some(Vec::new());
        known.prepare(&mut workers.kept);
        let prepared = workers.prepare(config)?;
        workers.kept.forget_inherited();
        known.tell(&prepared.snapshot, workers.clock.read());
        workers.put_in_force(prepared);
        Ok(workers)
    }

    /// Starts the workers, as many as a configuration asks for; they listen nowhere yet.
    ///
    /// # Errors
    ///
    /// [`WorkersError`]; then nothing was started.
    pub fn idle(config: &Config) -> Result<Self, WorkersError> {
        Self::idle_with(config, fastrand::u64(..))
    }

    fn idle_with(config: &Config, secret: u64) -> Result<Self, WorkersError> {
        descriptors::raise_limit();
        let count = count(config);
        let metrics = Arc::new(ProxyMetrics::new(count, true));
        let clock = Clock::new();
        let logs = Writer::start(Arc::new(LogCounters::default())).map_err(WorkersError::Thread)?;
        let counters: Arc<SpanCounters> = Arc::default();
        let (queue, spans) = SpanQueue::new(spans::WAITING, Arc::clone(&counters));
        let secrets = proxy_common::hash::secrets(std::array::from_fn(|_| fastrand::u64(..)));
        let (tap, noted) = FlowTap::new(NOTES, secrets);
        let mut kept = Kept::new(metrics, Arc::new(logs), (queue, tap), secret);
        let (nothing, seed) = (Config::default(), fastrand::u64(..));
        let snapshot = Snapshot::compile(&nothing, &mut kept, None, seed, clock.read())?;
        let snapshot = Arc::new(snapshot);
        let threads = (0..count)
            .map(|index| Thread::start(index, Arc::clone(&snapshot), &kept))
            .collect::<io::Result<Vec<_>>>()
            .map_err(WorkersError::Thread)?;
        Ok(Self {
            threads,
            house: House::start(spans, counters, &kept).map_err(WorkersError::Thread)?,
            kept,
            noted: Some(noted),
            snapshot,
            listeners: BTreeMap::new(),
            inherited: Inherited::default(),
            not_accelerated: None,
            waiting: None,
            clock,
        })
    }

    /// Where they listen.
    pub fn listeners(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.values().map(|open| open.place.bound)
    }

    /// Names of listeners, and where they listen.
    pub fn bound(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        let plans = self.snapshot.listeners();
        plans.filter_map(|(id, plan)| {
            let open = self.listeners.get(&id)?;
            Some((plan.settings.name.as_str(), open.place.bound))
        })
    }

    /// One socket of each listener by name: of what is prepared, and of what is in force. Those for
    /// datagrams that are steered tell from now on which address and port each was sent to.
    pub fn sockets<'a>(
        &'a self,
        prepared: Option<&'a Prepared>,
        bindings: &Bindings,
    ) -> Vec<(String, BorrowedFd<'a>)> {
        let next = prepared.map(|prepared| listener_names(&prepared.snapshot));
        let names = next.into_iter().chain([self.listener_names()]).flatten();
        let mut found: Vec<(String, BorrowedFd<'a>)> = Vec::new();
        for (id, name) in names {
            if found.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let mut opened = prepared.iter().flat_map(|prepared| &prepared.opened);
            let opened = opened.find(|(of, ..)| *of == id).map(|(_, open, _)| open);
            let Some(open) = opened.or_else(|| self.listeners.get(&id)) else {
                continue;
            };
            if open.place.protocol == Protocol::Udp && bindings.is_steered(&name) {
                for socket in &open.sockets {
                    if let Err(error) = datagram::tell_destination(socket, open.place.bound) {
                        warn!(%error, listener = name, "answers may come from another address");
                    }
                }
            }
            found.extend(open.sockets.first().map(|socket| (name, socket.as_fd())));
        }
        found
    }

    /// The certificates that the local authority has issued, with the listeners that show them.
    pub fn locally_issued(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.snapshot.tls_plans().flat_map(|(name, _, plan)| {
            let issued = plan.side.locally_issued();
            issued.map(move |der| (name, &der[..]))
        })
    }

    /// Names of listeners by their ids.
    pub fn listener_names(&self) -> BTreeMap<ListenerId, String> {
        listener_names(&self.snapshot)
    }

    /// Asks every worker which connections it has.
    pub fn ask_connections(&self, wanted: &Wanted) -> Vec<oneshot::Receiver<Found>> {
        let asked = self.threads.iter().map(|thread| {
            let (reply, answer) = oneshot::channel();
            thread.order(Order::Find(wanted.clone(), reply));
            answer
        });
        asked.collect()
    }

    /// Asks every worker how many connections of these sources behave well.
    pub fn ask_behaving(&self, sources: &Arc<[IpNet]>) -> Vec<oneshot::Receiver<Vec<u32>>> {
        let asked = self.threads.iter().map(|thread| {
            let (reply, answer) = oneshot::channel();
            thread.order(Order::Behaving(Arc::clone(sources), reply));
            answer
        });
        asked.collect()
    }

    /// Who offends, and who may not connect.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.kept.watch
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<ProxyMetrics> {
        &self.kept.metrics
    }

    /// Has access logs opened again by their names.
    pub fn reopen_logs(&self) {
        self.kept.logs.reopen();
    }

    /// What becomes of access logs.
    pub fn log_counters(&self) -> &Arc<LogCounters> {
        self.kept.logs.counters()
    }

    /// What becomes of certificates that look after themselves.
    pub fn certificates(&self) -> &Arc<CertificateBoard> {
        &self.kept.board
    }

    /// What becomes of spans.
    pub fn span_counters(&self) -> &Arc<SpanCounters> {
        self.kept.spans.counters()
    }

    /// Which flows are traced.
    pub fn flows(&self) -> &FlowTap {
        &self.kept.flows
    }

    /// Where spans go.
    pub fn spans(&self) -> &SpanQueue {
        &self.kept.spans
    }

    /// What workers note of flows, for the first who asks.
    pub fn take_noted(&mut self) -> Option<FlowReceiver> {
        self.noted.take()
    }

    /// Makes a configuration ready. What it needs is had from now on, and nothing has changed.
    ///
    /// # Errors
    ///
    /// [`WorkersError::Listen`], [`WorkersError::Compile`].
    pub fn prepare(&mut self, config: &Config) -> Result<Prepared, WorkersError> {
        self.accelerate(config)?;
        let now = self.clock.read();
        let old = Some(&*self.snapshot);
        let snapshot = Snapshot::compile(config, &mut self.kept, old, fastrand::u64(..), now)?;
        let opened = self.open(&snapshot)?;
        let gone =
            |id: &&ListenerId| snapshot.listener(**id).is_none() && snapshot.stream(**id).is_none();
        Ok(Prepared {
            closed: self.listeners.keys().filter(gone).copied().collect(),
            snapshot: Arc::new(snapshot),
            opened,
        })
    }

    /// Sockets for the listeners that there are not yet.
    fn open(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<Vec<(ListenerId, Open, Vec<Socket>)>, WorkersError> {
        let http = snapshot.listeners().map(|(id, listener)| {
            let settings = &listener.settings;
            (id, Kind::Http, &settings.name, settings.address)
        });
        let streams = snapshot.streams().map(|(id, stream)| {
            let settings = &stream.settings;
            let kind = match settings.protocol {
                Protocol::Tcp => Kind::Tcp,
                Protocol::Udp => Kind::Udp,
            };
            (id, kind, &settings.name, settings.address)
        });
        let new = http.chain(streams);
        let new: Vec<_> = new
            .filter(|(id, ..)| !self.listeners.contains_key(id))
            .collect();
        new.into_iter()
            .map(|(id, kind, name, asked)| {
                let opened = self.open_one(kind, name, asked);
                let (open, sockets) = opened.map_err(|source| WorkersError::Listen {
                    name: name.clone(),
                    address: asked,
                    source,
                })?;
                Ok((id, open, sockets))
            })
            .collect()
    }

    fn open_one(
        &mut self,
        kind: Kind,
        name: &str,
        asked: SocketAddr,
    ) -> io::Result<(Open, Vec<Socket>)> {
        let (protocol, workers) = (kind.protocol(), self.threads.len());
        let (bound, sockets) = match self.inherited.take(protocol, name, asked) {
            Some((bound, given)) => (bound, inherited::complete(kind, bound, given, workers)?),
            None => {
                // A listener that becomes one of another kind follows itself.
                let is_ours = |open: &Open| {
                    let Place {
                        protocol: ours,
                        bound,
                        ..
                    } = open.place;
                    (ours, bound) == (protocol, asked)
                };
                open(kind, asked, workers, self.listeners.values().any(is_ours))?
            }
        };
        let place = Place {
            name: name.to_owned(),
            protocol,
            asked,
            bound,
        };
        let copies = sockets.iter().map(Socket::try_clone);
        let copies = copies.collect::<io::Result<Vec<_>>>()?;
        let open = Open {
            place,
            _claim: Claim::of(2 * u32::try_from(copies.len()).unwrap_or(u32::MAX / 2)),
            sockets: copies,
        };
        Ok((open, sockets))
    }

    /// Puts what was prepared in force.
    pub fn put_in_force(&mut self, prepared: Prepared) {
        let Prepared {
            snapshot,
            opened,
            closed,
        } = prepared;
        snapshot.activate(Some(&self.snapshot), self.clock.read());
        let share = snapshot
            .tracing()
            .map_or(0, |plan| plan.settings.flow_every);
        self.kept
            .flows
            .export(proxy_common::trace::threshold(share));
        self.snapshot = snapshot;
        self.house.care_for(&self.snapshot);
        if self.waiting.is_none() {
            descriptors::count_others();
            self.house.serve(true);
        }
        for thread in &self.threads {
            thread.order(Order::Swap(Arc::clone(&self.snapshot)));
        }
        for (id, open, sockets) in opened {
            self.listeners.insert(id, open);
            for (number, socket) in sockets.into_iter().enumerate() {
                self.listen((id, number, socket));
            }
        }
        self.mark_listeners();
        for (id, name) in self.listener_names() {
            if let Some(open) = self.listeners.get_mut(&id) {
                open.place.name = name;
            }
        }
        for id in closed {
            // Before the workers' own: theirs are emptied and then the last.
            self.listeners.remove(&id);
            for thread in &self.threads {
                thread.order(Order::Close(id));
            }
        }
    }

    /// Ends: no new connections, the open ones end with their requests, and what is left after
    /// `deadline` is cut off. Returns the number of connections that were.
    ///
    /// # Cancel safety
    ///
    /// The workers drain on; dropping them cuts off what is left.
    pub async fn drain(&mut self, deadline: Duration) -> usize {
        // Before the workers' own, as in `put_in_force`: a socket that stays open takes connections
        // which nobody serves.
        self.listeners.clear();
        self.inherited = Inherited::default();
        self.waiting = Some(Vec::new());
        self.house.serve(false);
        for thread in &self.threads {
            thread.order(Order::Drain);
        }
        let ended = async {
            for thread in &mut self.threads {
                thread.ended().await;
            }
        };
        let in_time = tokio::time::timeout(deadline, ended).await.is_ok();
        if in_time { 0 } else { self.connections() }
    }

    /// Connections of clients, of all workers, those of listeners that are gone among them.
    pub fn connections(&self) -> usize {
        let all = self.kept.metrics.listeners();
        let open = all.iter();
        let open = open.map(|cells| cells.sum(|cells| cells.connections_active.get()));
        usize::try_from(open.sum::<u64>()).unwrap_or(usize::MAX)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Their loggers flush as they end.
        self.threads.clear();
        if !self.kept.logs.stop(LOG_END) {
            tracing::warn!("lines of access logs were lost");
        }
    }
}

fn listener_names(snapshot: &Snapshot) -> BTreeMap<ListenerId, String> {
    let http = snapshot.listeners();
    let http = http.map(|(id, plan)| (id, plan.settings.name.clone()));
    let streams = snapshot.streams();
    let streams = streams.map(|(id, plan)| (id, plan.settings.name.clone()));
    http.chain(streams).collect()
}

/// Binds one socket for each worker. `is_ours`: this process has the address already.
fn open(
    kind: Kind,
    address: SocketAddr,
    count: usize,
    is_ours: bool,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    if !is_ours {
        match kind.protocol() {
            Protocol::Tcp => listen::check_free(address)?,
            Protocol::Udp => datagram::check_free(address)?,
        }
    }
    let first = Socket::bind(kind, address)?;
    // Port 0 means one that the system chooses, and that is the same for all.
    let address = first.local_addr()?;
    let others = (1..count).map(|_| Socket::bind(kind, address));
    let sockets = std::iter::once(Ok(first)).chain(others);
    Ok((address, sockets.collect::<io::Result<_>>()?))
}

#[cfg(test)]
mod tests;
