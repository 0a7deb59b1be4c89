//! Flows keep their backend; phases and live counts follow what the packets say.

use crate::common::{BOTH, Ends, live, refuse, rig, run};
use proxy_common::backend::BackendState;
use proxy_common::flow::{Phase, ticks_from_ms};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::netns;
use proxy_tests::packet::rig::{Rig, from_backend, from_client};
use proxy_tests::packet::service::{Served, Wanted};

/// A direct-return service with two backends.
fn serve(rig: &mut Rig, ends: &Ends) -> Served {
    rig.serve(
        &Wanted::tcp(ends.vip, Mode::DsrL2)
            .backend(ends.same_port)
            .backend(ends.second),
    )
    .unwrap()
}

/// Which backend (0, 1) a packet of the flow goes to.
#[track_caller]
fn backend_of(rig: &mut Rig, packet: &Packet) -> usize {
    let outcome = run(rig, &packet.frame(&from_client()));
    assert_eq!(outcome.reason(), Reason::Direct);
    match outcome.frame[..6] {
        ref mac if *mac == netns::backend(2) => 0,
        ref mac if *mac == netns::backend(3) => 1,
        ref mac => panic!("sent to {mac:x?}"),
    }
}

fn client(ends: &Ends, number: u16) -> String {
    ends.client
        .replace("40000", &format!("{}", 10_000 + number))
}

fn phase(rig: &Rig) -> Phase {
    let flows = rig.flows().unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    Phase::from_code(flows[0].1.phase).unwrap()
}

#[test]
fn flows_keep_their_backend_when_the_ring_changes() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        let mut before = Vec::new();
        for n in 0..40 {
            let flow = ends.tcp().from(&client(&ends, n));
            before.push(backend_of(&mut rig, &flow.clone().syn()));
            backend_of(&mut rig, &flow);
        }
        assert!(
            before.contains(&0) && before.contains(&1),
            "both are used: {before:?}"
        );
        rig.only(served.id, &served.backends[1..]).unwrap();
        let after: Vec<usize> = (0..40)
            .map(|n| backend_of(&mut rig, &ends.tcp().from(&client(&ends, n))))
            .collect();
        assert_eq!(before, after);
        // New flows follow the new ring.
        for n in 100..110 {
            assert_eq!(
                backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)).syn()),
                1
            );
        }
    }
}

#[test]
fn the_flows_of_a_down_backend_are_selected_anew() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        for n in 0..20 {
            backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)).syn());
            backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)));
        }
        let live_before = rig.live(served.backends[0]).unwrap();
        assert!(live_before > 0);
        rig.set_state(served.backends[0], BackendState::Down)
            .unwrap();
        rig.only(served.id, &served.backends[1..]).unwrap();
        for n in 0..20 {
            assert_eq!(backend_of(&mut rig, &ends.tcp().from(&client(&ends, n))), 1);
        }
        assert_eq!(rig.live(served.backends[0]).unwrap(), 0);
        assert_eq!(rig.live(served.backends[1]).unwrap(), 20);
        // And they stay there when it comes back.
        rig.set_state(served.backends[0], BackendState::Up).unwrap();
        rig.only(served.id, &served.backends).unwrap();
        for n in 0..20 {
            assert_eq!(backend_of(&mut rig, &ends.tcp().from(&client(&ends, n))), 1);
        }
    }
}

#[test]
fn a_draining_backend_keeps_its_flows_and_gets_no_new_ones() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        let before: Vec<usize> = (0..20)
            .map(|n| backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)).syn()))
            .collect();
        rig.set_state(served.backends[0], BackendState::Draining)
            .unwrap();
        rig.only(served.id, &served.backends[1..]).unwrap();
        let after: Vec<usize> = (0..20)
            .map(|n| backend_of(&mut rig, &ends.tcp().from(&client(&ends, n))))
            .collect();
        assert_eq!(before, after);
        for n in 50..70 {
            assert_eq!(
                backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)).syn()),
                1
            );
        }
    }
}

