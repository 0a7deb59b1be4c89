use super::super::testing::health_check;
use super::*;
use crate::config::model::{Guard, Timeouts};
use crate::types::Protocol;
use proxy_common::service::{Mode, Selection};
use std::time::Duration;

fn service(name: &str, backends: Vec<Backend>, health: Option<HealthCheck>) -> Service {
    let hour = Duration::from_secs(3600);
    Service {
        name: name.to_owned(),
        mode: Mode::Nat,
        selection: Selection::Maglev,
        ring_size: 65537,
        source_addresses: Vec::new(),
        timeouts: Timeouts {
            syn: hour,
            established: hour,
            closing: hour,
            udp: hour,
            affinity: hour,
        },
        drain_timeout: hour,
        backends,
        health,
        ..Service::new("")
    }
}

fn backend(name: &str, port: Option<u16>) -> Backend {
    Backend {
        name: name.to_owned(),
        address: "10.0.0.1".parse().unwrap(),
        port,
        weight: 1,
    }
}

fn listener(vip: &str, port: PortMatch, service: &str) -> Listener {
    Listener {
        name: format!("{service}-{vip}-{port}"),
        vip: vip.parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
        service: service.to_owned(),
        guard: Guard::default(),
    }
}

fn config(listeners: Vec<Listener>, services: Vec<Service>) -> Config {
    Config {
        listeners,
        services,
        ..Config::default()
    }
}

/// The destination of the only backend's probes.
fn target(listeners: Vec<Listener>, port: Option<u16>, health: HealthCheck) -> Target {
    let services = vec![service("web", vec![backend("b1", port)], Some(health))];
    let known = Known {
        adopted: Some(true),
        mark: Some(7),
    };
    let checks = checks(
        &config(listeners, services),
        &Named::default(),
        &Seals::default(),
        |_, _| known,
    )
    .unwrap();
    assert_eq!(checks.len(), 1);
    assert_eq!(checks[0].adopted, Some(true));
    checks[0].target
}

fn through_vip() -> HealthCheck {
    HealthCheck {
        target: ProbeTarget::Vip,
        ..health_check()
    }
}

#[test]
fn service_without_health_check_has_no_checks() {
    let config = config(
        vec![],
        vec![
            service("plain", vec![backend("b1", Some(80))], None),
            service(
                "web",
                vec![backend("b1", Some(80)), backend("b2", Some(81))],
                Some(health_check()),
            ),
        ],
    );
    let checks = checks(&config, &Named::default(), &Seals::default(), |_, _| {
        Known::default()
    })
    .unwrap();
    let names: Vec<_> = checks.iter().map(|check| check.name.to_string()).collect();
    assert_eq!(names, ["web/b1", "web/b2"]);
    assert!(
        Arc::ptr_eq(&checks[0].health, &checks[1].health),
        "one check is shared"
    );
}

#[test]
fn port_is_the_checks_then_the_backends_then_the_listeners() {
    let vip = || vec![listener("192.0.2.1/32", PortMatch::One(443), "web")];
    let with_port = HealthCheck {
        port: Some(9),
        ..health_check()
    };
    let address = |target: Target| target.address.to_string();
    assert_eq!(address(target(vip(), Some(80), with_port)), "10.0.0.1:9");
    assert_eq!(
        address(target(vip(), Some(80), health_check())),
        "10.0.0.1:80"
    );
    assert_eq!(address(target(vip(), None, health_check())), "10.0.0.1:443");
}

#[test]
fn probe_of_the_backend_itself_bears_no_mark() {
    let target = target(vec![], Some(80), health_check());
    assert_eq!((target.mark, target.through), (None, None));
}

#[test]
fn probe_through_the_vip_goes_to_its_address_with_the_backends_mark() {
    let listeners = vec![
        listener("192.0.2.9/32", PortMatch::All, "web"),
        listener("192.0.2.8/32", PortMatch::One(80), "other"),
        listener("192.0.2.1/32", PortMatch::One(443), "web"),
    ];
    let target = target(listeners, None, through_vip());
    assert_eq!(target.address.to_string(), "192.0.2.1:443");
    assert_eq!(target.mark, Some(7));
    assert_eq!(target.through, Some("10.0.0.1".parse().unwrap()));
}

#[test]
fn probe_through_the_vip_goes_to_a_tcp_listener_with_the_checked_port() {
    let udp = |vip: &str, port| Listener {
        protocol: Protocol::Udp,
        ..listener(vip, port, "web")
    };
    let listeners = || {
        vec![
            udp("192.0.2.7/32", PortMatch::One(53)),
            listener("192.0.2.8/32", PortMatch::One(80), "web"),
            listener("192.0.2.9/32", PortMatch::One(443), "web"),
        ]
    };
    let check = |port| HealthCheck {
        port,
        ..through_vip()
    };
    let address = |port| target(listeners(), None, check(port)).address.to_string();
    assert_eq!(address(None), "192.0.2.8:80");
    assert_eq!(address(Some(443)), "192.0.2.9:443");
    let all = vec![
        listener("192.0.2.8/32", PortMatch::One(80), "web"),
        listener("192.0.2.9/32", PortMatch::All, "web"),
    ];
    let target = target(all, None, check(Some(8443)));
    assert_eq!(target.address.to_string(), "192.0.2.9:8443");
    let services = vec![service("web", vec![backend("b1", None)], Some(check(None)))];
    let only_udp = config(vec![udp("192.0.2.7/32", PortMatch::One(53))], services);
    let refused = checks(&only_udp, &Named::default(), &Seals::default(), |_, _| {
        Known::default()
    })
    .unwrap_err();
    assert!(matches!(refused, CheckError::NoVip { .. }), "{refused}");
}

#[test]
fn of_a_prefix_the_address_behind_the_first_is_probed() {
    for (vip, probed) in [
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.2.16/28", "192.0.2.17"),
        ("192.0.2.6/31", "192.0.2.6"),
        ("2001:db8::7/128", "2001:db8::7"),
        ("2001:db8::/64", "2001:db8::1"),
    ] {
        let address = one_of(vip.parse().unwrap());
        assert_eq!(address.to_string(), probed, "{vip}");
    }
}

#[test]
fn check_without_destination_is_an_error_that_names_the_service() {
    let message = |listeners, health| {
        let services = vec![service("web", vec![backend("b1", None)], Some(health))];
        checks(
            &config(listeners, services),
            &Named::default(),
            &Seals::default(),
            |_, _| Known::default(),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        message(vec![], through_vip()),
        "service `web`: health probes go to the VIP, but no TCP listener with the port to probe \
         uses the service: set `target: backend`"
    );
    let all_ports = vec![listener("192.0.2.1/32", PortMatch::All, "web")];
    let expected = "service `web`: backend `b1` has no port to probe: set `health.port`";
    assert_eq!(message(all_ports.clone(), health_check()), expected);
    assert_eq!(message(all_ports, through_vip()), expected);
}
