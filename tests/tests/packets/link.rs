//! VLAN tags, and frames that are no IP.

use crate::common::{BOTH, V4, expect, refuse, rig, run, to_backend, to_north};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::rig::{Action, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::wire::{Link, ethertype};

fn tagged(link: Link, tags: usize) -> Link {
    let kinds = [ethertype::SERVICE_VLAN, ethertype::VLAN, ethertype::VLAN];
    kinds[3 - tags.min(3)..]
        .iter()
        .enumerate()
        .fold(link, |link, (index, kind)| {
            link.vlan(*kind, 0x2064 + index as u16)
        })
}

#[test]
fn tags_stay_on_the_same_interface() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            for tags in 0..=2 {
                let mut rig = rig();
                rig.serve(&Wanted::tcp(ends.vip, mode).backend(ends.north))
                    .unwrap();
                let packet = ends.tcp().syn();
                let bare = run(&mut rig, &packet.frame(&from_client()));
                assert_eq!(bare.action, Action::Tx);
                // The same IP packet as without tags, behind the same tags as it came with.
                let expected = tagged(to_north(10), tags).frame(&bare.frame[14..]);
                let frame = packet.frame(&tagged(from_client(), tags));
                expect(&mut rig, &frame, Action::Tx, bare.reason(), &expected);
            }
        }
    }
}

#[test]
fn tags_are_removed_on_another_interface() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            for tags in 0..=2 {
                let mut rig = rig();
                rig.serve(&Wanted::tcp(ends.vip, mode).backend(ends.same_port))
                    .unwrap();
                let packet = ends.tcp().syn();
                let bare = run(&mut rig, &packet.frame(&from_client()));
                let expected = to_backend(2).frame(&bare.frame[14..]);
                same_way(&mut rig, &packet, tags, &expected, bare.reason());
            }
        }
    }
}

fn same_way(
    rig: &mut proxy_tests::packet::rig::Rig,
    packet: &proxy_tests::packet::build::Packet,
    tags: usize,
    expected: &[u8],
    reason: Reason,
) {
    let frame = packet.frame(&tagged(from_client(), tags));
    expect(rig, &frame, Action::Redirect, reason, expected);
}

#[test]
fn three_tags_are_more_than_is_followed() {
    let mut rig = rig();
    rig.serve(&Wanted::tcp(V4.vip, Mode::Nat).backend(V4.backend))
        .unwrap();
    let frame = V4.tcp().syn().frame(&tagged(from_client(), 3));
    refuse(&mut rig, &frame, Reason::PassNotIp);
}

#[test]
fn frames_that_are_no_ip_are_left_alone() {
    let mut rig = rig();
    rig.serve(&Wanted::tcp(V4.vip, Mode::Nat).backend(V4.backend))
        .unwrap();
    for kind in [ethertype::ARP, 0x88cc, 0x0026, 0xffff] {
        for tags in 0..=2 {
            for body in [&[][..], &[0; 28], &[0xff; 100]] {
                let frame = tagged(from_client(), tags).frame_of(kind, body);
                refuse(&mut rig, &frame, Reason::PassNotIp);
            }
        }
    }
}

#[test]
fn a_frame_that_ends_in_a_tag_is_dropped() {
    let mut rig = rig();
    for tags in 1..=2 {
        let whole = V4.tcp().frame(&tagged(from_client(), tags));
        for length in 14..14 + 4 * tags {
            refuse(&mut rig, &whole[..length], Reason::DropTruncatedVlan);
        }
    }
}