#[test]
fn a_service_without_backends_drops_new_flows() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        rig.only(served.id, &[]).unwrap();
        refuse(
            &mut rig,
            &ends.tcp().syn().frame(&from_client()),
            Reason::DropNoBackend,
        );
        assert_eq!(rig.service_stats(served.id).unwrap().dropped, 1);
        // A backend that went down, and a ring that was not yet rebuilt.
        rig.only(served.id, &served.backends[..1]).unwrap();
        rig.set_state(served.backends[0], BackendState::Down)
            .unwrap();
        refuse(
            &mut rig,
            &ends.tcp().syn().frame(&from_client()),
            Reason::DropNoBackend,
        );
    }
}

#[test]
fn a_syn_on_a_closing_flow_is_a_new_flow() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        let first = backend_of(&mut rig, &ends.tcp().syn());
        backend_of(&mut rig, &ends.tcp());
        backend_of(&mut rig, &ends.tcp().fin());
        // The old connection's last packets still go where it was.
        rig.only(served.id, &[served.backends[1 - first]]).unwrap();
        assert_eq!(backend_of(&mut rig, &ends.tcp()), first);
        assert_eq!(backend_of(&mut rig, &ends.tcp().syn()), 1 - first);
        assert_eq!(backend_of(&mut rig, &ends.tcp()), 1 - first);
        assert_eq!(rig.live(served.backends[first]).unwrap(), 0);
        assert_eq!(rig.live(served.backends[1 - first]).unwrap(), 1);
        assert_eq!(rig.flows().unwrap().len(), 1, "one tuple, one entry");
    }
}

#[test]
fn a_syn_on_an_established_flow_changes_nothing() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        let first = backend_of(&mut rig, &ends.tcp().syn());
        backend_of(&mut rig, &ends.tcp());
        rig.only(served.id, &[served.backends[1 - first]]).unwrap();
        assert_eq!(backend_of(&mut rig, &ends.tcp().syn()), first);
        assert_eq!(phase(&rig), Phase::Established);
    }
}

#[test]
fn phases_and_live_counts_follow_a_connection() {
    for ends in BOTH {
        let mut rig = rig();
        let served = rig
            .serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        let id = served.backends[0];
        let steps = [
            (ends.tcp().syn(), Phase::Syn, 0),
            (ends.tcp().syn(), Phase::Syn, 1),
            (ends.tcp(), Phase::Established, 1),
            (ends.tcp(), Phase::Established, 1),
            (ends.tcp().fin(), Phase::Closing, 0),
            (ends.tcp(), Phase::Closing, 0),
            (ends.tcp().rst(), Phase::Closing, 0),
        ];
        for (step, (packet, expected, live)) in steps.into_iter().enumerate() {
            run(&mut rig, &packet.frame(&from_client()));
            assert_eq!(phase(&rig), expected, "step {step}");
            assert_eq!(rig.live(id).unwrap(), live, "step {step}");
        }
        let stats = rig.backend_stats(id).unwrap();
        assert_eq!((stats.packets, stats.new_flows), (7, 1));
    }
}

#[test]
fn a_reset_ends_a_flow_at_once() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        backend_of(&mut rig, &ends.tcp().syn());
        backend_of(&mut rig, &ends.tcp().rst());
        assert_eq!(phase(&rig), Phase::Closing);
        assert_eq!(live(&rig, &served), 0);
    }
}

#[test]
fn a_flow_that_starts_in_the_middle_is_adopted() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends);
        backend_of(&mut rig, &ends.tcp());
        assert_eq!(phase(&rig), Phase::Established);
    }
}

#[test]
fn a_flow_that_starts_with_its_end_is_not_live() {
    for ends in BOTH {
        let mut rig = rig();
        let served = serve(&mut rig, &ends);
        backend_of(&mut rig, &ends.tcp().rst());
        assert_eq!(live(&rig, &served), 0);
    }
}

