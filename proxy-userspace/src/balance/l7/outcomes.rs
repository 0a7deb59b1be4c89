//! What became of the attempts at one backend, counted by all workers.
//!
//! A success is one atomic addition, and a look whether a row of failures has to be broken. Failures
//! are rare, and may cost more.

use crate::health::outlier::{Outcome, Window};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts since they were last taken, which happens every second.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Answers whose latency was taken, in the upper bits; the sum of the latencies, below. So both
    /// are one addition. Room for 16 million answers, and 12 days of latencies.
    timed: AtomicU64,
    untimed: AtomicU32,
    failed: AtomicU32,
    /// Rows of failures, 16 bits each, in the order of [`crate::health::outlier::rows`].
    rows: AtomicU64,
}

const COUNT: u32 = 40;
const SUM: u64 = (1 << COUNT) - 1;

/// The row of connections that could not be opened.
const CONNECTS: u64 = 0xffff;

/// Latencies are summed in units of 1024 ns.
const UNIT: u32 = 10;

/// A latency counts for no more, or few could fill the sum: about a minute.
const LONGEST: u64 = 60_000_000;

impl Outcomes {
    /// Counts. A failure returns the rows as they are now.
    #[inline]
    pub(super) fn report(&self, outcome: Outcome) -> Option<[u16; 3]> {
        match outcome {
            Outcome::Answered(Some(latency)) => {
                self.time(latency);
                self.forget_rows();
                None
            }
            Outcome::Connected(latency) => {
                self.time(latency);
                self.forget_connects();
                None
            }
            Outcome::Reached => {
                self.untimed.fetch_add(1, Ordering::Relaxed);
                self.forget_connects();
                None
            }
            Outcome::Served => {
                self.forget_rows();
                None
            }
            Outcome::Answered(None) => {
                self.untimed.fetch_add(1, Ordering::Relaxed);
                self.forget_rows();
                None
            }
            failure => Some(self.failed(failure)),
        }
    }

    #[inline]
    fn time(&self, latency: u64) {
        let latency = (latency >> UNIT).min(LONGEST);
        self.timed
            .fetch_add(1 << COUNT | latency, Ordering::Relaxed);
    }

    #[cold]
    fn failed(&self, failure: Outcome) -> [u16; 3] {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let longer = |rows: u64| {
            let [connects, gateway, errors] = unpack(rows);
            Some(pack(match failure {
                // It says nothing about what it answers to those who reach it.
                Outcome::ConnectFailure => [connects.saturating_add(1), gateway, errors],
                Outcome::GatewayError => [0, gateway.saturating_add(1), errors.saturating_add(1)],
                _ => [0, 0, errors.saturating_add(1)],
            }))
        };
        let before = self
            .rows
            .try_update(Ordering::Relaxed, Ordering::Relaxed, longer);
        before.ok().and_then(longer).map_or([0; 3], unpack)
    }

    /// Breaks the row of connections that could not be opened.
    #[inline]
    fn forget_connects(&self) {
        if self.rows.load(Ordering::Relaxed) & CONNECTS != 0 {
            self.rows.fetch_and(!CONNECTS, Ordering::Relaxed);
        }
    }

    /// Breaks all rows.
    #[inline]
    pub(super) fn forget_rows(&self) {
        // The load first: nearly always there is no row, and the line is not written.
        if self.rows.load(Ordering::Relaxed) != 0 {
            self.rows.store(0, Ordering::Relaxed);
        }
    }

    /// Takes what was counted.
    pub(super) fn take(&self) -> Window {
        let timed = self.timed.swap(0, Ordering::Relaxed);
        Window {
            timed: timed >> COUNT,
            latency_ns: (timed & SUM) << UNIT,
            untimed: self.untimed.swap(0, Ordering::Relaxed).into(),
            failed: self.failed.swap(0, Ordering::Relaxed).into(),
        }
    }
}

fn unpack(rows: u64) -> [u16; 3] {
    [rows as u16, (rows >> 16) as u16, (rows >> 32) as u16]
}

fn pack([a, b, c]: [u16; 3]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_own_row() {
        let outcomes = Outcomes::default();
        assert_eq!(outcomes.report(Outcome::ServerError), Some([0, 0, 1]));
        assert_eq!(outcomes.report(Outcome::GatewayError), Some([0, 1, 2]));
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 1, 2]));
        assert_eq!(outcomes.report(Outcome::ServerError), Some([0, 0, 3]));
        assert_eq!(outcomes.report(Outcome::Answered(None)), None);
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 0, 0]));
        assert_eq!(outcomes.report(Outcome::Answered(Some(1))), None);
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 0, 0]));
        // A connection that is reset each time shows that connections can be opened.
        assert_eq!(outcomes.report(Outcome::GatewayError), Some([0, 1, 1]));
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 1, 1]));
        assert_eq!(outcomes.report(Outcome::Connected(1)), None);
        assert_eq!(outcomes.report(Outcome::GatewayError), Some([0, 2, 2]));
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 2, 2]));
        assert_eq!(outcomes.report(Outcome::Reached), None);
        assert_eq!(outcomes.report(Outcome::ConnectFailure), Some([1, 2, 2]));
        assert_eq!(outcomes.report(Outcome::Served), None);
        assert_eq!(outcomes.report(Outcome::GatewayError), Some([0, 1, 1]));
    }

    #[test]
    fn counts_and_latencies_are_taken_once() {
        let outcomes = Outcomes::default();
        let _ = outcomes.report(Outcome::Answered(Some(2_000_000)));
        let _ = outcomes.report(Outcome::Answered(Some(u64::MAX)));
        let _ = outcomes.report(Outcome::Answered(None));
        let _ = outcomes.report(Outcome::ServerError);
        let window = outcomes.take();
        assert_eq!((window.timed, window.untimed, window.failed), (2, 1, 1));
        assert_eq!(
            window.latency_ns,
            (2_000_000 >> UNIT << UNIT) + (LONGEST << UNIT)
        );
        assert_eq!(outcomes.take(), Window::default());
    }

    #[test]
    fn rows_do_not_overflow_into_each_other() {
        let outcomes = Outcomes::default();
        for _ in 0..70_000 {
            let _ = outcomes.report(Outcome::ConnectFailure);
        }
        assert_eq!(
            outcomes.report(Outcome::ConnectFailure),
            Some([u16::MAX, 0, 0])
        );
    }
}
