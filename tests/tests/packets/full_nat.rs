//! `full-nat`: source and destination are translated, so that backends need no route back.

use crate::common::{BOTH, Ends, address_of, expect, move_on, refuse, run, to_backend, to_client};
use proxy_common::flow::SNAT_FIRST_PORT;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, protocol};
use proxy_tests::packet::build::{Body, Packet};
use proxy_tests::packet::rig::{Action, Rig, Sizes, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted};
use std::net::{IpAddr, SocketAddr};

pub(crate) fn rig() -> Rig {
    let sizes = Sizes {
        snat_addrs: 1,
        ..Sizes::default()
    };
    Rig::with(sizes).unwrap_or_else(|error| panic!("{error:#}"))
}

fn serve(rig: &mut Rig, ends: &Ends) -> Served {
    let wanted = Wanted::tcp(ends.vip, Mode::FullNat)
        .backend(ends.backend)
        .source(ends.source);
    rig.serve(&wanted).unwrap()
}

/// The source port that a translated TCP frame has.
pub(crate) fn source_port(ends: &Ends, frame: &[u8]) -> u16 {
    let at = if ends.vip.starts_with('[') { 54 } else { 34 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

pub(crate) fn source(ends: &Ends, port: u16) -> String {
    let address: IpAddr = ends.source.parse().unwrap();
    SocketAddr::new(address, port).to_string()
}

#[test]
fn both_ends_are_translated_and_the_answer_back() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let request = ends.tcp().syn();
        let outcome = run(&mut rig, &request.frame(&from_client()));
        let port = source_port(&ends, &outcome.frame);
        assert!(port >= SNAT_FIRST_PORT);
        let source = source(&ends, port);
        // The same packet again, now that the port is known, and a later one of the flow.
        for packet in [request.clone(), ends.tcp()] {
            let expected = packet.clone().from(&source).to(ends.backend).ttl(63);
            let expected = expected.frame(&to_backend(2));
            let frame = packet.frame(&from_client());
            expect(
                &mut rig,
                &frame,
                Action::Redirect,
                Reason::Translated,
                &expected,
            );
        }
        let answer = Packet::tcp(ends.backend, &source).flags(0x12);
        let expected = answer
            .clone()
            .from(ends.vip)
            .to(ends.client)
            .ttl(63)
            .frame(&to_client());
        rig.ingress = rig.namespace.south;
        let frame = answer.frame(&from_backend(2));
        expect(
            &mut rig,
            &frame,
            Action::Redirect,
            Reason::Returned,
            &expected,
        );
    }
}

#[test]
fn two_clients_with_one_port_get_two_source_ports() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let other = if ends.vip.starts_with('[') {
            "[2001:db8:c::8]:40000"
        } else {
            "198.51.100.8:40000"
        };
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let second = run(
            &mut rig,
            &ends.tcp().from(other).syn().frame(&from_client()),
        );
        assert_ne!(
            source_port(&ends, &first.frame),
            source_port(&ends, &second.frame)
        );
    }
}

#[test]
fn an_answer_from_elsewhere_is_not_translated() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let outcome = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let source = source(&ends, source_port(&ends, &outcome.frame));
        rig.ingress = rig.namespace.south;
        for stranger in [ends.second, &ends.backend.replace(":8080", ":8081")] {
            let frame = Packet::tcp(stranger, &source).frame(&from_backend(3));
            refuse(&mut rig, &frame, Reason::PassNoFlow);
        }
    }
}

#[test]
fn a_service_without_free_ports_drops_new_flows_and_keeps_the_old() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        rig.change_service(served.id, |service| {
            service.snat4_count = 0;
            service.snat6_count = 0;
        })
        .unwrap();
        let other = ends.client.replace("40000", "40001");
        let fresh = ends.tcp().from(&other).syn();
        refuse(
            &mut rig,
            &fresh.frame(&from_client()),
            Reason::DropPortsExhausted,
        );
        assert_eq!(
            run(&mut rig, &ends.tcp().frame(&from_client())).reason(),
            Reason::Translated
        );
    }
}

