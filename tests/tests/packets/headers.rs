//! IPv4 options, IPv6 extension headers, impossible headers.

use crate::common::{V4, V6, expect, refuse, rig, run, to_backend};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::wire::{Extension, protocol};

fn nat(vip: &str, backend: &str) -> Rig {
    let mut rig = rig();
    rig.serve(&Wanted::tcp(vip, Mode::Nat).backend(backend))
        .unwrap();
    rig.serve(&Wanted::udp(vip, Mode::Nat).backend(backend))
        .unwrap();
    rig
}

#[track_caller]
fn translated(rig: &mut Rig, packet: &Packet, backend: &str) {
    let expected = packet.clone().to(backend).ttl(63).frame(&to_backend(2));
    let frame = packet.frame(&from_client());
    expect(rig, &frame, Action::Redirect, Reason::Translated, &expected);
}

#[test]
fn ipv4_options_of_every_length_are_followed() {
    let mut rig = nat(V4.vip, V4.backend);
    for words in 0..=10 {
        for packet in [V4.tcp(), V4.udp()] {
            translated(&mut rig, &packet.options(&vec![1; words * 4]), V4.backend);
        }
    }
}

#[test]
fn tcp_options_of_every_length_are_followed() {
    let mut rig = nat(V4.vip, V4.backend);
    for words in 0..=10 {
        let mut packet = V4.tcp();
        if let proxy_tests::packet::build::Body::Tcp(tcp) = &mut packet.body {
            tcp.options = vec![1; words * 4];
        }
        translated(&mut rig, &packet, V4.backend);
    }
}

#[test]
fn each_ipv6_extension_header_is_followed() {
    let mut rig = nat(V6.vip, V6.backend);
    let kinds = [
        protocol::HOP_BY_HOP,
        protocol::DESTINATION,
        protocol::MOBILITY,
        protocol::HIP,
        protocol::SHIM6,
    ];
    let mut extensions: Vec<Extension> = kinds
        .iter()
        .flat_map(|kind| [0, 1, 7].map(|units| Extension::generic(*kind, units)))
        .collect();
    // Types 0 (source route) and 4 (segment routing) with no segments left.
    extensions.extend([Extension::routing(0, 2), Extension::routing(4, 0)]);
    extensions.extend([1, 4, 10].map(Extension::authentication));
    // A fragment header of a whole packet (RFC 6946).
    extensions.push(Extension::fragment(0, false, 77));
    for extension in extensions {
        for packet in [V6.tcp(), V6.udp()] {
            translated(&mut rig, &packet.extension(extension.clone()), V6.backend);
        }
    }
}

#[test]
fn chains_of_extension_headers_are_followed_up_to_eight() {
    let mut rig = nat(V6.vip, V6.backend);
    let chain = |count: usize| {
        (0..count).fold(V6.tcp(), |packet, _| {
            packet.extension(Extension::generic(protocol::DESTINATION, 0))
        })
    };
    for count in 1..=8 {
        translated(&mut rig, &chain(count), V6.backend);
    }
    for count in [9, 12] {
        refuse(
            &mut rig,
            &chain(count).frame(&from_client()),
            Reason::DropTooManyExtensions,
        );
    }
}

/// The transport may lie anywhere behind long headers: either it is found there, or the packet is
/// refused; it must never be read from somewhere else.
#[test]
fn long_extension_headers_hide_nothing() {
    let mut rig = nat(V6.vip, V6.backend);
    for units in (0..=160).step_by(4) {
        let packet = V6
            .tcp()
            .extension(Extension::generic(protocol::DESTINATION, units));
        let outcome = run(&mut rig, &packet.frame(&from_client()));
        if outcome.action == Action::Redirect {
            let expected = packet.clone().to(V6.backend).ttl(63).frame(&to_backend(2));
            crate::common::same(&outcome.frame, &expected);
        } else {
            let reason = outcome.reason();
            assert!(units > 40, "{units} units: {reason:?}");
            assert!(
                matches!(
                    reason,
                    Reason::DropTooManyExtensions | Reason::DropTruncatedTransport
                ),
                "{units} units: {reason:?}"
            );
        }
    }
}

