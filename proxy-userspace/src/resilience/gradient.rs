//! An adaptive limit of requests at once, found by latency.
//!
//! The algorithm is Gradient2 of Netflix's concurrency-limits: latency of the last moments is
//! compared with that of the last minutes. Where it has risen, requests queue up at the service,
//! and the limit shrinks in proportion; where it has not, the limit grows by the square root of
//! itself, the queue that a healthy service may have.
//!
//! Why this one: AIMD needs a latency that the operator has to know, and answers with a saw-tooth;
//! Vegas and Envoy's gradient compare with the *least* latency, which a service that is faster for
//! some requests than for others never shows under load, and which Envoy has to measure by cutting
//! traffic down to a few requests every minute. What Gradient2 gives up is that a slow rise over many
//! minutes is taken for normal; the most that the configuration allows is the bound for that.

use super::{CarriedLimit, Nanos};

/// Samples are averaged over so much time at least.
const WINDOW: Nanos = 250_000_000;
/// And over so many.
const SAMPLES: u32 = 10;
/// Latency may be so many times that of the last minutes.
const TOLERANCE: f64 = 1.5;
/// The weight of a window in what is remembered; about two minutes and a half.
const LONG: f64 = 1.0 / 600.0;
/// Windows that are averaged plainly at first.
const WARM_UP: u32 = 10;
/// How far the limit goes to where it should be, with each window.
const STEP: f64 = 0.2;

/// An adaptive limit.
#[derive(Debug)]
pub struct Gradient {
    min: f64,
    max: f64,
    limit: f64,
    /// Latency of the last minutes in nanoseconds.
    long: f64,
    windows: u32,
    window: Window,
}

#[derive(Debug, Default)]
struct Window {
    began: Nanos,
    sum: f64,
    samples: u32,
    /// Most requests at once.
    busiest: u32,
    /// A request has failed for want of capacity.
    dropped: bool,
}

impl Gradient {
    /// A limit between `min` and `max`, which begins low.
    pub fn new(min: u32, max: u32) -> Self {
        let (min, max) = (f64::from(min), f64::from(max));
        Self {
            min,
            max,
            limit: (min * 4.0).clamp(min, max),
            long: 0.0,
            windows: 0,
            window: Window::default(),
        }
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// What a successor has to know.
    pub(super) const fn carried(&self) -> CarriedLimit {
        CarriedLimit {
            limit: self.limit,
            long: self.long,
            windows: self.windows,
        }
    }

    /// Goes on from there, within its own bounds.
    pub(super) fn inherit(&mut self, carried: &CarriedLimit) {
        if carried.limit.is_finite() && carried.long.is_finite() && carried.long >= 0.0 {
            self.limit = carried.limit.clamp(self.min, self.max);
            self.long = carried.long;
            self.windows = carried.windows;
        }
    }

    /// Takes a sample: how long an answer took, and how many requests there were. Returns the limit
    /// if it may have changed.
    pub fn sample(&mut self, latency: Nanos, in_flight: u32, now: Nanos) -> Option<u32> {
        let window = &mut self.window;
        if window.samples == 0 {
            window.began = now;
        }
        window.sum += latency as f64;
        window.samples += 1;
        window.busiest = window.busiest.max(in_flight);
        if window.samples < SAMPLES || now.saturating_sub(window.began) < WINDOW {
            return None;
        }
        let window = std::mem::take(window);
        self.close(&window);
        Some(self.limit())
    }

    /// Takes note of a request that had no answer in time.
    pub fn dropped(&mut self) {
        self.window.dropped = true;
    }

    fn close(&mut self, window: &Window) {
        let short = (window.sum / f64::from(window.samples)).max(1.0);
        self.windows = self.windows.saturating_add(1);
        let share = if self.windows <= WARM_UP {
            1.0 / f64::from(self.windows)
        } else {
            LONG
        };
        self.long += (short - self.long) * share;
        if self.long / short > 2.0 {
            // What is remembered is of a time when things were much worse.
            self.long *= 0.95;
        }
        if window.dropped {
            self.limit = (self.limit * 0.9).clamp(self.min, self.max);
            return;
        }
        if f64::from(window.busiest) < self.limit / 2.0 {
            // The limit limits nothing, so nothing is learnt of it.
            return;
        }
        let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        self.limit += (wanted - self.limit) * STEP;
        self.limit = self.limit.clamp(self.min, self.max);
    }
}
