//! Direct server return: MAC addresses only, IP in IP, GUE.

use crate::common::{
    BOTH, Ends, V4, V6, address_of, expect, refuse, rig, run, same, to_backend, to_north,
    to_south_gateway,
};
use proxy_common::maps::DEFAULT_GUE_PORT;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::service::{Served, TUNNEL_V4, TUNNEL_V6, Wanted};
use proxy_tests::packet::wire::{Udp, V4 as V4Header, V6 as V6Header, protocol};
use std::net::IpAddr;

fn serve(rig: &mut Rig, ends: &Ends, mode: Mode, backend: &str) -> Served {
    let served = rig
        .serve(&Wanted::tcp(ends.vip, mode).backend(backend))
        .unwrap();
    rig.serve(&Wanted::udp(ends.vip, mode).backend(backend))
        .unwrap();
    served
}

/// The IP packet in an outer header to `backend`: TTL 64, everything else as the rules of
/// `rewrite/encap` say.
fn tunnel(
    inner: &[u8],
    tos: u8,
    dont_fragment: bool,
    backend: &str,
    next: u8,
    body: &[u8],
) -> Vec<u8> {
    let backend: IpAddr = address_of(backend).parse().unwrap();
    let _ = inner;
    match backend {
        IpAddr::V4(dst) => {
            let mut outer = V4Header::new(TUNNEL_V4, dst);
            outer.tos = tos;
            outer.fragment = if dont_fragment { 0x4000 } else { 0 };
            outer.packet(next, body)
        }
        IpAddr::V6(dst) => {
            let mut outer = V6Header::new(TUNNEL_V6, dst);
            outer.class = tos;
            outer.packet(next, body)
        }
    }
}

fn ipip(packet: &Packet, tos: u8, dont_fragment: bool, backend: &str) -> Vec<u8> {
    let inner = packet.bytes();
    let next = if inner[0] >> 4 == 4 {
        protocol::IPIP
    } else {
        protocol::IPV6
    };
    tunnel(&inner, tos, dont_fragment, backend, next, &inner)
}

fn gue(packet: &Packet, backend: &str, src_port: u16) -> Vec<u8> {
    let inner = packet.bytes();
    let udp = Udp {
        src_port,
        dst_port: DEFAULT_GUE_PORT,
        checksum: false,
    };
    let to: IpAddr = address_of(backend).parse().unwrap();
    let body = udp.datagram(to, to, &inner);
    tunnel(&inner, 0, true, backend, protocol::UDP, &body)
}

#[test]
fn l2_changes_only_mac_addresses() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2, ends.same_port);
        for packet in [ends.tcp().syn(), ends.tcp(), ends.udp(), ends.tcp().ttl(1)] {
            let frame = packet.frame(&from_client());
            let expected = packet.frame(&to_backend(2));
            expect(
                &mut rig,
                &frame,
                Action::Redirect,
                Reason::Direct,
                &expected,
            );
        }
    }
}

#[test]
fn l2_goes_back_out_of_the_same_interface() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2, ends.north);
        let packet = ends.tcp().syn();
        let expected = packet.frame(&to_north(10));
        let frame = packet.frame(&from_client());
        expect(&mut rig, &frame, Action::Tx, Reason::Direct, &expected);
    }
}

#[test]
fn ipip_wraps_v4_in_v4_v6_in_v6_and_v4_in_v6() {
    for (ends, to) in [(V4, V4), (V6, V6), (V4, V6)] {
        for (backend, link, action) in [
            (to.same_port, to_backend(2), Action::Redirect),
            (to.routed, to_south_gateway(), Action::Redirect),
            (to.north, to_north(10), Action::Tx),
        ] {
            let mut rig = rig();
            serve(&mut rig, &ends, Mode::DsrIpip, backend);
            for packet in [ends.tcp().syn(), ends.tcp(), ends.udp(), ends.tcp().ttl(1)] {
                let expected = link.frame(&ipip(&packet, 0, true, backend));
                let frame = packet.frame(&from_client());
                expect(&mut rig, &frame, action, Reason::Encapsulated, &expected);
            }
        }
    }
}

#[test]
fn ipip_copies_type_of_service_and_dont_fragment() {
    for (ends, to) in [(V4, V4), (V6, V6), (V4, V6)] {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrIpip, to.same_port);
        for (tos, dont_fragment) in [(0x8c, true), (0x03, false), (0xff, true)] {
            let packet = ends.tcp().tos(tos).dont_fragment(dont_fragment);
            let copied = dont_fragment || ends.vip.starts_with('[');
            let expected = to_backend(2).frame(&ipip(&packet, tos, copied, to.same_port));
            let frame = packet.frame(&from_client());
            expect(
                &mut rig,
                &frame,
                Action::Redirect,
                Reason::Encapsulated,
                &expected,
            );
        }
    }
}

#[test]
fn v6_does_not_fit_a_v4_tunnel() {
    for mode in [Mode::DsrIpip, Mode::DsrGue] {
        let mut rig = rig();
        serve(&mut rig, &V6, mode, V4.same_port);
        refuse(
            &mut rig,
            &V6.tcp().syn().frame(&from_client()),
            Reason::DropFamily,
        );
    }
}

