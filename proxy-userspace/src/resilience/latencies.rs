//! How long recent answers of a service took, for hedges.

use super::Nanos;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per doubling: a bucket is a fifth wide, which is what a percentile may be wrong by.
const STEPS: u32 = 4;
const BUCKETS: usize = 40 * STEPS as usize;
/// Answers of the last ten to twenty seconds count.
const SPAN: Nanos = 10_000_000_000;
/// With fewer answers nothing is said.
const LEAST: u32 = 50;
/// Answers between two computations.
const EVERY: u32 = 32;

/// A percentile of the latency of recent answers, shared by all workers.
#[derive(Debug)]
pub struct Latencies {
    share: f64,
    /// The percentile in nanoseconds; 0 if it is not known.
    late: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    since: Nanos,
    unseen: u32,
    now: [u32; BUCKETS],
    before: [u32; BUCKETS],
}

impl Latencies {
    /// The time in which this share (0..=1) of answers come.
    pub fn new(share: f64) -> Self {
        Self {
            share,
            late: AtomicU64::new(0),
            counts: Mutex::new(Counts {
                since: 0,
                unseen: 0,
                now: [0; BUCKETS],
                before: [0; BUCKETS],
            }),
        }
    }

    /// Takes a sample. One that another worker is in the way of is dropped.
    pub fn observe(&self, latency: Nanos, now: Nanos) {
        let Some(mut counts) = self.counts.try_lock() else {
            return;
        };
        if now.saturating_sub(counts.since) >= SPAN {
            counts.before = counts.now;
            counts.now = [0; BUCKETS];
            counts.since = now;
        }
        counts.now[bucket(latency)] += 1;
        counts.unseen += 1;
        if counts.unseen >= EVERY {
            counts.unseen = 0;
            let late = counts.percentile(self.share).unwrap_or(0);
            self.late.store(late, Ordering::Relaxed);
        }
    }

    /// The percentile in nanoseconds, if there were enough answers.
    pub fn late(&self) -> Option<Nanos> {
        match self.late.load(Ordering::Relaxed) {
            0 => None,
            late => Some(late),
        }
    }
}

impl Counts {
    fn percentile(&self, share: f64) -> Option<Nanos> {
        let both = || self.now.iter().zip(&self.before).map(|(a, b)| a + b);
        let all: u32 = both().sum();
        if all < LEAST {
            return None;
        }
        let wanted = (f64::from(all) * share).ceil() as u32;
        let mut sum = 0;
        let found = both().position(|count| {
            sum += count;
            sum >= wanted
        });
        Some(upper_bound(found.unwrap_or(BUCKETS - 1)))
    }
}

/// By the position of the highest bit and the two below it.
fn bucket(latency: Nanos) -> usize {
    let latency = latency.max(STEPS.into());
    let high = latency.ilog2();
    let step = (latency >> (high - 2)) as u32 & (STEPS - 1);
    (((high - 2) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The largest latency of a bucket.
fn upper_bound(bucket: usize) -> Nanos {
    let (high, step) = (bucket as u32 / STEPS + 2, bucket as u64 % u64::from(STEPS));
    ((u64::from(STEPS) + step + 1) << (high - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_within_its_bucket() {
        for latency in [4, 5, 7, 8, 1000, 1_000_000, 123_456_789, 60_000_000_000] {
            let bucket = bucket(latency);
            assert!(latency <= upper_bound(bucket), "{latency}");
            assert!(
                bucket == 0 || latency > upper_bound(bucket - 1),
                "{latency}"
            );
        }
    }

    #[test]
    fn nothing_is_said_of_a_few_and_old_ones_are_forgotten() {
        let latencies = Latencies::new(0.9);
        for _ in 0..40 {
            latencies.observe(1_000_000, 1);
        }
        assert_eq!(latencies.late(), None);
        for n in 0..960 {
            let latency = if n % 10 == 0 { 50_000_000 } else { 1_000_000 };
            latencies.observe(latency, 1);
        }
        let late = latencies.late().expect("enough");
        assert!((1_000_000..2_000_000).contains(&late), "{late}");
        for round in 1..=3 {
            for _ in 0..200 {
                latencies.observe(8_000_000, round * SPAN + 1);
            }
        }
        let late = latencies.late().expect("enough");
        assert!((8_000_000..10_000_000).contains(&late), "{late}");
    }
}
