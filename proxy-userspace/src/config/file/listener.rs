//! The key `listeners`.

use super::scalar::{Name, Network, Port};
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// An address that clients use, and what is spoken there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Name of the listener, unique among listeners; shown in status, logs and metrics.
    pub(crate) name: Field<Name>,
    /// What is spoken.
    pub(crate) kind: Field<ListenerKind>,
    /// The VIP: one address, or a prefix such as `192.0.2.0/28` for all its addresses.
    pub(crate) address: Field<Network>,
    /// The port, or `all` for every port. A listener with one port comes before one with all;
    /// one address comes before a prefix, a longer prefix before a shorter one.
    pub(crate) port: Field<Port>,
    /// The transport protocol.
    #[serde(default)]
    #[schemars(extend("default" = "tcp"))]
    pub(crate) protocol: Field<TransportProtocol>,
    /// Name of the service that answers.
    pub(crate) service: Field<Name>,
    /// Which sources may use this listener, and how fast.
    #[serde(default)]
    pub(crate) guard: Field<ListenerGuard>,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ListenerKind {
    /// Whatever the protocol carries: packets are steered in the kernel by their addresses and
    /// ports.
    L4,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which sources may use a listener, and how fast.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerGuard {
    /// Sources that may. If any is given, all sources that no prefix of `allow` covers may not.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) allow: Field<Vec<Field<Network>>>,
    /// Sources that may not. Of both lists the longest prefix that matches decides.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) deny: Field<Vec<Field<Network>>>,
    /// How many new flows one source address may open. Without it there is no limit.
    #[serde(default)]
    pub(crate) budget: Field<Budget>,
}

/// A per-source budget of new flows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// New flows per second in the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) per_second: Field<u32>,
    /// New flows at once after a pause. Without it, as many as `per_second`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Field<u32>,
}
