//! The detectors that compare backends over an interval.

use super::{Evidence, Window};
use crate::config::model::outlier::{FailurePercentage, SuccessRate};
use std::time::Duration;

/// A rate of successes that is not this much below the mean is no outlier, however small the
/// deviations are.
const LEAST_GAP: f64 = 0.01;

/// Latencies that differ by less are alike, whatever their quotient.
pub(crate) const ALIKE: Duration = Duration::from_millis(1);

/// Backends whose rate of successes is too far below the mean of all.
pub(super) fn success_rate(windows: &[(u32, Window)], rules: &SuccessRate) -> Vec<(u32, Evidence)> {
    let judged = judged(windows, rules.min_requests);
    if judged.len() < rules.min_hosts as usize {
        return Vec::new();
    }
    let count = judged.len() as f64;
    let rates = || judged.iter().map(|(_, window)| window.success_rate());
    let mean = rates().sum::<f64>() / count;
    let variance = rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - rules.stdev_factor * variance.sqrt();
    let found = judged.iter().filter_map(|(host, window)| {
        let rate = window.success_rate();
        let evidence = Evidence::SuccessRate {
            rate,
            mean,
            least,
            requests: window.total(),
        };
        (rate < least && mean - rate >= LEAST_GAP).then_some((*host, evidence))
    });
    found.collect()
}

/// Backends that fail too large a share of their requests.
pub(super) fn failure_percentage(
    windows: &[(u32, Window)],
    rules: &FailurePercentage,
) -> Vec<(u32, Evidence)> {
    let judged = judged(windows, rules.min_requests);
    if judged.len() < rules.min_hosts as usize {
        return Vec::new();
    }
    let found = judged.iter().filter_map(|(host, window)| {
        let evidence = Evidence::FailurePercentage {
            failed: window.failed,
            requests: window.total(),
        };
        let share = 1.0 - window.success_rate();
        (window.failed > 0 && share >= rules.threshold).then_some((*host, evidence))
    });
    found.collect()
}

fn judged(windows: &[(u32, Window)], min_requests: u32) -> Vec<(u32, Window)> {
    let enough = |(_, window): &&(u32, Window)| window.total() >= u64::from(min_requests);
    windows.iter().filter(enough).copied().collect()
}

/// The median of the others' latencies, in nanoseconds; `None` if there are none.
pub(crate) fn median_of_others(latencies: &[(u32, f64)], host: u32) -> Option<f64> {
    let others = latencies.iter().filter(|(other, _)| *other != host);
    median(others.map(|(_, latency)| *latency).collect())
}

/// The median; `None` of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
