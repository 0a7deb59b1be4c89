use super::*;
use crate::kernel::plan::{Ids, ListenerIds};
use proxy_common::addr::Addr;

fn names() -> NameTable {
    NameTable {
        ids: Ids::new(vec![ListenerIds {
            name: "http".to_owned(),
            service: "web".to_owned(),
            id: 1,
            backends: vec![("b1".to_owned(), 7)],
            retiring: Vec::new(),
        }]),
        interfaces: [(3, "eth0".to_owned())].into(),
        modes: [("web".to_owned(), "nat")].into(),
    }
}

fn event() -> Event {
    Event {
        time_ns: 1_000_000_000,
        src: Addr::v4([192, 0, 2, 1]),
        dst: Addr::v4([198, 51, 100, 1]),
        length: 60,
        ifindex: 3,
        src_port_be: 4711u16.to_be(),
        dst_port_be: 80u16.to_be(),
        reason: Reason::Translated as u16,
        service: 1,
        backend: 7,
        protocol: 6,
        tcp_flags: tcp::flag::SYN,
        rank: 5,
        flow: 0xabc,
    }
}

fn stage(event: &Event) -> (FlowStage, Packet) {
    let stage = FlowStage::of(note(event, &names(), 500_000_000));
    let Stage::Packet(packet) = &stage.stage else {
        panic!("{stage:?}");
    };
    let packet = packet.clone();
    (stage, packet)
}

#[test]
fn numbers_become_names() {
    let (stage, packet) = stage(&event());
    assert_eq!((stage.time_seconds, &*stage.id), (1.5, "0000000000000abc"));
    assert_eq!(
        (&*stage.source, &*stage.destination),
        ("192.0.2.1:4711", "198.51.100.1:80")
    );
    assert_eq!(
        (&*packet.interface, &*packet.verdict, &*packet.flags),
        ("eth0", "forward", "syn")
    );
    assert_eq!(
        (packet.service.as_deref(), packet.backend.as_deref()),
        (Some("web"), Some("b1"))
    );
    assert_eq!(packet.mode.as_deref(), Some("nat"));
}

#[test]
fn what_is_not_known_keeps_its_number() {
    let event = Event {
        ifindex: 9,
        service: 5,
        protocol: 47,
        reason: 999,
        tcp_flags: 0,
        ..event()
    };
    let (stage, packet) = stage(&event);
    assert_eq!((&*packet.interface, &*stage.protocol), ("#9", "proto-47"));
    assert_eq!((&*packet.reason, &*packet.verdict), ("999", "unknown"));
    assert_eq!((packet.service, packet.flags), (None, String::new()));
}

#[test]
fn an_answer_belongs_to_the_client_that_gets_it() {
    let event = Event {
        reason: Reason::Returned as u16,
        tcp_flags: tcp::flag::SYN | tcp::flag::ACK,
        src: Addr::v4([10, 0, 0, 1]),
        dst: Addr::v4([192, 0, 2, 1]),
        src_port_be: 8080u16.to_be(),
        dst_port_be: 4711u16.to_be(),
        ..event()
    };
    let (stage, packet) = stage(&event);
    assert_eq!(stage.source, "192.0.2.1:4711");
    assert_eq!(
        packet.between.as_deref(),
        Some("10.0.0.1:8080 > 192.0.2.1:4711")
    );
    assert_eq!(packet.flags, "syn,ack");
}

fn hub() -> (FlowHub, FlowPump) {
    let (_, readers) = mpsc::unbounded_channel();
    FlowHub::new(readers, Arc::default(), Arc::default())
}

#[test]
fn a_query_that_says_nothing_is_refused() {
    let (mut hub, _pump) = hub();
    let query = ObserveQuery {
        reason: Some("bored".to_owned()),
        ..ObserveQuery::default()
    };
    let refusal = hub.listen(&query, 1).expect_err("unknown");
    assert!(refusal.message.contains("bored"));
    assert_eq!(hub.sampling(), None);
}

#[tokio::test(start_paused = true)]
async fn sampling_ends_with_the_observer_that_asked_for_it() {
    let (mut hub, pump) = hub();
    tokio::spawn(pump.run());
    let query = ObserveQuery::default();
    let coarse = hub.listen(&query, 100).expect("room");
    let fine = hub.listen(&query, 1).expect("room");
    assert_eq!(hub.sampling(), Some(1));
    drop(fine);
    hub.ended().await;
    assert_eq!(hub.sampling(), Some(100));
    drop(coarse);
    hub.ended().await;
    assert_eq!(hub.sampling(), None);
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_its_share_of_what_is_noted_and_the_past_if_it_asks() {
    let (mut hub, pump) = hub();
    tokio::spawn(pump.run());
    let (tap, noted) = FlowTap::new(16, [1; 5]);
    let (spans, _exporter) = SpanQueue::new(1, Arc::default());
    hub.feed(Feed {
        noted,
        tap: tap.clone(),
        spans,
    });
    let all = hub.listen(&ObserveQuery::default(), 1);
    let few = hub.listen(&ObserveQuery::default(), 1000);
    let (mut all, mut few) = (all.expect("room"), few.expect("room"));
    tokio::time::sleep(TICK).await;
    for (id, rank) in [(1, 0), (2, 1 << 30)] {
        let packet = note(&event(), &names(), 0);
        let flow = Flow { id, rank };
        tap.note(Noted::Stage(Box::new(Note { flow, ..packet })));
    }
    let id = |told: Option<Told>| match told {
        Some(Told::Stage(stage)) => stage.id.trim_start_matches('0').to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (id(all.recv().await), id(all.recv().await)),
        ("1".into(), "2".into())
    );
    assert_eq!(id(few.recv().await), "1");
    assert!(few.try_recv().is_err());

    let past = ObserveQuery {
        last: Some(1),
        follow: Some(false),
        ..ObserveQuery::default()
    };
    let mut past = hub.listen(&past, 1).expect("room");
    assert_eq!(id(past.recv().await), "2");
    assert_eq!(past.recv().await, None, "it does not follow");
}
