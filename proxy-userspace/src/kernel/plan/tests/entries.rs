//! What the entries of the maps hold.

use super::*;
use crate::config::model::Budget;
use crate::kernel::plan::filter::address_filter;
use crate::kernel::tables::Tables;
use crate::types::{PortMatch, Protocol};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::hash::filter_bit;
use proxy_common::service::{Service, ServiceKey, ServiceRef, kind, service_flags};
use proxy_common::settings::settings_flags;
use std::net::IpAddr;
use std::time::Duration;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

/// The first backend's entry of `web` in this mode with this address.
fn entry(mode: Mode, address: &str, change: impl FnOnce(&mut Config)) -> Backend {
    let mut config = web();
    config.services[0] = service("web", mode, &[address]);
    change(&mut config);
    fresh(&config).1.state.backends[0].1
}

#[test]
fn a_backend_of_a_nat_mode_has_its_port_and_no_tunnel() {
    assert_eq!(
        entry(Mode::Nat, "10.0.0.1", |config| config.services[0]
            .backends[0]
            .weight = 9),
        Backend {
            addr: addr("10.0.0.1"),
            weight: 9,
            port_be: 80u16.to_be(),
            service: 1,
            state: BackendState::Up.code(),
            mode: Mode::Nat.code(),
            protocol: 6,
            ..Backend::default()
        }
    );
    let keeps_port = |config: &mut Config| config.services[0].backends[0].port = None;
    assert_eq!(entry(Mode::Nat, "10.0.0.1", keeps_port).port_be, 0);
}

#[test]
fn the_host_bits_of_the_tunnel_prefix_carry_the_hash() {
    for (mode, address, prefix, source, mask) in [
        (
            Mode::DsrIpip,
            "10.0.0.1",
            "198.51.100.7/24",
            "198.51.100.0",
            0xff,
        ),
        (
            Mode::DsrIpip,
            "10.0.0.1",
            "198.51.100.7/32",
            "198.51.100.7",
            0,
        ),
        (Mode::DsrGue, "10.0.0.1", "0.0.0.0/0", "0.0.0.0", u32::MAX),
        (
            Mode::DsrIpip,
            "2001:db8::9",
            "2001:db8:ff::/64",
            "2001:db8:ff::",
            u32::MAX,
        ),
        (
            Mode::DsrIpip,
            "2001:db8::9",
            "2001:db8:ff::1:0/112",
            "2001:db8:ff::1:0",
            0xffff,
        ),
        (
            Mode::DsrGue,
            "2001:db8::9",
            "2001:db8:ff::1/128",
            "2001:db8:ff::1",
            0,
        ),
    ] {
        let entry = entry(mode, address, |config| {
            config.data_plane_mut().tunnel_source_v4 = prefix.parse().ok();
            config.data_plane_mut().tunnel_source_v6 = prefix.parse().ok();
        });
        assert_eq!(
            (entry.encap_src, entry.encap_src_mask),
            (addr(source), mask),
            "{prefix}"
        );
        assert_eq!(entry.state, BackendState::Up.code());
    }
}

#[test]
fn only_gue_has_a_tunnel_port() {
    let port = |mode| u16::from_be(entry(mode, "10.0.0.1", |_| {}).gue_port_be);
    assert_eq!(port(Mode::DsrGue), 6080);
    assert_eq!(port(Mode::DsrIpip), 0);
    assert_eq!(
        entry(Mode::DsrL2, "10.0.0.1", |_| {}).encap_src,
        Addr::UNSPECIFIED
    );
}

#[test]
fn without_tunnel_prefix_the_egress_address_is_the_source_and_without_route_the_backend_is_down() {
    let mut config = web();
    config.data_plane_mut().tunnel_source_v4 = None;
    let plan_with = |kernel: &KernelState, sources: &[(&str, &str)]| {
        let mut host = host();
        host.egress_sources = (sources.iter())
            .map(|(to, from)| (to.parse().unwrap(), from.parse().unwrap()))
            .collect();
        let overlay = Overlay::default();
        let inputs = Inputs {
            config: &config,
            overlay: &overlay,
            kernel,
            host: &host,
        };
        plan(&inputs).unwrap()
    };
    let first = plan_with(&KernelState::default(), &[("10.0.0.1", "10.0.0.254")]);
    let states =
        |plan: &Plan| -> Vec<u8> { plan.state.backends.iter().map(|(_, b)| b.state).collect() };
    assert_eq!(states(&first), [1, 3, 3]);
    assert_eq!(first.state.backends[0].1.encap_src, addr("10.0.0.254"));
    assert_eq!(first.state.backends[0].1.encap_src_mask, 0);
    assert_eq!(first.warnings.len(), 2);
    assert!(
        first.warnings[0].to_string().contains("10.0.0.2"),
        "{}",
        first.warnings[0]
    );

    // A source that is known stays while the route is missing, and one that appears is used.
    let second = plan_with(&first.state, &[("10.0.0.2", "10.0.0.253")]);
    assert_eq!(states(&second), [1, 1, 3]);
    assert_eq!(second.warnings.len(), 1);

    // What planning holds down is not taken for an operator's drain by the next process.
    assert_eq!(Overlay::adopt(&config, &second.state), Overlay::default());
}

