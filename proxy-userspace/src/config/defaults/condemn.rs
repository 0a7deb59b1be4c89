//! Defaults of the section `condemn`. An honest client makes no such mistake twice in a minute; a
//! program that does, and is mended, is let in again soon.

use crate::config::model::condemn::Offence;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(crate) const WITHIN: Duration = Duration::from_secs(60);
pub(crate) const DURATION: Duration = Duration::from_secs(600);
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
pub(crate) const REMEMBER: Duration = Duration::from_secs(24 * 3600);
pub(crate) const SPARE_ABOVE: f64 = 0.5;
/// What a subscriber has as a rule (RFC 6177): within it, addresses cost nothing.
pub(crate) const IPV6_PREFIX: u8 = 64;
pub(crate) const MAX_ENTRIES: u32 = 10_000;

/// Offences within [`WITHIN`] that condemn.
pub(crate) const fn offences(kind: Offence) -> u32 {
    match kind {
        Offence::Malformed => 10,
        // One is some hundred frames already.
        Offence::Flood => 3,
        Offence::Handshake => 20,
        // Bad radio is no offence; a slow attack has hundreds of connections.
        Offence::Slow => 30,
        // What is answered is up to backends too: whoever has it counted knows how these answer.
        Offence::Limited | Offence::Unauthorized => 0,
    }
}

/// Local programs are the operator's own.
pub(crate) const EXEMPT: [&str; 2] = ["127.0.0.0/8", "::1"];

/// [`EXEMPT`] as prefixes.
pub(crate) fn exempt() -> Vec<IpNet> {
    vec![
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ]
}
