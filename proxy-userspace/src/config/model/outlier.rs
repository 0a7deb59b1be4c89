//! Passive health: what makes a backend an outlier, and how long it is ejected. And how latency
//! steers the weights of the packet path.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// When backends are ejected for what they do with real traffic. The meanings are Envoy's.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// Answers with 5xx in a row, gateway errors among them; 0: not looked at.
    pub consecutive_5xx: u32,
    /// Gateway errors in a row; 0: not looked at.
    pub consecutive_gateway_errors: u32,
    /// Connections in a row that could not be opened; 0: not looked at.
    pub consecutive_connect_failures: u32,
    /// Fewer successes than the others.
    pub success_rate: Option<SuccessRate>,
    /// A share of failures, whatever the others do.
    pub failure_percentage: Option<FailurePercentage>,
    /// Slower than the others.
    pub latency: Option<Slowness>,
    /// The network to it is worse than to the others.
    pub network: Option<NetworkQuality>,
    /// Chance that a finding of each detector ejects, 0..=1, by [`Detector::index`].
    pub enforce: [f64; Detector::ALL.len()],
    /// Over what is compared, and how often.
    pub interval: Duration,
    /// Time of a first ejection; the n-th one takes n times as long.
    pub base_ejection_time: Duration,
    /// No ejection takes longer, jitter apart.
    pub max_ejection_time: Duration,
    /// Share of an ejection's time by which it is lengthened at random, 0..=1.
    pub jitter: f64,
    /// Share of the backends that may be ejected at a time, 0..=1; one always may.
    pub max_ejected: f64,
}

/// Ejects a backend whose rate of successes is below the mean of all by some standard deviations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuccessRate {
    /// How many standard deviations.
    pub stdev_factor: f64,
    /// Backends with enough requests below which nothing is compared.
    pub min_hosts: u32,
    /// Requests in an interval that are enough.
    pub min_requests: u32,
}

/// Ejects a backend that fails too large a share of its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailurePercentage {
    /// Share of failures, 0..=1.
    pub threshold: f64,
    /// Backends with enough requests below which nobody is ejected.
    pub min_hosts: u32,
    /// Requests in an interval that are enough.
    pub min_requests: u32,
}

/// Ejects a backend that is slower than the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowness {
    /// How many times the median of the others.
    pub factor: f64,
    /// For how many intervals in a row.
    pub intervals: u32,
    /// Backends with enough requests below which nothing is compared.
    pub min_hosts: u32,
    /// Requests in an interval that are enough.
    pub min_requests: u32,
}

/// Ejects a backend whose connections fare worse than those to the others, as the kernel sees them:
/// before a request fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkQuality {
    /// By how much the share of segments that are sent again is above the others' median at least,
    /// 0..=1; 0: not looked at.
    pub loss: f64,
    /// By how much its round trips have become longer than the others' at least; 0: not looked at.
    pub rtt: Duration,
    /// By how much the share of looks at which its window is zero is above the others' median at
    /// least, 0..=1; 0: not looked at.
    pub zero_windows: f64,
    /// How many deviations, by the median, it is off at least.
    pub deviations: f64,
    /// For how many intervals in a row.
    pub intervals: u32,
    /// Backends with enough segments below which nothing is compared.
    pub min_hosts: u32,
    /// Segments in an interval that are enough.
    pub min_segments: u32,
}

/// How latency that the proxies see moves weights of the packet path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightsByLatency {
    /// A backend slower than this many times the median loses weight.
    pub above: f64,
    /// One below this many times the median gains it back; between the two nothing moves.
    pub below: f64,
    /// How much at a time, as a share of the configured weight.
    pub step: f64,
    /// What is left at least, as a share of the configured weight.
    pub floor: f64,
    /// Requests in an interval that are enough to judge by.
    pub min_requests: u32,
    /// What the network adds counts, too: round trips and losses of open connections.
    pub network: bool,
}

/// What finds outliers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Answers with 5xx in a row.
    Consecutive5xx,
    /// 502, 503, 504, resets and silence in a row.
    GatewayErrors,
    /// Connections in a row that could not be opened.
    ConnectFailures,
    /// Fewer successes than the others.
    SuccessRate,
    /// A share of failures.
    FailurePercentage,
    /// Slower than the others.
    Latency,
    /// The network to it is worse.
    Network,
}

impl Detector {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::GatewayErrors,
        Self::ConnectFailures,
        Self::SuccessRate,
        Self::FailurePercentage,
        Self::Latency,
        Self::Network,
    ];

    /// As the configuration, metrics and logs call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::GatewayErrors => "consecutive_gateway_errors",
            Self::ConnectFailures => "consecutive_connect_failures",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::Latency => "latency",
            Self::Network => "network",
        }
    }

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Outlier {
    /// What holds where nothing is said: connections that cannot be opened, and nothing else. That
    /// is nobody's fault but the backend's; whether an answer of 500 is, only its users know.
    pub fn connects_only() -> Self {
        Self {
            consecutive_5xx: 0,
            consecutive_gateway_errors: 0,
            ..Self::default()
        }
    }

    /// The chance that a finding ejects.
    pub fn enforced(&self, detector: Detector) -> f64 {
        self.enforce[detector.index()]
    }
}
