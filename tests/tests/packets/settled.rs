//! SYNs that leave nothing: while a ring is settled it remembers flows, and after a change the ring before
//! does, until every flow that began before has sent its second packet.

use crate::common::{BOTH, Ends, V4, expect, move_on, refuse, rig, run, to_client};
use proxy_common::backend::BackendState;
use proxy_common::exceptions::{HALF_WORDS, place, state};
use proxy_common::flow::{FlowEntry, FlowSet, Phase, SetTags, WAYS, flow_flags, slot};
use proxy_common::hash::flow_hash;
use proxy_common::maps;
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, Selection};
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns::backend;
use proxy_tests::packet::plane::NO_EXCEPTIONS;
use proxy_tests::packet::rig::{Action, Rig, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted, ring_of};

/// A second that never comes.
const NEVER: u32 = u32::MAX;

/// A service whose ring is settled, and to whose backends packets went just before.
fn serve(rig: &mut Rig, ends: &Ends, mode: Mode) -> Served {
    let wanted = Wanted::tcp(ends.vip, mode)
        .backend(ends.same_port)
        .backend(ends.second);
    let served = rig.serve(&wanted).unwrap();
    // However slow the machine is: what is known of the way stays known.
    rig.settings(|settings| settings.route_ttl_ns = 3_600_000_000_000)
        .unwrap();
    rig.settle(served.id, &served.backends).unwrap();
    warm(rig, ends);
    served
}

/// Has the first program know the way to both backends, and forgets the flows that this took.
fn warm(rig: &mut Rig, ends: &Ends) {
    for number in 0..40 {
        run(
            rig,
            &other(ends, 20_000 + number).syn().frame(&from_client()),
        );
    }
    let settings = *rig.current_settings();
    for index in 0..settings.sets_per_cpu * settings.cpus {
        rig.set(maps::FLOWS, index, FlowSet::default()).unwrap();
        rig.set(maps::FLOW_TAGS, index, SetTags::default()).unwrap();
    }
}

/// A flow of another port of the client.
fn other(ends: &Ends, port: u16) -> Packet {
    Packet::tcp(&ends.client.replace("40000", &port.to_string()), ends.vip)
}

/// Every used way: slot and entry.
fn ways(rig: &Rig) -> Vec<(u64, FlowEntry)> {
    let settings = rig.current_settings();
    let mut used = Vec::new();
    for index in 0..settings.sets_per_cpu * settings.cpus {
        let tags: SetTags = rig.get(maps::FLOW_TAGS, index).unwrap();
        let set: FlowSet = rig.get(maps::FLOWS, index).unwrap();
        let ways = (0..WAYS).filter(|way| tags.tags[*way] != 0);
        used.extend(ways.map(|way| (tags.tags[way], set.ways[way])));
    }
    used
}

/// Sends a packet to the VIP and tells which backend got it, by its index.
#[track_caller]
fn sent(rig: &mut Rig, packet: &Packet) -> usize {
    let frame = run(rig, &packet.frame(&from_client())).frame;
    match frame[..6] {
        ref to if *to == backend(2) => 0,
        ref to if *to == backend(3) => 1,
        ref to => panic!("sent to {to:02x?}"),
    }
}

/// The ring becomes one that leads to `now` only; the one before was that of `serve`.
fn change(rig: &mut Rig, served: &Served, now: usize, before_until: u32) {
    let before = ring_of(&served.backends);
    let slots = ring_of(&served.backends[now..=now]);
    let before = Some((&before[..], before_until));
    rig.set_ring_until(served.id, &slots, NEVER, before)
        .unwrap();
}

fn live(rig: &Rig, served: &Served) -> i64 {
    let of = |id: &u16| rig.live(*id).unwrap();
    served.backends.iter().map(of).sum()
}

fn counted(rig: &Rig, served: &Served) -> (u64, u64) {
    let of = |id: &u16| rig.backend_stats(*id).unwrap();
    let stats: Vec<_> = served.backends.iter().map(of).collect();
    (
        stats.iter().map(|stats| stats.new_flows).sum(),
        stats.iter().map(|stats| stats.entered).sum(),
    )
}

