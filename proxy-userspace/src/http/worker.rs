//! What all connections of one worker share.

use super::date::Date;
use super::exchange::Scratch;
use super::snapshot::Snapshot;
use crate::net::{Buffers, Clock, Timers};
use crate::upstream::pool::Pools;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Sets of heads that are kept when unused.
const KEPT: usize = 128;

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
    snapshot: RefCell<Rc<Arc<Snapshot>>>,
    scratch: RefCell<Vec<Box<Scratch>>>,
    random: Cell<u64>,
    draining: Cell<bool>,
    /// Connections of clients.
    connections: Cell<usize>,
    date: RefCell<Date>,
}

impl Worker {
    /// A worker that serves this snapshot. `seed` is for choices that may be guessed.
    pub fn new(index: usize, snapshot: Arc<Snapshot>, seed: u64) -> Self {
        let clock = Rc::new(Clock::new());
        Self {
            index,
            timers: Timers::new(Rc::clone(&clock)),
            clock,
            buffers: Buffers::default(),
            pools: Pools::default(),
            snapshot: RefCell::new(Rc::new(snapshot)),
            scratch: RefCell::default(),
            random: Cell::new(seed),
            draining: Cell::new(false),
            connections: Cell::new(0),
            date: RefCell::default(),
        }
    }

    /// The snapshot in force.
    #[inline]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        Rc::clone(&self.snapshot.borrow())
    }

    /// Puts a snapshot in force for all later requests. Idle connections look whether their
    /// listener is still there.
    pub fn swap(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.replace(Rc::new(snapshot));
        self.timers.wake_all();
    }

    /// From now on every connection ends with its request.
    pub fn drain(&self) {
        self.draining.set(true);
        self.timers.wake_all();
    }

    /// True once the worker drains.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// 64 bits that are hard to predict but may be (splitmix64).
    #[inline]
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        proxy_common::hash::mix(state)
    }

    /// Gives the value of a `Date` field, as of the last reading of the clock.
    pub fn date(&self, give: impl FnOnce(&[u8])) {
        give(self.date.borrow_mut().at(self.clock.last()));
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
        self.connections.get()
    }

    /// Counts a client's connection as long as the value lives.
    pub fn count_connection(self: &Rc<Self>) -> Counted {
        self.connections.set(self.connections.get() + 1);
        Counted(Rc::clone(self))
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
