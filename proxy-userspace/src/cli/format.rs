//! Numbers and times for people.

use crate::observe::view::BackendView;
use std::time::Duration;

/// A count with a decimal suffix: `999`, `12.3k`, `4.56M`.
pub(super) fn count(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"])
}

/// Octets with a binary suffix: `512 B`, `1.50 KiB`.
pub(super) fn bytes(value: f64) -> String {
    scaled(
        value,
        1024.0,
        &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"],
    )
}

fn scaled(value: f64, base: f64, suffixes: &[&str]) -> String {
    let mut value = value.max(0.0);
    let mut suffixes = suffixes.iter();
    let mut suffix = suffixes.next().copied().unwrap_or_default();
    let mut whole = value.fract() == 0.0;
    // 999.95 would be printed as 1000.
    while value >= base - 0.05 {
        let Some(next) = suffixes.next() else { break };
        value /= base;
        suffix = next;
        whole = false;
    }
    let digits = match value {
        _ if whole => 0,
        value if value < 9.995 => 2,
        _ => 1,
    };
    format!("{value:.digits$}{suffix}")
}

/// A span in its two largest units: `3d 4h`, `5m 6s`, `7s`, `250ms`.
pub(super) fn span(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let whole = span.as_secs();
    let (days, hours) = (whole / 86_400, whole / 3600 % 24);
    let (minutes, seconds) = (whole / 60 % 60, whole % 60);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{}ms", span.as_millis()),
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// A time of day in UTC (RFC 3339, to the second).
pub(super) fn time(seconds_since_epoch: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds_since_epoch.max(0.0)).unwrap_or_default();
    let time = std::time::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(std::time::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// An address as it stands before a port.
pub(super) fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// An address with its port, if it has one.
pub(super) fn address(address: &str, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{}:{port}", bracketed(address)),
        None => address.to_owned(),
    }
}

/// A backend's state, and how long a drain still takes.
pub(super) fn state(backend: &BackendView) -> String {
    let left = backend.drain_remaining_seconds;
    let left = left.map(|left| format!(" {}", span(left)));
    format!("{}{}", backend.state, left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (999.0, "999"),
            (999.96, "1.00k"),
            (12_345.0, "12.3k"),
            (4_560_000.0, "4.56M"),
            (1.0e18, "1000.0P"),
        ] {
            assert_eq!(count(value), text, "{value}");
        }
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(bytes(512.0), "512 B");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [
            (0.25, "250ms"),
            (7.9, "7s"),
            (306.0, "5m 6s"),
            (3_700.0, "1h 1m"),
            (273_600.0, "3d 4h"),
            (-1.0, "0ms"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_700_000_000.9), "2023-11-14T22:13:20Z");
    }
}
