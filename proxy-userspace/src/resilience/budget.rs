//! How many retries and hedges there may be at once.
//!
//! The budget is a share of the requests in progress, as in Envoy: it needs no clock and no
//! window, grows with the load by itself, and counts what matters, the work that backends have at
//! one time. A small number is always allowed, or a service with little traffic could never retry.

use crate::config::model::http::Budget;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Retries and hedges in progress, of all workers.
#[derive(Debug, Default)]
pub struct Retrying(AtomicU32);

impl Retrying {
    /// Counts one more, unless the budget or `most` (0: no limit) is reached. `in_progress`: requests
    /// of the service in progress. To be ended by [`Retrying::end`]; [`Spent`] sees to that.
    pub fn try_begin(&self, budget: &Budget, in_progress: u32, most: u32) -> bool {
        let share = (f64::from(in_progress) * budget.share) as u32;
        let most = if most == 0 { u32::MAX } else { most };
        let limit = share.max(budget.min).min(most);
        let begun = self
            .0
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limit).then_some(n + 1)
            });
        begun.is_ok()
    }

    /// Ends one.
    pub fn end(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a retry ended twice");
    }

    /// How many there are.
    pub fn active(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A retry or hedge that is counted until this is dropped.
#[derive(Debug)]
pub struct Spent(Arc<super::Protection>);

impl Spent {
    /// Counts one more, as [`Retrying::try_begin`] does.
    pub fn begin(protection: &Arc<super::Protection>, in_progress: u32) -> Option<Self> {
        let (budget, most) = (
            &protection.settings.budget,
            protection.settings.circuit.retries,
        );
        let may = protection.retrying.try_begin(budget, in_progress, most);
        may.then(|| Self(Arc::clone(protection)))
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.0.retrying.end();
    }
}
