//! What is known of a backend's past, and of its ejection.

use super::BackendView;
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

impl NetworkView {
    /// What is left without those counts; `None` if nothing is.
    fn without(&self, other: &Self) -> Option<Self> {
        let left = Self {
            rtt_seconds: None,
            segments: self.segments.saturating_sub(other.segments),
            retransmits: self.retransmits.saturating_sub(other.retransmits),
            disordered: self.disordered.saturating_sub(other.disordered),
            looks: self.looks.saturating_sub(other.looks),
            zero_windows: self.zero_windows.saturating_sub(other.zero_windows),
        };
        (left != Self::default()).then_some(left)
    }
}

impl BackendView {
    /// What the kernel tells of connections to it, by whose they are, as labels call them.
    pub(crate) fn networks(&self) -> Vec<(&'static str, NetworkView)> {
        let workloads = self.workloads.as_ref().map(|it| it.network.clone());
        let proxies = self.network.as_ref().and_then(|all| {
            let others = workloads.clone().unwrap_or_default();
            all.without(&others)
        });
        let proxies = proxies.map(|seen| ("proxies", seen));
        let workloads = workloads.map(|seen| ("workloads", seen));
        proxies.into_iter().chain(workloads).collect()
    }
}

/// What the kernel tells of the connections that workloads have to a backend, balanced at connect().
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadConnectionsView {
    /// What TCP counts.
    pub network: NetworkView,
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that could not be opened.
    pub failed: u64,
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
