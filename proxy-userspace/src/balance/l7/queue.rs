//! Those who wait while every backend is at its limit: first come, first served, over all workers.
//!
//! Room is **handed over**: whoever ends a request looks whether somebody waits, and if so takes
//! the place again in the name of the one who has waited longest and can use that backend. If
//! waiters were only told to try again, a new request could be quicker than they, again and again.
//!
//! The list stands under a lock, and that is on nobody's usual way: without waiters, the end of a
//! request costs one load more. Nothing is lost between a look and a wait: who comes to wait
//! first counts itself and *then* looks once more ([`Polled::Retry`]), who ends a request first
//! gives up the place and *then* looks for waiters; all four steps are sequentially consistent, so
//! at least one of the two sees the other.
//!
//! Wakers are woken after the lock is given up. There is no clock and no timer here: whoever
//! waits keeps its deadline itself.

use super::backend::BackendState;
use super::pick::Tried;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::task::Waker;

/// A bounded queue of requests.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Entries without a grant.
    waiting: AtomicU32,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    /// By ticket, thus by age.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    entry: Entry,
    waker: Option<Waker>,
    retry: bool,
    granted: Option<Arc<BackendState>>,
}

/// A place in the queue. Whoever has one must give it back: [`Queue::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What a waiter can use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// Backends that it cannot.
    pub(super) tried: Tried,
    /// The slot of the only one that it can.
    pub(super) only: Option<u32>,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait already")]
pub struct QueueFull;

/// How a waiter stands.
#[derive(Debug)]
pub(super) enum Polled {
    /// Nothing has happened.
    Waiting,
    /// Something has changed: try to pick. The place is kept.
    Retry,
    /// A request to this backend has begun in the waiter's name. The place is given up.
    Granted(Arc<BackendState>),
}

impl Queue {
    /// How many wait.
    #[inline]
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes a place at the end, if fewer than `limit` wait; tells how many do.
    ///
    /// # Errors
    ///
    /// [`QueueFull`].
    pub(super) fn join(&self, limit: u32, entry: Entry) -> Result<(Ticket, u32), QueueFull> {
        let ahead = self
            .waiting
            .try_update(Ordering::SeqCst, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            })
            .map_err(|_| QueueFull)?;
        let mut list = self.list.lock();
        let ticket = Ticket(list.next);
        list.next += 1;
        list.waiters.push_back(Waiter {
            ticket,
            entry,
            waker: None,
            retry: true,
            granted: None,
        });
        drop(list);
        // Before the second look at the backends' counters, which are read without an order.
        fence(Ordering::SeqCst);
        Ok((ticket, ahead))
    }

    /// Asks how the waiter stands, and has `waker` woken when that changes.
    pub(super) fn poll(&self, ticket: Ticket, waker: &Waker) -> Polled {
        let mut list = self.list.lock();
        let Some(index) = list.find(ticket) else {
            return Polled::Retry;
        };
        let waiter = &mut list.waiters[index];
        if let Some(backend) = waiter.granted.take() {
            list.waiters.remove(index);
            return Polled::Granted(backend);
        }
        match &mut waiter.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if std::mem::take(&mut waiter.retry) {
            Polled::Retry
        } else {
            Polled::Waiting
        }
    }

    /// Says anew what the waiter can use.
    pub(super) fn set(&self, ticket: Ticket, entry: Entry) {
        let mut list = self.list.lock();
        if let Some(index) = list.find(ticket) {
            list.waiters[index].entry = entry;
        }
    }

    /// Gives the place up. Returns the backend if a request had begun in the waiter's name: it
    /// must be ended.
    pub(super) fn leave(&self, ticket: Ticket) -> Option<Arc<BackendState>> {
        let mut list = self.list.lock();
        let index = list.find(ticket)?;
        let waiter = list.waiters.remove(index)?;
        if waiter.granted.is_none() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        waiter.granted
    }

    /// Gives what room `backend` has to those who have waited longest.
    #[cold]
    pub(super) fn grant(&self, backend: &Arc<BackendState>) {
        let mut woken = Vec::new();
        let mut list = self.list.lock();
        let waiters = list.waiters.iter_mut();
        for waiter in waiters.filter(|waiter| waiter.can_use(backend)) {
            if !backend.try_begin() {
                break;
            }
            waiter.granted = Some(Arc::clone(backend));
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            woken.extend(waiter.waker.take());
        }
        drop(list);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Has all try again, because the set of backends has changed.
    pub(super) fn retry(&self) {
        let mut woken = Vec::new();
        let mut list = self.list.lock();
        for waiter in &mut list.waiters {
            waiter.retry = true;
            woken.extend(waiter.waker.take());
        }
        drop(list);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl List {
    fn find(&self, ticket: Ticket) -> Option<usize> {
        let by_ticket = |waiter: &Waiter| waiter.ticket;
        self.waiters.binary_search_by_key(&ticket, by_ticket).ok()
    }
}

impl Waiter {
    fn can_use(&self, backend: &BackendState) -> bool {
        let slot = backend.slot();
        let is_wanted = match self.entry.only {
            Some(only) => only == slot,
            None => backend.is_open(),
        };
        self.granted.is_none() && is_wanted && !self.entry.tried.contains(slot)
    }
}
