//! What holds where a key is left out: the one place for defaults.

pub(crate) mod acme;
pub(crate) mod condemn;
pub(crate) mod http;
pub(crate) mod mesh;
pub(crate) mod outlier;
pub(crate) mod tls;

use super::model::{DEFAULT_PIN_DIR, Damping, Timeouts};
use proxy_common::maps::{DEFAULT_GUE_PORT, capacity};
use proxy_common::service::DEFAULT_RING_SIZE;
use std::time::Duration;

pub(crate) const PIN_DIR: &str = DEFAULT_PIN_DIR;
pub(crate) const FLOW_CAPACITY: u32 = capacity::FLOWS;
pub(crate) const BACKEND_CAPACITY: u32 = capacity::BACKENDS;
pub(crate) const GUE_PORT: u16 = DEFAULT_GUE_PORT;
pub(crate) const SELECTION_SEED: u64 = 0;
pub(crate) const ROUTE_TTL: Duration = Duration::from_secs(1);
pub(crate) const ICMP_PER_SECOND: u32 = 1000;
pub(crate) const SAMPLE_EVERY: u32 = 0;
pub(crate) const ADMIN_SOCKET: &str = "/run/sluice/admin.sock";
pub(crate) const RING_SIZE: u32 = DEFAULT_RING_SIZE;
pub(crate) const WEIGHT: u16 = 1;
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const TIMEOUTS: Timeouts = Timeouts {
    syn: Duration::from_secs(60),
    established: Duration::from_secs(3600),
    closing: Duration::from_secs(60),
    udp: Duration::from_secs(60),
    affinity: Duration::from_secs(600),
};
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// Share of the interval.
pub(crate) const JITTER: f64 = 0.1;
pub(crate) const RISE: u32 = 2;
pub(crate) const FALL: u32 = 3;
pub(crate) const METHOD: &str = "GET";
pub(crate) const PATH: &str = "/";
/// First and last status that count as success.
pub(crate) const STATUS: (u16, u16) = (200, 399);
/// Three falls within a minute or so hold a backend down until a penalty of 1 is left.
pub(crate) const DAMPING: Damping = Damping {
    half_life: Duration::from_secs(60),
    suppress: 3.0,
    reuse: 1.0,
};

/// A duration as the file has it.
pub(crate) fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A share as the file has it.
pub(crate) fn percent(share: f64) -> String {
    // Ten decimals hide the rounding of the division by 100.
    let percent = (share * 100.0 * 1e10).round() / 1e10;
    format!("{percent}%")
}

/// A size as the file has it: in the largest unit that leaves no remainder.
pub(crate) fn size(octets: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if octets > 0 && octets.trailing_zeros() >= shift {
            return format!("{}{unit}", octets >> shift);
        }
    }
    format!("{octets}B")
}

/// A range of status codes as the file has it.
pub(crate) fn status_text((first, last): (u16, u16)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}
