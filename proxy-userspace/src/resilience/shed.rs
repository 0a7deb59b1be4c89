//! Which requests a worker refuses because it has too much to do.
//!
//! What is looked at is how late the worker's event loop runs what was due. That is what every
//! request waits for, whatever the reason: too many of them, dear ones, or a busy host. It is
//! smoothed, so that one long pause refuses nobody; a step is entered at once and left only after
//! the lag was well below it for a while, or the worker would sway between refusing all and none.

use super::{Nanos, nanos};
use crate::config::model::http::{Overload, Priority};

/// The weight of a sample.
const WEIGHT: f64 = 0.3;
/// The steps: low, normal and high requests are refused.
const STEPS: u8 = 3;

/// A worker's lag, and what it refuses.
#[derive(Debug, Default)]
pub struct Shedder {
    /// Smoothed lag in nanoseconds.
    lag: f64,
    step: u8,
    /// Since when the lag has been low enough to leave the step.
    quiet: Option<Nanos>,
}

impl Shedder {
    /// Takes a sample: how late the loop was, in nanoseconds.
    pub fn observe(&mut self, settings: &Overload, lag: Nanos, now: Nanos) {
        self.lag += (lag as f64 - self.lag) * WEIGHT;
        let first = nanos(settings.lag) as f64;
        let entry = |step: u8| first * f64::from(1_u32 << (step - 1));
        while self.step < STEPS && self.lag >= entry(self.step + 1) {
            self.step += 1;
            self.quiet = None;
        }
        if self.step == 0 || self.lag >= entry(self.step) / 2.0 {
            self.quiet = None;
            return;
        }
        let since = *self.quiet.get_or_insert(now);
        if now.saturating_sub(since) >= nanos(settings.hold) {
            self.step -= 1;
            self.quiet = None;
        }
    }

    /// The lowest priority that is served.
    pub const fn least(&self) -> Priority {
        match self.step {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            _ => Priority::Critical,
        }
    }

    /// The smoothed lag in nanoseconds.
    pub fn lag(&self) -> Nanos {
        self.lag as Nanos
    }
}
