//! What all connections of one worker share.

use super::census::{Census, Found, Live, Wanted};
use super::date::Date;
use super::exchange::Scratch;
use super::h2::Hands;
use super::listening::LogPlan;
use super::origins::{self, Origins};
use super::snapshot::{ListenerId, ServicePlan, SharedSnapshot, Snapshot};
use crate::balance::l7::BackendState;
use crate::config::model::http::Priority;
use crate::net::clock::{instant, nanos};
use crate::net::{Buffers, Clock, Nanos, Timers, Watches};
use crate::observe::access_log::{Logger, Record, Writer};
use crate::observe::clock::Clock as WallClock;
use crate::observe::flow::FlowTap;
use crate::observe::http::{BackendCells, ProxyMetrics, Series};
use crate::observe::trace::SpanQueue;
use crate::resilience::Shedder;
use crate::upstream::pool::{Place, Pools};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Sets of heads that are kept when unused: as many as there are often requests at once.
const KEPT: usize = 1024;

/// How long a line may wait for others before it is handed to the writer.
const LOG_DELAY: Duration = Duration::from_millis(200);

/// How often the lag of the event loop is measured.
const LAG_EVERY: Duration = Duration::from_millis(10);

/// How late a timer of an idle loop is: the wheel counts milliseconds.
const LAG_USUAL: Duration = Duration::from_millis(1);

/// How often is looked whether it is to be measured.
const LAG_UNWATCHED: Duration = Duration::from_secs(1);

/// How long is waited between two looks whether a connection was closed for somebody who asked.
pub(super) const ASKED: Duration = Duration::from_millis(2);

/// What all connections of one worker share. Stays on its thread.
#[derive(Debug)]
pub struct Worker {
    /// Its number, below the number of workers.
    pub index: usize,
    /// Its clock.
    pub clock: Rc<Clock>,
    /// Its deadlines.
    pub timers: Timers,
    /// Its buffers.
    pub buffers: Buffers,
    /// Its connections to backends.
    pub pools: Pools,
    /// How its connections to backends fare.
    pub watches: Rc<Watches>,
    /// Who exports spans.
    pub spans: SpanQueue,
    /// Which flows are traced, and who takes what is noted of them.
    pub flows: FlowTap,
    snapshot: RefCell<SharedSnapshot>,
    #[expect(
        clippy::vec_box,
        reason = "they come and go one by one, and a box is moved cheaply"
    )]
    scratch: RefCell<Vec<Box<Scratch>>>,
    /// Tasks that wait for a request of HTTP/2.
    pub(super) hands: Hands,
    random: Cell<u64>,
    draining: Cell<bool>,
    /// Connections that wait for a request may get one more while the worker drains.
    patient: Cell<bool>,
    /// The drain's time is over.
    over: Cell<bool>,
    /// Connections of clients.
    census: Census,
    /// Handshakes under way.
    handshakes: Cell<usize>,
    /// Copies of requests under way.
    copies: Cell<usize>,
    /// How late the event loop is.
    shedder: RefCell<Shedder>,
    /// The lowest priority that is served.
    least: Cell<Priority>,
    date: RefCell<Date>,
    wall: RefCell<WallClock>,
    logs: Arc<Writer>,
    /// By [`ListenerId`].
    loggers: RefCell<Vec<Option<Logger>>>,
    /// A logger has lines that must not wait for ever.
    logged: Notify,
    metrics: Arc<ProxyMetrics>,
    /// By the backend's slot, which each entry holds.
    backends: RefCell<Vec<Option<KnownBackend>>>,
    /// Where redirected connections were to go.
    origins: RefCell<Origins<ServicePlan>>,
}

/// A backend, and what is counted of it.
type KnownBackend = (Arc<BackendState>, Arc<Series<BackendCells>>);

impl Worker {
    /// A worker that serves this snapshot. `wanted` is [`Pools::wanted`] of all workers; `seed` is
    /// for choices that may be guessed.
    pub fn new(
        index: usize,
        snapshot: Arc<Snapshot>,
        metrics: Arc<ProxyMetrics>,
        logs: Arc<Writer>,
        (spans, flows): (SpanQueue, FlowTap),
        wanted: Arc<Notify>,
        seed: u64,
    ) -> Self {
        let clock = Rc::new(Clock::new());
        let loggers = loggers(&snapshot, &logs);
        Self {
            index,
            timers: Timers::new(Rc::clone(&clock)),
            watches: Rc::new(Watches::new(Rc::clone(&clock))),
            clock,
            buffers: Buffers::default(),
            pools: Pools::new(wanted),
            spans,
            flows,
            snapshot: RefCell::new(Rc::new(snapshot)),
            scratch: RefCell::default(),
            hands: Hands::default(),
            random: Cell::new(seed),
            draining: Cell::new(false),
            patient: Cell::new(false),
            over: Cell::new(false),
            census: Census::default(),
            handshakes: Cell::new(0),
            copies: Cell::new(0),
            shedder: RefCell::default(),
            least: Cell::new(Priority::Low),
            date: RefCell::default(),
            wall: RefCell::default(),
            logs,
            loggers: RefCell::new(loggers),
            logged: Notify::new(),
            metrics,
            backends: RefCell::default(),
            origins: RefCell::default(),
        }
    }