#[test]
fn every_port_of_a_cpu_is_used_before_flows_are_dropped() {
    let ends = crate::common::V4;
    let sizes = Sizes {
        snat_addrs: 1,
        sets_per_cpu: 16_384,
        ..Sizes::default()
    };
    let mut rig = Rig::with(sizes).unwrap();
    serve(&mut rig, &ends);
    let per_cpu = (65_536 - u32::from(SNAT_FIRST_PORT)) / proxy_tests::packet::rig::cpus().unwrap();
    let flow = |n: u32| {
        let client = format!(
            "198.51.{}.{}:{}",
            n / 250 % 250,
            n % 250 + 1,
            2000 + n / 62_500
        );
        ends.tcp().from(&client).syn().frame(&from_client())
    };
    rig.flood((0..per_cpu).map(flow)).unwrap();
    rig.forget_reasons().unwrap();
    let opened = rig.backend_stats(1).unwrap().new_flows;
    assert_eq!(opened, u64::from(per_cpu), "each port serves one flow");
    refuse(&mut rig, &flow(per_cpu + 1), Reason::DropPortsExhausted);
}

#[test]
fn errors_about_answers_reach_the_backend_by_the_source_it_knows() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let outcome = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let source = source(&ends, source_port(&ends, &outcome.frame));
        let router = if ends.vip.starts_with('[') {
            "2001:db8:99::1"
        } else {
            "198.18.0.1"
        };
        let sent = Packet::tcp(ends.vip, ends.client).payload(&[0x42; 60]);
        let meant = sent.clone().from(ends.backend).to(&source);
        let error = Packet::too_big(router, &ends.vip_address(), 1280, &sent.bytes());
        let backend = address_of(ends.backend);
        let expected = Packet::too_big(router, &backend, 1280, &meant.bytes()).ttl(63);
        expect(
            &mut rig,
            &error.frame(&from_client()),
            Action::Redirect,
            Reason::IcmpError,
            &expected.frame(&to_backend(2)),
        );
    }
}

#[test]
fn errors_about_requests_reach_the_client_by_the_vip_it_knows() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let request = ends.tcp().syn();
        let outcome = run(&mut rig, &request.frame(&from_client()));
        let source = source(&ends, source_port(&ends, &outcome.frame));
        let translated = request.clone().from(&source).to(ends.backend).ttl(60);
        let original = request.ttl(60);
        let v6 = ends.vip.starts_with('[');
        let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
        let backend = address_of(ends.backend);
        let error = Packet::icmp(&backend, ends.source, kind, code, [0; 4]);
        let error = error.payload(&translated.bytes());
        let expected = Packet::icmp(
            &ends.vip_address(),
            &ends.client_address(),
            kind,
            code,
            [0; 4],
        )
        .payload(&original.bytes())
        .ttl(63);
        rig.ingress = rig.namespace.south;
        expect(
            &mut rig,
            &error.frame(&from_backend(2)),
            Action::Redirect,
            Reason::IcmpError,
            &expected.frame(&to_client()),
        );
    }
}

#[test]
fn udp_and_tcp_ports_are_apart() {
    let ends = crate::common::V4;
    let mut rig = rig();
    serve(&mut rig, &ends);
    let wanted = Wanted::udp(ends.vip, Mode::FullNat)
        .backend(ends.backend)
        .with(|service| service.snat4_count = 1);
    let served = rig.serve(&wanted).unwrap();
    rig.change_service(served.id, |service| {
        service.snat4_first = 0;
        service.snat4_count = 1;
    })
    .unwrap();
    let outcome = run(&mut rig, &ends.udp().frame(&from_client()));
    let source = source(&ends, source_port(&ends, &outcome.frame));
    rig.ingress = rig.namespace.south;
    let answer = Packet::udp(ends.backend, &source).payload(b"answer");
    let expected = answer
        .clone()
        .from(ends.vip)
        .to(ends.client)
        .ttl(63)
        .frame(&to_client());
    let frame = answer.frame(&from_backend(2));
    expect(
        &mut rig,
        &frame,
        Action::Redirect,
        Reason::Returned,
        &expected,
    );
    let wrong = Packet::tcp(ends.backend, &source);
    assert!(matches!(wrong.body, Body::Tcp(_)) && wrong.protocol() == protocol::TCP);
    refuse(&mut rig, &wrong.frame(&from_backend(2)), Reason::PassNoFlow);
}

#[test]
fn a_syn_that_is_sent_again_on_another_cpu_keeps_its_port() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        let syn = ends.tcp().syn().frame(&from_client());
        let first = run(&mut rig, &syn);
        if !move_on(&mut rig) {
            return;
        }
        let again = run(&mut rig, &syn);
        assert_eq!(
            source_port(&ends, &again.frame),
            source_port(&ends, &first.frame),
            "the backend would see two connections"
        );
    }
}
