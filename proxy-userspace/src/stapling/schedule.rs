//! When a responder is asked again: pure, in seconds.

use crate::certificates::OcspAnswer;

/// After the first failure.
const FIRST_PAUSE: i64 = 30;

/// After many.
const LONGEST_PAUSE: i64 = 3600;

/// The longest time between questions: what is revoked should be noticed within a day.
const LONGEST: i64 = 12 * 3600;

/// The shortest.
const SHORTEST: i64 = 10;

/// When to ask again after an answer: in the middle of its life, so that there is as much time
/// again for a responder that is down. `random` is from 0 to 1 and spreads the questions.
pub(super) fn refresh(answer: &OcspAnswer, now: i64, random: f64) -> i64 {
    let life = answer.next_update.saturating_sub(answer.this_update).max(0);
    let spread = share(life, random / 10.0);
    let at = answer.this_update.saturating_add(life / 2 + spread);
    at.clamp(now.saturating_add(SHORTEST), now.saturating_add(LONGEST))
}

/// How long to wait after this many failures in a row, of which there was one at least.
pub(super) fn pause(failures: u32, random: f64) -> i64 {
    let doubled = 2_i64.saturating_pow(failures.saturating_sub(1).min(32));
    let pause = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
    share(pause, 0.75 + random.clamp(0.0, 1.0) / 2.0)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "seconds of a life fit, and the cast saturates"
)]
fn share(seconds: i64, share: f64) -> i64 {
    (seconds as f64 * share) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::OcspStatus;

    fn answer(this_update: i64, next_update: i64) -> OcspAnswer {
        OcspAnswer {
            status: OcspStatus::Good,
            this_update,
            next_update,
        }
    }

    #[test]
    fn answers_are_renewed_in_the_middle_of_their_life() {
        let day = 24 * 3600;
        assert_eq!(refresh(&answer(0, day), 10, 0.0), day / 2);
        assert_eq!(refresh(&answer(0, 1000), 10, 1.0), 600);
        // Of a week: sooner.
        assert_eq!(refresh(&answer(0, 7 * day), 10, 0.0), 10 + LONGEST);
        // Old already, as from a cache: soon, and not at once.
        assert_eq!(refresh(&answer(0, 1000), 900, 0.0), 900 + SHORTEST);
        assert_eq!(refresh(&answer(5, 3), 0, 0.0), SHORTEST);
    }

    #[test]
    fn responders_that_fail_are_asked_less_and_less() {
        assert_eq!(pause(1, 0.5), FIRST_PAUSE);
        assert_eq!(pause(2, 0.5), 2 * FIRST_PAUSE);
        assert_eq!(pause(u32::MAX, 0.5), LONGEST_PAUSE);
        assert!(pause(3, 0.0) < pause(3, 1.0));
    }
}
