//! The access log: what each exchange was, a line each.
//!
//! ```text
//! worker: Record ─Logger::log─▶ its buffer ─try_send─▶ Writer's thread ─write─▶ file, stdout
//!                                   ▲                        │
//!                                   └──── empty buffers ─────┘
//! ```
//!
//! A worker formats a line into a buffer of its own and hands the buffer over when it is full or
//! when [`Logger::flush`] is called, which its worker does a few times a second. It never waits:
//! if the writer is so far behind that the channel is full, the buffer's lines are dropped and
//! counted. Formatting appends to the buffer and allocates nothing; buffers come back empty.
//!
//! Formats read one [`Record`], so that what a line means does not depend on its look.

mod end;
mod record;

pub use end::{End, Phase, Side, StickyRequest, StickyResponse};
pub use record::{Attempt, Counts, Octets, Record, Times};

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
