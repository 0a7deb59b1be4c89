//! What is known of a backend's past, and of its ejection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change of a backend's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeView {
    /// When, seconds since the epoch.
    pub time_seconds: f64,
    /// The state before: `up`, `ejected`, `draining`, `down` or `unknown` (not probed yet).
    pub from: String,
    /// The state from then on.
    pub to: String,
    /// Why: what failed and how, which detector with its numbers, who drained.
    pub why: String,
}

/// What the kernel tells of the connections to a backend, from its beginning or the daemon's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkView {
    /// Mean round trip in seconds, of the last look at connections on which something moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_seconds: Option<f64>,
    /// Segments sent that carry octets or open a connection, those sent again among them.
    pub segments: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments of the backend that came out of order, as they do after a loss.
    pub disordered: u64,
    /// Looks at connections in use: about one a second for each.
    pub looks: u64,
    /// Of those, where the backend took nothing although octets waited.
    pub zero_windows: u64,
}

/// An ejection: the backend is out for a while because of what it did with real traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EjectionView {
    /// What has found it, as the configuration calls it.
    pub detector: String,
    /// Why, with the numbers.
    pub why: String,
    /// Seconds until it returns.
    pub remaining_seconds: f64,
    /// How many ejections, lately, this one is: it takes so many times the base time.
    pub times: u32,
}
