//! Passive health: backends are judged by what they do with real traffic, and ejected for a while.
//!
//! ```text
//!  workers ──▶ counts (atomics) ──▶ windows ──tick──▶ detect.rs ──▶ findings ─┐
//!     └─ a row is full ─────────────────────── suspect ───────────────────────┴─▶ pool.rs ──▶ changes
//! ```
//!
//! The meanings are Envoy's, for they are what operators know: detectors that count rows act at
//! once, those that compare backends act at the end of an interval; the n-th ejection takes n times
//! the base time, and the count falls while the backend is well; only a part of the backends is
//! ejected at a time.
//!
//! Five things differ, each because of what Envoy's users met:
//!
//! - **The last backend that is well is never ejected**, whatever the share allows. Nobody is
//!   helped by none.
//! - **A rate must be a whole point below the mean** to be an outlier. Of five backends, four of
//!   them without a failure, a single failure in ten thousand requests is two deviations off.
//! - **Slowness is a detector** of its own, and compares means of intervals that are smoothed, not
//!   the peak-sensitive average by which requests are balanced: that one is meant to jump.
//! - **The network is a detector** of its own ([`network`]): what the kernel knows of connections is
//!   known before a request fails.
//! - **A passed active check does not end an ejection.** `/healthz` answers from memory while the
//!   database is gone.
//!
//! Pure: time is an argument (on any monotonic clock), random numbers too.

mod carried;
mod detect;
mod network;
#[cfg(test)]
mod network_tests;
mod pool;
#[cfg(test)]
mod tests;

pub use carried::{Carried, CarriedEjection};
pub(crate) use detect::{ALIKE, median_of_others};
pub use network::Network;
pub use pool::{Ejected, Host, Pool, rows};

use crate::config::model::outlier::Detector;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What became of one attempt at a backend, as far as it says something about the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as servers do. The latency in nanoseconds, where it is the backend's alone.
    Answered(Option<u64>),
    /// It took a connection whose content is not understood here, in so many nanoseconds.
    Connected(u64),
    /// It took a connection of somebody whose time is not comparable with those that are taken here.
    Reached,
    /// Such a connection has had octets from it. The connection was counted when it was opened.
    Served,
    /// It answered that it failed: 5xx, but not what a gateway would say.
    ServerError,
    /// 502, 503, 504; or it reset, ended early or said nothing.
    GatewayError,
    /// No connection could be opened, and that was not for want of anything of ours.
    ConnectFailure,
}

/// What a backend did in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Answers whose latency was taken.
    pub timed: u64,
    /// Their latencies together, in nanoseconds.
    pub latency_ns: u64,
    /// Other answers.
    pub untimed: u64,
    /// Failures of all kinds.
    pub failed: u64,
}

impl Window {
    /// Attempts.
    pub fn total(&self) -> u64 {
        self.timed + self.untimed + self.failed
    }

    /// Share of successes, 0..=1; 1 where nothing was asked.
    pub fn success_rate(&self) -> f64 {
        let total = self.total();
        if total == 0 {
            return 1.0;
        }
        (self.timed + self.untimed) as f64 / total as f64
    }

    fn add(&mut self, other: &Self) {
        self.timed += other.timed;
        self.latency_ns = self.latency_ns.saturating_add(other.latency_ns);
        self.untimed += other.untimed;
        self.failed += other.failed;
    }
}

/// What a detector has found, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// As many failures in a row as are too many.
    Row(Detector, u32),
    /// Its rate of successes, and that below which it is an outlier.
    SuccessRate {
        /// Its own, 0..=1.
        rate: f64,
        /// The mean of all.
        mean: f64,
        /// Mean less deviations.
        least: f64,
        /// Requests that it was taken from.
        requests: u64,
    },
    /// The share of its failures.
    FailurePercentage {
        /// Failures.
        failed: u64,
        /// Of so many requests.
        requests: u64,
    },
    /// Slower than the others for some intervals.
    Latency {
        /// Its own.
        own: Duration,
        /// The median of the others.
        median: Duration,
        /// Intervals in a row.
        intervals: u32,
    },
    /// More is sent again to it than to the others.
    Loss {
        /// Share of segments that were sent again, 0..=1.
        share: f64,
        /// The median of the others.
        median: f64,
        /// Segments that it was taken from.
        segments: u64,
        /// Intervals in a row.
        intervals: u32,
    },
    /// Its round trips have become longer, and not those of the others.
    RoundTrip {
        /// Its own.
        own: Duration,
        /// Its lowest, and what the others have gained on theirs.
        usual: Duration,
        /// Intervals in a row.
        intervals: u32,
    },
    /// It takes nothing, however much waits.
    ZeroWindows {
        /// Looks at which its window was zero.
        zero: u64,
        /// Of so many.
        looks: u64,
        /// Intervals in a row.
        intervals: u32,
    },
}

