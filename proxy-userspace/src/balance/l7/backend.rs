//! What all workers count together about one backend.

use super::Nanos;
use super::latency::Latency;
use super::network::{NetworkCounts, WorkloadCounts, Workloads};
use super::outcomes::Outcomes;
use crate::health::outlier::{Network, Outcome, Window};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// One backend, as long as anybody refers to it.
///
/// What each request writes stands on a line of its own, apart from what each pick only reads:
/// else every request of one worker would take the addresses and flags of the backend out of the
/// other workers' caches.
pub struct BackendState {
    load: Load,
    rare: Rare,
    network: NetworkCounts,
    /// Of that, what was seen of connections that are not the daemon's.
    workloads: WorkloadCounts,
    /// What the network adds to its answers: not less is expected of it.
    delay: Latency,
    name: Box<str>,
    address: SocketAddr,
    sticky: u64,
    slot: Slot,
}

/// Written by every request. Two cache lines, since x86 fetches them in pairs.
#[repr(align(128))]
struct Load {
    in_flight: AtomicU32,
    connections: AtomicU32,
    idle: AtomicU32,
    reclaims: AtomicU32,
    latency: Latency,
    outcomes: Outcomes,
}

/// Written by health checks, drains and reloads.
#[repr(align(128))]
struct Rare {
    flags: AtomicU8,
    /// Requests at once; `u32::MAX` for no limit.
    limit: AtomicU32,
    /// Weight set at run time; [`NO_WEIGHT`] if none is.
    weight: AtomicU32,
    up_since: AtomicU64,
}

const DOWN: u8 = 1;
const DRAINING: u8 = 2;
/// Not in the group that new requests are chosen from.
const CLOSED: u8 = 4;

/// Out for a while because of what it did with requests.
const EJECTED: u8 = 8;

/// Down for no other reason than that nothing is known of it yet.
const UNSEEN: u8 = 16;

/// Has not been up yet.
const NEW: u8 = 32;

const NO_WEIGHT: u32 = u32::MAX;

impl BackendState {
    /// A healthy backend at `address`. `sticky` is what a cookie says of it, see
    /// [`super::sticky`]; `up_since` is when its slow start began, 0 for one that is over.
    pub fn new(name: &str, address: SocketAddr, sticky: u64, slot: Slot, up_since: Nanos) -> Self {
        Self {
            load: Load {
                in_flight: AtomicU32::new(0),
                connections: AtomicU32::new(0),
                idle: AtomicU32::new(0),
                reclaims: AtomicU32::new(0),
                latency: Latency::default(),
                outcomes: Outcomes::default(),
            },
            rare: Rare {
                flags: AtomicU8::new(NEW),
                limit: AtomicU32::new(u32::MAX),
                weight: AtomicU32::new(NO_WEIGHT),
                up_since: AtomicU64::new(up_since),
            },
            network: NetworkCounts::default(),
            workloads: WorkloadCounts::default(),
            delay: Latency::default(),
            name: name.into(),
            address,
            sticky,
            slot,
        }
    }

    /// Its name, unique in its service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A small number that no other living backend has: an index for tables that each worker
    /// keeps. It is given to another one only after this state is dropped, so a table entry that
    /// holds the `Arc` is never mistaken.
    pub fn slot(&self) -> u32 {
        self.slot.index
    }

    /// What a cookie says of it.
    pub fn sticky(&self) -> u64 {
        self.sticky
    }

    /// Requests in progress, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request, unless as many as may be are in progress.
    ///
    /// Never counts beyond the limit, not even for a moment: a waiter's wake-up would be lost if
    /// a request that is about to be refused could make the backend look full.
    pub fn try_begin(&self) -> bool {
        let limit = self.rare.limit.load(Ordering::Relaxed);
        let in_flight = &self.load.in_flight;
        if limit == u32::MAX {
            in_flight.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        in_flight
            .try_update(Ordering::SeqCst, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            })
            .is_ok()
    }

