//! Fragments: the first one teaches where the later ones go.

use crate::common::{BOTH, Ends, V4, V6, expect, refuse, rig, run, same, to_backend, to_client};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, from_backend, from_client};
use proxy_tests::packet::service::Wanted;

/// A datagram that is cut into several fragments of 512 octets.
fn datagram(ends: &Ends) -> Packet {
    let payload: Vec<u8> = (0..1600u32).map(|i| (i * 31) as u8).collect();
    ends.udp().payload(&payload)
}

fn serve(ends: &Ends, mode: Mode, backend: &str) -> Rig {
    let mut rig = rig();
    rig.serve(&Wanted::udp(ends.vip, mode).backend(backend))
        .unwrap();
    rig
}

/// What a fragment looks like on its way to the backend: `of` is the whole translated datagram.
fn translated(of: &Packet, id: u32) -> Vec<Vec<u8>> {
    of.fragments(512, id)
}

#[test]
fn later_fragments_follow_the_first_through_nat() {
    for ends in BOTH {
        let mut rig = serve(&ends, Mode::Nat, ends.backend);
        let packet = datagram(&ends);
        let expected = translated(&packet.clone().to(ends.backend).ttl(63), 0x4242);
        for (index, (fragment, expected)) in packet
            .fragments(512, 0x4242)
            .iter()
            .zip(expected)
            .enumerate()
        {
            let reason = if index == 0 {
                Reason::Translated
            } else {
                Reason::FragmentForwarded
            };
            let frame = from_client().frame(fragment);
            let expected = to_backend(2).frame(&expected);
            expect(&mut rig, &frame, Action::Redirect, reason, &expected);
        }
    }
}

#[test]
fn later_fragments_of_answers_follow_the_first() {
    for ends in BOTH {
        let mut rig = serve(&ends, Mode::Nat, ends.backend);
        run(&mut rig, &ends.udp().frame(&from_client()));
        rig.ingress = rig.namespace.south;
        let answer = Packet::udp(ends.backend, ends.client).payload(&[0x77; 1600]);
        let expected = translated(&answer.clone().from(ends.vip).ttl(63), 7);
        for (index, (fragment, expected)) in
            answer.fragments(512, 7).iter().zip(expected).enumerate()
        {
            let reason = if index == 0 {
                Reason::Returned
            } else {
                Reason::FragmentForwarded
            };
            let frame = from_backend(2).frame(fragment);
            let expected = to_client().frame(&expected);
            expect(&mut rig, &frame, Action::Redirect, reason, &expected);
        }
    }
}

#[test]
fn fragments_travel_whole_in_tunnels_and_by_mac_address() {
    for ends in BOTH {
        for mode in [Mode::DsrIpip, Mode::DsrGue, Mode::DsrL2] {
            let mut rig = serve(&ends, mode, ends.same_port);
            for fragment in datagram(&ends).fragments(512, 99) {
                let outcome = run(&mut rig, &from_client().frame(&fragment));
                assert_eq!(outcome.action, Action::Redirect, "{mode:?}");
                let start = outcome.frame.len() - fragment.len();
                same(&outcome.frame[start..], &fragment);
                assert_eq!(outcome.frame[..6], to_backend(2).dst);
            }
        }
    }
}

#[test]
fn a_later_fragment_without_its_first_is_dropped() {
    for ends in BOTH {
        let mut rig = serve(&ends, Mode::Nat, ends.backend);
        let fragments = datagram(&ends).fragments(512, 1);
        for later in &fragments[1..] {
            refuse(
                &mut rig,
                &from_client().frame(later),
                Reason::DropFragmentUnknown,
            );
        }
        // Once the first has come, the later ones go through.
        run(&mut rig, &from_client().frame(&fragments[0]));
        for later in &fragments[1..] {
            let outcome = run(&mut rig, &from_client().frame(later));
            assert_eq!(outcome.reason(), Reason::FragmentForwarded);
        }
    }
}

