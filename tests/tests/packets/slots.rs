//! The flow table's slots: what the first program believes without looking at an entry.

use crate::common::{BOTH, Ends, expect, move_on, refuse, rig, run, to_client};
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, SLOT_AGE_MAX, SetTags, WAYS, flow_flags, slot,
    ticks_from_ms,
};
use proxy_common::hash::flow_hash;
use proxy_common::maps;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns;
use proxy_tests::packet::rig::{Action, Rig, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted};

/// A service whose backends the first program knows how to reach, as after some packets.
fn serve(rig: &mut Rig, ends: &Ends, established_ticks: u32) -> Served {
    serve_by(rig, ends, Mode::DsrL2, established_ticks)
}

fn serve_by(rig: &mut Rig, ends: &Ends, mode: Mode, established_ticks: u32) -> Served {
    let wanted = Wanted::tcp(ends.vip, mode)
        .backend(ends.same_port)
        .backend(ends.second)
        .with(|service| service.established_ticks = established_ticks);
    let served = rig.serve(&wanted).unwrap();
    // However slow the machine is: what is known of the way stays known.
    rig.settings(|settings| settings.route_ttl_ns = 3_600_000_000_000)
        .unwrap();
    for number in 0..40 {
        run(rig, &warm(ends, number).syn().frame(&from_client()));
    }
    clear(rig);
    served
}

fn warm(ends: &Ends, number: u16) -> Packet {
    Packet::tcp(
        &ends
            .client
            .replace("40000", &format!("{}", 20_000 + number)),
        ends.vip,
    )
}

fn clear(rig: &mut Rig) {
    let settings = *rig.current_settings();
    for index in 0..settings.sets_per_cpu * settings.cpus {
        rig.set(maps::FLOWS, index, FlowSet::default()).unwrap();
        rig.set(maps::FLOW_TAGS, index, SetTags::default()).unwrap();
    }
}

/// Every used way: set, way, slot, entry.
fn ways(rig: &Rig) -> Vec<(u32, usize, u64, FlowEntry)> {
    let settings = rig.current_settings();
    let mut used = Vec::new();
    for index in 0..settings.sets_per_cpu * settings.cpus {
        let tags: SetTags = rig.get(maps::FLOW_TAGS, index).unwrap();
        let set: FlowSet = rig.get(maps::FLOWS, index).unwrap();
        used.extend(
            (0..WAYS)
                .filter(|way| tags.tags[*way] != 0)
                .map(|way| (index, way, tags.tags[way], set.ways[way])),
        );
    }
    used
}

fn slot_of(rig: &Rig) -> u64 {
    match ways(rig)[..] {
        [(_, _, slot, _)] => slot,
        ref ways => panic!("{ways:?}"),
    }
}

/// Turns the ring away from where this frame went: from now on only the table knows.
fn turn_ring(rig: &mut Rig, served: &Served, frame: &[u8]) {
    let to_first = frame[..6] == netns::backend(2);
    let other = &served.backends[usize::from(to_first)..][..1];
    rig.only(served.id, other).unwrap();
}

#[test]
fn a_flow_gets_its_entry_with_its_second_packet() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ticks_from_ms(300_000));
        let syn = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let [(_, _, bare, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_ne!(bare & slot::BARE, 0);
        assert_eq!(
            entry,
            FlowEntry::default(),
            "nothing is written but the slot"
        );
        turn_ring(&mut rig, &served, &syn.frame);
        for _ in 0..3 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], syn.frame[..6]);
        }
        let [(_, _, steady, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_eq!(steady & (slot::BARE | slot::STEADY), slot::STEADY);
        assert_eq!(steady & slot::HASH, bare & slot::HASH);
        assert_eq!(entry.key.protocol, 6);
        assert_eq!(entry.backend, bare as u16);
        assert_eq!(rig.live(entry.backend).unwrap(), 1);
        // And is no longer steady when it ends.
        run(&mut rig, &ends.tcp().fin().frame(&from_client()));
        assert_eq!(slot_of(&rig) & slot::STEADY, 0);
        assert_eq!(rig.live(entry.backend).unwrap(), 0);
    }
}

#[test]
fn a_bare_flow_moves_to_the_cpu_that_sees_its_second_packet() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ticks_from_ms(300_000));
        let syn = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_ne!(slot_of(&rig) & slot::BARE, 0);
        turn_ring(&mut rig, &served, &syn.frame);
        if !move_on(&mut rig) {
            return;
        }
        for _ in 0..2 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], syn.frame[..6]);
        }
        let [(cpu, flow)] = rig.flows().unwrap()[..] else {
            panic!("it was moved, not copied")
        };
        assert_eq!(cpu as usize, rig.cpu);
        assert_eq!(rig.live(flow.backend).unwrap(), 1);
    }
}

