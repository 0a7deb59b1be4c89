//! Defaults of passive health. Where Envoy has one it is Envoy's, except where a reason stands
//! beside it.

use crate::config::model::outlier::{
    Detector, FailurePercentage, NetworkQuality, Outlier, Slowness, SuccessRate, WeightsByLatency,
};
use std::time::Duration;

pub(crate) const CONSECUTIVE: u32 = 5;
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const BASE_TIME: Duration = Duration::from_secs(30);
pub(crate) const MAX_TIME: Duration = Duration::from_secs(300);
/// Envoy's is none; but what is ejected together for one cause would return together.
pub(crate) const JITTER: f64 = 0.1;
/// Envoy's 10 % is one of three, but no second one of nineteen: a rack that fails stays in.
/// The half that is left at least works at twice its load.
pub(crate) const MAX_EJECTED: f64 = 0.5;

pub(crate) const SUCCESS_RATE: SuccessRate = SuccessRate {
    stdev_factor: 1.9,
    min_hosts: 5,
    min_requests: 100,
};

pub(crate) const FAILURES: FailurePercentage = FailurePercentage {
    threshold: 0.85,
    min_hosts: 5,
    min_requests: 50,
};

/// Envoy has nothing like it. Three times the median, for half a minute, is no chance.
pub(crate) const SLOWNESS: Slowness = Slowness {
    factor: 3.0,
    intervals: 3,
    min_hosts: 3,
    min_requests: 50,
};

/// Nobody else has it. One segment in twenty sent again makes every second page of twenty requests
/// wait for a time-out. Round trips include acknowledgements that are held back, for 40 ms in
/// Linux, so that a server which is merely slow adds as much.
pub(crate) const NETWORK: NetworkQuality = NetworkQuality {
    loss: 0.05,
    rtt: Duration::from_millis(50),
    zero_windows: 0.5,
    deviations: 3.0,
    intervals: 2,
    min_hosts: 3,
    min_segments: 50,
};

pub(crate) const WEIGHTS_BY_LATENCY: WeightsByLatency = WeightsByLatency {
    above: 1.5,
    below: 1.2,
    step: 0.1,
    floor: 0.3,
    min_requests: 20,
    network: true,
};

impl Default for Outlier {
    /// What holds where `outlier` is written without more.
    fn default() -> Self {
        Self {
            consecutive_5xx: CONSECUTIVE,
            consecutive_gateway_errors: CONSECUTIVE,
            consecutive_connect_failures: CONSECUTIVE,
            success_rate: None,
            failure_percentage: None,
            latency: None,
            network: None,
            enforce: [1.0; Detector::ALL.len()],
            interval: INTERVAL,
            base_ejection_time: BASE_TIME,
            max_ejection_time: MAX_TIME,
            jitter: JITTER,
            max_ejected: MAX_EJECTED,
        }
    }
}
