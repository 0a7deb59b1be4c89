//! What the daemon counts itself, as opposed to what it reads from the kernel's maps.
//!
//! Plain atomics: written by whichever task sees the event, read at a scrape. The only lock is
//! around the probe histograms, taken once per probe and per scrape.

use crate::condemn::Watch;
use crate::observe::access_log::LogCounters;
use crate::observe::certificates::CertificateBoard;
use crate::observe::http::ProxyMetrics;
use crate::observe::trace::SpanCounters;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Upper bounds of the probe histogram's buckets, in seconds.
pub const PROBE_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The daemon's own counters.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reloads that took effect.
    pub reloads_succeeded: AtomicU64,
    /// Reloads that were refused.
    pub reloads_failed: AtomicU64,
    /// Set while the last reload was refused.
    pub last_reload_refused: AtomicBool,
    /// Seconds since the epoch of the last load that took effect.
    pub last_reload_success_seconds: AtomicU64,
    /// Sampled events lost.
    pub events_lost: AtomicU64,
    /// Capture records lost.
    pub capture_lost: AtomicU64,
    /// Edits that a reconciliation had to make.
    pub reconciled: AtomicU64,
    /// Failed kernel operations by what was tried. The keys are literals of this program.
    kernel_errors: Mutex<BTreeMap<&'static str, u64>>,
    /// Durations of probes.
    probes: Mutex<Histogram>,
    /// What the proxy paths count, once there are any.
    pub proxy: OnceLock<ProxySources>,
}

/// Where the numbers of the proxy paths come from.
#[derive(Debug)]
pub struct ProxySources {
    /// What workers count.
    pub metrics: Arc<ProxyMetrics>,
    /// What becomes of access logs.
    pub logs: Arc<LogCounters>,
    /// What becomes of spans.
    pub spans: Arc<SpanCounters>,
    /// What becomes of certificates that look after themselves.
    pub certificates: Arc<CertificateBoard>,
    /// Who offends, and who may not connect.
    pub watch: Arc<Watch>,
}

impl Counters {
    /// Counts a failed kernel operation.
    pub fn kernel_error(&self, call: &'static str) {
        *self.kernel_errors.lock().entry(call).or_default() += 1;
    }

    /// Failed kernel operations so far.
    pub fn kernel_errors(&self) -> BTreeMap<&'static str, u64> {
        self.kernel_errors.lock().clone()
    }

    /// Counts a probe.
    pub fn probe(&self, took: Duration) {
        self.probes.lock().observe(took);
    }

    /// Durations of probes.
    pub fn probes(&self) -> Histogram {
        self.probes.lock().clone()
    }

    /// Records how an attempt to load the configuration ended; `now_seconds` since the epoch.
    pub fn loaded(&self, successful: bool, now_seconds: u64) {
        self.last_reload_refused.store(!successful, Relaxed);
        if successful {
            self.last_reload_success_seconds.store(now_seconds, Relaxed);
        }
    }
}

/// A histogram over [`PROBE_BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Sum of the observations, in seconds.
    pub sum: f64,
    /// Number of observations.
    pub count: u64,
    /// Observations by bucket, not cumulative; the last is above every bound.
    pub buckets: [u64; PROBE_BUCKETS.len() + 1],
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = PROBE_BUCKETS.partition_point(|&bound| bound < seconds);
        self.buckets[bucket] += 1;
        self.sum += seconds;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_on_a_bound_belongs_below_it() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_micros(500));
        histogram.observe(Duration::from_micros(501));
        histogram.observe(Duration::from_secs(60));
        assert_eq!(histogram.buckets[..2], [1, 1]);
        assert_eq!(histogram.buckets[PROBE_BUCKETS.len()], 1);
        assert_eq!(histogram.count, 3);
    }

    #[test]
    fn a_refused_reload_keeps_the_time_of_the_last_good_one() {
        let counters = Counters::default();
        counters.loaded(true, 100);
        counters.loaded(false, 200);
        assert!(counters.last_reload_refused.load(Relaxed));
        assert_eq!(counters.last_reload_success_seconds.load(Relaxed), 100);
    }
}
