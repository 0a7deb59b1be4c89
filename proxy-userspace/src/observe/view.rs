//! What the daemon knows at one moment, in the words of the configuration.
//!
//! These types are the JSON of the admin API and therefore a promise: fields are added, never
//! renamed or given another meaning. Times of day are seconds since the epoch, spans are seconds,
//! sizes are octets; counters of packets and flows start at zero when the data plane's maps are made
//! (not when the daemon starts) and never go down while the maps live; those of requests start with
//! the daemon.

mod certificates;
mod connect;
mod daemon;
mod kernel;
mod mesh;
mod passive;
mod proxies;
mod services;
mod sockets;

pub use certificates::{CertificateView, OcspView};
pub use connect::{
    BalancedBackendView, BalancedCgroupView, BalancedServiceView, SocketBalancingView,
};
pub use daemon::{ConfigState, Daemon, Phase};
pub use kernel::{
    FlowTable, FlowView, GuardView, InterfaceView, Lost, MapUsage, ReasonCount, Traffic,
};
pub use mesh::{MeshListenerView, MeshView, WorkloadView};
pub use passive::{ChangeView, EjectionView, NetworkView, WorkloadConnectionsView};
pub use proxies::{
    CircuitView, ConcurrencyView, ConnectionView, DurationsView, HttpListenerView,
    ProxyBackendView, ProxyServiceView, RouteView, StreamListenerView,
};
pub use services::{BackendView, HealthView, ListenerView, ServiceView};
pub use sockets::{AccelerationView, SteeredView, SteeringView};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that `sluice status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct View {
    /// The daemon.
    pub daemon: Daemon,
    /// The configuration in force.
    pub config: ConfigState,
    /// Interfaces that the balancer is attached to.
    pub interfaces: Vec<InterfaceView>,
    /// The flow table.
    pub flow_table: FlowTable,
    /// How full the other maps are.
    pub maps: Vec<MapUsage>,
    /// What the kernel steers to listeners beyond what they are bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<SteeringView>,
    /// Sockets that are given a backend at connect().
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_balancing: Option<SocketBalancingView>,
    /// What the kernel redirects to listeners from cgroups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshView>,
    /// Services in file order.
    pub services: Vec<ServiceView>,
    /// HTTP listeners in file order.
    #[serde(default)]
    pub http_listeners: Vec<HttpListenerView>,
    /// Listeners that pass TCP or UDP on, in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stream_listeners: Vec<StreamListenerView>,
    /// Certificates that clients are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateView>,
    /// Same-host acceleration, if anything asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<AccelerationView>,
    /// Routes of HTTP listeners that have served something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteView>,
    /// Upper bounds of the buckets of all durations, in seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duration_bounds: Vec<f64>,
    /// Packets by reason; reasons never seen are left out.
    pub reasons: Vec<ReasonCount>,
    /// Records for observers that were lost on the way; forwarding is not affected.
    #[serde(default)]
    pub lost: Lost,
    /// When the counters were read, seconds since the epoch.
    pub read_at_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_a_service_is_its_backends_and_what_it_served_itself() {
        let service = ServiceView {
            listeners: vec![ListenerView {
                local_packets: 5,
                ..Default::default()
            }],
            backends: vec![BackendView {
                traffic: Traffic {
                    packets: 2,
                    bytes: 80,
                    ..Default::default()
                },
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(service.traffic().packets, 7);
        assert_eq!(service.traffic().bytes, 80);
    }

    #[test]
    fn counters_that_started_anew_give_no_negative_rate() {
        let before = Traffic {
            packets: 10,
            ..Default::default()
        };
        assert_eq!(
            Traffic {
                packets: 3,
                ..Default::default()
            }
            .since(before)
            .packets,
            0
        );
    }

    #[test]
    fn a_view_survives_json() {
        let view = View {
            services: vec![ServiceView::default()],
            ..Default::default()
        };
        let text = serde_json::to_string(&view).expect("serialises");
        assert_eq!(serde_json::from_str::<View>(&text).expect("parses"), view);
    }
}