    /// Ends a request. Only by way of [`super::ServiceState::release`], which then looks for
    /// waiters: sequentially consistent, for [`super::Queue`]'s sake.
    pub(super) fn end(&self) {
        let before = self.load.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a request ended twice");
    }

    /// Open connections, of all workers, in use or not.
    pub fn connections(&self) -> u32 {
        self.load.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection that is about to be opened, unless there are `limit` already (0: no
    /// limit). If it is refused while [`BackendState::idle`] is not 0, another worker has one that
    /// is not in use: see [`BackendState::ask_for_idle`].
    pub fn try_connect(&self, limit: u32) -> bool {
        let limit = if limit == 0 { u32::MAX } else { limit };
        self.load
            .connections
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            })
            .is_ok()
    }

    /// Counts a connection that is closed, or could not be opened.
    pub fn disconnect(&self) {
        let before = self.load.connections.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a connection was closed twice");
    }

    /// Connections that wait for a request in some worker's pool.
    pub fn idle(&self) -> u32 {
        self.load.idle.load(Ordering::Relaxed)
    }

    /// Counts a connection that was put into a pool.
    pub fn pooled(&self) {
        self.load.idle.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was taken out of a pool.
    pub fn unpooled(&self) {
        let before = self.load.idle.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a connection left a pool twice");
    }

    /// Asks the workers to close one connection that is not in use, so that another may open one.
    pub fn ask_for_idle(&self) {
        self.load.reclaims.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether somebody has asked for a connection. A worker looks when it would put one into its
    /// pool, and closes it if so; each call answers one who asked.
    pub fn is_idle_wanted(&self) -> bool {
        // The load first: nearly always nobody has asked, and a load does not take the line away.
        self.load.reclaims.load(Ordering::Relaxed) > 0
            && self
                .load
                .reclaims
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
    }

    /// Peak-sensitive moving average of latency; see [`Latency`].
    pub fn latency(&self) -> &Latency {
        &self.load.latency
    }

    /// Adds what the kernel has told of a connection since it was last asked.
    pub fn saw_network(&self, seen: &Network) {
        self.network.add(seen);
    }

    /// As [`Self::saw_network`], of connections that workloads have to it.
    pub fn saw_workloads(&self, seen: &Workloads) {
        self.workloads.add(seen);
        self.network.add(&seen.network);
    }

    /// What the kernel has told of workloads' connections so far.
    pub fn workloads(&self) -> Workloads {
        self.workloads.read()
    }

    /// What the kernel has told of all connections so far.
    pub fn network(&self) -> Network {
        self.network.read()
    }

    /// Takes note of what the network adds to an answer, in nanoseconds.
    pub(super) fn saw_delay(&self, delay: f64, now: Nanos) {
        self.delay.observe(delay as Nanos, now);
    }

    /// What one more request is expected to cost, see [`Latency::cost`].
    pub(super) fn cost(&self, now: Nanos) -> f32 {
        let delay = self.delay.average(now);
        self.load.latency.cost(self.in_flight(), delay, now)
    }

    /// Takes note of what became of an attempt. A failure returns the rows of failures as they are
    /// now, in the order of [`crate::health::outlier::rows`].
    #[inline]
    pub(super) fn report(&self, outcome: Outcome) -> Option<[u16; 3]> {
        self.load.outcomes.report(outcome)
    }

    /// What it did since the last call.
    pub(super) fn take_window(&self) -> Window {
        self.load.outcomes.take()
    }

    pub(super) fn forget_rows(&self) {
        self.load.outcomes.forget_rows();
    }

    /// True unless an active check says that it is down, or it is ejected.
    pub fn is_healthy(&self) -> bool {
        self.flags() & (DOWN | EJECTED) == 0
    }

    /// True unless an active check says that it is down.
    pub fn is_passing(&self) -> bool {
        self.flags() & DOWN == 0
    }

    /// True while it is out because of what it did with requests.
    pub fn is_ejected(&self) -> bool {
        self.flags() & EJECTED != 0
    }

    /// True if it takes no new clients.
    pub fn is_draining(&self) -> bool {
        self.flags() & DRAINING != 0
    }

    /// True if new requests may be given to it.
    pub(super) fn is_open(&self) -> bool {
        self.flags() & CLOSED == 0
    }

    /// Requests at once; `u32::MAX` for no limit.
    pub fn limit(&self) -> u32 {
        self.rare.limit.load(Ordering::Relaxed)
    }

    /// When its slow start began; 0 for "long ago".
    pub fn up_since(&self) -> Nanos {
        self.rare.up_since.load(Ordering::Relaxed)
    }

    /// Its weight if one was set at run time.
    pub fn weight(&self) -> Option<u16> {
        u16::try_from(self.rare.weight.load(Ordering::Relaxed)).ok()
    }

    /// Returns whether this is news.
    pub(super) fn set_healthy(&self, healthy: bool, now: Nanos) -> bool {
        let flags = &self.rare.flags;
        if !healthy {
            flags.fetch_and(!UNSEEN, Ordering::Relaxed);
            return self.set_flag(DOWN, true);
        }
        let before = flags.fetch_and(!(DOWN | UNSEEN | NEW), Ordering::Relaxed);
        match before & (DOWN | UNSEEN) {
            0 => return false,
            DOWN => self.returned(now),
            // A first verdict is no return. Whoever joined others begins slowly, but from now on.
            _ if before & NEW != 0 && self.up_since() != 0 => {
                self.rare.up_since.store(now, Ordering::Relaxed);
            }
            _ => {}
        }
        true
    }

    /// Nothing is known of its health yet, so that it gets nothing. Returns whether this is news.
    pub(super) fn set_unseen(&self) -> bool {
        let changed = self.set_flag(DOWN, true);
        if changed {
            self.set_flag(UNSEEN, true);
        }
        changed
    }

    /// Returns whether this is news.
    pub(super) fn set_ejected(&self, ejected: bool, now: Nanos) -> bool {
        let changed = self.set_flag(EJECTED, ejected);
        if changed && !ejected {
            self.returned(now);
        }
        changed
    }

    /// It was out, and no longer is.
    fn returned(&self, now: Nanos) {
        self.rare.up_since.store(now, Ordering::Relaxed);
        // What was learnt before the outage says nothing about the server after it.
        self.load.latency.forget();
        self.delay.forget();
        self.load.outcomes.forget_rows();
    }

    pub(super) fn set_draining(&self, draining: bool) -> bool {
        self.set_flag(DRAINING, draining)
    }

    pub(super) fn set_open(&self, open: bool) -> bool {
        self.set_flag(CLOSED, !open)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.rare.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn set_weight(&self, weight: Option<u16>) -> bool {
        let weight = weight.map_or(NO_WEIGHT, u32::from);
        self.rare.weight.swap(weight, Ordering::Relaxed) != weight
    }

    fn flags(&self) -> u8 {
        self.rare.flags.load(Ordering::Relaxed)
    }

    fn set_flag(&self, flag: u8, on: bool) -> bool {
        let flags = &self.rare.flags;
        let before = if on {
            flags.fetch_or(flag, Ordering::Relaxed)
        } else {
            flags.fetch_and(!flag, Ordering::Relaxed)
        };
        (before & flag != 0) != on
    }
}

impl std::fmt::Debug for BackendState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendState")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("slot", &self.slot.index)
            .field("in_flight", &self.in_flight())
            .field("flags", &self.flags())
            .finish_non_exhaustive()
    }
}

/// Numbers for backends; the lowest free one is next.
#[derive(Debug, Default)]
pub struct Slots(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Numbers below this one were given out at some time.
    end: u32,
    free: BTreeSet<u32>,
}

/// A backend's number, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    slots: Arc<Slots>,
}

impl Slots {
    /// Takes a number.
    pub fn take(self: &Arc<Self>) -> Slot {
        let mut taken = self.0.lock();
        let index = taken.free.pop_first().unwrap_or_else(|| {
            taken.end += 1;
            taken.end - 1
        });
        Slot {
            index,
            slots: Arc::clone(self),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.0.lock().free.insert(self.index);
    }
}
