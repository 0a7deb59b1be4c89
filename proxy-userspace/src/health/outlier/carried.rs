//! What is known of a backend, told to another process.
//!
//! Moments are told as how long ago or how far ahead they are, because the clocks of two processes
//! need not begin together. Counts of the interval that is under way stay behind: an interval that
//! begins anew judges later, and never wrongly.

use super::Evidence;
use super::network::Path;
use super::pool::{Ejected, Pool, Record};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Carried {
    /// Ejections, less the intervals in which it was well.
    times: u32,
    /// Smoothed mean latency in nanoseconds.
    latency: Option<f64>,
    /// Intervals since there were enough requests to know it by.
    age: u32,
    /// Intervals in a row in which it was slow.
    slow: u32,
    /// The lowest mean round trip in nanoseconds.
    lowest: Option<f64>,
    /// Its ejection, if it is ejected.
    pub ejected: Option<CarriedEjection>,
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CarriedEjection {
    /// How long ago it began.
    since: Duration,
    /// How long it still lasts.
    left: Duration,
    /// Why.
    evidence: Evidence,
    /// How many ejections, lately, it is.
    times: u32,
}

impl Pool {
    /// What is known of a backend, if anything is worth telling.
    pub fn carried(&self, id: u32, now: Duration) -> Option<Carried> {
        let record = self.record(id)?;
        let carried = Carried {
            times: record.times,
            latency: record.latency,
            age: record.age,
            slow: record.slow,
            lowest: record.path.lowest(),
            ejected: record.ejected.map(|ejected| CarriedEjection {
                since: now.saturating_sub(ejected.since),
                left: ejected.until.saturating_sub(now),
                evidence: ejected.evidence,
                times: ejected.times,
            }),
        };
        (carried != Carried::default()).then_some(carried)
    }

    /// Goes on with what another process knew of a backend of which nothing is known here yet.
    pub fn inherit(&mut self, id: u32, carried: &Carried, now: Duration) {
        let ejected = carried.ejected.map(|ejected| Ejected {
            since: now.saturating_sub(ejected.since),
            until: now.saturating_add(ejected.left),
            evidence: ejected.evidence,
            times: ejected.times,
        });
        let mut record = Record::default();
        record.times = carried.times;
        // One that is no number would be slow for ever.
        record.latency = carried.latency.filter(|it| it.is_finite() && *it >= 0.0);
        (record.age, record.slow) = (carried.age, carried.slow);
        record.path = Path::with_lowest(carried.lowest);
        record.ejected = ejected;
        self.put(id, record);
    }
}