#[test]
fn a_syn_leaves_nothing_and_the_second_packet_enters_the_flow() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let (new, entered) = counted(&rig, &served);
        let to = sent(&mut rig, &ends.tcp().syn());
        assert_eq!(ways(&rig), []);
        assert_eq!(counted(&rig, &served), (new + 1, entered));
        assert_eq!(live(&rig, &served), 0);

        assert_eq!(sent(&mut rig, &ends.tcp()), to);
        let [(_, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_eq!(entry.phase, Phase::Established.code());
        assert_eq!(entry.backend, served.backends[to]);
        assert_eq!(counted(&rig, &served), (new + 1, entered + 1));
        assert_eq!(live(&rig, &served), 1);

        // It is confirmed by the third, and from now on the table knows.
        assert_eq!(sent(&mut rig, &ends.tcp()), to);
        let [(steady, _)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        let marks = slot::STEADY | slot::CONFIRMED;
        assert_eq!(steady & marks, marks);
        rig.only(served.id, &served.backends[1 - to..][..1])
            .unwrap();
        assert_eq!(sent(&mut rig, &ends.tcp()), to);
        assert_eq!(counted(&rig, &served), (new + 1, entered + 1));
    }
}

#[test]
fn a_syn_that_is_sent_again_leaves_nothing_either() {
    for ends in BOTH {
        let mut rig = rig();
        let _served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        assert_eq!(sent(&mut rig, &ends.tcp().syn()), to);
        assert_eq!(ways(&rig), []);
    }
}

#[test]
fn a_flow_that_began_before_the_ring_changed_follows_the_ring_before() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        change(&mut rig, &served, 1 - to, NEVER);
        for _ in 0..3 {
            assert_eq!(sent(&mut rig, &ends.tcp()), to);
        }
        let [(_, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_eq!(entry.backend, served.backends[to]);
        // Also when the window is over, and for SYNs: that it is not where the ring leads is marked.
        let now = ring_of(&served.backends[1 - to..][..1]);
        rig.set_ring_until(served.id, &now, 0, None).unwrap();
        for packet in [ends.tcp(), ends.tcp().syn(), ends.tcp()] {
            assert_eq!(sent(&mut rig, &packet), to);
        }
    }
}

#[test]
fn syns_after_a_change_leave_flows_that_follow_the_ring_in_force() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        // The ring before would lead it to the other one.
        change(&mut rig, &served, 1 - to, NEVER);
        assert_eq!(sent(&mut rig, &ends.tcp().syn()), 1 - to);
        let [(bare, _)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_ne!(bare & slot::BARE, 0);
        for _ in 0..3 {
            assert_eq!(sent(&mut rig, &ends.tcp()), 1 - to);
        }
    }
}

#[test]
fn two_changes_within_a_window_mislead_nobody() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let flows: Vec<Packet> = (0..20).map(|n| other(&ends, 30_000 + n)).collect();
        let to: Vec<usize> = flows
            .iter()
            .map(|flow| sent(&mut rig, &flow.clone().syn()))
            .collect();
        let late = [other(&ends, 31_000), other(&ends, 31_001)];
        // To the first one only, then to the second only: the ring before is the settled one both times.
        for (now, flow) in late.iter().enumerate() {
            change(&mut rig, &served, now, NEVER);
            assert_eq!(sent(&mut rig, &flow.clone().syn()), now);
        }
        for _ in 0..2 {
            for (flow, to) in flows.iter().zip(&to) {
                assert_eq!(sent(&mut rig, flow), *to);
            }
            for (now, flow) in late.iter().enumerate() {
                assert_eq!(sent(&mut rig, flow), now);
            }
        }
    }
}

#[test]
fn a_flow_whose_backend_of_before_is_down_is_selected_anew() {
    for ends in BOTH {
        for (state, keeps) in [(BackendState::Draining, true), (BackendState::Down, false)] {
            let mut rig = rig();
            let served = serve(&mut rig, &ends, Mode::DsrL2);
            let to = sent(&mut rig, &ends.tcp().syn());
            change(&mut rig, &served, 1 - to, NEVER);
            rig.set_state(served.backends[to], state).unwrap();
            let expected = if keeps { to } else { 1 - to };
            for _ in 0..3 {
                assert_eq!(sent(&mut rig, &ends.tcp()), expected, "{state:?}");
            }
        }
    }
}

#[test]
fn a_flow_follows_the_ring_before_also_if_nobody_takes_new_flows() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        let before = ring_of(&served.backends);
        rig.set_ring_until(served.id, &[], NEVER, Some((&before, NEVER)))
            .unwrap();
        rig.change_service(served.id, |service| service.ring_size = 0)
            .unwrap();
        assert_eq!(sent(&mut rig, &ends.tcp()), to);
        let syn = other(&ends, 30_000).syn().frame(&from_client());
        refuse(&mut rig, &syn, Reason::DropNoBackend);
    }
}