impl Evidence {
    /// The same of the network, with the number of intervals.
    fn of_intervals(mut self, row: u32) -> Self {
        match &mut self {
            Self::Loss { intervals, .. }
            | Self::RoundTrip { intervals, .. }
            | Self::ZeroWindows { intervals, .. } => *intervals = row,
            _ => {}
        }
        self
    }

    /// Who has found it.
    pub fn detector(&self) -> Detector {
        match self {
            Self::Row(detector, _) => *detector,
            Self::SuccessRate { .. } => Detector::SuccessRate,
            Self::FailurePercentage { .. } => Detector::FailurePercentage,
            Self::Latency { .. } => Detector::Latency,
            Self::Loss { .. } | Self::RoundTrip { .. } | Self::ZeroWindows { .. } => {
                Detector::Network
            }
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(Detector::Consecutive5xx, row) => write!(f, "{row} answers of 5xx in a row"),
            Self::Row(Detector::GatewayErrors, row) => write!(f, "{row} gateway errors in a row"),
            Self::Row(Detector::ConnectFailures, row) => {
                write!(f, "{row} connections in a row could not be opened")
            }
            Self::Row(detector, row) => write!(f, "{row} times {detector}"),
            Self::SuccessRate {
                rate,
                mean,
                least,
                requests,
            } => write!(
                f,
                "success rate {:.1} % of {requests} requests, the mean is {:.1} %, the least {:.1} %",
                100.0 * rate,
                100.0 * mean,
                100.0 * least
            ),
            Self::FailurePercentage { failed, requests } => {
                write!(f, "{failed} of {requests} requests failed")
            }
            Self::Latency {
                own,
                median,
                intervals,
            } => {
                let times = own.as_secs_f64() / median.as_secs_f64().max(1e-9);
                write!(
                    f,
                    "latency {} ms, {times:.1} times the others' {} ms, for {intervals} intervals",
                    milliseconds(*own),
                    milliseconds(*median)
                )
            }
            Self::Loss {
                share,
                median,
                segments,
                intervals,
            } => write!(
                f,
                "{:.1} % of {segments} segments were sent again, {:.1} % to the others, for {intervals} intervals",
                100.0 * share,
                100.0 * median
            ),
            Self::RoundTrip {
                own,
                usual,
                intervals,
            } => write!(
                f,
                "round trips of {} ms instead of {} ms, for {intervals} intervals",
                milliseconds(*own),
                milliseconds(*usual)
            ),
            Self::ZeroWindows {
                zero,
                looks,
                intervals,
            } => write!(
                f,
                "its window was zero at {zero} of {looks} looks, for {intervals} intervals"
            ),
        }
    }
}

/// With three digits, so that microseconds can be told apart.
fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

/// Why a backend that was found is not ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// The detector is not enforced, or not this time.
    NotEnforced,
    /// As many are ejected as may be.
    MaxEjected,
    /// Nobody else is well.
    LastOne,
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnforced => "the detector is not enforced",
            Self::MaxEjected => "as many are ejected as may be",
            Self::LastOne => "no other backend is well",
        })
    }
}

/// Something that happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Which.
    pub host: u32,
    /// What.
    pub kind: ChangeKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChangeKind {
    /// It is ejected.
    Ejected(Ejected),
    /// It would have been.
    Spared(Evidence, Spared),
    /// Its time is over.
    Returned,
}
