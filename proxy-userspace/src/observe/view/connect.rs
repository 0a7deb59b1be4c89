//! Balancing at connect().

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sockets that are given a backend at connect(). Counters are those of all processes since the maps
/// were made, but `ended` and `unreached`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SocketBalancingView {
    /// `on`, or `off` if no workload is balanced.
    pub state: String,
    /// Why it is off, or not as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Directory of the pins.
    pub pin_dir: String,
    /// The configured cgroups.
    pub cgroups: Vec<BalancedCgroupView>,
    /// Services that are balanced so.
    pub services: Vec<BalancedServiceView>,
    /// Sockets that this process has ended because their backend was lost.
    pub ended: u64,
    /// Sockets that should have been ended and could not be reached.
    pub unreached: u64,
}

/// A cgroup whose sockets are balanced, with those of all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalancedCgroupView {
    /// Its path, as configured.
    pub path: String,
    /// Its id; `None` while there is no such cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
}

/// What became of those who dialled a service's VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalancedServiceView {
    /// The service.
    pub name: String,
    /// Calls of connect() that got a backend.
    pub connected: u64,
    /// Destinations of sockets that are not connected which got one.
    pub opened: u64,
    /// Datagrams of those.
    pub datagrams: u64,
    /// Refused, for there was no backend.
    pub refused: u64,
    /// Left to dial the VIP, for there was no backend.
    pub passed: u64,
    /// Balanced, but not written down in full for want of memory.
    pub unrecorded: u64,
    /// Its backends, and those that have left it and drain.
    pub backends: Vec<BalancedBackendView>,
}

/// What a backend was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BalancedBackendView {
    /// The backend.
    pub name: String,
    /// It takes new sockets.
    pub takes_new: bool,
    /// How often it was given.
    pub given: u64,
    /// Connected sockets that it has.
    pub open: u64,
}
