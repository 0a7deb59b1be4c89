//! Every kind of frame, cut at every length: nothing is aborted, and each cut has one reason.

use crate::common::{BOTH, Ends, hex, rig, run};
use proxy_common::reason::{Outcome, Reason};
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, Sizes, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::wire::{Extension, ethertype, protocol};

/// The shortest frame that a test run takes: an Ethernet header.
const SHORTEST: usize = 14;

/// One of each kind of packet that the parser tells apart.
fn kinds(ends: &Ends) -> Vec<Packet> {
    let (vip, client) = (ends.vip_address(), ends.client_address());
    let quoted = Packet::tcp(ends.vip, ends.client).payload(&[3; 16]).bytes();
    let quoted_udp = Packet::udp(ends.vip, ends.client).payload(&[3; 16]).bytes();
    let mut kinds = vec![
        ends.tcp().syn(),
        ends.tcp(),
        ends.udp(),
        Packet::echo(&client, &vip),
        Packet::too_big(&client, &vip, 1280, &quoted),
        Packet::too_big(&client, &vip, 1280, &quoted_udp),
        Packet::other(&client, &vip, protocol::SCTP),
        Packet::other(&client, &vip, protocol::IPIP).payload(&quoted),
    ];
    if ends.vip.starts_with('[') {
        kinds.push(
            ends.tcp()
                .extension(Extension::generic(protocol::HOP_BY_HOP, 1))
                .extension(Extension::routing(4, 1))
                .extension(Extension::authentication(4)),
        );
        kinds.push(ends.udp().extension(Extension::fragment(0, false, 1)));
    } else {
        kinds.push(ends.tcp().options(&[1; 24]));
    }
    kinds
}

fn frames(ends: &Ends) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for tags in 0..=2 {
        let link = (0..tags).fold(from_client(), |link, tag| link.vlan(ethertype::VLAN, tag));
        for packet in kinds(ends) {
            frames.push(packet.frame(&link));
        }
        for fragment in ends.udp().payload(&[9; 64]).fragments(24, 5) {
            frames.push(link.frame(&fragment));
        }
    }
    frames
}

fn serve(rig: &mut Rig, ends: &Ends, mode: Mode) {
    for udp in [false, true] {
        let wanted = if udp {
            Wanted::udp(ends.vip, mode)
        } else {
            Wanted::tcp(ends.vip, mode)
        };
        let wanted = if mode == Mode::Local {
            wanted
        } else {
            wanted.backend(ends.backend)
        };
        let wanted = if mode == Mode::FullNat {
            wanted.source(ends.source)
        } else {
            wanted
        };
        rig.serve(&wanted).unwrap();
    }
}

#[test]
fn a_cut_frame_is_never_aborted_and_always_counted() {
    for ends in BOTH {
        for mode in Mode::ALL {
            let sizes = Sizes {
                snat_addrs: 2,
                ..Sizes::default()
            };
            let mut rig = Rig::with(sizes).unwrap();
            serve(&mut rig, &ends, mode);
            for frame in frames(&ends) {
                for length in SHORTEST..=frame.len() {
                    let outcome = run(&mut rig, &frame[..length]);
                    // The IP length says that something is missing.
                    if length < frame.len() && length >= 14 + 12 {
                        assert!(
                            !matches!(outcome.action, Action::Tx | Action::Redirect),
                            "{length} of {} octets were sent: {:?}\n{}",
                            frame.len(),
                            outcome.reason(),
                            hex(&frame[..length])
                        );
                    }
                }
            }
        }
    }
}

/// As above with IP lengths that agree with the cut, so that the later stages meet it.
#[test]
fn a_short_packet_is_never_aborted_and_always_counted() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::DsrIpip, Mode::DsrL2] {
            let mut rig = rig();
            serve(&mut rig, &ends, mode);
            for packet in kinds(&ends) {
                let bytes = packet.bytes();
                let header = if ends.vip.starts_with('[') {
                    40
                } else {
                    packet_header(&bytes)
                };
                for length in header..bytes.len() {
                    let mut short = bytes[..length].to_vec();
                    fix_length(&mut short);
                    let frame = from_client().frame(&short);
                    let outcome = rig.run(&frame).unwrap();
                    assert_ne!(outcome.action, Action::Aborted, "{}", hex(&frame));
                    let reason = outcome.reason();
                    assert_ne!(reason, Reason::DropInternal, "{}", hex(&frame));
                    assert!(matches!(
                        reason.outcome(),
                        Outcome::Pass | Outcome::Forward | Outcome::Drop
                    ));
                }
            }
        }
    }
}

fn packet_header(bytes: &[u8]) -> usize {
    usize::from(bytes[0] & 15) * 4
}

fn fix_length(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let header = packet_header(packet);
        let length = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        packet[10..12].fill(0);
        let checksum = proxy_tests::packet::wire::internet_checksum(&[&packet[..header]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let length = (packet.len() as u16 - 40).to_be_bytes();
        packet[4..6].copy_from_slice(&length);
    }
}

/// The kernel gives XDP no frame of less than an Ethernet header, but its first buffer may be
/// shorter, and only that can be accessed directly.
#[test]
fn a_first_buffer_that_ends_in_the_ethernet_header_is_dropped() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::Nat);
        let frame = ends.tcp().frame(&from_client());
        if let Err(error) = rig.run_split(&frame, 0) {
            println!("this kernel splits no frames: {error:#}");
            return;
        }
        rig.forget_reasons().unwrap();
        for linear in 0..frame.len() {
            let (action, _) = rig.run_split(&frame, linear).unwrap();
            let counted = rig.counted().unwrap();
            assert_ne!(action, Action::Aborted, "{linear} octets");
            assert_eq!(counted.len(), 1, "{linear} octets: {counted:?}");
            if linear < SHORTEST {
                assert_eq!(
                    (action, counted[0]),
                    (Action::Drop, Reason::DropTruncatedEthernet)
                );
            }
        }
    }
}
