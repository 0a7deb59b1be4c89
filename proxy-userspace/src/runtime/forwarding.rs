//! Whether the kernel forwards where it has to.
//!
//! Next hops come from the kernel's routing table, which answers XDP only on interfaces that
//! forward. Forgetting the switch is the most common reason for a first balancer that drops
//! everything with `no_route`, so the daemon says so when it starts. It does not set the switch
//! itself: whether a host forwards is the administrator's decision.

use super::overlay;
use crate::config::model::Config;
use crate::kernel::aim::LOOPBACK;
use proxy_common::service::Mode;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// The switches that are off although a backend needs them, as `sysctl` keys.
///
/// `read` gives the value of a file under `/proc/sys`, if it can be read.
pub(super) fn switched_off(config: &Config, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let forwarding = config
        .services
        .iter()
        .filter(|service| service.mode != Mode::Local);
    let families: BTreeSet<&str> = forwarding
        .flat_map(|service| &service.backends)
        .map(|backend| match backend.address {
            IpAddr::V4(_) => "ipv4",
            IpAddr::V6(_) => "ipv6",
        })
        .collect();
    let interfaces = config.data_plane().interfaces.iter();
    // Probes to VIPs start on their way to the backend from there.
    let loopback = overlay::probes_vips(config).then_some(LOOPBACK);
    let names = interfaces
        .map(|interface| interface.name.as_str())
        .chain(loopback);
    let switches = names.flat_map(|name| families.iter().map(move |family| (*family, name)));
    switches
        .filter(|(family, name)| {
            let value = read(&format!("net/{family}/conf/{name}/forwarding"));
            value.is_some_and(|value| value.trim() == "0")
        })
        // A dot in the name of a VLAN interface is a slash in a key (sysctl.d(5)).
        .map(|(family, name)| format!("net.{family}.conf.{}.forwarding", name.replace('.', "/")))
        .collect()
}

/// What to do about a switch that is off.
pub(super) fn advice(key: &str) -> String {
    format!("{key} is 0, so the kernel finds no next hops there: `sysctl -w {key}=1`")
}

/// Reads a file under `/proc/sys`.
pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(mode: &str, backend: &str, values: &[(&str, &str)]) -> Vec<String> {
        let backends = format!("backends: ['{backend}'], ");
        let text = format!(
            "l4: {{interfaces: [eth0, eth1.7]}}\n\
             listeners: [{{name: a, kind: l4, address: {}, port: 80, service: a}}]\n\
             services: [{{name: a, {}mode: {mode}}}]",
            if backend.starts_with('[') {
                "'2001:db8::1'"
            } else {
                "192.0.2.1"
            },
            if mode == "local" { "" } else { &backends },
        );
        let loaded = crate::config::parse("test", &text);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        switched_off(&loaded.config, |path| {
            let found = values.iter().find(|(known, _)| *known == path);
            Some(found.map_or("1", |(_, value)| *value).to_owned())
        })
    }

    const V4: &str = "net/ipv4/conf/eth1.7/forwarding";

    #[test]
    fn only_the_family_of_a_backend_matters() {
        let both = [(V4, "0\n"), ("net/ipv6/conf/eth0/forwarding", "0\n")];
        assert_eq!(
            off("nat", "10.0.0.1:80", &both),
            ["net.ipv4.conf.eth1/7.forwarding"]
        );
        assert_eq!(
            off("nat", "[2001:db8::2]:80", &both),
            ["net.ipv6.conf.eth0.forwarding"]
        );
    }

    #[test]
    fn probes_to_a_vip_need_forwarding_from_loopback() {
        let lo = [("net/ipv4/conf/lo/forwarding", "0\n")];
        assert!(off("dsr-l2", "192.0.2.9", &lo).is_empty());
        let checked = "dsr-l2, health: {tcp: {}, target: vip}";
        assert_eq!(
            off(checked, "192.0.2.9", &lo),
            ["net.ipv4.conf.lo.forwarding"]
        );
    }

    #[test]
    fn a_local_service_needs_no_forwarding() {
        assert!(off("local", "10.0.0.1:80", &[(V4, "0\n")]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_not_complained_about() {
        let text = "l4: {interfaces: [eth0]}";
        let config = crate::config::parse("test", text).expect("valid").config;
        assert!(switched_off(&config, |_| None).is_empty());
    }
}
