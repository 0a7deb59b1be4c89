//! Weights follow latency: a backend that answers slower than the others gets a smaller share of
//! new flows, and gets it back when it is as fast as they are.
//!
//! A control loop with a delay must be slow and bounded, or it swings: load follows weight, and
//! latency follows load. So there is one step per interval, of a fixed size; between the two
//! thresholds nothing moves; what is left at least is a share that keeps the backend measured; and
//! what it is compared with is the median of the *others*, which one slow backend does not move.

use super::outlier::ALIKE;
pub(crate) use super::outlier::median_of_others;
use crate::config::model::outlier::WeightsByLatency;

/// The share of its weight that a backend has after this interval, of 1. `own`: its latency, and
/// `median` that of the others, in nanoseconds. Where either is not known, nothing speaks against
/// it: a step is given back.
pub fn step(rules: &WeightsByLatency, share: f64, own: Option<f64>, median: Option<f64>) -> f64 {
    let back = (share + rules.step).min(1.0);
    let (Some(own), Some(median)) = (own, median) else {
        return back;
    };
    let is_alike = own - median < ALIKE.as_nanos() as f64;
    if is_alike || own < rules.below * median {
        back
    } else if own > rules.above * median {
        (share - rules.step).max(rules.floor).min(share)
    } else {
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: f64 = 1e6;
    const RULES: WeightsByLatency = WeightsByLatency {
        above: 1.5,
        below: 1.2,
        step: 0.1,
        floor: 0.3,
        min_requests: 20,
        network: true,
    };

    fn after(steps: u32, from: f64, own: f64) -> f64 {
        (0..steps).fold(from, |share, _| {
            step(&RULES, share, Some(own * MS), Some(10.0 * MS))
        })
    }

    #[test]
    fn slow_ones_lose_step_by_step_down_to_the_floor_and_gain_it_back() {
        assert!((after(1, 1.0, 100.0) - 0.9).abs() < 1e-9);
        assert_eq!(after(100, 1.0, 100.0), 0.3);
        assert!((after(1, 0.3, 11.0) - 0.4).abs() < 1e-9);
        assert_eq!(after(100, 0.3, 11.0), 1.0);
    }

    #[test]
    fn between_the_thresholds_nothing_moves() {
        for share in [0.3, 0.5, 1.0] {
            assert_eq!(after(10, share, 13.0), share);
        }
    }

    #[test]
    fn what_is_not_known_or_below_a_millisecond_speaks_for_the_backend() {
        assert_eq!(step(&RULES, 1.0, Some(0.9 * MS), Some(0.1 * MS)), 1.0);
        assert!(step(&RULES, 0.5, None, Some(MS)) > 0.5);
        assert!(step(&RULES, 0.5, Some(MS), None) > 0.5);
    }

    proptest! {
        #[test]
        fn a_share_moves_one_step_at_most_and_stays_in_bounds(
            share in 0.3..=1.0,
            own in prop::option::of(0.0..1e12),
            median in prop::option::of(0.0..1e12),
        ) {
            let next = step(&RULES, share, own, median);
            prop_assert!((next - share).abs() <= RULES.step + 1e-9);
            prop_assert!((RULES.floor..=1.0).contains(&next));
        }
    }
}