#[test]
fn the_ring_before_may_have_another_size() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let before: Vec<u16> = served.backends.iter().copied().cycle().take(251).collect();
        rig.set_ring_until(served.id, &before, 0, None).unwrap();
        rig.change_service(served.id, |service| service.ring_size = 251)
            .unwrap();
        warm(&mut rig, &ends);
        let flows: Vec<Packet> = (0..20).map(|n| other(&ends, 30_000 + n)).collect();
        let to: Vec<usize> = flows
            .iter()
            .map(|flow| sent(&mut rig, &flow.clone().syn()))
            .collect();
        assert_eq!(ways(&rig), []);
        let now = ring_of(&served.backends[..1]);
        rig.set_ring_until(served.id, &now, NEVER, Some((&before, NEVER)))
            .unwrap();
        rig.change_service(served.id, |service| service.ring_size = now.len() as u32)
            .unwrap();
        for (flow, to) in flows.iter().zip(&to) {
            assert_eq!(sent(&mut rig, flow), *to);
        }
    }
}

#[test]
fn the_window_ends() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        // The first second is long over.
        change(&mut rig, &served, 1 - to, 0);
        assert_eq!(sent(&mut rig, &ends.tcp()), 1 - to);
    }
}

#[test]
fn a_ring_is_not_settled_before_the_table_has_been_looked_at() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let slots = ring_of(&served.backends);
        rig.set_ring_until(served.id, &slots, 1_000, None).unwrap();
        for (since, left) in [(999, 1), (1_000, 1), (1_001, 1)] {
            let mut exceptions = NO_EXCEPTIONS;
            exceptions.state = state(u64::from(since) % 2, since);
            rig.set(maps::EXCEPTIONS, 0, exceptions).unwrap();
            sent(&mut rig, &other(&ends, 30_000 + since as u16).syn());
            assert_eq!(ways(&rig).len(), left, "{since}");
        }
    }
}

#[test]
fn a_syn_of_an_exception_looks_at_the_table() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        // A flow that lives where the ring no longer leads.
        let to = sent(&mut rig, &ends.tcp().syn());
        for _ in 0..2 {
            sent(&mut rig, &ends.tcp());
        }
        rig.settle(served.id, &served.backends[1 - to..][..1])
            .unwrap();
        warm_one(&mut rig, &ends);
        let [(_, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        let (word, mask) = place(flow_hash(
            entry.key.words(),
            &rig.current_settings().secrets,
        ));
        for half in [0, 1] {
            let mut exceptions = NO_EXCEPTIONS;
            exceptions.state = state(half, 0);
            exceptions.marks[word + half as usize * HALF_WORDS] = mask;
            rig.set(maps::EXCEPTIONS, 0, exceptions).unwrap();
            assert_eq!(sent(&mut rig, &ends.tcp().syn()), to, "half {half}");
            // The other half does not count.
            exceptions.state = state(1 - half, 0);
            rig.set(maps::EXCEPTIONS, 0, exceptions).unwrap();
            assert_eq!(sent(&mut rig, &ends.tcp().syn()), 1 - to, "half {half}");
        }
    }
}

/// As [`warm`], and keeps the flows.
fn warm_one(rig: &mut Rig, ends: &Ends) {
    let flows = ways(rig);
    let syn = other(ends, 20_000).syn().frame(&from_client());
    run(rig, &syn);
    let reset = other(ends, 20_000).flags(0x04).frame(&from_client());
    run(rig, &reset);
    assert!(ways(rig).len() <= flows.len() + 1);
    let settings = *rig.current_settings();
    for index in 0..settings.sets_per_cpu * settings.cpus {
        let mut tags: SetTags = rig.get(maps::FLOW_TAGS, index).unwrap();
        for slot in &mut tags.tags {
            if !flows.iter().any(|(known, _)| known == slot) {
                *slot = 0;
            }
        }
        rig.set(maps::FLOW_TAGS, index, tags).unwrap();
    }
    assert_eq!(ways(rig).len(), flows.len());
}

#[test]
fn a_connection_whose_tuple_is_used_again_begins_anew() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        for packet in [ends.tcp().syn(), ends.tcp(), ends.tcp(), ends.tcp().fin()] {
            sent(&mut rig, &packet);
        }
        assert_eq!(live(&rig, &served), 0);
        // The entry is closing, which is an exception: the SYN finds it.
        for packet in [ends.tcp().syn(), ends.tcp(), ends.tcp()] {
            sent(&mut rig, &packet);
        }
        let [(steady, entry)] = ways(&rig)[..] else {
            panic!("one flow")
        };
        assert_eq!(entry.phase, Phase::Established.code());
        assert_ne!(steady & slot::STEADY, 0);
        assert_eq!(live(&rig, &served), 1);
    }
}

