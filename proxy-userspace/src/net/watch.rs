//! What the kernel knows of the connections to backends, asked now and then.
//!
//! TCP keeps count of what it sent again, how long acknowledgements take and whether the other end
//! takes anything. All of these are counted from a connection's beginning, so that little is missed
//! by asking seldom: of each connection about once a second, and at its end. A request costs nothing
//! by it. What was found is added up per backend, for [`crate::health::outlier`] to judge.
//!
//! A worker's connections are looked at in turns, some at a time, and at most [`MOST`]: however many
//! tunnels there are, looking takes a worker a thousandth of its time. With very many the turns
//! merely take longer.

mod info;

use super::{Clock, Nanos};
use crate::balance::l7::BackendState;
use crate::health::outlier::Network;
use info::Info;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// How often some are looked at.
pub const EVERY: Duration = Duration::from_millis(250);

/// A part of this size each time.
const PARTS: usize = 4;

/// Looks at a time, at least and at most: one is about half a microsecond.
const LEAST: usize = 16;
const MOST: usize = 512;

/// Connections that end are looked at no more often than this, if they were short: a host that
/// opens one for each request has enough of them to judge by.
const ENDS: Nanos = 1_000_000;

/// The connections of a worker.
#[derive(Debug)]
pub struct Watches {
    entries: RefCell<Slab<Entry>>,
    /// Where the next turn begins.
    next: Cell<usize>,
    /// When a connection's end was last looked at.
    ended: Cell<Nanos>,
    clock: Rc<Clock>,
}

#[derive(Debug)]
struct Entry {
    socket: RawFd,
    backend: Arc<BackendState>,
    last: Info,
    looked: Nanos,
}

/// A connection that is watched as long as this lives. To be dropped **before** its socket.
#[derive(Debug)]
pub struct Watched {
    watches: Rc<Watches>,
    key: usize,
}

impl Watches {
    /// Watches nothing yet.
    pub fn new(clock: Rc<Clock>) -> Self {
        Self {
            entries: RefCell::default(),
            next: Cell::new(0),
            ended: Cell::new(0),
            clock,
        }
    }

    /// Watches a connection to a backend. The socket must outlive what is returned.
    pub fn watch(self: &Rc<Self>, socket: &TcpStream, backend: &Arc<BackendState>) -> Watched {
        let key = self.entries.borrow_mut().insert(Entry {
            socket: socket.as_raw_fd(),
            backend: Arc::clone(backend),
            last: Info::default(),
            looked: self.clock.last(),
        });
        Watched {
            watches: Rc::clone(self),
            key,
        }
    }

    /// Looks at some connections, those next whose turn it is.
    pub fn look(&self) {
        let mut entries = self.entries.borrow_mut();
        let wanted = entries.len().div_ceil(PARTS).clamp(LEAST, MOST);
        let wanted = wanted.min(entries.len());
        let now = self.clock.last();
        let (mut looked, mut key) = (0, self.next.get());
        // Keys of connections that are gone are stepped over, each at most once.
        for _ in 0..entries.capacity() {
            if looked == wanted {
                break;
            }
            if key >= entries.capacity() {
                key = 0;
            }
            if let Some(entry) = entries.get_mut(key) {
                entry.look(now);
                looked += 1;
            }
            key += 1;
        }
        self.next.set(key);
    }

    /// Connections that are watched.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    fn look(&mut self, now: Nanos) {
        self.looked = now;
        // SAFETY: `Watches::watch` asks for the socket to outlive its entry.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket) };
        let Some(info) = Info::read(socket) else {
            return;
        };
        let seen = info.since(&self.last);
        self.last = info;
        if seen != Network::default() {
            self.backend.saw_network(&seen);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let watches = &self.watches;
        let Some(mut entry) = watches.entries.borrow_mut().try_remove(self.key) else {
            return;
        };
        let now = watches.clock.last();
        let was_short = now.saturating_sub(entry.looked) < EVERY.as_nanos() as Nanos;
        if was_short && now.saturating_sub(watches.ended.get()) < ENDS {
            return;
        }
        watches.ended.set(now);
        entry.look(now);
    }
}

#[cfg(test)]
mod tests;
