//! What all workers count together to protect a service.

use super::{Breaker, Latencies, Limiter, Retrying};
use crate::config::model::http::{HedgeAfter, Resilience};
use std::sync::atomic::{AtomicU32, Ordering};

/// The state behind a service's settings. What they do not ask for is not there.
#[derive(Debug)]
pub struct Protection {
    /// The settings.
    pub settings: Resilience,
    /// Retries and hedges in progress.
    pub retrying: Retrying,
    /// The breaker.
    pub breaker: Option<Breaker>,
    /// The limit of requests at once.
    pub limiter: Option<Limiter>,
    /// When a hedge is made.
    pub latencies: Option<Latencies>,
    /// Requests in progress; counted only where there is a threshold.
    requests: AtomicU32,
}

impl Protection {
    /// Nothing is counted yet.
    pub fn new(settings: &Resilience) -> Self {
        let share = settings.hedge.and_then(|hedge| match hedge.after {
            HedgeAfter::Fixed(_) => None,
            HedgeAfter::Percentile { share, .. } => Some(share),
        });
        Self {
            settings: settings.clone(),
            retrying: Retrying::default(),
            breaker: settings.circuit.errors.map(Breaker::new),
            limiter: settings.concurrency.map(Limiter::new),
            latencies: share.map(Latencies::new),
            requests: AtomicU32::new(0),
        }
    }

    /// True if requests must ask before they are served.
    pub const fn is_gated(&self) -> bool {
        self.settings.circuit.requests > 0 || self.limiter.is_some()
    }

    /// True if answers are to be told.
    pub const fn is_watching(&self) -> bool {
        self.limiter.is_some() || self.latencies.is_some()
    }

    /// Counts a request, unless there are as many as the circuit's threshold says. To be ended by
    /// [`Protection::end`].
    pub fn try_begin(&self) -> bool {
        let most = self.settings.circuit.requests;
        let begun = self
            .requests
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (most == 0 || n < most).then_some(n + 1)
            });
        begun.is_ok()
    }

    /// Ends a request.
    pub fn end(&self) {
        let before = self.requests.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a request ended twice");
    }

    /// When a second attempt is made, in nanoseconds after the first; `None` for never, or as long
    /// as not enough is known.
    pub fn hedge_after(&self) -> Option<super::Nanos> {
        match self.settings.hedge?.after {
            HedgeAfter::Fixed(after) => Some(super::nanos(after)),
            HedgeAfter::Percentile { min, .. } => {
                let late = self.latencies.as_ref()?.late()?;
                Some(late.max(super::nanos(min)))
            }
        }
    }
}
