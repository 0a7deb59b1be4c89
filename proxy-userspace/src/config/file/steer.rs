//! The key `steer` of a listener.

use super::scalar::{Network, PortRange};
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// What a listener gets besides what it is bound to: the kernel gives it what comes to these
/// addresses and ports, without a socket for each. A single port comes before a range of ports; of
/// those alike, a longer prefix comes before a shorter one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Steer {
    /// Addresses and prefixes, of the family of the listener's own address; `0.0.0.0/0` and `"::/0"`
    /// are all. Those that this host does not have need a route:
    /// `ip route add local 192.0.2.0/24 dev lo`.
    pub(crate) addresses: Field<Vec<Field<Network>>>,
    /// Ports of all of them: numbers, ranges such as `8000-8999`, or `all`. Without it, the
    /// listener's own port.
    #[serde(default)]
    pub(crate) ports: Field<Vec<Field<PortRange>>>,
    /// What becomes of connections and datagrams while nobody serves the listener, because the
    /// daemon was killed: `closed` refuses them; `open` leaves them to the ordinary lookup, so that
    /// whoever else is bound there gets them.
    #[serde(default)]
    #[schemars(extend("default" = "closed"))]
    pub(crate) on_failure: Field<OnFailure>,
}

/// What becomes of connections and datagrams while nobody serves the listener.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnFailure {
    /// They are refused.
    Closed,
    /// They are left to the ordinary lookup.
    Open,
}
