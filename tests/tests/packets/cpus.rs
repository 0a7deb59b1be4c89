//! One flow on several CPUs: each has its own part of the table, and finds what the others know.

use crate::common::{BOTH, Ends, live, move_on, rig, run, to_client};
use proxy_common::reason::Reason;
use proxy_common::service::{Mode, Selection};
use proxy_common::settings::CHEAP_LOOKS_PER_TICK;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns::{backend, pin_to_cpu};
use proxy_tests::packet::rig::{Action, Rig, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted};
use proxy_tests::wait;
use std::thread;
use std::time::Duration;

/// Two backends behind a ring.
fn serve_by_two(rig: &mut Rig, ends: &Ends) -> Served {
    let wanted = Wanted::tcp(ends.vip, Mode::DsrL2)
        .backend(ends.same_port)
        .backend(ends.second);
    rig.serve(&wanted).unwrap()
}

/// Has the ring choose the other backend than the one that this frame was sent to: from now on only
/// the table can know where the flow is. True if that was the first one.
fn turn_ring(rig: &mut Rig, served: &Served, frame: &[u8]) -> bool {
    let to_first = frame[..6] == backend(2);
    let other = &served.backends[usize::from(to_first)..][..1];
    rig.only(served.id, other).unwrap();
    to_first
}

#[test]
fn a_flow_is_found_from_another_cpu() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by_two(&mut rig, &ends);
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        turn_ring(&mut rig, &served, &first.frame);
        if !move_on(&mut rig) {
            return;
        }
        for _ in 0..3 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], first.frame[..6]);
        }
        assert_eq!(live(&rig, &served), 1, "the copy is not counted again");
        assert_eq!(rig.flows().unwrap().len(), 2, "each CPU has its entry");
        // The end is seen on this CPU: the flow is live nowhere.
        run(&mut rig, &ends.tcp().fin().frame(&from_client()));
        assert_eq!(live(&rig, &served), 0);
    }
}

#[test]
fn a_flow_that_ends_on_one_cpu_is_forgotten_on_the_others() {
    for ends in BOTH {
        let mut rig = rig();
        let served = rig
            .serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let home = rig.cpu;
        if !move_on(&mut rig) {
            return;
        }
        // The copy on this CPU has the count now; the flow ends where it came from.
        run(&mut rig, &ends.tcp().frame(&from_client()));
        rig.cpu = home;
        pin_to_cpu(home).unwrap();
        run(&mut rig, &ends.tcp().fin().frame(&from_client()));
        assert_eq!(rig.live(served.backends[0]).unwrap(), 0);
        let left = rig.flows().unwrap();
        assert_eq!(
            left.len(),
            1,
            "a stale copy would mislead the next connection"
        );
        assert_eq!(left[0].0 as usize, home);
    }
}

#[test]
fn a_flow_whose_last_packet_changes_the_cpu_is_forgotten_where_it_was() {
    for ends in BOTH {
        let mut rig = rig();
        let served = rig
            .serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        run(&mut rig, &ends.tcp().frame(&from_client()));
        if !move_on(&mut rig) {
            return;
        }
        run(&mut rig, &ends.tcp().fin().frame(&from_client()));
        assert_eq!(rig.live(served.backends[0]).unwrap(), 0);
        let left = rig.flows().unwrap();
        assert_eq!(left.len(), 1, "a stale entry would mislead the next one");
        assert_eq!(left[0].0 as usize, rig.cpu);
    }
}

#[test]
fn an_answer_on_another_cpu_finds_its_flow() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.same_port))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        if !move_on(&mut rig) {
            return;
        }
        rig.ingress = rig.namespace.south;
        let answer = Packet::tcp(ends.same_port, ends.client).flags(0x12);
        for _ in 0..2 {
            let outcome = run(&mut rig, &answer.frame(&from_backend(2)));
            assert_eq!(
                (outcome.action, outcome.reason()),
                (Action::Redirect, Reason::Returned)
            );
        }
    }
}