#[test]
fn udp_flows_are_live_and_keep_their_backend() {
    for ends in BOTH {
        let mut rig = rig();
        let wanted = Wanted::udp(ends.vip, Mode::DsrL2)
            .backend(ends.same_port)
            .backend(ends.second);
        let served = rig.serve(&wanted).unwrap();
        let first = backend_of(&mut rig, &ends.udp());
        rig.only(served.id, &[served.backends[1 - first]]).unwrap();
        assert_eq!(backend_of(&mut rig, &ends.udp()), first);
        assert_eq!(phase(&rig), Phase::Udp);
        assert_eq!(rig.live(served.backends[first]).unwrap(), 1);
    }
}

#[test]
fn a_nat_flow_has_one_entry_per_direction_and_counts_once() {
    for ends in BOTH {
        let mut rig = rig();
        let served = rig
            .serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.same_port))
            .unwrap();
        run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        assert_eq!(rig.flows().unwrap().len(), 2);
        assert_eq!(rig.live(served.backends[0]).unwrap(), 0, "not yet");
        run(&mut rig, &ends.tcp().frame(&from_client()));
        assert_eq!(rig.live(served.backends[0]).unwrap(), 1);
        rig.ingress = rig.namespace.south;
        let answer = Packet::tcp(ends.same_port, ends.client).payload(b"0123456789");
        run(&mut rig, &answer.frame(&from_backend(2)));
        let stats = rig.backend_stats(served.backends[0]).unwrap();
        assert_eq!(stats.return_packets, 1);
        assert_eq!(stats.return_bytes, answer.bytes().len() as u64);
        assert_eq!(rig.flows().unwrap().len(), 2);
        assert_eq!(rig.live(served.backends[0]).unwrap(), 1);
    }
}

/// Counters are of the IP packet as it came, without tunnel headers.
#[test]
fn backends_count_packets_and_octets() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::DsrL2, Mode::DsrIpip, Mode::DsrGue] {
            let mut rig = rig();
            let served = rig
                .serve(&Wanted::tcp(ends.vip, mode).backend(ends.same_port))
                .unwrap();
            let packets = [ends.tcp().syn(), ends.tcp(), ends.tcp().payload(&[1; 500])];
            for packet in &packets {
                run(&mut rig, &packet.frame(&from_client()));
            }
            let octets: usize = packets.iter().map(|packet| packet.bytes().len()).sum();
            let stats = rig.backend_stats(served.backends[0]).unwrap();
            assert_eq!(
                (stats.packets, stats.bytes, stats.new_flows),
                (3, octets as u64, 1)
            );
        }
    }
}

#[test]
fn a_full_set_gives_way_to_expired_flows_only() {
    for ends in BOTH {
        let sizes = proxy_tests::packet::rig::Sizes {
            sets_per_cpu: 1,
            ..Default::default()
        };
        let mut rig = Rig::with(sizes).unwrap();
        let served = serve(&mut rig, &ends);
        // Sixteen confirmed flows fill the only set.
        for n in 0..16 {
            backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)).syn());
            backend_of(&mut rig, &ends.tcp().from(&client(&ends, n)));
        }
        assert_eq!(rig.flows().unwrap().len(), 16);
        // A further one is forwarded without an entry, and counted.
        backend_of(&mut rig, &ends.tcp().from(&client(&ends, 20)).syn());
        let kept: Vec<_> = rig.flows().unwrap();
        assert_eq!(kept.len(), 16);
        assert_eq!(rig.service_stats(served.id).unwrap().untracked_flows, 1);
        // Once the old ones have been idle for their timeout, they give way, and are uncounted. Their
        // slots tell the time by periods of 4.3 s.
        rig.age_flows(ticks_from_ms(306_000)).unwrap();
        backend_of(&mut rig, &ends.tcp().from(&client(&ends, 21)).syn());
        assert_eq!(rig.service_stats(served.id).unwrap().replaced_flows, 1);
        assert_eq!(live(&rig, &served), 15);
    }
}
