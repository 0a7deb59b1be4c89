//! `nat`: the destination is translated on the way in, the source on the way back.

use crate::common::{
    BOTH, Ends, expect, refuse, rig, run, to_backend, to_client, to_north, to_south_gateway,
};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted};
use proxy_tests::packet::wire::{Link, Mac};

/// The packet as a router sends it on: one hop less.
fn routed(packet: Packet) -> Packet {
    packet.ttl(63)
}

fn serve(rig: &mut Rig, ends: &Ends, backend: &str) -> Served {
    let served = rig
        .serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(backend))
        .unwrap();
    rig.serve(&Wanted::udp(ends.vip, Mode::Nat).backend(backend))
        .unwrap();
    served
}

/// Has a client's packet translated, and sent to the backend's link.
#[track_caller]
fn expect_translated(rig: &mut Rig, packet: &Packet, backend: &str) {
    let expected = routed(packet.clone().to(backend)).frame(&to_backend(2));
    let frame = packet.frame(&from_client());
    expect(rig, &frame, Action::Redirect, Reason::Translated, &expected);
}

#[test]
fn destination_and_port_are_translated() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        for packet in [ends.tcp().syn(), ends.tcp(), ends.tcp().fin(), ends.udp()] {
            expect_translated(&mut rig, &packet, ends.backend);
        }
    }
}

#[test]
fn a_backend_without_port_keeps_the_clients_port() {
    for ends in BOTH {
        let mut rig = rig();
        let backend = ends.backend.replace(":8080", ":0");
        serve(&mut rig, &ends, &backend);
        let packet = ends.tcp().syn();
        expect_translated(&mut rig, &packet, ends.same_port);
    }
}

#[test]
fn answers_come_from_the_vip() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        for udp in [false, true] {
            let request = if udp { ends.udp() } else { ends.tcp().syn() };
            run(&mut rig, &request.frame(&from_client()));
            let answer = if udp {
                Packet::udp(ends.backend, ends.client).payload(b"an answer")
            } else {
                Packet::tcp(ends.backend, ends.client).flags(0x12)
            };
            let expected = routed(answer.clone().from(ends.vip)).frame(&to_client());
            rig.ingress = rig.namespace.south;
            let frame = answer.frame(&from_backend(2));
            expect(
                &mut rig,
                &frame,
                Action::Redirect,
                Reason::Returned,
                &expected,
            );
            rig.ingress = rig.namespace.north;
        }
    }
}

#[test]
fn an_answer_without_flow_is_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        rig.ingress = rig.namespace.south;
        let stray = Packet::tcp(ends.backend, ends.client);
        refuse(&mut rig, &stray.frame(&from_backend(2)), Reason::PassNoFlow);
    }
}

#[test]
fn other_traffic_of_a_backend_is_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        rig.ingress = rig.namespace.south;
        let other_port = ends.backend.replace(":8080", ":22");
        let stray = Packet::tcp(&other_port, ends.client);
        refuse(&mut rig, &stray.frame(&from_backend(2)), Reason::PassNoFlow);
    }
}

#[test]
fn next_hops_come_from_the_routing_table() {
    for ends in BOTH {
        let ways: [(&str, Link, Action); 2] = [
            (ends.north, to_north(10), Action::Tx),
            (ends.routed, to_south_gateway(), Action::Redirect),
        ];
        for (backend, link, action) in ways {
            let mut rig = rig();
            serve(&mut rig, &ends, backend);
            let packet = ends.tcp().syn();
            let expected = routed(packet.clone().to(backend)).frame(&link);
            expect(
                &mut rig,
                &packet.frame(&from_client()),
                action,
                Reason::Translated,
                &expected,
            );
        }
    }
}

#[test]
fn a_packet_whose_hops_ran_out_is_dropped() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        for ttl in [0, 1] {
            refuse(
                &mut rig,
                &ends.tcp().ttl(ttl).frame(&from_client()),
                Reason::DropTtlExpired,
            );
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let ends = crate::common::V4;
    let mut rig = rig();
    serve(&mut rig, &ends, ends.backend);
    let packet = ends.udp().without_checksum();
    expect_translated(&mut rig, &packet, ends.backend);
}