#[test]
fn a_packet_that_ends_in_an_extension_header_is_dropped() {
    let mut rig = nat(V6.vip, V6.backend);
    let extension = Extension::generic(protocol::HOP_BY_HOP, 0);
    for length in 0..4 {
        let mut ip = proxy_tests::packet::wire::V6::new(
            "2001:db8:c::7".parse().unwrap(),
            "2001:db8:f::1".parse().unwrap(),
        );
        ip.extensions = vec![Extension {
            octets: extension.octets[..4].to_vec(),
            ..extension
        }];
        let mut packet = ip.packet(protocol::TCP, &[]);
        packet.truncate(40 + length);
        packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        let frame = from_client().frame(&packet);
        refuse(&mut rig, &frame, Reason::DropTruncatedExtension);
    }
}

#[test]
fn no_next_header_and_unknown_protocols_are_left_to_the_stack() {
    for ends in [V4, V6] {
        let mut rig = nat(ends.vip, ends.backend);
        for number in [
            protocol::NO_NEXT,
            protocol::SCTP,
            protocol::IPIP,
            protocol::IPV6,
            47,
            50,
            255,
        ] {
            let packet = Packet::other(&ends.client_address(), &ends.vip_address(), number);
            refuse(
                &mut rig,
                &packet.frame(&from_client()),
                Reason::PassProtocol,
            );
        }
    }
}

#[test]
fn impossible_ip_headers_are_dropped() {
    for ends in [V4, V6] {
        let mut rig = nat(ends.vip, ends.backend);
        let good = ends.tcp().frame(&from_client());
        for version in (0..16).filter(|version| *version != good[14] >> 4) {
            let mut frame = good.clone();
            frame[14] = version << 4 | frame[14] & 15;
            refuse(&mut rig, &frame, Reason::DropBadIpHeader);
        }
        if ends.vip == V4.vip {
            for words in 0..5 {
                let mut frame = good.clone();
                frame[14] = 0x40 | words;
                refuse(&mut rig, &frame, Reason::DropBadIpHeader);
            }
        }
    }
}

#[test]
fn impossible_lengths_are_dropped() {
    for ends in [V4, V6] {
        let mut rig = nat(ends.vip, ends.backend);
        let good = ends.tcp().frame(&from_client());
        let (at, right) = if ends.vip == V4.vip {
            (16, good.len() - 14)
        } else {
            (18, good.len() - 54)
        };
        let mut lengths = vec![right + 1, right + 100, 0xffff];
        if ends.vip == V4.vip {
            lengths.extend(0..20);
        }
        for length in lengths {
            let mut frame = good.clone();
            frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            refuse(&mut rig, &frame, Reason::DropBadIpLength);
        }
    }
}

/// The IP length ends the packet, not the frame: what follows is padding and must not be read as
/// a transport header.
#[test]
fn a_transport_header_beyond_the_ip_length_is_dropped() {
    for ends in [V4, V6] {
        let mut rig = nat(ends.vip, ends.backend);
        for (packet, header) in [(ends.tcp(), 20), (ends.udp(), 8)] {
            let good = packet.frame(&from_client());
            for length in 0..header {
                let mut frame = good.clone();
                let (at, value) = if ends.vip == V4.vip {
                    (16, 20 + length)
                } else {
                    (18, length)
                };
                frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
                refuse(&mut rig, &frame, Reason::DropTruncatedTransport);
            }
        }
    }
}

#[test]
fn an_impossible_tcp_header_length_is_dropped() {
    for ends in [V4, V6] {
        let mut rig = nat(ends.vip, ends.backend);
        let good = ends.tcp().frame(&from_client());
        let at = good.len() - ends.tcp().transport().len() + 12;
        for words in 0..5u8 {
            let mut frame = good.clone();
            frame[at] = words << 4;
            refuse(&mut rig, &frame, Reason::DropBadTransport);
        }
    }
}
