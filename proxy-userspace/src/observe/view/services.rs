//! Services, their listeners and backends.

use super::{
    ChangeView, EjectionView, NetworkView, ProxyBackendView, ProxyServiceView, Traffic,
    WorkloadConnectionsView,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A service with its listeners and backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Forwarding mode.
    pub mode: String,
    /// How new flows get a backend.
    pub selection: String,
    /// Listeners in file order.
    pub listeners: Vec<ListenerView>,
    /// Backends in file order, then those that DNS has named, then those that left the configuration
    /// and still drain.
    pub backends: Vec<BackendView>,
    /// How the proxies use it, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyServiceView>,
}

impl ServiceView {
    /// Everything that concerned the service: its backends, and what `local` passed.
    pub fn traffic(&self) -> Traffic {
        let own = self.listeners.iter().map(|listener| Traffic {
            packets: listener.local_packets,
            bytes: listener.local_bytes,
            new_flows: listener.local_new_flows,
            ..Traffic::default()
        });
        own.chain(self.backends.iter().map(|backend| backend.traffic))
            .fold(Traffic::default(), Traffic::plus)
    }
}

/// A listener: what clients address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// Address or prefix.
    pub vip: String,
    /// Port, or `all`.
    pub port: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its id in the maps.
    pub id: u16,
    /// Packets handed to this host's stack (`local`).
    pub local_packets: u64,
    /// Octets of those.
    pub local_bytes: u64,
    /// New flows of `local`.
    pub local_new_flows: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// New flows that found no room in the flow table.
    pub untracked_flows: u64,
    /// Flows that replaced an unconfirmed one.
    pub replaced_flows: u64,
}

/// A backend of a service, over all of the service's listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port; `None` keeps the client's.
    pub port: Option<u16>,
    /// Its weight.
    pub weight: u16,
    /// `up`, `draining` or `down`, as the kernel has it, where an ejected backend is `draining`;
    /// `ejected` where only proxies use the service.
    pub state: String,
    /// Why, where there is something to say: `drained by operator`, `health: connection refused`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Its ids in the maps, one per listener.
    pub ids: Vec<u16>,
    /// Seconds until a drain ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_remaining_seconds: Option<f64>,
    /// Health, where it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthView>,
    /// Its ejection, while it is out because of what it did with real traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionView>,
    /// Ejections so far by detector; detectors that never ejected it are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ejections: BTreeMap<String, u64>,
    /// Its latency as the proxies see it: the smoothed mean of intervals, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_seconds: Option<f64>,
    /// What the kernel tells of the connections to it, of proxies and of workloads together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkView>,
    /// Of that, what it tells of connections that workloads have to it, balanced at connect().
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadConnectionsView>,
    /// What l4 listeners use of its weight, in percent, where latency has reduced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_percent: Option<u8>,
    /// Its last changes of state, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ChangeView>,
    /// Flows that are not closing.
    pub live_flows: u64,
    /// Packets and flows.
    pub traffic: Traffic,
    /// Requests, where the proxies use the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyBackendView>,
}

/// What the checks of a backend say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// The verdict after rise, fall and damping: `up`, `down`, `held` (it flaps) or `unknown`.
    pub verdict: String,
    /// Probes that passed.
    pub passed: u64,
    /// Probes that failed, by how; kinds never seen are left out.
    pub failed: BTreeMap<String, u64>,
    /// Changes of the verdict.
    pub transitions: u64,
    /// How long the last probe took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_seconds: Option<f64>,
    /// What the last failed probe said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}
