//! Passive health and weights by latency, as the file would have them.

use super::map;
use crate::config::defaults::{percent, text};
use crate::config::model::outlier::{Detector, Outlier, WeightsByLatency};
use serde_json::{Map, Value, json};

/// The key `outlier`.
pub(super) fn outlier(outlier: Option<&Outlier>) -> Value {
    let Some(outlier) = outlier else {
        return json!("off");
    };
    let enforce = Detector::ALL.map(|detector| {
        let share = percent(outlier.enforced(detector));
        (detector.label().to_owned(), json!(share))
    });
    map([
        ("consecutive_5xx", Some(json!(outlier.consecutive_5xx))),
        (
            "consecutive_gateway_errors",
            Some(json!(outlier.consecutive_gateway_errors)),
        ),
        (
            "consecutive_connect_failures",
            Some(json!(outlier.consecutive_connect_failures)),
        ),
        (
            "success_rate",
            outlier.success_rate.map(|rate| {
                json!({
                    "stdev_factor": rate.stdev_factor,
                    "min_hosts": rate.min_hosts,
                    "min_requests": rate.min_requests,
                })
            }),
        ),
        (
            "failure_percentage",
            outlier.failure_percentage.map(|failures| {
                json!({
                    "threshold": percent(failures.threshold),
                    "min_hosts": failures.min_hosts,
                    "min_requests": failures.min_requests,
                })
            }),
        ),
        (
            "latency",
            outlier.latency.map(|slowness| {
                json!({
                    "factor": slowness.factor,
                    "intervals": slowness.intervals,
                    "min_hosts": slowness.min_hosts,
                    "min_requests": slowness.min_requests,
                })
            }),
        ),
        (
            "network",
            outlier.network.map(|quality| {
                json!({
                    "loss": percent(quality.loss),
                    "rtt": text(quality.rtt),
                    "zero_windows": percent(quality.zero_windows),
                    "deviations": quality.deviations,
                    "intervals": quality.intervals,
                    "min_hosts": quality.min_hosts,
                    "min_segments": quality.min_segments,
                })
            }),
        ),
        (
            "enforce",
            Some(Value::Object(enforce.into_iter().collect::<Map<_, _>>())),
        ),
        ("interval", Some(json!(text(outlier.interval)))),
        (
            "base_ejection_time",
            Some(json!(text(outlier.base_ejection_time))),
        ),
        (
            "max_ejection_time",
            Some(json!(text(outlier.max_ejection_time))),
        ),
        ("jitter", Some(json!(percent(outlier.jitter)))),
        ("max_ejected", Some(json!(percent(outlier.max_ejected)))),
    ])
}

/// The key `steer_by_latency`.
pub(super) fn weights_by_latency(weights: &WeightsByLatency) -> Value {
    json!({
        "above": weights.above,
        "below": weights.below,
        "step": percent(weights.step),
        "floor": percent(weights.floor),
        "min_requests": weights.min_requests,
        "network": weights.network,
    })
}
