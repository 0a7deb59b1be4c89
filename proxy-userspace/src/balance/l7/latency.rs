//! A moving average of latency that believes bad news at once and good news slowly.
//!
//! Peak EWMA, as Finagle has it: a sample above the average replaces it; a lower one pulls it down
//! with a weight that depends on the time since the last sample, not on their number. So a backend
//! that stalls is avoided from its first slow answer on, and one that nobody asks is forgiven with
//! time alone.
//!
//! Average and time stamp are one atomic word, so that no reader sees the one without the other.
//! Time is counted in ticks of 2^20 ns (about 1 ms), as the packet path does; samples of one tick
//! other than peaks change nothing, which a time-weighted average would give next to no weight
//! anyway. A sample that loses a race against another worker's is dropped: the other one is as
//! good.

use super::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};

/// Time in which the influence of a sample falls to 1/e, in ticks: about 10 s, as in Finagle and
/// linkerd.
const DECAY_TICKS: f32 = 9537.0;

const TICK_SHIFT: u32 = 20;

/// What counts for a failed request: it is made to look slow, or a backend that fails at once
/// would look like the fastest and draw all traffic.
const FAILURE: f32 = 5e9;

/// What a backend costs of which nothing is known while its first requests are under way: one by
/// one, it is tried; many at once, it is not. Above every average that a timeout would let through.
const UNKNOWN: f32 = 1e13;

/// Peak-sensitive moving average of latency, shared by all workers.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

/// The average in ns, above, and the tick of the last sample, below.
#[derive(Clone, Copy)]
struct Sampled {
    average: f32,
    tick: u32,
}

impl Latency {
    /// Takes a sample: `latency` in nanoseconds, from the request to the response's head.
    pub fn observe(&self, latency: Nanos, now: Nanos) {
        self.sample(latency as f32, now);
    }

    /// Takes note of a request that failed by the backend's fault, however fast.
    pub fn observe_failure(&self, now: Nanos) {
        self.sample(FAILURE, now);
    }

    /// The average as of `now`, in nanoseconds; it falls while there are no samples. 0 if there
    /// was none.
    pub fn average(&self, now: Nanos) -> f32 {
        let Sampled { average, tick } = self.load();
        average * decay(tick, ticks(now))
    }

    /// What one more request is expected to cost a backend that has `in_flight` of them. `least` is
    /// what the network alone adds, in nanoseconds: it is known of requests that have not been
    /// answered yet.
    pub(super) fn cost(&self, in_flight: u32, least: f32, now: Nanos) -> f32 {
        let average = self.average(now);
        if average < 1.0 && in_flight > 0 {
            return UNKNOWN * in_flight as f32;
        }
        let average = average.max(least);
        average * (in_flight as f32 + 1.0)
    }

    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn sample(&self, latency: f32, now: Nanos) {
        let old = self.0.load(Ordering::Relaxed);
        let Sampled { average, tick } = unpack(old);
        let now = ticks(now);
        let average = if latency > average {
            latency
        } else if tick == now {
            return;
        } else {
            let old_share = decay(tick, now);
            average * old_share + latency * (1.0 - old_share)
        };
        let new = u64::from(average.to_bits()) << 32 | u64::from(now);
        let _ = self
            .0
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn load(&self) -> Sampled {
        unpack(self.0.load(Ordering::Relaxed))
    }
}

fn unpack(word: u64) -> Sampled {
    Sampled {
        average: f32::from_bits((word >> 32) as u32),
        tick: word as u32,
    }
}

fn ticks(now: Nanos) -> u32 {
    (now >> TICK_SHIFT) as u32
}

/// What is left of an average after the time between two ticks.
fn decay(from: u32, to: u32) -> f32 {
    let elapsed = to.wrapping_sub(from);
    // Another worker's clock reading may be a little later than ours. Ticks wrap after 52 days.
    if elapsed == 0 || elapsed > u32::MAX - BACKWARDS {
        1.0
    } else {
        (-(elapsed as f32) / DECAY_TICKS).exp()
    }
}

/// Ticks by which time may seem to go backwards: about a minute.
const BACKWARDS: u32 = 1 << 16;