#[test]
fn datagrams_are_kept_apart() {
    for ends in BOTH {
        let mut rig = serve(&ends, Mode::Nat, ends.backend);
        let other_port = ends.client.replace(":40000", ":40001");
        let other_client = if ends.vip == V6.vip {
            "[2001:db8:c::8]:40000"
        } else {
            "198.51.100.8:40000"
        };
        run(
            &mut rig,
            &from_client().frame(&datagram(&ends).fragments(512, 1)[0]),
        );
        // Another identification, another client: their first ones have not been seen.
        let later = &datagram(&ends).fragments(512, 2)[1];
        refuse(
            &mut rig,
            &from_client().frame(later),
            Reason::DropFragmentUnknown,
        );
        let later = &datagram(&ends).from(other_client).fragments(512, 1)[1];
        refuse(
            &mut rig,
            &from_client().frame(later),
            Reason::DropFragmentUnknown,
        );
        // TCP with the same identification is another datagram.
        let tcp = ends.tcp().payload(&[1; 1600]);
        refuse(
            &mut rig,
            &from_client().frame(&tcp.fragments(512, 1)[1]),
            Reason::DropFragmentUnknown,
        );
        // Two datagrams of two flows, interleaved: each later fragment goes with its own.
        let second = datagram(&ends).from(&other_port);
        let (a, b) = (
            datagram(&ends).fragments(512, 10),
            second.fragments(512, 11),
        );
        let mut flows = Vec::new();
        for (a, b) in a.iter().zip(&b) {
            run(&mut rig, &from_client().frame(a));
            run(&mut rig, &from_client().frame(b));
            flows.push(rig.flows().unwrap().len());
        }
        assert!(
            flows.iter().all(|count| *count == flows[0]),
            "later ones open no flow: {flows:?}"
        );
    }
}

#[test]
fn a_fragment_for_no_service_is_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = serve(&ends, Mode::Nat, ends.backend);
        let elsewhere = if ends.vip == V6.vip {
            "[2001:db8:e::9]:53"
        } else {
            "203.0.113.99:53"
        };
        for fragment in datagram(&ends).to(elsewhere).fragments(512, 5) {
            refuse(
                &mut rig,
                &from_client().frame(&fragment),
                Reason::PassNotService,
            );
        }
    }
}

#[test]
fn fragmented_tcp_is_followed_and_keeps_its_phase() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.backend))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let segment = ends.tcp().payload(&[0xaa; 1200]);
        for fragment in segment.fragments(512, 3) {
            let outcome = run(&mut rig, &from_client().frame(&fragment));
            assert!(matches!(
                outcome.reason(),
                Reason::Translated | Reason::FragmentForwarded
            ));
        }
        assert_eq!(rig.live(1).unwrap(), 1);
    }
}

#[test]
fn a_first_fragment_that_is_cut_before_its_ports_is_dropped() {
    let mut rig = serve(&V4, Mode::Nat, V4.backend);
    let mut fragment = datagram(&V4).fragments(512, 8)[0].clone();
    fragment.truncate(20 + 4);
    fragment[2..4].copy_from_slice(&24u16.to_be_bytes());
    let checksum = {
        fragment[10..12].fill(0);
        proxy_tests::packet::wire::internet_checksum(&[&fragment[..20]])
    };
    fragment[10..12].copy_from_slice(&checksum.to_be_bytes());
    refuse(
        &mut rig,
        &from_client().frame(&fragment),
        Reason::DropTruncatedTransport,
    );
}

#[test]
fn a_fragment_header_behind_other_headers_is_found() {
    use proxy_tests::packet::wire::{Extension, protocol};
    let mut rig = serve(&V6, Mode::Nat, V6.backend);
    let packet = datagram(&V6).extension(Extension::generic(protocol::HOP_BY_HOP, 1));
    let expected = translated(&packet.clone().to(V6.backend).ttl(63), 0x1_0001);
    for (fragment, expected) in packet.fragments(512, 0x1_0001).iter().zip(expected) {
        let outcome = run(&mut rig, &from_client().frame(fragment));
        same(&outcome.frame, &to_backend(2).frame(&expected));
    }
}
