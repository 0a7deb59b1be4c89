//! Which service a packet belongs to: exact before prefix, one port before all ports; and the
//! caches that spare the lookups.

use crate::common::{BOTH, Ends, V4, refuse, rig, run};
use proxy_common::maps;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, ServiceKey, ServiceRef, protocol};
use proxy_tests::packet::build::{Packet, socket};
use proxy_tests::packet::netns::backend;
use proxy_tests::packet::rig::{Rig, from_client};
use proxy_tests::packet::service::Wanted;

fn network(ends: &Ends) -> (&'static str, u8) {
    if ends.vip.starts_with('[') {
        ("2001:db8:f::", 48)
    } else {
        ("203.0.113.0", 24)
    }
}

fn at(address: &str, port: u16) -> String {
    let address: std::net::IpAddr = address.parse().unwrap();
    std::net::SocketAddr::new(address, port).to_string()
}

fn backend_at(ends: &Ends, last: u8) -> String {
    if ends.vip.starts_with('[') {
        format!("[fd00:1::{last}]:0")
    } else {
        format!("10.1.0.{last}:0")
    }
}

/// The backend's last octet that a SYN to `vip` goes to.
#[track_caller]
fn goes_to(rig: &mut Rig, ends: &Ends, vip: &str) -> u8 {
    let packet = Packet::tcp(ends.client, vip).syn();
    let outcome = run(rig, &packet.frame(&from_client()));
    assert_eq!(outcome.reason(), Reason::Direct, "{vip}");
    assert_eq!(outcome.frame[..5], backend(0)[..5]);
    outcome.frame[5]
}

#[test]
fn exact_comes_before_prefix_and_one_port_before_all() {
    for ends in BOTH {
        let mut rig = rig();
        let (network, length) = network(&ends);
        let vip = ends.vip_address();
        let mut add = |address: &str, port, prefix: Option<u8>, last| {
            let wanted =
                Wanted::tcp(&at(address, port), Mode::DsrL2).backend(&backend_at(&ends, last));
            let wanted = match prefix {
                Some(length) => wanted.prefix(length),
                None => wanted,
            };
            rig.serve(&wanted).unwrap();
        };
        add(network, 0, Some(length), 2);
        add(network, 443, Some(length), 3);
        add(&vip, 0, None, 4);
        add(&vip, 443, None, 5);
        add(network, 0, Some(length + 4), 6);
        let neighbour = if ends.vip.starts_with('[') {
            "2001:db8:f:ffff::9"
        } else {
            "203.0.113.99"
        };
        let near = if ends.vip.starts_with('[') {
            "2001:db8:f::9"
        } else {
            "203.0.113.9"
        };
        for (address, port, expected) in [
            (vip.as_str(), 443, 5),
            (&vip, 80, 4),
            (neighbour, 443, 3),
            (neighbour, 80, 2),
            // Among prefixes the port comes first, then the length.
            (near, 443, 3),
            (near, 80, 6),
        ] {
            assert_eq!(
                goes_to(&mut rig, &ends, &at(address, port)),
                expected,
                "{address} {port}"
            );
        }
        let outside = if ends.vip.starts_with('[') {
            "[2001:db8:e::9]:443"
        } else {
            "203.0.112.9:443"
        };
        let packet = Packet::tcp(ends.client, outside);
        refuse(
            &mut rig,
            &packet.frame(&from_client()),
            Reason::PassNotService,
        );
    }
}

#[test]
fn protocols_are_apart() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        refuse(
            &mut rig,
            &ends.udp().frame(&from_client()),
            Reason::PassNotService,
        );
        rig.serve(&Wanted::udp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        assert_eq!(
            run(&mut rig, &ends.udp().frame(&from_client())).reason(),
            Reason::Direct
        );
    }
}

#[test]
fn other_ports_of_a_vip_are_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrIpip).backend(ends.same_port))
            .unwrap();
        for port in [0, 1, 79, 81, 443, 65_535] {
            let other = ends.vip.replace(":80", &format!(":{port}"));
            // A VIP may contain ":80" only at its end here.
            let packet = Packet::tcp(ends.client, &other);
            refuse(
                &mut rig,
                &packet.frame(&from_client()),
                Reason::PassNotService,
            );
        }
    }
}

