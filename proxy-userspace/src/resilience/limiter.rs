//! Requests of a service at once: a fixed limit or an adaptive one, and those who wait.

use super::{CarriedLimit, Gradient, Nanos};
use crate::config::model::http::Concurrency;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// Requests at once, of all workers.
#[derive(Debug)]
pub struct Limiter {
    settings: Concurrency,
    limit: AtomicU32,
    in_flight: AtomicU32,
    waiting: AtomicU32,
    gradient: Option<Mutex<Gradient>>,
    room: Notify,
}

impl Limiter {
    /// As configured.
    pub fn new(settings: Concurrency) -> Self {
        let gradient = settings
            .adaptive
            .map(|min| Gradient::new(min, settings.max));
        Self {
            limit: AtomicU32::new(gradient.as_ref().map_or(settings.max, Gradient::limit)),
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            gradient: gradient.map(Mutex::new),
            room: Notify::new(),
            settings,
        }
    }

    /// As configured.
    pub fn settings(&self) -> &Concurrency {
        &self.settings
    }

    /// The limit in force.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Requests in progress.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Begins a request that has just come, unless there are as many as may be, or others wait.
    pub fn try_begin(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.try_begin_waiter()
    }

    /// Begins a request that has waited.
    pub fn try_begin_waiter(&self) -> bool {
        let limit = self.limit();
        let begun = self
            .in_flight
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                (n < limit).then_some(n + 1)
            });
        begun.is_ok()
    }

    /// Ends a request. If others wait, one of them is woken.
    pub fn end(&self) {
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a request ended twice");
        self.wake();
    }

    /// Takes a place in the queue, if there is one.
    pub fn queue(&self) -> Option<Queued<'_>> {
        let most = self.settings.queue;
        let joined = self
            .waiting
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                (n < most).then_some(n + 1)
            });
        joined.is_ok().then(|| Queued(self))
    }

    /// Tells how long an answer took. Those who wait may go on if the limit has grown.
    pub fn observe(&self, latency: Nanos, now: Nanos) {
        // A sample that another worker is in the way of is dropped: the other one is as good.
        let Some(mut gradient) = self.gradient.as_ref().and_then(Mutex::try_lock) else {
            return;
        };
        if let Some(limit) = gradient.sample(latency, self.in_flight(), now) {
            self.limit.store(limit, Ordering::Relaxed);
            drop(gradient);
            self.wake();
        }
    }

    /// Tells that there was no answer in time.
    pub fn dropped(&self) {
        if let Some(gradient) = &self.gradient {
            gradient.lock().dropped();
        }
    }

    /// What a successor has to know; `None` for a fixed limit.
    pub(super) fn carried(&self) -> Option<CarriedLimit> {
        Some(self.gradient.as_ref()?.lock().carried())
    }

    /// Goes on from a limit that another process has found.
    pub(super) fn inherit(&self, carried: &CarriedLimit) {
        let Some(gradient) = &self.gradient else {
            return;
        };
        let mut gradient = gradient.lock();
        gradient.inherit(carried);
        self.limit.store(gradient.limit(), Ordering::Relaxed);
    }

    /// Told when there may be room.
    pub fn room(&self) -> &Notify {
        &self.room
    }

    fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 && self.in_flight() < self.limit() {
            self.room.notify_one();
        }
    }
}

/// A place in the queue until this is dropped.
#[derive(Debug)]
pub struct Queued<'l>(&'l Limiter);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // Who was woken and has gone may have left room to the next one.
        self.0.wake();
    }
}