#[test]
fn a_bare_flow_whose_backends_id_was_given_away_is_opened_anew() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ticks_from_ms(300_000));
        let syn = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let backend = slot_of(&rig) as u16;
        turn_ring(&mut rig, &served, &syn.frame);
        rig.change_backend(backend, |backend| backend.service = 9)
            .unwrap();
        let later = run(&mut rig, &ends.tcp().frame(&from_client()));
        assert_ne!(later.frame[..6], syn.frame[..6]);
        assert_ne!(slot_of(&rig) as u16, backend);
    }
}

/// Two flows with equal bits of hash cannot be made on purpose, so one is made of another by changing
/// the tuple that its entry holds.
#[test]
fn flows_with_equal_bits_of_hash_are_told_apart_by_their_tuples() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, ticks_from_ms(300_000));
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        run(&mut rig, &ends.tcp().frame(&from_client()));
        let [(index, way, steady, _)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_ne!(steady & slot::STEADY, 0);
        let mut set: FlowSet = rig.get(maps::FLOWS, index).unwrap();
        set.ways[way].key.src_port_be ^= 1;
        rig.set(maps::FLOWS, index, set).unwrap();
        turn_ring(&mut rig, &served, &first.frame);
        // The SYN is of a new flow, and follows the ring; so do the packets after it.
        let second = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_ne!(second.frame[..6], first.frame[..6]);
        for _ in 0..3 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], second.frame[..6]);
        }
        let both = ways(&rig);
        assert_eq!(both.len(), 2);
        for (_, _, value, _) in both {
            assert_eq!(value & slot::HASH, steady & slot::HASH);
            assert_eq!(value & slot::STEADY, 0, "the slower programs look at both");
        }
    }
}

#[test]
fn only_long_lived_flows_have_their_entries_renewed() {
    for (timeout, renewed) in [(SLOT_AGE_MAX, false), (SLOT_AGE_MAX + 1, true)] {
        for ends in BOTH {
            let mut rig = rig();
            serve(&mut rig, &ends, timeout);
            run(&mut rig, &ends.tcp().syn().frame(&from_client()));
            run(&mut rig, &ends.tcp().frame(&from_client()));
            rig.age_flows(ticks_from_ms(60_000)).unwrap();
            let [(_, _, old, before)] = ways(&rig)[..] else {
                panic!("one flow")
            };
            run(&mut rig, &ends.tcp().frame(&from_client()));
            let [(_, _, new, after)] = ways(&rig)[..] else {
                panic!("one flow")
            };
            assert_ne!(new & slot::PERIOD, old & slot::PERIOD);
            assert_eq!(after.last_seen != before.last_seen, renewed);
        }
    }
}

/// The two ways of a `nat` flow: the client's and the answers'.
fn both_ways(rig: &Rig) -> [(u64, FlowEntry); 2] {
    let mut ways = ways(rig).into_iter().map(|(_, _, slot, flow)| (slot, flow));
    let [a, b] = [ways.next().unwrap(), ways.next().unwrap()];
    assert_eq!(ways.next(), None, "two ways");
    let bare = a.0 & slot::BARE_RETURN == slot::BARE_RETURN;
    if !bare && a.1.flags & flow_flags::RETURN == 0 {
        [a, b]
    } else {
        [b, a]
    }
}

#[test]
fn a_plain_syn_to_nat_leaves_a_bare_flow_and_a_bare_way_back() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by(&mut rig, &ends, Mode::Nat, ticks_from_ms(300_000));
        let syn = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_eq!(syn.reason(), Reason::Translated);
        let [(bare, forth), (bare_back, back)] = both_ways(&rig);
        assert_eq!(bare & slot::BARE_RETURN, slot::BARE);
        assert_eq!(bare_back & slot::BARE_RETURN, slot::BARE_RETURN);
        assert_eq!(bare as u32, bare_back as u32, "backend and service");
        assert_eq!([forth, back], [FlowEntry::default(); 2]);
        turn_ring(&mut rig, &served, &syn.frame);
        let (end, last) = if syn.frame[..6] == netns::backend(2) {
            (ends.same_port, 2)
        } else {
            (ends.second, 3)
        };
        let answer = Packet::tcp(end, ends.client).flags(0x12);
        let expected = answer.clone().from(ends.vip).ttl(63).frame(&to_client());
        rig.ingress = rig.namespace.south;
        let (action, reason) = (Action::Redirect, Reason::Returned);
        let frame = answer.frame(&from_backend(last));
        expect(&mut rig, &frame, action, reason, &expected);
        let [_, (_, back)] = both_ways(&rig);
        assert_eq!(
            (back.flags & flow_flags::RETURN, back.phase, back.backend),
            (flow_flags::RETURN, Phase::Established.code(), bare as u16)
        );
        rig.ingress = rig.namespace.north;
        for _ in 0..3 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], syn.frame[..6]);
        }
        let [(steady, _), _] = both_ways(&rig);
        assert_eq!(steady & (slot::BARE | slot::STEADY), slot::STEADY);
        assert_eq!(rig.live(bare as u16).unwrap(), 1);
    }
}