    /// The snapshot in force.
    #[inline]
    pub fn snapshot(&self) -> SharedSnapshot {
        Rc::clone(&self.snapshot.borrow())
    }

    /// True if this snapshot is the one in force.
    #[inline]
    pub fn is_serving(&self, snapshot: &SharedSnapshot) -> bool {
        Rc::ptr_eq(&self.snapshot.borrow(), snapshot)
    }

    /// Puts a snapshot in force for all later requests. Idle connections look whether their
    /// listener is still there.
    pub fn swap(&self, snapshot: Arc<Snapshot>) {
        self.flush_logs();
        self.loggers.replace(loggers(&snapshot, &self.logs));
        self.backends.borrow_mut().clear();
        self.snapshot.replace(Rc::new(snapshot));
        self.timers.wake_all();
    }

    /// From now on every connection ends with its request.
    pub fn drain(&self) {
        self.draining.set(true);
        self.patient.set(false);
        self.timers.wake_all();
    }

    /// True once the worker drains.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// As [`Worker::drain`], but connections on which no request is under way stay open for one
    /// more: a client that sends it just now would lose it. For the end of a process that somebody
    /// else takes over from, which may take its time.
    pub fn retire(&self) {
        self.drain();
        self.patient.set(true);
    }

    /// Takes [`Worker::retire`] back.
    pub fn resume(&self) {
        self.patient.set(false);
        self.draining.set(false);
    }

    /// True if connections on which no request is under way end at once.
    #[inline]
    pub fn ends_idle(&self) -> bool {
        self.draining.get() && !self.patient.get()
    }

    /// From now on connections that are passed on as they are end at once.
    pub fn cut_off(&self) {
        self.over.set(true);
        self.timers.wake_all();
    }

    /// True once [`Worker::cut_off`] was called.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// True if requests of this priority are refused: the worker has too much to do.
    #[inline]
    pub fn refuses(&self, priority: Priority) -> bool {
        priority < self.least.get()
    }

    /// Measures for ever how late the event loop runs what is due, where somebody wants to know.
    pub async fn watch_lag(&self) {
        loop {
            let settings = self.snapshot.borrow().overload().copied();
            let Some(settings) = settings else {
                self.shedder.take();
                self.least.set(Priority::Low);
                tokio::time::sleep(LAG_UNWATCHED).await;
                continue;
            };
            let due = tokio::time::Instant::now() + LAG_EVERY;
            tokio::time::sleep_until(due).await;
            let late = due.elapsed().saturating_sub(LAG_USUAL);
            let mut shedder = self.shedder.borrow_mut();
            shedder.observe(&settings, nanos(late), self.clock.read());
            self.least.set(shedder.least());
        }
    }

