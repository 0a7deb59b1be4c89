//! Wall-clock times for logs and spans.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock times from monotonic ones, one per worker, without asking the system for each.
///
/// It asks once a second, so that a clock that is set is followed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at: Instant,
    wall: Duration,
}

impl Clock {
    /// How long an anchor is used.
    const ANCHORED: Duration = Duration::from_secs(1);

    /// A clock that is right now.
    pub fn new() -> Self {
        Self::anchored(Instant::now(), SystemTime::now())
    }

    fn anchored(at: Instant, wall: SystemTime) -> Self {
        Self {
            at,
            wall: wall.duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// The wall-clock time of a moment, since the Unix epoch.
    pub fn wall(&mut self, at: Instant) -> Duration {
        if at.saturating_duration_since(self.at) > Self::ANCHORED {
            *self = Self::new();
        }
        match at.checked_duration_since(self.at) {
            Some(after) => self.wall + after,
            None => self.wall.saturating_sub(self.at.duration_since(at)),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