#[test]
fn gue_puts_udp_between_the_headers() {
    for (ends, to) in [(V4, V4), (V6, V6), (V4, V6)] {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrGue, to.same_port);
        for packet in [ends.tcp().syn(), ends.tcp(), ends.udp()] {
            let outcome = run(&mut rig, &packet.frame(&from_client()));
            let at = 14 + if to.vip.starts_with('[') { 40 } else { 20 };
            let src_port = u16::from_be_bytes([outcome.frame[at], outcome.frame[at + 1]]);
            assert!(
                src_port >= 0xc000,
                "the source port is a dynamic one: {src_port}"
            );
            assert_eq!(outcome.action, Action::Redirect);
            assert_eq!(outcome.reason(), Reason::Encapsulated);
            same(
                &outcome.frame,
                &to_backend(2).frame(&gue(&packet, to.same_port, src_port)),
            );
        }
    }
}

#[test]
fn gue_keeps_a_flow_on_one_source_port_and_spreads_flows() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrGue, ends.same_port);
        let at = 14 + if ends.vip.starts_with('[') { 40 } else { 20 };
        let mut ports = std::collections::HashSet::new();
        for port in 0..64 {
            let client = ends.client.replace("40000", &format!("{}", 40_000 + port));
            let packet = ends.tcp().from(&client);
            let mut seen: Vec<[u8; 2]> = Vec::new();
            for packet in [packet.clone().syn(), packet.clone(), packet] {
                let outcome = run(&mut rig, &packet.frame(&from_client()));
                seen.push([outcome.frame[at], outcome.frame[at + 1]]);
            }
            assert!(
                seen.iter().all(|port| *port == seen[0]),
                "one flow, one port: {seen:?}"
            );
            ports.insert(seen[0]);
        }
        assert!(
            ports.len() > 48,
            "only {} source ports for 64 flows",
            ports.len()
        );
    }
}

#[test]
fn the_outer_source_carries_the_flows_hash_under_its_mask() {
    for (ends, mask) in [(V4, 0xffff_u32), (V6, 0xffff_ffff)] {
        let mut rig = rig();
        let wanted = Wanted::tcp(ends.vip, Mode::DsrIpip)
            .backend(ends.same_port)
            .spread(mask);
        rig.serve(&wanted).unwrap();
        let (at, len) = if ends.vip.starts_with('[') {
            (14 + 8, 16)
        } else {
            (14 + 12, 4)
        };
        let configured: Vec<u8> = match address_of(ends.same_port).parse().unwrap() {
            IpAddr::V4(_) => TUNNEL_V4.octets().to_vec(),
            IpAddr::V6(_) => TUNNEL_V6.octets().to_vec(),
        };
        let free = mask.count_ones() as usize / 8;
        let mut sources = std::collections::HashSet::new();
        for port in 0..64 {
            let client = ends.client.replace("40000", &format!("{}", 40_000 + port));
            let packet = ends.tcp().from(&client);
            let first = run(&mut rig, &packet.clone().syn().frame(&from_client())).frame;
            let later = run(&mut rig, &packet.frame(&from_client())).frame;
            assert_eq!(
                first[at..at + len],
                later[at..at + len],
                "one flow, one outer source"
            );
            assert_eq!(first[at..at + len - free], configured[..len - free]);
            sources.insert(first[at..at + len].to_vec());
        }
        assert!(
            sources.len() > 48,
            "only {} outer sources for 64 flows",
            sources.len()
        );
    }
}

#[test]
fn errors_about_answers_go_to_the_backend_unchanged() {
    for ends in BOTH {
        let router = if ends.vip.starts_with('[') {
            "2001:db8:99::1"
        } else {
            "198.18.0.1"
        };
        let sent = Packet::tcp(ends.vip, ends.client).payload(&[0x42; 60]);
        let error = Packet::too_big(router, &ends.vip_address(), 1280, &sent.bytes());
        let frame = error.frame(&from_client());
        let mut l2 = rig();
        serve(&mut l2, &ends, Mode::DsrL2, ends.same_port);
        run(&mut l2, &ends.tcp().syn().frame(&from_client()));
        let expected = error.frame(&to_backend(2));
        expect(
            &mut l2,
            &frame,
            Action::Redirect,
            Reason::IcmpError,
            &expected,
        );
        drop(l2);
        let mut tunnel = rig();
        serve(&mut tunnel, &ends, Mode::DsrIpip, ends.same_port);
        run(&mut tunnel, &ends.tcp().syn().frame(&from_client()));
        let expected = to_backend(2).frame(&ipip(&error, 0, true, ends.same_port));
        expect(
            &mut tunnel,
            &frame,
            Action::Redirect,
            Reason::IcmpError,
            &expected,
        );
    }
}

/// A balancer of the same fleet may get the error although it has never seen the flow.
#[test]
fn errors_about_unknown_flows_follow_the_ring() {
    for ends in BOTH {
        let router = if ends.vip.starts_with('[') {
            "2001:db8:99::1"
        } else {
            "198.18.0.1"
        };
        let mut rig = rig();
        rig.serve(
            &Wanted::tcp(ends.vip, Mode::DsrL2)
                .backend(ends.same_port)
                .backend(ends.second),
        )
        .unwrap();
        for port in 0..16 {
            let client = ends.client.replace("40000", &format!("{}", 40_000 + port));
            let sent = Packet::tcp(ends.vip, &client);
            let error = Packet::too_big(router, &ends.vip_address(), 1280, &sent.bytes());
            let of_error = run(&mut rig, &error.frame(&from_client()));
            assert_eq!(of_error.reason(), Reason::IcmpError);
            let of_flow = run(
                &mut rig,
                &ends.tcp().from(&client).syn().frame(&from_client()),
            );
            assert_eq!(
                of_error.frame[..6],
                of_flow.frame[..6],
                "both go to one backend"
            );
        }
    }
}
