//! Deadlines of backends that drain. Pure: the time is an argument.
//!
//! That a backend drains is in the overlay or in the maps; only when it ends is here. A daemon that
//! adopts a draining backend does not know when the drain began and gives it the service's whole
//! drain timeout again: keeping flows too long is the lesser harm.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Names of a service and of one of its backends.
pub(crate) type Key = (String, String);

/// When drains end: of configured backends by [`Key`], of removed ones by their id.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    deadlines: BTreeMap<K, Instant>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self {
            deadlines: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Deadlines<K> {
    /// Begins a drain, or moves the deadline of one.
    pub(crate) fn begin(&mut self, key: K, deadline: Instant) {
        self.deadlines.insert(key, deadline);
    }

    /// Forgets a drain.
    pub(crate) fn cancel(&mut self, key: &K) {
        self.deadlines.remove(key);
    }

    /// Keeps only the drains that `keep` accepts.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.deadlines.retain(|key, _| keep(key));
    }

    /// True if this drain is known.
    pub(crate) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.deadlines.contains_key(key)
    }

    /// When the next drain ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }

    /// Takes out the drains that have ended.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Vec<K> {
        let all = self.deadlines.iter();
        let ended: Vec<K> = all
            .filter(|(_, deadline)| **deadline <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &ended {
            self.deadlines.remove(key);
        }
        ended
    }

    /// How long a drain still lasts.
    pub(crate) fn remaining(&self, key: &K, now: Instant) -> Option<Duration> {
        Some(self.deadlines.get(key)?.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drains_end_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut drains = Deadlines::default();
        drains.begin(1, now + 2 * second);
        drains.begin(2, now + second);
        drains.begin(3, now + second);
        drains.cancel(&3);
        assert_eq!(drains.next(), Some(now + second));
        assert_eq!(drains.remaining(&1, now), Some(2 * second));
        assert_eq!(drains.take_ended(now + second), [2]);
        assert_eq!(drains.next(), Some(now + 2 * second));
        drains.retain(|key| *key != 1);
        assert_eq!(drains.next(), None);
    }
}