/// A checksum that comes out as 0 must be sent as 0xffff (RFC 768), and 0 never for TCP's sake.
#[test]
fn no_udp_checksum_becomes_zero() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        let translated =
            |payload: &[u8]| routed(ends.udp().payload(payload).to(ends.backend)).transport();
        // The payload word that makes the translated checksum 0 is the checksum without it.
        let plain = translated(&[0, 0]);
        let payload = [plain[6], plain[7]];
        let expected = routed(ends.udp().payload(&payload).to(ends.backend));
        assert_eq!(
            expected.transport()[6..8],
            [0xff, 0xff],
            "the case is built wrongly"
        );
        expect_translated(&mut rig, &ends.udp().payload(&payload), ends.backend);
    }
}

#[test]
fn checksums_are_right_for_every_carry() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        for word in (0..=0xffffu16).step_by(257) {
            let mut packet = ends.tcp().payload(&word.to_be_bytes());
            if let proxy_tests::packet::build::Ip::V4(ip) = &mut packet.ip {
                ip.id = word;
            }
            expect_translated(&mut rig, &packet, ends.backend);
        }
    }
}

#[test]
fn type_of_service_and_options_survive() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        // No-operation padding, as long as options may be.
        for packet in [ends.tcp().tos(0xb9), ends.tcp().options(&[1; 40])] {
            expect_translated(&mut rig, &packet, ends.backend);
        }
    }
}

#[test]
fn ethernet_padding_is_kept() {
    let ends = crate::common::V4;
    let mut rig = rig();
    serve(&mut rig, &ends, ends.backend);
    let pad = |mut frame: Vec<u8>| {
        frame.resize(60, 0);
        frame
    };
    let packet = ends.tcp().payload(b"").syn();
    let expected = pad(routed(packet.clone().to(ends.backend)).frame(&to_backend(2)));
    let frame = pad(packet.frame(&from_client()));
    expect(
        &mut rig,
        &frame,
        Action::Redirect,
        Reason::Translated,
        &expected,
    );
}

#[test]
fn errors_about_answers_go_to_the_backend_as_it_knows_the_flow() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let router = if ends.vip.starts_with('[') {
            "2001:db8:99::1"
        } else {
            "198.18.0.1"
        };
        let sent = Packet::tcp(ends.vip, ends.client).payload(&[0x42; 100]);
        let meant = sent.clone().from(ends.backend);
        let backend = crate::common::address_of(ends.backend);
        for cut in [0, 72] {
            let quoted = |packet: &Packet| {
                let bytes = packet.bytes();
                bytes[..bytes.len() - cut].to_vec()
            };
            let error = Packet::too_big(router, &ends.vip_address(), 1280, &quoted(&sent));
            let expected = Packet::too_big(router, &backend, 1280, &quoted(&meant)).ttl(63);
            expect(
                &mut rig,
                &error.frame(&from_client()),
                Action::Redirect,
                Reason::IcmpError,
                &expected.frame(&to_backend(2)),
            );
        }
    }
}

#[test]
fn errors_about_requests_go_to_the_client_as_it_knows_the_flow() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, ends.backend);
        let request = ends.tcp().syn();
        run(&mut rig, &request.frame(&from_client()));
        rig.ingress = rig.namespace.south;
        let v6 = ends.vip.starts_with('[');
        let backend = crate::common::address_of(ends.backend);
        let client = ends.client_address();
        // The backend refuses by itself: the client must see the VIP refuse.
        let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
        let translated = routed(request.clone().to(ends.backend)).ttl(60);
        let original = request.clone().ttl(60);
        let error =
            Packet::icmp(&backend, &client, kind, code, [0; 4]).payload(&translated.bytes());
        let expected = Packet::icmp(&ends.vip_address(), &client, kind, code, [0; 4])
            .payload(&original.bytes())
            .ttl(63);
        expect(
            &mut rig,
            &error.frame(&from_backend(2)),
            Action::Redirect,
            Reason::IcmpError,
            &expected.frame(&to_client()),
        );
        // A router on the way reports: it stays the sender.
        let router = if v6 { "fd00:1::fe" } else { "10.1.0.254" };
        let error = Packet::too_big(router, &client, 1300, &translated.bytes());
        let expected = Packet::too_big(router, &client, 1300, &original.bytes()).ttl(63);
        let gateway: Mac = proxy_tests::packet::netns::SOUTH_GATEWAY;
        let link = Link::new(proxy_tests::packet::netns::SOUTH, gateway);
        expect(
            &mut rig,
            &error.frame(&link),
            Action::Redirect,
            Reason::IcmpError,
            &expected.frame(&to_client()),
        );
    }
}
