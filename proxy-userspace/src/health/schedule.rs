//! When to probe next. Pure: the time and the random numbers are arguments.
//!
//! **The promise.** What a probe finds reaches the data plane within one interval. A verdict
//! needs `rise` or `fall` probes in a row, so a probe that contradicts the verdict is followed by
//! faster ones, an interval's `1/rise` or `1/fall` apart from start to start. A backend that goes
//! away is therefore noticed by its next ordinary probe, at most one interval later, and turned
//! less than one interval after that (or after `fall` timeouts, if those are longer: a probe is
//! never started while another of the same backend runs).
//!
//! **No herd.** Jitter only ever shortens a gap, so that it cannot break the promise. First
//! probes are spread: those of new backends over a moment that grows with their number and is at
//! most a tenth of the interval, because traffic waits for them; those of backends whose verdict
//! is known over the whole interval, because nothing waits. A new backend's second probe is drawn
//! from the whole interval too, which ends the lockstep of a fleet that started together.
//!
//! **Bounded concurrency.** At most `limit` probes run. What is due beyond that waits in order of
//! its due time, with backends that have no verdict yet, or a contradicted one, in front: their
//! number is small as soon as they are decided, so they cannot starve the steady ones for long.

use std::collections::BTreeSet;
use std::time::Duration;

/// The shortest gap between the starts of two probes of one backend, whatever its interval.
pub const MIN_GAP: Duration = Duration::from_millis(10);

/// The share of a new backend's first moment that each other new backend adds.
const FIRST_GAP: Duration = Duration::from_micros(100);

/// From the start of one probe to the start of the next, when nothing is urgent: the interval,
/// shortened by up to `jitter` (0..=1, a share) of itself. `random` is uniform in 0..1.
///
/// The result is never below an eighth of the interval, so that `jitter: 1` cannot make bursts.
pub fn steady_gap(interval: Duration, jitter: f64, random: f64) -> Duration {
    // Compared, not clamped, so that a jitter that is not a number is none.
    let jitter = if jitter > 0.0 { jitter.min(1.0) } else { 0.0 };
    let share = 1.0 - jitter * random.clamp(0.0, 1.0);
    scale(interval, share.max(0.125)).max(MIN_GAP)
}

/// From the start of a probe that contradicted the verdict to the start of the next, if a row of
/// `needed` turns it.
pub fn confirm_gap(interval: Duration, needed: u32) -> Duration {
    (interval / needed.max(1)).max(MIN_GAP)
}

/// From the start of a new backend's deciding probe to the start of its second.
pub fn scatter_gap(interval: Duration, random: f64) -> Duration {
    scale(interval, random.clamp(0.0, 1.0)).max(MIN_GAP)
}

/// The delay of the first probe of the `index`th of `count` backends that are added together.
///
/// `known` says whether they have a verdict already. Each gets a slice of the time to itself and
/// a random place in it.
pub fn first_delay(
    known: bool,
    index: usize,
    count: usize,
    interval: Duration,
    random: f64,
) -> Duration {
    let count = count.max(index + 1);
    let window = if known {
        interval
    } else if count == 1 {
        Duration::ZERO
    } else {
        (interval / 10).min(FIRST_GAP.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)))
    };
    scale(
        window,
        (index as f64 + random.clamp(0.0, 1.0)) / count as f64,
    )
}

/// `duration` times a share in 0..=1.
fn scale(duration: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * share).unwrap_or(duration)
}

/// Who waits for a probe, in what order, and how many run.
///
/// `K` names a backend. Each is in the queue at most once; one whose probe runs is not in it.
#[derive(Clone, Debug)]
pub struct Queue<K> {
    urgent: BTreeSet<(Duration, K)>,
    steady: BTreeSet<(Duration, K)>,
    running: usize,
    limit: usize,
}

/// A place in a [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When the probe is due, on the monitor's clock.
    pub due: Duration,
    /// Whether it goes before those that are not urgent when there are too many.
    pub urgent: bool,
}

impl<K: Copy + Ord> Queue<K> {
    /// An empty queue that lets `limit` probes run at once; 0 counts as 1.
    pub fn new(limit: usize) -> Self {
        Self {
            urgent: BTreeSet::new(),
            steady: BTreeSet::new(),
            running: 0,
            limit: limit.max(1),
        }
    }

    /// Puts a backend at this place.
    pub fn insert(&mut self, key: K, slot: Slot) {
        self.lane(slot.urgent).insert((slot.due, key));
    }

    /// Takes a backend from the place where it was put. Says whether it was there.
    pub fn remove(&mut self, key: K, slot: Slot) -> bool {
        self.lane(slot.urgent).remove(&(slot.due, key))
    }

    /// Takes out a backend whose probe is to start now, if one is due and there is room. Each
    /// must be followed by [`Self::finished`].
    pub fn start(&mut self, now: Duration) -> Option<K> {
        if self.running >= self.limit {
            return None;
        }
        let key = pop_due(&mut self.urgent, now).or_else(|| pop_due(&mut self.steady, now))?;
        self.running += 1;
        Some(key)
    }

    /// A started probe has ended.
    pub fn finished(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// When [`Self::start`] has something to start. `None` while the queue is empty, or while the
    /// limit is reached: then the end of a probe comes first.
    pub fn next_due(&self) -> Option<Duration> {
        if self.running >= self.limit {
            return None;
        }
        let first = |lane: &BTreeSet<(Duration, K)>| lane.first().map(|(due, _)| *due);
        first(&self.urgent)
            .into_iter()
            .chain(first(&self.steady))
            .min()
    }

    /// How many probes run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many backends wait, due or not.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.steady.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lane(&mut self, urgent: bool) -> &mut BTreeSet<(Duration, K)> {
        if urgent {
            &mut self.urgent
        } else {
            &mut self.steady
        }
    }
}

fn pop_due<K: Copy + Ord>(lane: &mut BTreeSet<(Duration, K)>, now: Duration) -> Option<K> {
    if lane.first()?.0 > now {
        return None;
    }
    lane.pop_first().map(|(_, key)| key)
}

#[cfg(test)]
mod tests;
