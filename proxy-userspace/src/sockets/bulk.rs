//! Listeners through whose tunnels much flows at once. Acceleration does not pay for these: a writer that
//! is faster than its reader is copied, where the kernel would move pages between plain sockets. Which
//! kind a tunnel is shows only when it is open, and it cannot be moved then; but those of a listener are
//! mostly alike, so the next ones are plain for a while.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many octets within so long were copied that pages would have been moved for: it does not pay.
pub const MUCH: u64 = 64 << 20;
const WITHIN: Duration = Duration::from_secs(60);

/// For how long new connections are plain; then it is tried again.
const REST: Duration = Duration::from_secs(600);

/// What flows through a listener's tunnels that are accelerated.
#[derive(Debug, Default)]
pub struct Bulk {
    /// Octets that were copied while there were more than a read takes.
    crowded: AtomicU64,
    /// Octets that went past this process.
    past: AtomicU64,
    is_plain: AtomicBool,
    judge: Mutex<Judge>,
}

#[derive(Debug, Default)]
struct Judge {
    /// Since when it is looked, and what had flowed then.
    began: Option<(Instant, [u64; 2])>,
    /// Until when connections are plain.
    until: Option<Instant>,
}

impl Bulk {
    /// Octets have flowed: those that were copied although pages could have been moved, and those that
    /// went past this process.
    pub fn flowed(&self, crowded: u64, past: u64) {
        if crowded > 0 {
            self.crowded.fetch_add(crowded, Ordering::Relaxed);
        }
        if past > 0 {
            self.past.fetch_add(past, Ordering::Relaxed);
        }
    }

    /// True while new connections are to be plain.
    pub fn is_plain(&self) -> bool {
        self.is_plain.load(Ordering::Relaxed)
    }

    /// Judges; true if that has changed. To be called now and then, by one thread.
    pub fn look(&self, now: Instant) -> bool {
        let flowed = [&self.crowded, &self.past].map(|it| it.load(Ordering::Relaxed));
        let is_plain = self.judge.lock().is_plain(now, flowed);
        self.is_plain.swap(is_plain, Ordering::Relaxed) != is_plain
    }
}

impl Judge {
    fn is_plain(&mut self, now: Instant, flowed: [u64; 2]) -> bool {
        if let Some(until) = self.until {
            if now < until {
                return true;
            }
            *self = Self::default();
        }
        let (began, before) = *self.began.get_or_insert((now, flowed));
        let [crowded, past] = [0, 1].map(|way| flowed[way] - before[way]);
        if crowded >= MUCH && crowded >= past {
            self.until = Some(now + REST);
            return true;
        }
        if now - began >= WITHIN {
            self.began = Some((now, flowed));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_that_is_copied_makes_new_connections_plain_for_a_while() {
        let (bulk, start) = (Bulk::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!bulk.look(at(0)));
        bulk.flowed(MUCH - 1, 5);
        assert!(!bulk.look(at(1)) && !bulk.is_plain());
        bulk.flowed(1, 0);
        assert!(bulk.look(at(2)) && bulk.is_plain());
        assert!(!bulk.look(at(601)) && bulk.is_plain());
        assert!(bulk.look(at(602)) && !bulk.is_plain());
        // It begins anew.
        assert!(!bulk.look(at(603)));
        bulk.flowed(MUCH, 0);
        assert!(bulk.look(at(604)) && bulk.is_plain());
    }

    #[test]
    fn little_in_a_long_time_and_less_than_goes_past_do_not() {
        let (bulk, start) = (Bulk::default(), Instant::now());
        for minute in 0..100 {
            bulk.flowed(MUCH / 2, 0);
            assert!(!bulk.look(start + WITHIN * minute), "{minute}");
        }
        bulk.flowed(2 * MUCH, 3 * MUCH);
        assert!(!bulk.look(start + WITHIN * 100));
    }
}