/// A client that uses its port again for another address of a prefix, while the answers of the
/// connection before have their entry on another CPU: what belongs to that one must not lead the new
/// one's answers, however often they come.
#[test]
fn answers_follow_the_next_connection_although_the_last_ones_entry_stays_young() {
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
        let home = rig.cpu;
        let syn = |vip| Packet::tcp(ends.client, vip).syn();
        let answer = Packet::tcp(ends.same_port, ends.client);
        let from = |vip| answer.clone().from(vip).ttl(63).frame(&to_client());
        run(&mut rig, &syn(ends.vip).frame(&from_client()));
        if !move_on(&mut rig) {
            return;
        }
        let away = rig.cpu;
        rig.ingress = rig.namespace.south;
        for packet in [answer.clone().flags(0x12), answer.clone().fin()] {
            run(&mut rig, &packet.frame(&from_backend(2)));
        }
        rig.ingress = rig.namespace.north;
        rig.cpu = home;
        pin_to_cpu(home).unwrap();
        run(&mut rig, &syn(second).frame(&from_client()));
        rig.ingress = rig.namespace.south;
        rig.cpu = away;
        pin_to_cpu(away).unwrap();
        // Each answer renews the entry that leads it, so that is never as old as a pause between two
        // SYNs, and younger than the one that the SYN has left.
        let found = wait::until("the answers come from the second address", || {
            rig.age_flows(200)?;
            let sent = run(&mut rig, &answer.frame(&from_backend(2))).frame;
            assert!(
                sent == from(ends.vip) || sent == from(second),
                "{sent:02x?}"
            );
            Ok(sent == from(second))
        });
        found.unwrap();
    }
}

#[test]
fn a_new_connection_is_not_searched_elsewhere() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by_two(&mut rig, &ends);
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        turn_ring(&mut rig, &served, &first.frame);
        if !move_on(&mut rig) {
            return;
        }
        let again = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_ne!(again.frame[..6], first.frame[..6], "a SYN follows the ring");
    }
}

#[test]
fn a_connection_that_is_tried_again_on_another_cpu_follows_the_last_attempt() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by_two(&mut rig, &ends);
        let home = rig.cpu;
        let lost = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let to_first = turn_ring(&mut rig, &served, &lost.frame);
        // A client waits for a second before it sends a SYN again.
        rig.age_flows(1000).unwrap();
        if !move_on(&mut rig) {
            return;
        }
        let again = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_ne!(again.frame[..6], lost.frame[..6]);
        rig.cpu = home;
        pin_to_cpu(home).unwrap();
        for _ in 0..2 {
            let later = run(&mut rig, &ends.tcp().frame(&from_client()));
            assert_eq!(later.frame[..6], again.frame[..6]);
        }
        let live = |index: usize| rig.live(served.backends[index]).unwrap();
        assert_eq!(
            (live(0), live(1)),
            (i64::from(!to_first), i64::from(to_first))
        );
    }
}

#[test]
fn a_slow_handshake_stays_where_it_began() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve_by_two(&mut rig, &ends);
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        turn_ring(&mut rig, &served, &first.frame);
        rig.age_flows(1000).unwrap();
        let later = run(&mut rig, &ends.tcp().frame(&from_client()));
        assert_eq!(later.frame[..6], first.frame[..6], "nobody knows better");
    }
}

#[test]
fn a_syn_that_is_sent_again_keeps_its_backend_where_chance_decides() {
    for ends in BOTH {
        let mut rig = rig();
        let wanted = Wanted::tcp(ends.vip, Mode::DsrL2)
            .backend(ends.same_port)
            .backend(ends.second)
            .with(|service| service.selection = Selection::TwoChoices.code());
        rig.serve(&wanted).unwrap();
        let first = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        if !move_on(&mut rig) {
            return;
        }
        // The other one has fewer connections now.
        let again = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_eq!(again.frame[..6], first.frame[..6]);
    }
}

#[test]
fn syns_leave_looks_for_flows_that_change_their_cpu() {
    /// Connections that move: nearly all of them in the tick of the SYNs before them.
    const MOVED: u16 = 30;
    /// Ticks follow the coarse clock, which advances every 10 ms at the least.
    const NEXT_TICK: Duration = Duration::from_millis(11);
    for ends in BOTH {
        let mut rig = rig();
        let wanted = Wanted::tcp(ends.vip, Mode::DsrL2)
            .backend(ends.same_port)
            .backend(ends.second)
            .with(|service| service.selection = Selection::TwoChoices.code());
        let served = rig.serve(&wanted).unwrap();
        rig.only(served.id, &served.backends[..1]).unwrap();
        let of =
            |port: u16| Packet::tcp(&ends.client.replace("40000", &port.to_string()), ends.vip);
        for port in 1..=MOVED {
            run(&mut rig, &of(port).syn().frame(&from_client()));
        }
        rig.only(served.id, &served.backends[1..]).unwrap();
        if !move_on(&mut rig) {
            return;
        }
        // As many CPUs as make one look use up all that SYNs may have in a tick.
        rig.settings(|settings| settings.cpus = CHEAP_LOOKS_PER_TICK)
            .unwrap();
        for port in 1..=MOVED {
            for other in [1000, 2000] {
                let syn = run(&mut rig, &of(other + port).syn().frame(&from_client()));
                assert_eq!(syn.frame[..6], backend(3));
            }
            let moved = run(&mut rig, &of(port).frame(&from_client()));
            assert_eq!(moved.frame[..6], backend(2), "connection {port}");
            thread::sleep(NEXT_TICK);
        }
    }
}
