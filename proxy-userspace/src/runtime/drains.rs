//! Deadlines of draining backends. Pure: the time is an argument.
//!
//! That a backend drains is in the overlay, hence in the kernel's maps; only when it ends is here.
//! A daemon that adopts a draining backend does not know when the drain began and gives it the
//! service's whole drain timeout again: keeping flows too long is the lesser harm.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Names of a service and of one of its backends.
pub(crate) type Key = (String, String);

/// When drains end.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    deadlines: BTreeMap<Key, Instant>,
}

impl Drains {
    /// Begins a drain, or moves the deadline of one.
    pub(crate) fn begin(&mut self, service: &str, backend: &str, deadline: Instant) {
        self.deadlines
            .insert((service.to_owned(), backend.to_owned()), deadline);
    }

    /// Forgets a drain.
    pub(crate) fn cancel(&mut self, service: &str, backend: &str) {
        self.deadlines
            .remove(&(service.to_owned(), backend.to_owned()));
    }

    /// Keeps only the drains that `keep` accepts.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        self.deadlines
            .retain(|(service, backend), _| keep(service, backend));
    }

    /// When the next drain ends.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }

    /// Takes out the drains that have ended.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Vec<Key> {
        let ended: Vec<Key> = self
            .deadlines
            .iter()
            .filter(|(_, deadline)| **deadline <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &ended {
            self.deadlines.remove(key);
        }
        ended
    }

    /// How long a drain still lasts.
    pub(crate) fn remaining(&self, service: &str, backend: &str, now: Instant) -> Option<Duration> {
        let deadline = self
            .deadlines
            .get(&(service.to_owned(), backend.to_owned()))?;
        Some(deadline.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drains_end_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut drains = Drains::default();
        drains.begin("web", "b1", now + 2 * second);
        drains.begin("web", "b2", now + second);
        drains.begin("web", "b3", now + second);
        drains.cancel("web", "b3");
        assert_eq!(drains.next(), Some(now + second));
        assert_eq!(drains.remaining("web", "b1", now), Some(2 * second));
        let ended = drains.take_ended(now + second);
        assert_eq!(ended, [("web".to_owned(), "b2".to_owned())]);
        assert_eq!(drains.next(), Some(now + 2 * second));
        drains.retain(|_, backend| backend != "b1");
        assert_eq!(drains.next(), None);
    }
}