#[test]
fn a_reset_that_answers_the_answer_to_a_false_syn_leaves_nothing() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        assert_eq!(sent(&mut rig, &ends.tcp().flags(0x04)), to);
        assert_eq!(ways(&rig), []);
        assert_eq!(live(&rig, &served), 0);
    }
}

#[test]
fn only_the_ring_alone_spares_a_flow() {
    for selection in [Selection::SourceAffinity, Selection::TwoChoices] {
        let mut rig = rig();
        let served = serve(&mut rig, &V4, Mode::DsrL2);
        rig.change_service(served.id, |service| {
            service.selection = selection.code();
            service.affinity_ticks = 1_000_000;
        })
        .unwrap();
        warm(&mut rig, &V4);
        sent(&mut rig, &V4.tcp().syn());
        assert_eq!(ways(&rig).len(), 1, "{selection:?}");
    }
}

#[test]
fn the_second_packet_may_come_by_another_cpu() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        let to = sent(&mut rig, &ends.tcp().syn());
        if !move_on(&mut rig) {
            return;
        }
        for _ in 0..2 {
            assert_eq!(sent(&mut rig, &ends.tcp()), to);
        }
        let [(cpu, _)] = rig.flows().unwrap()[..] else {
            panic!("one flow")
        };
        assert_eq!(cpu as usize, rig.cpu);
        assert_eq!(live(&rig, &served), 1);
    }
}

#[test]
fn a_known_flow_that_changes_its_cpu_is_still_counted_once() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::DsrL2);
        for packet in [ends.tcp().syn(), ends.tcp(), ends.tcp()] {
            sent(&mut rig, &packet);
        }
        if !move_on(&mut rig) {
            return;
        }
        sent(&mut rig, &ends.tcp());
        assert_eq!(live(&rig, &served), 1);
    }
}

#[test]
fn an_error_about_a_flow_without_an_entry_follows_the_ring_before() {
    let mut rig = rig();
    let served = serve(&mut rig, &V4, Mode::DsrL2);
    let to = sent(&mut rig, &V4.tcp().syn());
    change(&mut rig, &served, 1 - to, NEVER);
    let answer = Packet::tcp(V4.vip, V4.client).flags(0x12);
    let error = Packet::too_big("100.64.9.9", &V4.vip_address(), 1_300, &answer.bytes());
    assert_eq!(sent(&mut rig, &error), to);
}

#[test]
fn a_flood_of_syns_does_not_touch_the_table() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2);
        // One that is confirmed, and one that is not.
        for packet in [ends.tcp(), ends.tcp(), other(&ends, 41_000)] {
            sent(&mut rig, &packet);
        }
        let before = ways(&rig);
        assert_eq!(before.len(), 2);
        let flood = (1_024..40_000).map(|port| other(&ends, port).syn().frame(&from_client()));
        rig.flood(flood).unwrap();
        rig.forget_reasons().unwrap();
        assert_eq!(ways(&rig), before);
    }
}

#[test]
fn a_syn_to_nat_leaves_the_way_back_only() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends, Mode::Nat);
        let to = sent(&mut rig, &ends.tcp().syn());
        let [(_, back)] = rig.flows().unwrap()[..] else {
            panic!("one way")
        };
        assert_eq!(back.backend, served.backends[to]);
        let (end, last) = [(ends.same_port, 2), (ends.second, 3)][to];
        let answer = Packet::tcp(end, ends.client).flags(0x12);
        let expected = answer.clone().from(ends.vip).ttl(63).frame(&to_client());
        for _ in 0..2 {
            rig.ingress = rig.namespace.south;
            let (action, reason) = (Action::Redirect, Reason::Returned);
            let frame = answer.frame(&from_backend(last));
            expect(&mut rig, &frame, action, reason, &expected);
            rig.ingress = rig.namespace.north;
            for _ in 0..3 {
                assert_eq!(sent(&mut rig, &ends.tcp()), to);
            }
        }
        let flows = ways(&rig);
        assert_eq!(flows.len(), 2);
        let back = |flow: &(u64, FlowEntry)| flow.1.flags & flow_flags::RETURN != 0;
        assert_eq!(flows.iter().filter(|flow| back(flow)).count(), 1);
        assert_eq!(live(&rig, &served), 1);
    }
}
