//! A packet that would not fit behind the balancer: its sender is told which length does.

use crate::common::{BOTH, Ends, expect, refuse, rig, run};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns::{GATEWAY, NORTH};
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::wire::{Link, ethertype};

/// Octets of the offending packet that the message quotes.
const QUOTED: usize = 504;

/// The message as it must leave: from the VIP, quoting the packet's start.
fn message(ends: &Ends, mtu: u16, packet: &[u8]) -> Vec<u8> {
    let message = Packet::too_big(
        &ends.vip_address(),
        &ends.client_address(),
        mtu,
        &packet[..QUOTED],
    );
    message.dont_fragment(false).bytes()
}

fn long(ends: &Ends, length: usize) -> Packet {
    let headers = ends.tcp().payload(b"").bytes().len();
    let payload: Vec<u8> = (0..length - headers).map(|i| (i * 7) as u8).collect();
    ends.tcp().payload(&payload)
}

fn check(rig: &mut Rig, ends: &Ends, length: usize, mtu: u16) {
    let packet = long(ends, length);
    let expected = Link::new(GATEWAY, NORTH).frame(&message(ends, mtu, &packet.bytes()));
    let frame = packet.frame(&from_client());
    expect(rig, &frame, Action::Tx, Reason::TooBigReply, &expected);
}

#[test]
fn the_mtu_told_leaves_room_for_the_tunnel() {
    for ends in BOTH {
        let header = if ends.vip.starts_with('[') { 40 } else { 20 };
        for (mode, overhead) in [(Mode::DsrIpip, header), (Mode::DsrGue, header + 8)] {
            let mut rig = rig();
            rig.serve(&Wanted::tcp(ends.vip, mode).backend(ends.same_port))
                .unwrap();
            let fits = 1500 - overhead;
            let frame = long(&ends, fits).frame(&from_client());
            assert_eq!(run(&mut rig, &frame).reason(), Reason::Encapsulated);
            check(&mut rig, &ends, fits + 1, fits as u16);
            check(&mut rig, &ends, 1500, fits as u16);
        }
    }
}

#[test]
fn the_routes_own_mtu_counts() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::DsrIpip] {
            let header = if ends.vip.starts_with('[') { 40 } else { 20 };
            let overhead = if mode == Mode::Nat { 0 } else { header };
            let mut rig = rig();
            rig.serve(&Wanted::tcp(ends.vip, mode).backend(ends.narrow))
                .unwrap();
            let fits = 1400 - overhead;
            let outcome = run(&mut rig, &long(&ends, fits).frame(&from_client()));
            assert!(matches!(
                outcome.reason(),
                Reason::Encapsulated | Reason::Translated
            ));
            check(&mut rig, &ends, fits + 1, fits as u16);
        }
    }
}

#[test]
fn the_message_keeps_the_tags_of_the_packet() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrIpip).backend(ends.narrow))
            .unwrap();
        let packet = long(&ends, 1500);
        let header = if ends.vip.starts_with('[') { 40 } else { 20 };
        for tags in [1, 2] {
            let mut link = from_client();
            for tag in 0..tags {
                link = link.vlan(ethertype::VLAN, 100 + tag);
            }
            let back = Link {
                dst: link.src,
                src: link.dst,
                vlans: link.vlans.clone(),
            };
            let expected = back.frame(&message(&ends, 1400 - header, &packet.bytes()));
            expect(
                &mut rig,
                &packet.frame(&link),
                Action::Tx,
                Reason::TooBigReply,
                &expected,
            );
        }
    }
}

#[test]
fn messages_are_limited_per_second() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrIpip).backend(ends.same_port))
            .unwrap();
        rig.settings(|settings| settings.icmp_per_second = 0)
            .unwrap();
        let frame = long(&ends, 1500).frame(&from_client());
        refuse(&mut rig, &frame, Reason::DropTooBig);
        rig.settings(|settings| settings.icmp_per_second = 3)
            .unwrap();
        let replies = (0..40)
            .filter(|_| run(&mut rig, &frame).reason() == Reason::TooBigReply)
            .count();
        // The second may turn while the loop runs.
        assert!((3..=6).contains(&replies), "{replies} replies");
    }
}

#[test]
fn a_too_long_answer_is_reported_to_the_backend() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.same_port))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        rig.ingress = rig.namespace.south;
        let headers = if ends.vip.starts_with('[') { 60 } else { 40 };
        let answer = Packet::tcp(ends.same_port, ends.client).payload(&vec![7; 1501 - headers]);
        let link = proxy_tests::packet::rig::from_backend(2);
        let back = Link::new(link.src, link.dst);
        let backend = crate::common::address_of(ends.same_port);
        let message = Packet::too_big(
            &ends.client_address(),
            &backend,
            1500,
            &answer.bytes()[..QUOTED],
        );
        let expected = message.dont_fragment(false).frame(&back);
        expect(
            &mut rig,
            &answer.frame(&link),
            Action::Tx,
            Reason::TooBigReply,
            &expected,
        );
    }
}