#[test]
fn a_new_service_is_seen_with_the_next_generation() {
    for ends in BOTH {
        let mut rig = rig();
        let vip = socket(ends.vip);
        rig.concern(vip.ip());
        rig.write_filter().unwrap();
        let frame = ends.tcp().syn().frame(&from_client());
        // The negative answer is cached, and outdated by the generation.
        refuse(&mut rig, &frame, Reason::PassNotService);
        refuse(&mut rig, &frame, Reason::PassNotService);
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        assert_eq!(run(&mut rig, &frame).reason(), Reason::Direct);
    }
}

#[test]
fn a_removed_service_takes_no_new_flows() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        assert_eq!(
            run(&mut rig, &ends.tcp().syn().frame(&from_client())).reason(),
            Reason::Direct
        );
        let vip = socket(ends.vip);
        let key = ServiceKey::new(vip.ip().into(), vip.port(), protocol::TCP);
        rig.remove::<_, ServiceRef>(maps::SERVICES, &key).unwrap();
        rig.settings(|_| ()).unwrap();
        let other = ends.client.replace("40000", "40001");
        let frame = ends.tcp().from(&other).syn().frame(&from_client());
        refuse(&mut rig, &frame, Reason::PassNotService);
    }
}

#[test]
fn next_hops_are_asked_again_after_their_time_and_with_each_generation() {
    for ends in BOTH {
        let mut rig = rig();
        rig.settings(|settings| settings.route_ttl_ns = 3_600_000_000_000)
            .unwrap();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        let frame = ends.tcp().frame(&from_client());
        assert_eq!(run(&mut rig, &frame).frame[..6], backend(2));
        let address = crate::common::address_of(ends.same_port);
        proxy_tests::packet::netns::ip(&format!(
            "neigh replace {address} lladdr 02:00:00:00:20:aa dev south nud permanent\n"
        ))
        .unwrap();
        assert_eq!(run(&mut rig, &frame).frame[..6], backend(2), "kept");
        rig.settings(|_| ()).unwrap();
        assert_eq!(
            run(&mut rig, &frame).frame[..6],
            backend(0xaa),
            "asked again"
        );
        rig.settings(|settings| settings.route_ttl_ns = 1).unwrap();
        run(&mut rig, &frame);
        proxy_tests::packet::netns::ip(&format!(
            "neigh replace {address} lladdr 02:00:00:00:20:bb dev south nud permanent\n"
        ))
        .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_eq!(run(&mut rig, &frame).frame[..6], backend(0xbb), "too old");
    }
}

#[test]
fn echo_is_answered_for_every_address_of_a_prefix() {
    let mut rig = rig();
    let wanted = Wanted::tcp("203.0.113.0:80", Mode::DsrL2)
        .prefix(24)
        .backend(V4.same_port);
    rig.serve(&wanted).unwrap();
    for last in [0, 1, 77, 255] {
        let echo = Packet::echo(&V4.client_address(), &format!("203.0.113.{last}"));
        assert_eq!(
            run(&mut rig, &echo.frame(&from_client())).reason(),
            Reason::EchoReply
        );
    }
    let echo = Packet::echo(&V4.client_address(), "203.0.112.1");
    refuse(
        &mut rig,
        &echo.frame(&from_client()),
        Reason::PassNotService,
    );
}

#[test]
fn nat_answers_come_from_the_address_of_the_prefix_that_was_asked() {
    for ends in BOTH {
        let mut rig = rig();
        let (network, length) = network(&ends);
        let wanted = Wanted::tcp(&at(network, 0), Mode::Nat)
            .prefix(length)
            .backend(&backend_at(&ends, 2));
        rig.serve(&wanted).unwrap();
        let vip = if ends.vip.starts_with('[') {
            "[2001:db8:f::1:9]:8443"
        } else {
            "203.0.113.9:8443"
        };
        run(
            &mut rig,
            &Packet::tcp(ends.client, vip).syn().frame(&from_client()),
        );
        rig.ingress = rig.namespace.south;
        let from = backend_at(&ends, 2).replace(":0", ":8443");
        let answer = Packet::tcp(&from, ends.client).flags(0x12);
        let expected = answer
            .clone()
            .from(vip)
            .ttl(63)
            .frame(&crate::common::to_client());
        let link = proxy_tests::packet::rig::from_backend(2);
        crate::common::expect(
            &mut rig,
            &answer.frame(&link),
            proxy_tests::packet::rig::Action::Redirect,
            Reason::Returned,
            &expected,
        );
    }
}
