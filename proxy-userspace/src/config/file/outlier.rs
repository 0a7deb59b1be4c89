//! The keys `services[].outlier` and `services[].steer_by_latency`.

use super::scalar::{Percent, Time};
use crate::config::decode::Field;
use crate::config::defaults::{self, outlier as outlier_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// Passive health of the proxy paths: `off`, or a map.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Outlier", untagged)]
pub(crate) enum Outlier {
    /// Nobody is ejected.
    Word(OutlierWord),
    /// Backends are ejected for what they do with requests.
    Keys(Box<OutlierKeys>),
}

/// No passive health.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OutlierWord {
    /// Nobody is ejected.
    Off,
}

/// When backends are ejected for what they do with requests, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutlierKeys {
    /// Answers with 5xx in a row that eject at once, gateway errors among them; 0: not looked at.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::CONSECUTIVE))]
    pub(crate) consecutive_5xx: Field<u32>,
    /// The same of 502, 503 and 504, and of no answer: resets, early ends, silence.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::CONSECUTIVE))]
    pub(crate) consecutive_gateway_errors: Field<u32>,
    /// The same of connections that cannot be opened.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::CONSECUTIVE))]
    pub(crate) consecutive_connect_failures: Field<u32>,
    /// Ejects a backend whose rate of successes is below the mean of all by some standard
    /// deviations. `{}` with the usual settings, as the next three.
    #[serde(default)]
    pub(crate) success_rate: Field<SuccessRate>,
    /// Ejects a backend that fails too large a share of its requests, whatever the others do.
    #[serde(default)]
    pub(crate) failure_percentage: Field<FailurePercentage>,
    /// Ejects a backend that is slower than the others.
    #[serde(default)]
    pub(crate) latency: Field<Slowness>,
    /// Ejects a backend whose connections fare worse than those to the others, as the kernel sees
    /// them: before a request fails. With `at_connect` also connections of workloads.
    #[serde(default)]
    pub(crate) network: Field<NetworkQuality>,
    /// Chance that a finding of each detector ejects; `0%` only logs it.
    #[serde(default)]
    pub(crate) enforce: Field<Enforce>,
    /// Over what time rates and latencies are compared, at most `1h`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(outlier_defaults::INTERVAL)))]
    pub(crate) interval: Field<Time>,
    /// Time of a first ejection; a second one takes twice as long, and so on. The count falls by
    /// one with each interval in which the backend is well.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(outlier_defaults::BASE_TIME)))]
    pub(crate) base_ejection_time: Field<Time>,
    /// No ejection takes longer.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(outlier_defaults::MAX_TIME)))]
    pub(crate) max_ejection_time: Field<Time>,
    /// Share of its time by which an ejection is lengthened at random, so that backends which went
    /// together do not return together.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::JITTER)))]
    pub(crate) jitter: Field<Percent>,
    /// Share of the backends that may be ejected at a time. One always may, but never the last
    /// that is well.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::MAX_EJECTED)))]
    pub(crate) max_ejected: Field<Percent>,
}

/// Ejects a backend whose rate of successes is below the mean of all by some standard deviations.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SuccessRate {
    /// How many standard deviations.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::SUCCESS_RATE.stdev_factor, "exclusiveMinimum" = 0))]
    pub(crate) stdev_factor: Field<f64>,
    /// Backends with enough requests below which nothing is compared.
    #[serde(default)]
    #[schemars(range(min = 2), extend("default" = outlier_defaults::SUCCESS_RATE.min_hosts))]
    pub(crate) min_hosts: Field<u32>,
    /// Requests in an interval that are enough.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = outlier_defaults::SUCCESS_RATE.min_requests))]
    pub(crate) min_requests: Field<u32>,
}

/// Ejects a backend that fails too large a share of its requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailurePercentage {
    /// Share of failures from which a backend is ejected.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::FAILURES.threshold)))]
    pub(crate) threshold: Field<Percent>,
    /// Backends with enough requests below which nobody is ejected.
    #[serde(default)]
    #[schemars(range(min = 2), extend("default" = outlier_defaults::FAILURES.min_hosts))]
    pub(crate) min_hosts: Field<u32>,
    /// Requests in an interval that are enough.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = outlier_defaults::FAILURES.min_requests))]
    pub(crate) min_requests: Field<u32>,
}

