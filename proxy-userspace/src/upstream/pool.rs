//! Connections that wait for their next request.
//!
//! The one that was kept last is taken first: it is the least likely to have been closed, and those
//! at the bottom grow old and are closed when load falls. Nothing is asked of the kernel: a
//! connection that the backend has closed was reported by the reactor, and what slips through is
//! met by trying again.

use super::h1;
use super::h2::Links;
use super::tls::Seal;
use crate::balance::l7::BackendState;
use crate::net::Nanos;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// The kept connections of a worker, by backend.
#[derive(Debug)]
pub struct Pools {
    /// Connections that carry many requests at once.
    pub h2: Rc<Links>,
    /// By [`BackendState::slot`].
    pools: RefCell<Vec<Option<Pool>>>,
    kept: Cell<usize>,
    /// Some worker waits for a connection to be closed.
    wanted: Arc<Notify>,
}

#[derive(Debug)]
struct Pool {
    /// Holds the slot's number as long as the pool lives.
    backend: Arc<BackendState>,
    #[expect(
        clippy::vec_box,
        reason = "they come and go one by one, and a box is moved cheaply"
    )]
    idle: Vec<Box<h1::Connection>>,
    keepalive: Nanos,
}

/// A connection's place among those that the backend is counted to have.
#[derive(Debug)]
pub struct Place {
    backend: Arc<BackendState>,
}

impl Place {
    /// A place for a new connection, unless there are `limit` (0: no limit).
    pub fn new(backend: &Arc<BackendState>, limit: u32) -> Option<Self> {
        backend.try_connect(limit).then(|| Self {
            backend: Arc::clone(backend),
        })
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<BackendState> {
        &self.backend
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.disconnect();
    }
}

impl Pools {
    /// No connections. `wanted` is the same for all workers.
    pub fn new(wanted: Arc<Notify>) -> Self {
        Self {
            h2: Rc::default(),
            pools: RefCell::default(),
            kept: Cell::new(0),
            wanted,
        }
    }

    /// Tells all workers to look whether somebody waits for a connection, or a descriptor, to be closed.
    pub fn wanted(&self) -> &Notify {
        &self.wanted
    }

    /// A kept connection to this backend that is sealed so, if there is one that is still open.
    /// Those that other settings have sealed are closed: nobody can use them any more.
    pub fn take(&self, backend: &BackendState, seal: Seal<'_>) -> Option<Box<h1::Connection>> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(backend.slot() as usize)?.as_mut()?;
        let mut at = pool.idle.len();
        while let Some(last) = at.checked_sub(1) {
            at = last;
            let kept = &pool.idle[at].seal;
            if kept.seal() != seal && kept.is_of_side(seal) {
                continue;
            }
            let connection = pool.idle.remove(at);
            backend.unpooled();
            self.kept.set(self.kept.get() - 1);
            if connection.seal.seal() == seal && connection.is_quiet() {
                return Some(connection);
            }
            connection.say_end();
        }
        None
    }

    /// Keeps a connection for the next request, for `keepalive` and among `most` others.
    pub fn keep(
        &self,
        mut connection: Box<h1::Connection>,
        now: Nanos,
        keepalive: Nanos,
        most: u32,
    ) {
        let backend = connection.backend();
        if backend.is_idle_wanted() {
            connection.say_end();
            return;
        }
        let mut pools = self.pools.borrow_mut();
        let slot = backend.slot() as usize;
        if pools.len() <= slot {
            pools.resize_with(slot + 1, || None);
        }
        let pool = pools[slot].get_or_insert_with(|| Pool {
            backend: Arc::clone(backend),
            idle: Vec::new(),
            keepalive,
        });
        pool.keepalive = keepalive;
        // One that is sealed for another name makes room: it would be asked for by no request like
        // the last one.
        if pool.idle.len() == most as usize
            && let Some(first) = pool.idle.first()
            && first.seal != connection.seal
        {
            pool.idle.remove(0);
            pool.backend.unpooled();
            self.kept.set(self.kept.get() - 1);
        }
        if pool.idle.len() < most as usize {
            connection.kept_since = now;
            pool.idle.push(connection);
            pool.backend.pooled();
            self.kept.set(self.kept.get() + 1);
        } else {
            connection.say_end();
        }
    }

    /// Closes what is too old or was closed by its backend, and what a worker elsewhere waits for.
    pub fn reap(&self, now: Nanos) {
        self.retain(|connection, keepalive| {
            now.saturating_sub(connection.kept_since) < keepalive
                && connection.is_quiet()
                && !connection.backend().is_idle_wanted()
        });
    }

    /// Closes all that are kept: their descriptors are needed.
    pub fn shed(&self) {
        self.retain(|_, _| false);
    }

    fn retain(&self, stays: impl Fn(&h1::Connection, Nanos) -> bool) {
        for place in self.pools.borrow_mut().iter_mut() {
            let Some(pool) = place else { continue };
            let before = pool.idle.len();
            let keepalive = pool.keepalive;
            pool.idle.retain(|connection| {
                let stays = stays(connection, keepalive);
                if !stays {
                    connection.say_end();
                }
                stays
            });
            for _ in pool.idle.len()..before {
                pool.backend.unpooled();
            }
            self.kept.set(self.kept.get() + pool.idle.len() - before);
            if pool.idle.is_empty() {
                *place = None;
            }
        }
    }

    /// Connections that are kept.
    pub fn kept(&self) -> usize {
        self.kept.get()
    }
}
