//! Latencies in buckets that are finer where they are small: 64 for each power of two, as
//! HdrHistogram has them, so that a value is known to 1.6 % whatever its size.

use std::time::Duration;

/// Bits of a value that a bucket keeps.
const PRECISION: u32 = 6;
const SUB_BUCKETS: usize = 1 << PRECISION;

/// Counts of latencies, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; SUB_BUCKETS * (65 - PRECISION as usize)],
            total: 0,
        }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// The value which this share (0 to 1) of all do not exceed, in microseconds; 0 when there
    /// are none.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return upper_end(index) / 1e3;
            }
        }
        0.0
    }
}

fn bucket(nanos: u64) -> usize {
    let significant = u64::BITS - nanos.leading_zeros();
    let shift = significant.saturating_sub(PRECISION + 1);
    // Shifted, the value has its first bit set, except in the first range, which is linear.
    SUB_BUCKETS * shift as usize + (nanos >> shift) as usize
}

/// The largest value of a bucket.
fn upper_end(index: usize) -> f64 {
    let shift = (index / SUB_BUCKETS).saturating_sub(1);
    let kept = index - SUB_BUCKETS * shift;
    (kept as f64 + 1.0) * 2f64.powi(shift as i32) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_to_within_two_percent() {
        for nanos in [
            0,
            1,
            63,
            64,
            127,
            128,
            129,
            5_000,
            123_456,
            9_876_543_210,
            u64::MAX,
        ] {
            let end = upper_end(bucket(nanos));
            assert!(end >= nanos as f64 * 0.999_999, "{nanos}: {end}");
            assert!(end <= nanos as f64 * 1.016 + 1.0, "{nanos}: {end}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_gap() {
        let mut last = 0;
        for nanos in 0..100_000 {
            let index = bucket(nanos);
            assert!(index == last || index == last + 1, "{nanos}");
            last = index;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(0.5), 0.0);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let median = histogram.quantile_us(0.5);
        assert!((500.0..509.0).contains(&median), "{median}");
        let late = histogram.quantile_us(0.99);
        assert!((990.0..1007.0).contains(&late), "{late}");
    }
}
