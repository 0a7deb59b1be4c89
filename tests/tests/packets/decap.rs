//! The receiver side: tunnel headers are removed on a backend.

use crate::common::{BOTH, V4, V6, expect, hex, refuse, rig};
use proxy_common::addr::Addr;
use proxy_common::maps::{DECAP_SETTINGS, DEFAULT_GUE_PORT, DecapSettings, DecapSource, program};
use proxy_common::reason::Reason;
use proxy_tests::packet::build::{Ip, Packet};
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::wire::{Udp, ethertype, protocol};
use std::net::IpAddr;

const OUTER_V4: [&str; 2] = ["172.16.1.1", "10.1.0.2"];
const OUTER_V6: [&str; 2] = ["100::1", "fd00:1::2"];

fn decap(sources: &[(&str, &str)]) -> Rig {
    let mut rig = rig();
    rig.program = program::DECAP;
    let mut settings = DecapSettings {
        gue_port: DEFAULT_GUE_PORT,
        sources: sources.len() as u16,
        ..DecapSettings::default()
    };
    let addr = |text: &str| {
        let ip: IpAddr = text.parse().unwrap();
        Addr::from(ip)
    };
    for (slot, (address, mask)) in settings.source.iter_mut().zip(sources) {
        *slot = DecapSource {
            addr: addr(address),
            mask: Addr::v6(addr(mask).octets),
        };
    }
    rig.set(DECAP_SETTINGS, 0, settings).unwrap();
    rig
}

fn outer(v6: bool) -> Ip {
    let [src, dst] = if v6 { OUTER_V6 } else { OUTER_V4 };
    Ip::between(src.parse().unwrap(), dst.parse().unwrap())
}

fn ipip(v6: bool, inner: &[u8]) -> Vec<u8> {
    let next = if inner[0] >> 4 == 4 {
        protocol::IPIP
    } else {
        protocol::IPV6
    };
    outer(v6).packet(next, inner)
}

fn gue(v6: bool, body: &[u8]) -> Vec<u8> {
    let ip = outer(v6);
    let udp = Udp {
        src_port: 50_000,
        dst_port: DEFAULT_GUE_PORT,
        checksum: true,
    };
    let datagram = udp.datagram(ip.src(), ip.dst(), body);
    ip.packet(protocol::UDP, &datagram)
}

/// GUE variant 0 as Linux' `gue` device sends it: flags, header length 0, protocol, two zeros.
fn gue_variant_0(v6: bool, inner: &[u8]) -> Vec<u8> {
    let next = if inner[0] >> 4 == 4 {
        protocol::IPIP
    } else {
        protocol::IPV6
    };
    let body = [&[0, next, 0, 0][..], inner].concat();
    gue(v6, &body)
}

/// One frame of each kind of tunnel, for other suites.
pub(crate) fn tunnels() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for v6 in [false, true] {
        for ends in BOTH {
            let inner = ends.tcp().bytes();
            for packet in [ipip(v6, &inner), gue(v6, &inner), gue_variant_0(v6, &inner)] {
                frames.push(from_client().frame(&packet));
            }
        }
    }
    frames
}

#[test]
fn every_tunnel_header_is_removed() {
    let mut rig = decap(&[]);
    for v6 in [false, true] {
        for ends in BOTH {
            for inner in [ends.tcp(), ends.udp(), ends.tcp().ttl(1)] {
                let inner = inner.bytes();
                let expected = from_client().frame(&inner);
                for packet in [ipip(v6, &inner), gue(v6, &inner), gue_variant_0(v6, &inner)] {
                    let frame = from_client().frame(&packet);
                    expect(
                        &mut rig,
                        &frame,
                        Action::Pass,
                        Reason::DecapPassed,
                        &expected,
                    );
                }
            }
        }
    }
}

#[test]
fn outer_options_and_tags_are_removed_too() {
    let mut rig = decap(&[]);
    let inner = V4.tcp().bytes();
    let mut ip = outer(false);
    if let Ip::V4(ip) = &mut ip {
        ip.options = vec![1; 40];
    }
    let packet = ip.packet(protocol::IPIP, &inner);
    let link = from_client().vlan(ethertype::VLAN, 5);
    let outcome = rig.run(&link.frame(&packet)).unwrap();
    assert_eq!(outcome.reason(), Reason::DecapPassed);
    assert_eq!(outcome.action, Action::Pass);
    let end = outcome.frame.len() - inner.len();
    assert_eq!(outcome.frame[end..], inner, "\n{}", hex(&outcome.frame));
}

