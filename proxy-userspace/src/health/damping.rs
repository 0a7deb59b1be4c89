//! The penalty of a backend that flaps, after route flap damping (RFC 2439, section 4.2).
//!
//! Each change from up to down adds 1. The sum halves every `half_life`, whatever happens. From
//! `suppress` on the backend is held down although it may answer; at `reuse` it may rise again.
//!
//! RFC 2439 needs a ceiling on the penalty, because a peer may flap while it is suppressed. Here
//! it needs none: a held backend is down, so it cannot go down, so nothing is added. The penalty
//! of a backend that is up is below `suppress`, hence it never exceeds `suppress + 1`, and no
//! backend is held longer than [`longest_hold`].

use crate::config::model::Damping;
use std::time::Duration;

/// Below this a penalty counts as none. Without a floor, `reuse: 0` would never be reached.
const NEGLIGIBLE: f64 = 1.0 / 1024.0;

/// A sum of changes to down that decays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Penalty {
    value: f64,
    at: Duration,
}

impl Penalty {
    /// The penalty at `now`. An earlier time than that of the last addition counts as that time.
    pub fn at(&self, now: Duration, half_life: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        let half_life = half_life.as_secs_f64();
        let value = if elapsed == 0.0 {
            self.value
        } else if half_life == 0.0 {
            0.0
        } else {
            self.value * (-elapsed / half_life).exp2()
        };
        if value < NEGLIGIBLE { 0.0 } else { value }
    }

    /// Adds one change to down and returns the new penalty.
    pub fn add(&mut self, now: Duration, half_life: Duration) -> f64 {
        self.value = self.at(now, half_life) + 1.0;
        self.at = self.at.max(now);
        self.value
    }
}

/// Whether a backend with this penalty is to be held down.
pub fn suppresses(damping: &Damping, penalty: f64) -> bool {
    penalty >= damping.suppress
}

/// Whether a held backend with this penalty may rise again.
pub fn releases(damping: &Damping, penalty: f64) -> bool {
    // A threshold that is not a number must not hold for ever.
    penalty <= damping.reuse || damping.reuse.is_nan()
}

/// The longest time for which a backend can be held: what a penalty of `suppress + 1` takes to
/// decay to `reuse`. `None` if damping never holds.
pub fn longest_hold(damping: &Damping) -> Option<Duration> {
    let reuse = damping.reuse.max(NEGLIGIBLE);
    let halvings = ((damping.suppress + 1.0) / reuse).log2();
    Duration::try_from_secs_f64(damping.half_life.as_secs_f64() * halvings.max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF_LIFE: Duration = Duration::from_secs(60);

    fn damping(suppress: f64, reuse: f64) -> Damping {
        Damping {
            half_life: HALF_LIFE,
            suppress,
            reuse,
        }
    }

    #[test]
    fn penalty_halves_every_half_life() {
        let mut penalty = Penalty::default();
        assert_eq!(penalty.add(Duration::ZERO, HALF_LIFE), 1.0);
        assert_eq!(penalty.at(HALF_LIFE, HALF_LIFE), 0.5);
        assert_eq!(penalty.at(3 * HALF_LIFE, HALF_LIFE), 0.125);
        assert_eq!(penalty.add(HALF_LIFE, HALF_LIFE), 1.5);
    }

    #[test]
    fn penalty_vanishes_in_the_end_so_that_reuse_zero_is_reached() {
        let mut penalty = Penalty::default();
        penalty.add(Duration::ZERO, HALF_LIFE);
        assert_eq!(penalty.at(11 * HALF_LIFE, HALF_LIFE), 0.0);
        assert!(releases(&damping(3.0, 0.0), 0.0));
    }

    #[test]
    fn half_life_zero_forgets_at_once() {
        let mut penalty = Penalty::default();
        penalty.add(Duration::ZERO, Duration::ZERO);
        assert_eq!(penalty.at(Duration::from_nanos(1), Duration::ZERO), 0.0);
    }

    #[test]
    fn clock_that_steps_back_neither_decays_nor_inflates() {
        let mut penalty = Penalty::default();
        penalty.add(HALF_LIFE, HALF_LIFE);
        assert_eq!(penalty.at(Duration::ZERO, HALF_LIFE), 1.0);
        penalty.add(Duration::ZERO, HALF_LIFE);
        assert_eq!(penalty.at(HALF_LIFE, HALF_LIFE), 2.0);
    }

    #[test]
    fn thresholds_include_their_own_value_and_survive_nonsense() {
        assert!(suppresses(&damping(3.0, 1.0), 3.0));
        assert!(!suppresses(&damping(3.0, 1.0), 2.999));
        assert!(!suppresses(&damping(f64::INFINITY, 1.0), 1e9));
        assert!(releases(&damping(3.0, 1.0), 1.0));
        assert!(!releases(&damping(3.0, 1.0), 1.001));
        assert!(releases(&damping(3.0, f64::NAN), 5.0));
        assert_eq!(longest_hold(&damping(f64::INFINITY, 1.0)), None);
    }

    proptest! {
        #[test]
        fn penalty_only_decays_between_additions(
            additions in prop::collection::vec(0u64..600_000, 1..40),
            steps in prop::collection::vec(0u64..600_000, 1..40),
        ) {
            let mut penalty = Penalty::default();
            let mut now = Duration::ZERO;
            for gap in additions {
                now += Duration::from_millis(gap);
                let before = penalty.at(now, HALF_LIFE);
                let after = penalty.add(now, HALF_LIFE);
                prop_assert!((after - before - 1.0).abs() < 1e-9);
            }
            let mut last = penalty.at(now, HALF_LIFE);
            for gap in steps {
                now += Duration::from_millis(gap);
                let value = penalty.at(now, HALF_LIFE);
                prop_assert!(value <= last && value >= 0.0);
                last = value;
            }
        }
    }
}