#[test]
fn a_service_has_its_times_in_ticks_and_its_budget_as_a_rate() {
    let mut config = web();
    config.listeners[0].guard.budget = Some(Budget {
        per_second: 200,
        burst: 50,
    });
    config.services[0].timeouts.syn = Duration::from_micros(1);
    config.services[0].timeouts.affinity = Duration::MAX;
    let (_, plan) = fresh(&config);
    assert_eq!(
        plan.state.services[0].1,
        Service {
            vip: addr("192.0.2.1"),
            flags: service_flags::BUDGET,
            ring_size: 251,
            syn_ticks: 1,
            established_ticks: 286_103,
            closing_ticks: 9_537,
            udp_ticks: 28_611,
            affinity_ticks: u32::MAX / 2,
            port: 80,
            mode: Mode::DsrIpip.code(),
            selection: 1,
            protocol: 6,
            budget_interval_ns: 5_000_000,
            budget_burst_ns: 49 * 5_000_000,
            ..Service::default()
        }
    );
}

#[test]
fn every_vip_has_one_key_for_echo_however_many_listeners_it_has() {
    let mut config = web();
    config
        .listeners
        .push(listener("tls", "192.0.2.1", 443, "web"));
    config
        .listeners
        .push(listener("udp", "192.0.2.1", 443, "web"));
    config.listeners[2].protocol = Protocol::Udp;
    config
        .listeners
        .push(listener("any", "192.0.2.1", 0, "web"));
    let (_, plan) = fresh(&config);
    let key = |port, protocol| ServiceKey::new(addr("192.0.2.1"), port, protocol);
    let balance = |id| ServiceRef {
        id,
        kind: kind::BALANCE,
        _pad: 0,
    };
    let echo = ServiceRef {
        id: 0,
        kind: kind::ECHO,
        _pad: 0,
    };
    assert_eq!(
        plan.state.keys,
        [
            (key(0, 0), echo),
            (key(0, 6), balance(4)),
            (key(80, 6), balance(1)),
            (key(443, 6), balance(2)),
            (key(443, 17), balance(3)),
        ]
    );
    assert_eq!(config.listeners[3].port, PortMatch::All);
}

#[test]
fn a_prefix_vip_lives_in_the_trie_and_turns_the_filter_off() {
    let mut config = web();
    config.listeners[0].vip = "192.0.2.77/24".parse().unwrap();
    config
        .listeners
        .push(listener("six", "2001:db8::/48", 443, "web"));
    let (_, plan) = fresh(&config);
    assert_eq!(plan.state.keys, []);
    let places: Vec<(u32, IpAddr, u16, u8, u8)> = (plan.state.prefixes.iter())
        .map(|(length, p, to)| {
            let addr = IpAddr::from(Addr::v6(p.addr));
            (
                *length,
                addr,
                u16::from_be_bytes(p.port),
                p.protocol,
                to.kind,
            )
        })
        .collect();
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.0".parse().unwrap(), "2001:db8::".parse().unwrap());
    assert_eq!(
        places,
        [
            (32 + 48, v6, 0, 0, kind::ECHO),
            (32 + 48, v6, 443, 6, kind::BALANCE),
            (32 + 96 + 24, v4, 0, 0, kind::ECHO),
            (32 + 96 + 24, v4, 80, 6, kind::BALANCE),
        ]
    );
    assert_eq!(plan.state.services[0].1.vip, addr("192.0.2.0"));
    assert_ne!(
        plan.state.settings.flags & settings_flags::PREFIX_SERVICES,
        0
    );
    let again = crate::kernel::plan::Ids::recover(&config, &plan.state);
    assert_eq!(again, plan.ids);
}

#[test]
fn the_filter_admits_vips_nat_backends_and_sources_only() {
    let mut config = web();
    config
        .listeners
        .push(listener("nat", "192.0.2.2", 80, "nat"));
    config
        .services
        .push(service("nat", Mode::Nat, &["10.0.1.1"]));
    config
        .listeners
        .push(listener("full", "192.0.2.3", 80, "full"));
    config
        .services
        .push(service("full", Mode::FullNat, &["10.0.2.1"]));
    config.services[2].source_addresses = vec!["192.0.2.99".parse().unwrap()];
    let (_, plan) = fresh(&config);
    let filter = address_filter(&Tables::of(&plan.state));
    let admits = |text| {
        let (word, bit) = filter_bit(&addr(text));
        filter.words[word] & bit != 0
    };
    for text in [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.99",
        "10.0.1.1",
    ] {
        assert!(admits(text), "{text}");
    }
    for text in ["10.0.0.1", "10.0.2.1", "203.0.113.1"] {
        assert!(!admits(text), "{text}");
    }
    assert_eq!(plan.state.settings.flags, settings_flags::NAT);
}

#[test]
fn the_settings_follow_the_configuration() {
    let (_, plan) = fresh(&web());
    let settings = plan.state.settings;
    assert_eq!(settings.abi, proxy_common::ABI_VERSION);
    assert_eq!((settings.cpus, settings.sets_per_cpu), (2, 64));
    assert_eq!(settings.secrets, [1, 2, 3, 4, 5]);
    assert_eq!(
        (settings.icmp_per_second, settings.route_ttl_ns),
        (100, 1_000_000_000)
    );
    assert_eq!((settings.generation, settings.guard_generation), (2, 0));
    assert_eq!((settings.selection_seed, settings.flags), (7, 0));
}