#[test]
fn plain_packets_pass() {
    let mut rig = decap(&[]);
    for ends in BOTH {
        for packet in [
            ends.tcp(),
            ends.udp(),
            Packet::echo(&ends.client_address(), &ends.vip_address()),
        ] {
            refuse(
                &mut rig,
                &packet.frame(&from_client()),
                Reason::PassNotService,
            );
        }
    }
    refuse(
        &mut rig,
        &from_client().frame_of(ethertype::ARP, &[0; 28]),
        Reason::PassNotIp,
    );
}

#[test]
fn plain_fragments_pass() {
    let mut rig = decap(&[]);
    for ends in BOTH {
        for fragment in ends.udp().payload(&[1; 100]).fragments(48, 9) {
            refuse(
                &mut rig,
                &from_client().frame(&fragment),
                Reason::PassNotService,
            );
        }
    }
}

#[test]
fn fragmented_tunnels_are_dropped() {
    let mut rig = decap(&[]);
    for (ends, [src, dst]) in [(V4, OUTER_V4), (V6, OUTER_V6)] {
        let inner = ends.tcp().bytes();
        let next = if ends.vip == V4.vip {
            protocol::IPIP
        } else {
            protocol::IPV6
        };
        let packet = Packet::other(src, dst, next).payload(&inner);
        for fragment in packet.fragments(32, 3) {
            refuse(
                &mut rig,
                &from_client().frame(&fragment),
                Reason::DropDecapFragment,
            );
        }
    }
}

#[test]
fn only_balancers_may_send_tunnels() {
    let mut rig = decap(&[
        ("172.16.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0000"),
        ("100::", "ffff:ffff:ffff:ffff::"),
    ]);
    for ends in BOTH {
        let inner = ends.tcp().bytes();
        for v6 in [false, true] {
            let frame = from_client().frame(&ipip(v6, &inner));
            assert_eq!(rig.run(&frame).unwrap().reason(), Reason::DecapPassed);
        }
        let next = if inner[0] >> 4 == 4 {
            protocol::IPIP
        } else {
            protocol::IPV6
        };
        for (src, dst) in [("172.17.1.1", "10.1.0.2"), ("101::1", "fd00:1::2")] {
            let stranger = Packet::other(src, dst, next).payload(&inner);
            refuse(
                &mut rig,
                &stranger.frame(&from_client()),
                Reason::DropDecapNotAllowed,
            );
        }
    }
}

#[test]
fn what_is_no_packet_inside_is_dropped() {
    let mut rig = decap(&[]);
    for v6 in [false, true] {
        let [src, dst] = if v6 { OUTER_V6 } else { OUTER_V4 };
        for body in [&[][..], &[0x00; 20], &[0x5a; 40], &[0xff; 4]] {
            let packet = Packet::other(src, dst, protocol::IPIP).payload(body);
            refuse(
                &mut rig,
                &packet.frame(&from_client()),
                Reason::DropDecapBadInner,
            );
        }
        // The protocol number contradicts the version.
        let packet = Packet::other(src, dst, protocol::IPIP).payload(&V6.tcp().bytes());
        refuse(
            &mut rig,
            &packet.frame(&from_client()),
            Reason::DropDecapBadInner,
        );
        let packet = Packet::other(src, dst, protocol::IPV6).payload(&V4.tcp().bytes());
        refuse(
            &mut rig,
            &packet.frame(&from_client()),
            Reason::DropDecapBadInner,
        );
    }
}

#[test]
fn a_cut_tunnel_is_never_aborted_and_always_counted() {
    let mut rig = decap(&[]);
    for frame in tunnels() {
        for length in 14..=frame.len() {
            let outcome = rig.run(&frame[..length]).unwrap();
            assert_ne!(outcome.action, Action::Aborted, "{}", hex(&frame[..length]));
            let _one = outcome.reason();
        }
    }
}
