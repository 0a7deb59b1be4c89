//! Which of this host's two loopback addresses the suites of real sockets use.
//!
//! A listener, a client or a parser may treat the two families unlike each other, so the same tests run
//! once for each: `cargo xtask test` runs a suite with [`VARIABLE`] once more. Tests that are about one
//! family by nature say their addresses themselves; the stage leaves them out by name, with a reason.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The variable: `6` for IPv6, else IPv4.
pub const VARIABLE: &str = "SLUICE_TEST_FAMILY";

/// True if the suite runs over IPv6.
pub fn is_v6() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|family| family == "6")
}

/// The loopback address.
pub fn loopback() -> IpAddr {
    if is_v6() {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// The loopback address with a port that the system chooses.
pub fn any() -> SocketAddr {
    SocketAddr::new(loopback(), 0)
}

/// The loopback address as a URL has it.
pub fn host() -> &'static str {
    if is_v6() { "[::1]" } else { "127.0.0.1" }
}

/// All loopback addresses of the family: IPv6 has one.
pub fn network() -> &'static str {
    if is_v6() { "::1/128" } else { "127.0.0.0/8" }
}

/// How a header of version 1 of the PROXY protocol begins that tells of a connection within this host.
pub fn proxy_header() -> String {
    let (name, own) = (if is_v6() { "TCP6" } else { "TCP4" }, loopback());
    format!("PROXY {name} {own} {own} ")
}
