//! Whether a client behaves.

use crate::config::model::http::Http2;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::net::h2::Watch;

/// Compares what a client does with what it may do in a window of time.
#[derive(Debug)]
pub(super) struct Guard {
    window: Nanos,
    max_resets: u32,
    max_idle_frames: u32,
    began: Nanos,
    before: Counts,
}

/// What is counted, since the connection began. Wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Streams reset by the client, or by us because of it.
    pub(super) resets: u32,
    /// Frames that move nothing.
    pub(super) idle_frames: u32,
}

impl Counts {
    pub(super) fn of(watch: &Watch) -> Self {
        Self {
            resets: watch.resets.wrapping_add(watch.faults),
            idle_frames: watch.idle_frames,
        }
    }
}

impl Guard {
    pub(super) fn new(settings: &Http2, now: Nanos) -> Self {
        Self {
            window: nanos(settings.abuse_window),
            max_resets: settings.max_resets,
            max_idle_frames: settings.max_control_frames,
            began: now,
            before: Counts::default(),
        }
    }

    /// False if the client has done too much of something in the window under way. `now` may be
    /// older than the last look: then the window goes on.
    pub(super) fn allows(&mut self, counts: Counts, now: Nanos) -> bool {
        let resets = counts.resets.wrapping_sub(self.before.resets);
        let idle_frames = counts.idle_frames.wrapping_sub(self.before.idle_frames);
        if resets > self.max_resets || idle_frames > self.max_idle_frames {
            return false;
        }
        if now.saturating_sub(self.began) >= self.window {
            (self.began, self.before) = (now, counts);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let settings = Http2 {
            max_resets: 3,
            max_control_frames: 5,
            abuse_window: std::time::Duration::from_nanos(100),
            ..Http2::default()
        };
        Guard::new(&settings, 1000)
    }

    fn counts(resets: u32, idle_frames: u32) -> Counts {
        Counts {
            resets,
            idle_frames,
        }
    }

    #[test]
    fn what_is_within_both_limits_is_allowed() {
        let mut guard = guard();
        assert!(guard.allows(counts(3, 5), 1010));
        assert!(!guard.allows(counts(4, 5), 1020));
    }

    #[test]
    fn each_limit_holds_for_itself() {
        assert!(!guard().allows(counts(0, 6), 1010));
        assert!(!guard().allows(counts(4, 0), 1010));
    }

    #[test]
    fn a_new_window_forgives_what_was_before_it() {
        let mut guard = guard();
        assert!(guard.allows(counts(3, 5), 1100));
        assert!(guard.allows(counts(6, 10), 1150));
        assert!(!guard.allows(counts(7, 10), 1160));
    }

    #[test]
    fn a_burst_just_before_the_window_ends_is_not_forgiven() {
        assert!(!guard().allows(counts(4, 0), 1100));
    }

    #[test]
    fn counts_may_wrap() {
        let mut guard = guard();
        guard.before = counts(u32::MAX, u32::MAX);
        assert!(guard.allows(counts(2, 4), 1010));
        assert!(!guard.allows(counts(3, 4), 1010));
    }
}