#[test]
fn a_syn_to_nat_whose_hops_ran_out_is_counted_as_always() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by(&mut rig, &ends, Mode::Nat, ticks_from_ms(300_000));
        let new = |rig: &Rig| -> u64 {
            let of = |id: &u16| rig.backend_stats(*id).unwrap().new_flows;
            served.backends.iter().map(of).sum()
        };
        let before = new(&rig);
        let frame = ends.tcp().syn().ttl(1).frame(&from_client());
        refuse(&mut rig, &frame, Reason::DropTtlExpired);
        assert_eq!(new(&rig), before + 1);
    }
}

#[test]
fn packets_of_one_direction_keep_the_way_back_of_nat() {
    for ends in BOTH {
        let mut rig = rig();
        serve_by(&mut rig, &ends, Mode::Nat, ticks_from_ms(300_000));
        for packet in [ends.tcp().syn(), ends.tcp(), ends.tcp()] {
            run(&mut rig, &packet.frame(&from_client()));
        }
        rig.age_flows(ticks_from_ms(60_000)).unwrap();
        let [_, (old, _)] = both_ways(&rig);
        run(&mut rig, &ends.tcp().frame(&from_client()));
        let [(steady, _), (renewed, back)] = both_ways(&rig);
        assert_ne!(steady & slot::STEADY, 0);
        assert_ne!(renewed & slot::PERIOD, old & slot::PERIOD);
        assert_eq!(renewed & slot::PERIOD, steady & slot::PERIOD);
        assert_eq!(back.phase, Phase::Established.code());
    }
}

/// The tuple of a TCP segment.
fn key_of(src: &str, dst: &str) -> FlowKey {
    let [src, dst]: [std::net::SocketAddr; 2] = [src, dst].map(|end| end.parse().unwrap());
    let ports = [src, dst].map(|end| end.port().to_be());
    FlowKey::new(src.ip().into(), dst.ip().into(), ports[0], ports[1], 6)
}

#[test]
fn a_bare_way_back_is_for_answers_of_its_backend() {
    for ends in BOTH {
        let mut rig = rig();
        serve_by(&mut rig, &ends, Mode::Nat, ticks_from_ms(300_000));
        let syn = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let [_, (back, _)] = both_ways(&rig);
        let to_first = syn.frame[..6] == netns::backend(2);
        let answers = |end: &str| Packet::tcp(end, ends.client).flags(0x12);
        // The tuple is another one, and so would the slot be. It is put where the other's would be.
        let other = if to_first {
            ends.second
        } else {
            ends.same_port
        };
        let settings = *rig.current_settings();
        for index in 0..settings.sets_per_cpu * settings.cpus {
            let hash = flow_hash(key_of(other, ends.client).words(), &settings.secrets);
            let position = Position::of(hash, settings.sets_per_cpu);
            let mut tags: SetTags = rig.get(maps::FLOW_TAGS, index).unwrap();
            if index % settings.sets_per_cpu == position.set {
                tags.tags[15] = back & !slot::HASH | position.tag;
            }
            rig.set(maps::FLOW_TAGS, index, tags).unwrap();
        }
        rig.ingress = rig.namespace.south;
        let last = if to_first { 3 } else { 2 };
        let frame = answers(other).frame(&from_backend(last));
        refuse(&mut rig, &frame, Reason::PassNoFlow);
        // It waits for its own.
        let bare = |(_, _, slot, _): &(u32, usize, u64, FlowEntry)| slot & slot::BARE_RETURN;
        let waiting = ways(&rig)
            .iter()
            .filter(|way| bare(way) == slot::BARE_RETURN)
            .count();
        assert!(waiting >= 2, "{waiting}");
    }
}

#[test]
fn an_address_of_a_prefix_needs_an_entry_for_the_way_back() {
    for ends in BOTH {
        let mut rig = rig();
        let (length, second) = if ends.vip.starts_with('[') {
            (48, "[2001:db8:f::9]:80")
        } else {
            (24, "203.0.113.9:80")
        };
        let wanted = Wanted::tcp(ends.vip, Mode::Nat)
            .prefix(length)
            .backend(ends.same_port);
        rig.serve(&wanted).unwrap();
        let syn = |port: u16| Packet::tcp(&ends.client.replace("40000", &port.to_string()), second);
        run(&mut rig, &syn(39_999).syn().frame(&from_client()));
        clear(&mut rig);
        run(&mut rig, &syn(40_000).syn().frame(&from_client()));
        let answer = Packet::tcp(ends.same_port, ends.client).flags(0x12);
        let expected = answer.clone().from(second).ttl(63).frame(&to_client());
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
