//! Configurations for the stage, as values that tests change before they are written.
//!
//! JSON is YAML, so a [`serde_json::Value`] is written as it is; a test says
//! `config["services"][0]["selection"] = json!("two-choices")`, in the words of the reference.

use crate::path::Path;
use crate::topology::{SNAT_V4, SNAT_V6, Topology};
use proxy_common::service::Mode;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// Port of the TCP service at the VIP.
pub const WEB_PORT: u16 = 80;
/// Port of the UDP echo at the VIP.
pub const ECHO_PORT: u16 = 53;
/// Port of the HTTP server on backends; the NAT modes translate to it.
pub const BACKEND_WEB_PORT: u16 = 8080;
/// Port of the UDP echo on backends.
pub const BACKEND_ECHO_PORT: u16 = 5353;

/// Index of the TCP service and listener in the configuration.
pub const WEB: usize = 0;
/// Index of the UDP service and listener.
pub const ECHO: usize = 1;

/// A configuration with the services `web` (TCP) and `echo` (UDP) at `vip`, on the backends of
/// `topology`, with HTTP health checks.
pub fn config(path: Path, topology: &Topology, vip: IpAddr) -> Value {
    let listener = |name: &str, port: u16, protocol: &str| {
        json!({
            "name": name,
            "kind": "l4",
            "address": vip.to_string(),
            "port": port,
            "protocol": protocol,
            "service": name,
        })
    };
    json!({
        "l4": { "interfaces": topology.balancer_devices },
        "listeners": [
            listener("web", WEB_PORT, "tcp"),
            listener("echo", ECHO_PORT, "udp"),
        ],
        "services": [
            service("web", path, topology, ports(path, WEB_PORT, BACKEND_WEB_PORT)),
            service("echo", path, topology, ports(path, ECHO_PORT, BACKEND_ECHO_PORT)),
        ],
    })
}

/// The backend's port: the VIP's where it cannot be translated.
fn ports(path: Path, vip: u16, backend: u16) -> u16 {
    if path.mode.is_nat() { backend } else { vip }
}

/// A service on all backends of the topology.
pub fn service(name: &str, path: Path, topology: &Topology, port: u16) -> Value {
    let mut service = json!({ "name": name, "mode": path.mode.name() });
    if path.mode == Mode::Local {
        return service;
    }
    if path.mode == Mode::FullNat {
        let source: IpAddr = if path.backend_is_v6() {
            SNAT_V6.into()
        } else {
            SNAT_V4.into()
        };
        service["source_addresses"] = json!([source]);
    }
    // Far longer than any test on a busy machine; tests of the deadline give their own.
    service["drain_timeout"] = json!("10m");
    service["health"] = json!({
        "http": { "path": "/healthz" },
        "port": BACKEND_WEB_PORT,
        // On a busy machine server and daemon both wait for a CPU. A server that is killed refuses,
        // which is noticed as fast as ever.
        "interval": "2s",
        "timeout": "1900ms",
        "rise": 1,
        "fall": 3,
    });
    service["backends"] = topology
        .backends
        .iter()
        .map(|node| {
            let address = SocketAddr::new(node.address(path.backend_is_v6()), port);
            json!({ "name": node.name, "address": address.to_string() })
        })
        .collect();
    service
}