/// Ejects a backend that is slower than the others.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OutlierLatency")]
pub(crate) struct Slowness {
    /// How many times the median of the others, more than 1.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::SLOWNESS.factor, "exclusiveMinimum" = 1))]
    pub(crate) factor: Field<f64>,
    /// For how many intervals in a row.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000), extend("default" = outlier_defaults::SLOWNESS.intervals))]
    pub(crate) intervals: Field<u32>,
    /// Backends with enough requests below which nothing is compared.
    #[serde(default)]
    #[schemars(range(min = 2), extend("default" = outlier_defaults::SLOWNESS.min_hosts))]
    pub(crate) min_hosts: Field<u32>,
    /// Requests in an interval that are enough.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = outlier_defaults::SLOWNESS.min_requests))]
    pub(crate) min_requests: Field<u32>,
}

/// Ejects a backend whose connections fare worse than those to the others, as the kernel sees them:
/// before a request fails.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OutlierNetwork")]
pub(crate) struct NetworkQuality {
    /// By how much the share of segments that are sent again is above the others' median at least;
    /// `0%`: not looked at.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::NETWORK.loss)))]
    pub(crate) loss: Field<Percent>,
    /// By how much its round trips have grown more than those of the others at least; `0s`: not
    /// looked at. An acknowledgement may be 40 ms late by itself.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(outlier_defaults::NETWORK.rtt)))]
    pub(crate) rtt: Field<Time>,
    /// By how much the share of looks at which it takes nothing while octets wait is above the
    /// others' median at least; `0%`: not looked at.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::NETWORK.zero_windows)))]
    pub(crate) zero_windows: Field<Percent>,
    /// How many deviations, by the median, it is off at least.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::NETWORK.deviations, "exclusiveMinimum" = 0))]
    pub(crate) deviations: Field<f64>,
    /// For how many intervals in a row.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000), extend("default" = outlier_defaults::NETWORK.intervals))]
    pub(crate) intervals: Field<u32>,
    /// Backends with enough segments below which nothing is compared.
    #[serde(default)]
    #[schemars(range(min = 2), extend("default" = outlier_defaults::NETWORK.min_hosts))]
    pub(crate) min_hosts: Field<u32>,
    /// Segments in an interval that are enough.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = outlier_defaults::NETWORK.min_segments))]
    pub(crate) min_segments: Field<u32>,
}

/// Chance that a finding of each detector ejects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enforce {
    /// Answers with 5xx in a row.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) consecutive_5xx: Field<Percent>,
    /// Gateway errors in a row.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) consecutive_gateway_errors: Field<Percent>,
    /// Connections in a row that cannot be opened.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) consecutive_connect_failures: Field<Percent>,
    /// A low rate of successes.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) success_rate: Field<Percent>,
    /// A high share of failures.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) failure_percentage: Field<Percent>,
    /// Slowness.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) latency: Field<Percent>,
    /// A bad network.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(1.0)))]
    pub(crate) network: Field<Percent>,
}

/// Has the latency that the proxies see move the weights by which l4 listeners of the same service
/// choose: one step in each `outlier.interval`. `{}` with the usual settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightsByLatency {
    /// A backend slower than this many times the median of the others loses a step of its weight.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::WEIGHTS_BY_LATENCY.above, "exclusiveMinimum" = 1))]
    pub(crate) above: Field<f64>,
    /// One that is below this many times the median gains a step back; between the two, nothing
    /// moves. Less than `above`.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::WEIGHTS_BY_LATENCY.below, "exclusiveMinimum" = 1))]
    pub(crate) below: Field<f64>,
    /// How much of the configured weight is one step.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::WEIGHTS_BY_LATENCY.step)))]
    pub(crate) step: Field<Percent>,
    /// How much of the configured weight is left at least.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(outlier_defaults::WEIGHTS_BY_LATENCY.floor)))]
    pub(crate) floor: Field<Percent>,
    /// Requests in an interval that are enough to judge a backend by.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = outlier_defaults::WEIGHTS_BY_LATENCY.min_requests))]
    pub(crate) min_requests: Field<u32>,
    /// What the network adds counts, too: round trips and losses of open connections, as the kernel
    /// sees them.
    #[serde(default)]
    #[schemars(extend("default" = outlier_defaults::WEIGHTS_BY_LATENCY.network))]
    pub(crate) network: Field<bool>,
}
