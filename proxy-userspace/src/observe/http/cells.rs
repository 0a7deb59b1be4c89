//! Counters that one worker writes and a scrape reads.
//!
//! A locked instruction on a cache line that other cores want costs more than all else that is
//! counted in a request. So each worker has cells of its own, on lines of its own, and writes them
//! with plain stores: `load`, add, `store`, all relaxed. That loses counts if two threads write one
//! cell; therefore **a worker writes only the cells of its own number**. A scrape sums over the
//! workers, and may miss what is being counted just then.

use crate::message::Method;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of all durations of the proxy, in seconds.
pub const DURATION_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// [`DURATION_BUCKETS`] in microseconds.
const BOUNDS_US: [u64; DURATION_BUCKETS.len()] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds to a counter, or to a gauge.
    #[inline]
    pub fn add(&self, more: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes from a gauge. One worker's part may be below zero; the sum over all is right.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.add(less.wrapping_neg());
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations in buckets.
#[derive(Debug, Default)]
pub struct Durations {
    nanos: Single,
    buckets: [Single; DURATION_BUCKETS.len() + 1],
}

impl Durations {
    /// Counts one.
    #[inline]
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // A bound is in the bucket that it names, so a begun microsecond counts as a whole one.
        let micros = nanos.div_ceil(1000);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < micros);
        self.buckets[bucket].add(1);
        self.nanos.add(nanos);
    }

    /// Adds what has been counted to `sum`.
    pub fn add_to(&self, sum: &mut DurationSum) {
        sum.seconds += self.nanos.get() as f64 / 1e9;
        for (sum, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
    }
}

/// Durations of all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DurationSum {
    /// Their sum.
    pub seconds: f64,
    /// How many by bucket, not cumulative; the last is above every bound.
    pub buckets: [u64; DURATION_BUCKETS.len() + 1],
}

/// Combinations of method and status that are told apart before the rest share a bucket.
///
/// Backends choose statuses, so the number must be bounded; no honest service uses as many.
const SLOTS: usize = 24;

/// Requests by method and status.
#[derive(Debug, Default)]
pub struct Codes {
    keys: [AtomicU32; SLOTS],
    counts: [Single; SLOTS],
    /// By class, once the slots are taken.
    others: [Single; 10],
}

impl Codes {
    /// Counts one; `status` 0 for none.
    #[inline]
    pub fn count(&self, method: &Method, status: u16) {
        let key = (method_number(method) << 16) | u32::from(status);
        for (slot, count) in self.keys.iter().zip(&self.counts) {
            let taken_by = slot.load(Ordering::Relaxed);
            if taken_by == key {
                return count.add(1);
            }
            if taken_by == 0 {
                count.add(1);
                // After the count, so that a scrape which sees the key sees the count.
                return slot.store(key, Ordering::Release);
            }
        }
        self.others[usize::from(status / 100).min(9)].add(1);
    }

    /// Calls `each` with the method's label, the status as a label, and the count.
    pub fn each(&self, mut each: impl FnMut(&'static str, Code, u64)) {
        for (slot, count) in self.keys.iter().zip(&self.counts) {
            let key = slot.load(Ordering::Acquire);
            if key == 0 {
                break;
            }
            let method = METHOD_LABELS[(key >> 16) as usize - 1];
            each(method, Code::Exact((key & 0xffff) as u16), count.get());
        }
        for (class, count) in self.others.iter().enumerate() {
            if count.get() > 0 {
                each("other", Code::Class(class as u16), count.get());
            }
        }
    }
}

/// A status as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// This one; 0 for none.
    Exact(u16),
    /// One of this class, such as `4xx`.
    Class(u16),
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(0) => f.write_str("none"),
            Self::Exact(status) => write!(f, "{status}"),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

const METHOD_LABELS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other",
];

/// Index in [`METHOD_LABELS`], from 1: 0 marks a free slot.
#[inline]
const fn method_number(method: &Method) -> u32 {
    match method {
        Method::Get => 1,
        Method::Head => 2,
        Method::Post => 3,
        Method::Put => 4,
        Method::Delete => 5,
        Method::Connect => 6,
        Method::Options => 7,
        Method::Trace => 8,
        Method::Patch => 9,
        Method::Other(_) => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn all(codes: &Codes) -> BTreeMap<(String, String), u64> {
        let mut all = BTreeMap::new();
        codes.each(|method, code, count| {
            all.insert((method.to_owned(), code.to_string()), count);
        });
        all
    }

    #[test]
    fn a_duration_on_a_bound_belongs_below_it() {
        let durations = Durations::default();
        durations.observe(Duration::from_micros(500));
        durations.observe(Duration::from_nanos(500_001));
        durations.observe(Duration::from_secs(61));
        let mut sum = DurationSum::default();
        durations.add_to(&mut sum);
        assert_eq!(sum.buckets[..2], [1, 1]);
        assert_eq!(sum.buckets[DURATION_BUCKETS.len()], 1);
        assert!((sum.seconds - 61.001_000_001).abs() < 1e-9);
        for (seconds, micros) in DURATION_BUCKETS.iter().zip(BOUNDS_US) {
            assert_eq!((seconds * 1e6).round() as u64, micros);
        }
    }

    #[test]
    fn methods_have_the_labels_that_they_are_counted_under() {
        let known = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "BREW",
        ];
        for token in known {
            let method = Method::of(token.as_bytes());
            let label = METHOD_LABELS[method_number(&method) as usize - 1];
            assert_eq!(label, method.label());
        }
    }

    #[test]
    fn statuses_beyond_the_slots_share_their_class() {
        let codes = Codes::default();
        for status in 400..500 {
            codes.count(&Method::Get, status);
            codes.count(&Method::Get, status);
        }
        codes.count(&Method::Post, 0);
        let all = all(&codes);
        assert_eq!(all.values().sum::<u64>(), 201);
        assert_eq!(all.len(), SLOTS + 2);
        assert_eq!(all[&("GET".to_owned(), "400".to_owned())], 2);
        let shared = ("other".to_owned(), "4xx".to_owned());
        assert_eq!(all[&shared], 2 * (100 - SLOTS as u64));
    }

    #[test]
    fn a_gauge_may_fall_on_a_worker_where_it_never_rose() {
        let (here, there) = (Single::default(), Single::default());
        here.add(3);
        there.sub(1);
        assert_eq!(here.get().wrapping_add(there.get()), 2);
    }
}
