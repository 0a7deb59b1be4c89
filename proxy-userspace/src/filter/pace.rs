//! At most so many requests per second, whoever sends them.

use super::{Answer, Filter, Flow, RequestContext};
use crate::message::RequestHead;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The pace of a route.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    /// The second that is counted, and the requests in it, in one word.
    counted: AtomicU64,
}

impl Pace {
    /// At most this many.
    pub(super) fn new(per_second: u64) -> Self {
        Self {
            per_second,
            counted: AtomicU64::new(0),
        }
    }

    /// True if one more request in this second is not too many.
    fn admits(&self, second: u32) -> bool {
        let counted = self.counted.fetch_update(Relaxed, Relaxed, |before| {
            let is_same = before >> 32 == u64::from(second);
            Some(match is_same {
                true => before + 1,
                false => u64::from(second) << 32 | 1,
            })
        });
        let before = counted.unwrap_or_else(|unchanged| unchanged);
        before >> 32 != u64::from(second) || (before & 0xffff_ffff) < self.per_second
    }
}

impl Filter for Pace {
    /// Nothing has to be remembered of a request.
    type State = ();

    fn request_head(&self, (): &mut (), _: &mut RequestHead, _: &RequestContext<'_>) -> Flow {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        if self.admits(now.as_secs() as u32) {
            Flow::Continue
        } else {
            Flow::Respond(Answer::of_status(429))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn each_second_admits_its_share() {
        let pace = Pace::new(2);
        let admitted = [7, 7, 7, 8, 8, 8].map(|second| pace.admits(second));
        assert_eq!(admitted, [true, true, false, true, true, false]);
    }

    /// What is built step by step must be what compiles.
    #[test]
    fn the_guide_shows_this_filter() {
        let guide = include_str!("../../../docs/filters.md");
        let source = include_str!("pace.rs");
        let (shown, _) = source.split_once("\n#[cfg(test)]").expect("tests follow");
        assert!(guide.contains(shown), "docs/filters.md shows another one");
    }
}
