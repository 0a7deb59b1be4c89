//! Traced flows: which packets are told of, under which id.

use crate::common::{BOTH, Ends, rig, run};
use crate::full_nat::{self, source, source_port};
use aya::maps::RingBuf;
use proxy_common::addr::Addr;
use proxy_common::event::Event;
use proxy_common::flow::FlowKey;
use proxy_common::hash::flow_hash;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_common::{maps, tcp, trace};
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Rig, from_backend, from_client};
use proxy_tests::packet::service::Wanted;
use std::net::SocketAddr;

/// All records that wait in the ring.
fn events(rig: &Rig) -> Vec<Event> {
    let map = rig.map(maps::EVENTS).unwrap();
    let mut ring = RingBuf::try_from(map).unwrap();
    let mut events = Vec::new();
    while let Some(record) = ring.next() {
        let octets: [u8; size_of::<Event>()] = record[..].try_into().unwrap();
        // SAFETY: `Event` is `repr(C)`, of integers without hidden padding, and of this very size.
        events.push(unsafe { std::mem::transmute::<[u8; size_of::<Event>()], Event>(octets) });
    }
    events
}

/// Traces the flows below a threshold from now on.
fn observe(rig: &mut Rig, below: u32) {
    rig.settings(|settings| {
        settings.trace_below = below;
        settings.sample_every = 4;
    })
    .unwrap();
    // Of whoever had the plane before.
    events(rig);
}

/// The hash of the client's tuple, worked out as a proxy does it.
fn hash(rig: &Rig, client: &str, vip: &str, protocol: u8) -> u64 {
    let [client, vip] = [client, vip].map(|end| end.parse::<SocketAddr>().unwrap());
    let key = FlowKey::new(
        Addr::from(client.ip()),
        Addr::from(vip.ip()),
        client.port().to_be(),
        vip.port().to_be(),
        protocol,
    );
    flow_hash(key.words(), &rig.current_settings().secrets)
}

fn id(rig: &Rig, ends: &Ends, protocol: u8) -> u64 {
    let hash = hash(rig, ends.client, ends.vip, protocol);
    trace::flow_id(hash, &rig.current_settings().secrets)
}

#[test]
fn a_flows_first_and_last_packets_are_told_of_under_its_id() {
    for ends in BOTH {
        for mode in [Mode::Local, Mode::Nat] {
            let mut rig = rig();
            rig.serve(&Wanted::tcp(ends.vip, mode).backend(ends.backend))
                .unwrap();
            observe(&mut rig, trace::threshold(1));
            for packet in [ends.tcp().syn(), ends.tcp().fin()] {
                let _ = run(&mut rig, &packet.frame(&from_client()));
            }
            let told = events(&rig);
            assert_eq!(told.len(), 2, "{mode:?} {told:?}");
            for (event, flag) in told.iter().zip([tcp::flag::SYN, tcp::flag::FIN]) {
                assert_eq!(event.flow, id(&rig, &ends, 6), "{mode:?}");
                assert_eq!(
                    event.rank,
                    trace::rank(hash(&rig, ends.client, ends.vip, 6))
                );
                assert!(event.tcp_flags & flag != 0, "{event:?}");
                assert_ne!(event.service, 0);
            }
        }
    }
}

#[test]
fn unsampled_flows_are_not_told_of() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.backend))
            .unwrap();
        let rank = trace::rank(hash(&rig, ends.client, ends.vip, 6));
        for (below, told) in [(0, 0), (rank, 0), (rank + 1, 1)] {
            observe(&mut rig, below);
            let _ = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
            assert_eq!(events(&rig).len(), told, "{below} of {rank}");
        }
    }
}

#[test]
fn of_packets_that_tell_nothing_new_a_part_is_told_of() {
    for ends in BOTH {
        let mut rig = rig();
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat).backend(ends.backend))
            .unwrap();
        observe(&mut rig, trace::threshold(1));
        let _ = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        // The second packet confirms the flow.
        let _ = run(&mut rig, &ends.tcp().frame(&from_client()));
        events(&rig);
        for _ in 0..40 {
            let _ = run(&mut rig, &ends.tcp().frame(&from_client()));
        }
        // Every fourth, as the settings say.
        assert_eq!(events(&rig).len(), 10);
    }
}

#[test]
fn an_answer_has_the_id_of_the_client_that_gets_it() {
    for ends in BOTH {
        for mode in [Mode::Nat, Mode::FullNat] {
            let mut rig = match mode {
                Mode::FullNat => full_nat::rig(),
                _ => rig(),
            };
            let mut wanted = Wanted::tcp(ends.vip, mode).backend(ends.backend);
            if mode == Mode::FullNat {
                wanted = wanted.source(ends.source);
            }
            rig.serve(&wanted).unwrap();
            observe(&mut rig, trace::threshold(1));
            let outcome = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
            let asker = match mode {
                Mode::FullNat => source(&ends, source_port(&ends, &outcome.frame)),
                _ => ends.client.to_owned(),
            };
            let answer = Packet::tcp(ends.backend, &asker).flags(0x12);
            rig.ingress = rig.namespace.south;
            let outcome = run(&mut rig, &answer.frame(&from_backend(2)));
            assert_eq!(outcome.reason(), Reason::Returned);
            let told = events(&rig);
            assert_eq!(told.len(), 2, "{told:?}");
            for event in &told {
                assert_eq!(event.flow, id(&rig, &ends, 6), "{mode:?} {told:?}");
            }
        }
    }
}

#[test]
fn what_is_no_services_is_told_of_as_well_for_a_proxy_may_serve_it() {
    for ends in BOTH {
        let mut rig = rig();
        observe(&mut rig, trace::threshold(1));
        let _ = run(&mut rig, &ends.tcp().syn().frame(&from_client()));
        let told = events(&rig);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].reason, Reason::PassNotService as u16);
        assert_eq!(told[0].flow, id(&rig, &ends, 6));
    }
}

#[test]
fn dropped_packets_are_told_of_one_by_one() {
    for ends in BOTH {
        let mut rig = rig();
        // A service without backends.
        rig.serve(&Wanted::tcp(ends.vip, Mode::Nat)).unwrap();
        observe(&mut rig, trace::threshold(1));
        for _ in 0..3 {
            let _ = run(&mut rig, &ends.tcp().frame(&from_client()));
        }
        let reasons: Vec<u16> = events(&rig).iter().map(|event| event.reason).collect();
        assert_eq!(reasons, [Reason::DropNoBackend as u16; 3]);
    }
}
