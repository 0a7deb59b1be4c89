//! What is known of a name, and when to ask again. No I/O, no clock.

use super::{Answer, Failure};
use crate::balance::l7::Resolved;
use std::time::Duration;

/// How often names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Shortest time until a name is asked for again, whatever its records say: some have a TTL
    /// of 0.
    pub min_ttl: Duration,
    /// Longest. A record may say "a day", and yet an operator who moves a server will not wait.
    pub max_ttl: Duration,
    /// First wait after a failure; it doubles with each.
    pub min_retry: Duration,
    /// Longest wait after a failure.
    pub max_retry: Duration,
    /// For one question.
    pub timeout: Duration,
    /// How many times in a row "no such name" must be said before it is believed of a name that
    /// had addresses.
    pub denials: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            min_retry: Duration::from_secs(1),
            max_retry: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            denials: 3,
        }
    }
}

/// Most addresses of one name. More than a DNS message carries as a rule, and enough to bound what
/// a hostile one can do.
pub(super) const MAX_FOUND: usize = 1024;

/// Share of a wait that is added at random, so that names which were asked for together drift
/// apart. Added, not taken away: before its time, a cache on the way would only repeat the rest of
/// the old answer.
const JITTER: f64 = 0.1;

/// What is known of a name.
#[derive(Clone, Debug)]
pub struct Known {
    bounds: Bounds,
    /// Sorted, without duplicates. `None` before the first answer.
    members: Option<Vec<Resolved>>,
    /// In a row.
    failures: u32,
    /// In a row.
    denials: u32,
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The members, if they are others than before.
    pub change: Option<Vec<Resolved>>,
    /// When to ask again.
    pub again_in: Duration,
}

impl Known {
    /// Nothing yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            members: None,
            failures: 0,
            denials: 0,
        }
    }

    /// Learns from an answer. `random` is in 0..1.
    pub fn learn(&mut self, outcome: &Result<Answer, Failure>, random: f64) -> Step {
        let (members, wait) = match outcome {
            Ok(answer) => self.found(answer),
            Err(Failure::NoSuchName { ttl }) => self.denied(*ttl),
            Err(Failure::Unanswered(_)) => (None, self.retry()),
        };
        let change = members.filter(|members| self.members.as_ref() != Some(members));
        if let Some(members) = &change {
            self.members = Some(members.clone());
        }
        Step {
            change,
            again_in: wait.mul_f64(1.0 + JITTER * random),
        }
    }

    fn found(&mut self, answer: &Answer) -> (Option<Vec<Resolved>>, Duration) {
        let mut members = answer.found.clone();
        if answer.is_complete {
            self.failures = 0;
        } else {
            // Who was there and is not in half an answer may be in the other half.
            members.extend(self.members.iter().flatten());
        }
        self.denials = 0;
        members.sort_unstable();
        members.dedup_by_key(|member| (member.rank, member.address));
        members.truncate(MAX_FOUND);
        let wait = if answer.is_complete {
            answer.ttl.clamp(self.bounds.min_ttl, self.bounds.max_ttl)
        } else {
            self.retry()
        };
        (Some(members), wait)
    }

    fn denied(&mut self, ttl: Option<Duration>) -> (Option<Vec<Resolved>>, Duration) {
        self.denials = self.denials.saturating_add(1);
        let had_some = self.members.as_ref().is_none_or(|known| !known.is_empty());
        if had_some && self.denials < self.bounds.denials {
            return (None, self.retry());
        }
        self.failures = 0;
        let wait = ttl.unwrap_or(self.bounds.max_retry);
        // Not `max_ttl`: a name that is created should be found soon, and its absence may be
        // declared for hours.
        let most = self.bounds.max_retry.max(self.bounds.min_ttl);
        (Some(Vec::new()), wait.clamp(self.bounds.min_ttl, most))
    }

    /// The wait after a failure: doubled with each.
    fn retry(&mut self) -> Duration {
        let factor = 1u32 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let wait = self.bounds.min_retry.saturating_mul(factor);
        wait.min(self.bounds.max_retry)
    }
}
