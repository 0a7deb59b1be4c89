//! The keys `services[].outlier` and `services[].steer_by_latency`.

use super::{number, or, time, time_or_zero};
use crate::config::decode::{At, Field};
use crate::config::defaults::{self, outlier as outlier_defaults};
use crate::config::fault::Code;
use crate::config::file::outlier as file;
use crate::config::file::scalar::Percent;
use crate::config::file::service::Service;
use crate::config::model::outlier::{
    Detector, FailurePercentage, NetworkQuality, Outlier, Slowness, SuccessRate, WeightsByLatency,
};
use crate::config::report::{Draft, Place, Report};
use std::time::Duration;

/// Longest interval: counts have room for it at any speed.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// The key `outlier`; `None` if nobody is ejected.
pub(super) fn outlier(report: &Report<'_>, field: &Field<file::Outlier>) -> Option<Outlier> {
    let Some(at) = field.given() else {
        return Some(Outlier::connects_only());
    };
    let keys = match &at.value {
        file::Outlier::Word(file::OutlierWord::Off) => return None,
        file::Outlier::Keys(keys) => keys,
    };
    let default = Outlier::default();
    let outlier = Outlier {
        consecutive_5xx: or(&keys.consecutive_5xx, default.consecutive_5xx),
        consecutive_gateway_errors: or(
            &keys.consecutive_gateway_errors,
            default.consecutive_gateway_errors,
        ),
        consecutive_connect_failures: or(
            &keys.consecutive_connect_failures,
            default.consecutive_connect_failures,
        ),
        success_rate: success_rate(report, &keys.success_rate),
        failure_percentage: failures(report, &keys.failure_percentage),
        latency: slowness(report, &keys.latency),
        network: network(report, &keys.network),
        enforce: enforce(&keys.enforce),
        interval: time(report, &keys.interval, default.interval),
        base_ejection_time: time(report, &keys.base_ejection_time, default.base_ejection_time),
        max_ejection_time: longest(report, keys, default.max_ejection_time),
        jitter: share(&keys.jitter, default.jitter),
        max_ejected: share(&keys.max_ejected, default.max_ejected),
    };
    if let Some(at) = keys.interval.given()
        && outlier.interval > LONGEST_INTERVAL
    {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` is too long", at.value))
            .expected("at most `1h`");
        report.error(Place::Value(at.node), draft);
    }
    Some(outlier)
}

/// The longest ejection. Where only the base is given and is longer than the default, it is that.
fn longest(report: &Report<'_>, keys: &file::OutlierKeys, default: Duration) -> Duration {
    let base = keys.base_ejection_time.value();
    let base = base.map_or(outlier_defaults::BASE_TIME, |time| time.0);
    let Some(at) = keys.max_ejection_time.given() else {
        return default.max(base);
    };
    let longest = time(report, &keys.max_ejection_time, default);
    if longest < base {
        let draft = Draft::new(
            Code::Conflict,
            format!(
                "an ejection takes {} at first, but at most {}",
                defaults::text(base),
                defaults::text(longest)
            ),
        )
        .expected("`max_ejection_time` not less than `base_ejection_time`");
        report.error(Place::Value(at.node), draft);
    }
    longest
}

fn success_rate(report: &Report<'_>, field: &Field<file::SuccessRate>) -> Option<SuccessRate> {
    let default = outlier_defaults::SUCCESS_RATE;
    let keys = field.value()?;
    Some(SuccessRate {
        stdev_factor: above(report, &keys.stdev_factor, 0.0, default.stdev_factor),
        min_hosts: number(report, &keys.min_hosts, 2..=u32::MAX, default.min_hosts),
        min_requests: number(
            report,
            &keys.min_requests,
            1..=u32::MAX,
            default.min_requests,
        ),
    })
}

fn failures(
    report: &Report<'_>,
    field: &Field<file::FailurePercentage>,
) -> Option<FailurePercentage> {
    let default = outlier_defaults::FAILURES;
    let keys = field.value()?;
    if let Some(at) = keys.threshold.given()
        && at.value.0 == 0.0
    {
        let draft = Draft::new(
            Code::InvalidValue,
            "every backend has that share of failures",
        )
        .expected("more than `0%`");
        report.error(Place::Value(at.node), draft);
    }
    Some(FailurePercentage {
        threshold: share(&keys.threshold, default.threshold),
        min_hosts: number(report, &keys.min_hosts, 2..=u32::MAX, default.min_hosts),
        min_requests: number(
            report,
            &keys.min_requests,
            1..=u32::MAX,
            default.min_requests,
        ),
    })
}

fn slowness(report: &Report<'_>, field: &Field<file::Slowness>) -> Option<Slowness> {
    let default = outlier_defaults::SLOWNESS;
    let keys = field.value()?;
    Some(Slowness {
        factor: above(report, &keys.factor, 1.0, default.factor),
        intervals: number(report, &keys.intervals, 1..=1000, default.intervals),
        min_hosts: number(report, &keys.min_hosts, 2..=u32::MAX, default.min_hosts),
        min_requests: number(
            report,
            &keys.min_requests,
            1..=u32::MAX,
            default.min_requests,
        ),
    })
}

fn network(report: &Report<'_>, field: &Field<file::NetworkQuality>) -> Option<NetworkQuality> {
    let default = outlier_defaults::NETWORK;
    let at = field.given()?;
    let keys = &at.value;
    let quality = NetworkQuality {
        loss: share(&keys.loss, default.loss),
        rtt: time_or_zero(report, &keys.rtt, default.rtt),
        zero_windows: share(&keys.zero_windows, default.zero_windows),
        deviations: above(report, &keys.deviations, 0.0, default.deviations),
        intervals: number(report, &keys.intervals, 1..=1000, default.intervals),
        min_hosts: number(report, &keys.min_hosts, 2..=u32::MAX, default.min_hosts),
        min_segments: number(
            report,
            &keys.min_segments,
            1..=u32::MAX,
            default.min_segments,
        ),
    };
    if quality.loss == 0.0 && quality.rtt.is_zero() && quality.zero_windows == 0.0 {
        let draft = Draft::new(Code::Conflict, "`network` looks at nothing")
            .expected("`loss`, `rtt` or `zero_windows` above zero, or no `network`");
        report.error(Place::Key(at.node), draft);
    }
    Some(quality)
}

fn enforce(field: &Field<file::Enforce>) -> [f64; Detector::ALL.len()] {
    let Some(keys) = field.value() else {
        return Outlier::default().enforce;
    };
    Detector::ALL.map(|detector| {
        let field = match detector {
            Detector::Consecutive5xx => &keys.consecutive_5xx,
            Detector::GatewayErrors => &keys.consecutive_gateway_errors,
            Detector::ConnectFailures => &keys.consecutive_connect_failures,
            Detector::SuccessRate => &keys.success_rate,
            Detector::FailurePercentage => &keys.failure_percentage,
            Detector::Latency => &keys.latency,
            Detector::Network => &keys.network,
        };
        share(field, 1.0)
    })
}

/// True if the connections of workloads that are balanced at connect() say who is an outlier.
pub(super) fn looks_at_workloads(service: &Service) -> bool {
    match service.outlier.value() {
        Some(file::Outlier::Keys(keys)) => {
            let judges = keys.network.given().is_some() || keys.latency.given().is_some();
            judges && service.at_connect.given().is_some()
        }
        _ => false,
    }
}

/// The key `steer_by_latency`. `shared`: an l4 listener uses the service, and a proxy does, or sockets are
/// balanced by it.
pub(super) fn weights_by_latency(
    report: &Report<'_>,
    field: &Field<file::WeightsByLatency>,
    shared: bool,
) -> Option<WeightsByLatency> {
    let at = field.given()?;
    let keys = &at.value;
    let default = outlier_defaults::WEIGHTS_BY_LATENCY;
    let weights = WeightsByLatency {
        above: above(report, &keys.above, 1.0, default.above),
        below: above(report, &keys.below, 1.0, default.below),
        step: share(&keys.step, default.step),
        floor: share(&keys.floor, default.floor),
        min_requests: number(
            report,
            &keys.min_requests,
            1..=u32::MAX,
            default.min_requests,
        ),
        network: or(&keys.network, default.network),
    };
    order(report, at, &weights);
    for (name, at) in [("step", keys.step.given()), ("floor", keys.floor.given())] {
        if let Some(at) = at
            && !(0.01..=1.0).contains(&at.value.0)
        {
            let draft = Draft::new(Code::InvalidValue, format!("`{name}` is out of range"))
                .expected("`1%` to `100%`");
            report.error(Place::Value(at.node), draft);
        }
    }
    if !shared {
        report.warn(
            Place::Key(at.node),
            "`steer_by_latency` has no effect: proxies and sockets that are balanced at connect() \
             measure, and l4 listeners follow",
            "remove it, or use the service in an `l4` listener, and in a route or a `tcp` listener or \
             with `at_connect`",
        );
    }
    Some(weights)
}

fn order(report: &Report<'_>, at: &At<file::WeightsByLatency>, weights: &WeightsByLatency) {
    if weights.below < weights.above {
        return;
    }
    let keys = &at.value;
    let node = keys.below.given().or(keys.above.given());
    let draft = Draft::new(
        Code::Conflict,
        format!("`below` is {}, `above` is {}", weights.below, weights.above),
    )
    .expected("`below` less than `above`, so that weights do not go back and forth");
    report.error(Place::Value(node.map_or(at.node, |at| at.node)), draft);
}

fn share(field: &Field<Percent>, default: f64) -> f64 {
    field.value().map_or(default, |share| share.0)
}

/// A number above a bound, or a default.
fn above(report: &Report<'_>, field: &Field<f64>, bound: f64, default: f64) -> f64 {
    let Some(at) = field.given() else {
        return default;
    };
    if !(at.value > bound && at.value.is_finite()) {
        let draft = Draft::new(Code::InvalidValue, format!("{} is out of range", at.value))
            .expected(format!("a number above {bound}"));
        report.error(Place::Value(at.node), draft);
        return default;
    }
    at.value
}
