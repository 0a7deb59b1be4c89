//! The time as the workers see it.
//!
//! Reading the clock costs as much as parsing a short head, so a worker reads it a few times per
//! request, at moments that matter (a request came, a response came), and everybody else uses the
//! last reading. Deadlines are therefore late by what a worker does between two readings, which is
//! far below a [`super::timer::TICK`].

use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Nanoseconds since the process began to tell the time.
pub type Nanos = u64;

/// One beginning for all workers, so that their readings can be compared: as an instant, and as the
/// kernel tells it.
static BEGINNING: LazyLock<(Instant, Nanos)> = LazyLock::new(|| (Instant::now(), monotonic()));

/// What [`Instant`] is made of here, without the arithmetic of its two numbers.
fn monotonic() -> Nanos {
    // It cannot fail: the clock exists.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as Nanos * 1_000_000_000 + time.tv_nsec() as Nanos
    })
}

/// A worker's clock.
#[derive(Debug)]
pub struct Clock {
    beginning: Nanos,
    last: Cell<Nanos>,
    /// Somebody waits until it is read.
    is_awaited: Cell<bool>,
    was_read: Notify,
}

impl Clock {
    /// A clock that has been read once.
    pub fn new() -> Self {
        let clock = Self {
            beginning: BEGINNING.1,
            last: Cell::new(0),
            is_awaited: Cell::new(false),
            was_read: Notify::new(),
        };
        clock.read();
        clock
    }

    /// Reads the time.
    #[inline]
    pub fn read(&self) -> Nanos {
        let now = self.peek();
        self.last.set(now);
        if self.is_awaited.get() {
            self.tell();
        }
        now
    }

    /// The time, which does not count as a reading: for who only wants to know how long ago that was.
    pub fn peek(&self) -> Nanos {
        monotonic().saturating_sub(self.beginning)
    }

    /// Waits until the time is read. Of one task at a time.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves at most a reading that the next one hears of at once.
    pub async fn was_read(&self) {
        self.is_awaited.set(true);
        self.was_read.notified().await;
    }

    #[cold]
    fn tell(&self) {
        self.is_awaited.set(false);
        self.was_read.notify_one();
    }

    /// The last reading.
    #[inline]
    pub fn last(&self) -> Nanos {
        self.last.get()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// A span in nanoseconds; spans beyond 584 years are cut.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What the kernel tells by its monotonic clock, in nanoseconds.
pub fn of_kernel(at: u64) -> Nanos {
    at.saturating_sub(BEGINNING.1)
}

/// The moment `at` as an instant.
pub fn instant(at: Nanos) -> Instant {
    BEGINNING.0 + Duration::from_nanos(at)
}
