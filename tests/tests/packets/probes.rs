//! Health probes to a VIP on their way out: the headers must be those that the balancer would
//! have given the same packet, whose octets the suite `dsr` knows.

use crate::common::{BOTH, Ends, V4, V6, hex, rig, same, to_backend, to_north, to_south_gateway};
use proxy_common::backend::{BackendState, probe_mark};
use proxy_common::maps::DEFAULT_GUE_PORT;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::probe::{Egress, Steered};
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::verify::verify;
use proxy_tests::packet::wire::Link;

/// Octets of an Ethernet header.
const LINK: usize = 14;

/// Link header of what the stack hands to the loopback interface.
fn from_stack() -> Link {
    Link::new([0; 6], [0; 6])
}

/// A service with one backend, whose id is returned.
fn serve(rig: &mut Rig, ends: &Ends, mode: Mode, backend: &str, mask: u32) -> u16 {
    let wanted = Wanted::tcp(ends.vip, mode).backend(backend).spread(mask);
    rig.serve(&wanted).unwrap().backends[0]
}

#[track_caller]
fn probe(rig: &mut Rig, mark: u32, packet: &Packet) -> Steered {
    let lo = nix::net::if_::if_nametoindex("lo").unwrap();
    rig.run_probe(mark, lo, &packet.frame(&from_stack()))
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// A probe is aimed, for this reason only, and may leave by its real interface without being
/// aimed again.
#[track_caller]
fn aimed(rig: &mut Rig, backend: u16, packet: &Packet) -> Vec<u8> {
    redirected(rig, backend, packet, 0)
}

/// As [`aimed`], but it leaves with this mark.
#[track_caller]
fn redirected(rig: &mut Rig, backend: u16, packet: &Packet, mark: u32) -> Vec<u8> {
    let found = probe(rig, probe_mark(backend), packet);
    assert_eq!(
        (found.egress, found.mark, &found.reasons[..]),
        (Egress::Redirect, mark, &[Reason::ProbeAimed][..]),
    );
    if let Err(fault) = verify(&found.frame, DEFAULT_GUE_PORT) {
        panic!("{fault} in\n{}", hex(&found.frame));
    }
    found.frame
}

/// The frame that the balancer makes of the packet when a client sends it.
#[track_caller]
fn balanced(rig: &mut Rig, packet: &Packet) -> Vec<u8> {
    let outcome = rig.run(&packet.frame(&from_client())).unwrap();
    assert!(matches!(outcome.action, Action::Tx | Action::Redirect));
    outcome.frame
}

#[test]
fn a_probe_gets_the_headers_that_the_balancer_gives_the_same_packet() {
    for (ends, to) in [(V4, V4), (V6, V6), (V4, V6)] {
        for mode in [Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            if mode != Mode::DsrIpip && ends.vip.starts_with('[') != to.vip.starts_with('[') {
                continue;
            }
            for backend in [to.same_port, to.routed, to.north] {
                let mask = if to.vip.starts_with('[') {
                    u32::MAX
                } else {
                    0xffff
                };
                let mut rig = rig();
                let id = serve(&mut rig, &ends, mode, backend, mask);
                for packet in [
                    ends.tcp().syn(),
                    ends.tcp(),
                    ends.tcp().tos(0x8c),
                    ends.tcp().dont_fragment(false),
                ] {
                    let expected = balanced(&mut rig, &packet);
                    let _ = rig.counted().unwrap();
                    same(&aimed(&mut rig, id, &packet), &expected);
                }
            }
        }
    }
}

#[test]
fn next_hops_are_those_of_the_backends() {
    for ends in BOTH {
        for (backend, link) in [
            (ends.same_port, to_backend(2)),
            (ends.routed, to_south_gateway()),
            (ends.north, to_north(10)),
        ] {
            let mut rig = rig();
            let id = serve(&mut rig, &ends, Mode::DsrL2, backend, 0);
            let packet = ends.tcp().syn();
            same(&aimed(&mut rig, id, &packet), &packet.frame(&link));
        }
    }
}

/// What a backend that is down, or that takes no new flows, is asked decides whether it comes back.
#[test]
fn backends_are_probed_in_every_state() {
    for state in [BackendState::Up, BackendState::Draining, BackendState::Down] {
        let mut rig = rig();
        let id = serve(&mut rig, &V4, Mode::DsrIpip, V4.same_port, 0);
        rig.set_state(id, state).unwrap();
        let _ = aimed(&mut rig, id, &V4.tcp().syn());
    }
}

#[test]
fn each_probe_goes_to_its_own_backend() {
    let mut rig = rig();
    let wanted = Wanted::tcp(V4.vip, Mode::DsrL2)
        .backend(V4.same_port)
        .backend(V4.second);
    let served = rig.serve(&wanted).unwrap();
    let packet = V4.tcp().syn();
    for (id, last) in served.backends.into_iter().zip([2, 3]) {
        let expected = packet.frame(&to_backend(last));
        same(&aimed(&mut rig, id, &packet), &expected);
    }
}

#[track_caller]
fn untouched(rig: &mut Rig, mark: u32, packet: &Packet) {
    let found = probe(rig, mark, packet);
    assert_eq!((found.egress, found.mark), (Egress::Next, mark));
    assert_eq!(found.reasons, []);
    same(&found.frame, &packet.frame(&from_stack()));
}

#[test]
fn what_is_no_probe_is_left_alone() {
    let packet = V4.tcp().syn();
    let mut rig = rig();
    let id = serve(&mut rig, &V4, Mode::DsrIpip, V4.same_port, 0);
    for mark in [0, u32::from(id), 0x5106_0000 | u32::from(id)] {
        untouched(&mut rig, mark, &packet);
    }
    // No such backend, and none that the map could hold.
    untouched(&mut rig, probe_mark(id + 1), &packet);
    untouched(&mut rig, probe_mark(0), &packet);
    untouched(&mut rig, probe_mark(u16::MAX), &packet);
    rig.set_state(id, BackendState::Absent).unwrap();
    untouched(&mut rig, probe_mark(id), &packet);
}

#[test]
fn backends_of_other_modes_are_left_alone() {
    for mode in [Mode::Nat, Mode::FullNat] {
        let mut rig = rig();
        let wanted = Wanted::tcp(V4.vip, mode).backend(V4.backend);
        let wanted = if mode == Mode::FullNat {
            wanted.source(V4.source)
        } else {
            wanted
        };
        let id = rig.serve(&wanted).unwrap().backends[0];
        untouched(&mut rig, probe_mark(id), &V4.tcp().syn());
    }
}

#[track_caller]
fn refused(rig: &mut Rig, backend: u16, frame: &[u8], reason: Reason) {
    let north = rig.namespace.north;
    let found = rig.run_probe(probe_mark(backend), north, frame).unwrap();
    assert_eq!(
        (found.egress, &found.reasons[..]),
        (Egress::Drop, &[reason][..])
    );
}

/// A probe that went the ordinary way to the VIP would be answered by any backend.
#[test]
fn a_probe_that_cannot_be_aimed_is_dropped_and_counted() {
    let syn = |ends: &Ends| ends.tcp().syn().frame(&from_stack());
    for ends in BOTH {
        for mode in [Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            let mut rig = rig();
            let id = serve(&mut rig, &ends, mode, ends.lost, 0);
            refused(&mut rig, id, &syn(&ends), Reason::DropNoRoute);
        }
    }
    let mut rig = rig();
    let id = serve(&mut rig, &V6, Mode::DsrIpip, V4.same_port, 0);
    refused(&mut rig, id, &syn(&V6), Reason::DropFamily);
    let long = V4.tcp().payload(&[0; 1450]).frame(&from_stack());
    refused(&mut rig, id, &long, Reason::DropTooBig);
}

#[test]
fn frames_that_end_too_early_are_dropped_and_counted() {
    for ends in BOTH {
        let mut rig = rig();
        let id = serve(&mut rig, &ends, Mode::DsrGue, ends.same_port, 0);
        let frame = ends.tcp().syn().frame(&from_stack());
        // A test run wants an IP header whole if the ethertype promises one.
        let header = if ends.vip.starts_with('[') { 40 } else { 20 };
        for octets in LINK + header..frame.len() {
            refused(&mut rig, id, &frame[..octets], Reason::DropBadIpLength);
        }
        let mut bad = frame.clone();
        bad[LINK] = 0x44;
        refused(&mut rig, id, &bad, Reason::DropBadIpHeader);
    }
}

/// The stack resolves a next hop that is not known yet, and sends the probe then. Without a tunnel
/// it must come by once more for its MAC addresses, so it keeps its mark.
#[test]
fn a_probe_waits_for_its_next_hop() {
    for ends in BOTH {
        for mode in [Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            let mut rig = rig();
            let id = serve(&mut rig, &ends, mode, ends.silent, 0);
            let mark = match mode {
                Mode::DsrL2 => probe_mark(id),
                _ => 0,
            };
            let _ = redirected(&mut rig, id, &ends.tcp().syn(), mark);
        }
    }
}