    /// 64 bits that are hard to predict but may be (splitmix64).
    #[inline]
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        proxy_common::hash::mix(state)
    }

    /// Where a redirected connection was to go, as a service; `is_h2`: HTTP/2 is spoken to it.
    pub fn origin(&self, address: SocketAddr, is_h2: bool) -> Arc<ServicePlan> {
        let mut known = self.origins.borrow_mut();
        known.service(address, is_h2, || {
            let (snapshot, metrics) = (self.snapshot.borrow(), &self.metrics);
            let begin = (self.random(), self.clock.last());
            origins::service(address, is_h2, &snapshot, metrics, begin)
        })
    }

    /// Gives the value of a `Date` field, as of the last reading of the clock.
    pub fn date(&self, give: impl FnOnce(&[u8])) {
        give(self.date.borrow_mut().at(self.clock.last()));
    }

    /// The time of day at a moment, since the Unix epoch.
    pub fn wall(&self, at: Nanos) -> Duration {
        self.wall.borrow_mut().wall(instant(at))
    }

    /// Logs an exchange of a listener, if it is to be logged.
    pub fn log(&self, listener: ListenerId, record: &Record<'_>) {
        let mut loggers = self.loggers.borrow_mut();
        let Some(Some(logger)) = loggers.get_mut(listener) else {
            return;
        };
        if logger.wants(record.status, self.draw()) && logger.log(record) {
            self.logged.notify_one();
        }
    }

    /// Logs a connection that may have outlived its listener.
    pub fn log_as(&self, listener: ListenerId, plan: &LogPlan, record: &Record<'_>) {
        let is_known = matches!(self.loggers.borrow().get(listener), Some(Some(_)));
        if is_known {
            return self.log(listener, record);
        }
        // Rare, so it may be slow: the logger hands the line over when it is dropped.
        let mut logger = logger(plan, &self.logs);
        if logger.wants(record.status, self.draw()) {
            logger.log(record);
        }
    }

    /// Drawn evenly from 0..1.
    fn draw(&self) -> f64 {
        (self.random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Hands what was logged to the writer.
    pub fn flush_logs(&self) {
        for logger in self.loggers.borrow_mut().iter_mut().flatten() {
            logger.flush();
        }
    }

    /// Sees to it that lines do not wait for long. Runs for ever.
    pub async fn flush_logs_in_time(&self) {
        loop {
            self.logged.notified().await;
            tokio::time::sleep(LOG_DELAY).await;
            self.flush_logs();
        }
    }

    /// Counts for a backend.
    #[inline]
    pub fn count_backend(
        &self,
        service: &str,
        backend: &Arc<BackendState>,
        count: impl FnOnce(&BackendCells),
    ) {
        let mut backends = self.backends.borrow_mut();
        let slot = backend.slot() as usize;
        if backends.len() <= slot {
            backends.resize_with(slot + 1, || None);
        }
        let (_, cells) = backends[slot].get_or_insert_with(|| {
            let cells = self.metrics.backend(service, backend.name());
            (Arc::clone(backend), cells)
        });
        count(cells.at(self.index));
    }

    /// What is counted for a backend, for those who count more than once.
    pub fn backend_cells(
        &self,
        service: &str,
        backend: &BackendState,
    ) -> Arc<Series<BackendCells>> {
        self.metrics.backend(service, backend.name())
    }

    /// A place for one more connection. The caller leads a request that has a place already; if
    /// there is none for its connection, other workers keep connections that they do not use, and
    /// are asked to close one. `None` if none is closed in time.
    pub async fn place(&self, backend: &Arc<BackendState>, by: Nanos) -> Option<Place> {
        let limit = match backend.limit() {
            u32::MAX => 0,
            limit => limit,
        };
        let mut is_asked = false;
        loop {
            if let Some(place) = Place::new(backend, limit) {
                return Some(place);
            }
            if self.clock.read() >= by {
                return None;
            }
            if !is_asked {
                backend.ask_for_idle();
                self.pools.wanted().notify_waiters();
                is_asked = true;
            }
            tokio::time::sleep(ASKED).await;
        }
    }

    /// Heads for a request.
    pub fn take_scratch(&self) -> Box<Scratch> {
        self.scratch.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives heads back.
    pub fn put_scratch(&self, mut scratch: Box<Scratch>) {
        let mut unused = self.scratch.borrow_mut();
        if unused.len() < KEPT && scratch.forget() {
            unused.push(scratch);
        }
    }

    /// Connections of clients.
    pub fn connections(&self) -> usize {
        self.census.len()
    }

    /// Those of them that are wanted.
    pub fn find_connections(&self, wanted: &Wanted) -> Found {
        self.census.find(wanted, self.clock.read())
    }

    /// Connections of clients, each of them.
    pub(super) fn census(&self) -> &Census {
        &self.census
    }

    /// Copies of requests under way.
    pub(super) fn copies(&self) -> &Cell<usize> {
        &self.copies
    }

    /// Handshakes under way.
    pub(super) fn handshakes(&self) -> &Cell<usize> {
        &self.handshakes
    }

    /// Counts a client's connection as long as the value lives.
    pub fn count_connection(self: &Rc<Self>, live: &Rc<Live>, listener: ListenerId) -> Counted {
        let place = self.census.enter(live, listener, self.clock.last());
        Counted {
            worker: Rc::clone(self),
            place,
        }
    }
}

/// One logger for each listener that has a log.
fn loggers(snapshot: &Snapshot, logs: &Writer) -> Vec<Option<Logger>> {
    let mut loggers = Vec::new();
    let http = snapshot
        .listeners()
        .map(|(id, listener)| (id, &listener.log));
    let streams = snapshot.streams().map(|(id, stream)| (id, &stream.log));
    for (id, log) in http.chain(streams) {
        if loggers.len() <= id {
            loggers.resize_with(id + 1, || None);
        }
        loggers[id] = log.as_ref().map(|plan| logger(plan, logs));
    }
    loggers
}

fn logger(plan: &LogPlan, logs: &Writer) -> Logger {
    logs.logger(Arc::clone(&plan.sink), Arc::clone(&plan.format), plan.share)
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Counted {
    worker: Rc<Worker>,
    place: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(live) = self.worker.census.leave(self.place) {
            self.worker.parted(&live);
        }
    }
}
