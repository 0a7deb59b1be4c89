use super::stages::{Accept, Attempt, Packet, Request, Route, Status, Tls};
use super::*;
use crate::observe::access_log::{End, Phase};
use crate::observe::trace::{ConnectionSpan, ConnectionTrace, Flow, Traced};
use proxy_common::addr::Addr;
use proxy_common::flow::FlowKey;
use proxy_common::hash::{flow_hash, secrets};
use proxy_common::trace;
use std::net::SocketAddr;
use std::time::Duration;

const SECRETS: [u64; 5] = secrets([11, 22, 33, 44, 55]);

fn ends(client: &str, server: &str) -> (SocketAddr, SocketAddr) {
    let parse = |text: &str| text.parse().expect("an address");
    (parse(client), parse(server))
}

/// The packet as the kernel reads it, octet by octet.
fn in_the_kernel(client: &str, server: &str, protocol: u8) -> (u64, u32) {
    let (client, server) = ends(client, server);
    let octets = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => Addr::v4(ip.octets()),
        std::net::IpAddr::V6(ip) => Addr::v6(ip.octets()),
    };
    let mut key = FlowKey::new(octets(client.ip()), octets(server.ip()), 0, 0, protocol);
    let [a, b] = client.port().to_be_bytes();
    let [c, d] = server.port().to_be_bytes();
    key.set_ports([a, b, c, d]);
    let hash = flow_hash(key.words(), &SECRETS);
    (trace::flow_id(hash, &SECRETS), trace::rank(hash))
}

#[test]
fn the_kernel_and_the_workers_know_a_flow_by_one_id() {
    let (tap, _receiver) = FlowTap::new(1, [1; 5]);
    tap.set_secrets(SECRETS);
    tap.observe(trace::threshold(1));
    for (client, server) in [
        ("192.0.2.1:4711", "198.51.100.1:443"),
        ("[2001:db8::1]:4711", "[2001:db8::2]:443"),
        ("0.0.0.1:1", "255.255.255.255:65535"),
    ] {
        for protocol in [6, 17] {
            let flow = tap.flow(ends(client, server), protocol).expect("all are");
            let kernel = in_the_kernel(client, server, protocol);
            assert_eq!((flow.id, flow.rank), kernel, "{client} {server}");
        }
    }
    // A socket for both families names IPv4 addresses in IPv6 form.
    let mapped = ends("[::ffff:192.0.2.1]:4711", "[::ffff:198.51.100.1]:443");
    let flow = tap.connection(mapped).expect("all are");
    let kernel = in_the_kernel("192.0.2.1:4711", "198.51.100.1:443", 6);
    assert_eq!((flow.id, flow.rank), kernel);
}

#[test]
fn ids_do_not_change_from_one_version_to_the_next() {
    let (id, rank) = in_the_kernel("192.0.2.1:4711", "198.51.100.1:443", 6);
    assert_eq!((&*format!("{id:016x}"), rank), VECTOR_V4);
    let (id, rank) = in_the_kernel("[2001:db8::1]:4711", "[2001:db8::2]:443", 17);
    assert_eq!((&*format!("{id:016x}"), rank), VECTOR_V6);
}

#[test]
fn what_is_traced_is_what_somebody_wants() {
    let (tap, _receiver) = FlowTap::new(1, SECRETS);
    let all = |tap: &FlowTap| {
        let ports = 1000..11_000;
        let flows = ports
            .filter_map(|port| tap.connection(ends(&format!("10.0.0.1:{port}"), "10.0.0.2:80")));
        flows.collect::<Vec<_>>()
    };
    assert!(!tap.is_on() && all(&tap).is_empty());
    tap.export(trace::threshold(100));
    let exported = all(&tap);
    assert!((50..200).contains(&exported.len()), "{}", exported.len());
    tap.observe(trace::threshold(10));
    let observed = all(&tap);
    assert!((800..1200).contains(&observed.len()), "{}", observed.len());
    let both: Vec<Flow> = observed.into_iter().filter(|it| tap.exports(*it)).collect();
    assert_eq!(both, exported);
    tap.observe(0);
    tap.export(0);
    assert!(!tap.is_on());
}

#[test]
fn a_full_queue_loses_and_counts() {
    let (tap, _receiver) = FlowTap::new(1, SECRETS);
    for _ in 0..3 {
        tap.note(Noted::Stage(Box::new(note(1, None, accept()))));
    }
    assert_eq!(tap.lost(), 2);
}

fn note(id: u64, request: Option<u64>, stage: Stage) -> Note {
    Note {
        flow: Flow { id, rank: 0 },
        at: Duration::from_secs(100),
        ends: ends("192.0.2.1:4711", "198.51.100.1:443"),
        protocol: 6,
        request,
        stage,
        trace: None,
    }
}

fn packet(verdict: &str) -> Stage {
    Stage::Packet(Packet {
        interface: "eth0".to_owned(),
        verdict: verdict.to_owned(),
        reason: "local_service".to_owned(),
        flags: "syn".to_owned(),
        service: Some("edge".to_owned()),
        ..Packet::default()
    })
}

fn accept() -> Stage {
    Stage::Accept(Accept {
        listener: "web".to_owned(),
        worker: 0,
    })
}

fn tls(error: Option<&str>) -> Stage {
    Stage::Tls(Tls {
        listener: "web".to_owned(),
        version: "TLSv1.3".to_owned(),
        server_name: Some("Shop.example".to_owned()),
        seconds: 0.25,
        error: error.map(str::to_owned),
        ..Tls::default()
    })
}

fn request(path: &str) -> Stage {
    Stage::Request(Request {
        listener: "web".to_owned(),
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        host: "shop.example".to_owned(),
        path: path.to_owned(),
        version: "1.1".to_owned(),
        stream: None,
    })
}

fn route() -> Stage {
    Stage::Route(Route {
        route: "all".to_owned(),
        pattern: None,
        service: Some("shop".to_owned()),
    })
}

fn status(status: u16) -> Stage {
    Stage::Status(Status {
        listener: "web".to_owned(),
        client: [203, 0, 113, 7].into(),
        status: Some(status),
        end: "complete".to_owned(),
        flags: "--".to_owned(),
        refusal: None,
        received_bytes: 0,
        sent_bytes: 0,
        seconds: 0.0,
        trace_id: None,
    })
}

fn told(id: u64, request: Option<u64>, stage: Stage) -> FlowStage {
    FlowStage::of(note(id, request, stage))
}

/// A connection with two requests.
fn flow(id: u64, statuses: [u16; 2]) -> Vec<FlowStage> {
    let [first, second] = statuses;
    vec![
        told(id, None, packet("pass")),
        told(id, None, accept()),
        told(id, None, tls(None)),
        told(id, Some(1), request("/a")),
        told(id, Some(1), route()),
        told(id, Some(1), status(first)),
        told(id, Some(2), request("/b")),
        told(id, Some(2), route()),
        told(id, Some(2), status(second)),
    ]
}

fn query(change: impl FnOnce(&mut ObserveQuery)) -> Filter {
    let mut query = ObserveQuery::default();
    change(&mut query);
    Filter::parse(&query).expect("parses")
}

#[test]
fn each_term_looks_at_its_stage() {
    let accepts = |stages: &[FlowStage], filter: Filter| filter.accepts(stages.iter());
    let flow = flow(0xff, [200, 503]);
    let set = |value: &str| Some(value.to_owned());
    for (filter, expected) in [
        (query(|_| ()), true),
        (query(|it| it.id = set("00000000000000ff")), true),
        (
            query(|it| it.id = set("00000000000000ffabcdefabcdefabcd")),
            true,
        ),
        (query(|it| it.id = set("00000000000000fe")), false),
        (query(|it| it.service = set("edge")), true),
        (query(|it| it.service = set("shop")), true),
        (query(|it| it.service = set("other")), false),
        (query(|it| it.source = set("192.0.2.0/24")), true),
        (query(|it| it.source = set("203.0.113.7")), true),
        (query(|it| it.source = set("198.51.100.0/24")), false),
        (query(|it| it.status = set("5xx")), true),
        (query(|it| it.status = set("404, 200")), true),
        (query(|it| it.status = set("404,4xx")), false),
        (query(|it| it.verdict = set("pass")), true),
        (query(|it| it.verdict = set("drop")), false),
        (query(|it| it.reason = set("local_service")), true),
        (query(|it| it.reason = set("denied")), false),
        (query(|it| it.listener = set("web")), true),
        (query(|it| it.listener = set("other")), false),
        (query(|it| it.route = set("all")), true),
        (query(|it| it.route = set("none")), false),
        (query(|it| it.host = set("SHOP.example")), true),
        (query(|it| it.host = set("a.example")), false),
        (query(|it| it.path = set("/b")), true),
        (query(|it| it.path = set("/c")), false),
    ] {
        assert_eq!(accepts(&flow, filter.clone()), expected, "{filter:?}");
    }
    let both = query(|it| {
        it.status = set("503");
        it.route = set("none");
    });
    assert!(!accepts(&flow, both), "all terms must hold");
}

#[test]
fn a_term_that_says_nothing_is_refused_by_name() {
    let refused = |change: fn(&mut ObserveQuery)| {
        let mut query = ObserveQuery::default();
        change(&mut query);
        Filter::parse(&query).expect_err("refused").to_string()
    };
    for message in [
        refused(|it| it.id = Some("bored".to_owned())),
        refused(|it| it.source = Some("bored".to_owned())),
        refused(|it| it.status = Some("bored".to_owned())),
        refused(|it| it.verdict = Some("bored".to_owned())),
        refused(|it| it.reason = Some("bored".to_owned())),
    ] {
        assert!(message.contains("bored"), "{message}");
    }
    for status in ["", "5x", "xx", "99", "600", "9xx", "200,", "66000", "700xx"] {
        let query = ObserveQuery {
            status: Some(status.to_owned()),
            ..ObserveQuery::default()
        };
        assert!(Filter::parse(&query).is_err(), "{status}");
    }
}

const NOW: Duration = Duration::from_secs(7);
const LATER: Duration = Duration::from_secs(8);

/// What an observer is told of these, as id and name of each stage.
fn join(joiner: &mut Joiner, stages: Vec<FlowStage>) -> Vec<String> {
    let mut out = Vec::new();
    for stage in stages {
        joiner.take(stage, NOW, &mut out);
    }
    names(&out)
}

fn names(stages: &[FlowStage]) -> Vec<String> {
    let name = |stage: &FlowStage| {
        let value = serde_json::to_value(stage).expect("serialises");
        let id = stage.id.trim_start_matches('0');
        let number = stage.request.map_or(String::new(), |it| format!("#{it}"));
        format!("{id} {}{number}", value["stage"].as_str().expect("a name"))
    };
    stages.iter().map(name).collect()
}

#[test]
fn stages_of_a_flow_come_together_and_a_connections_come_once() {
    let mixed = flow(1, [200, 200])
        .into_iter()
        .zip(flow(2, [200, 200]))
        .flat_map(|(a, b)| [a, b])
        .collect();
    let mut joiner = Joiner::new(Filter::default());
    assert_eq!(
        join(&mut joiner, mixed),
        [
            "1 packet",
            "1 accept",
            "1 tls",
            "1 request#1",
            "1 route#1",
            "1 status#1", //
            "2 packet",
            "2 accept",
            "2 tls",
            "2 request#1",
            "2 route#1",
            "2 status#1", //
            "1 request#2",
            "1 route#2",
            "1 status#2", //
            "2 request#2",
            "2 route#2",
            "2 status#2",
        ]
    );
}

#[test]
fn a_filter_by_status_shows_the_request_and_its_connection() {
    let filter = query(|it| it.status = Some("5xx".to_owned()));
    let mut joiner = Joiner::new(filter);
    let told = join(&mut joiner, flow(1, [200, 503]));
    let expected = [
        "1 packet",
        "1 accept",
        "1 tls",
        "1 request#2",
        "1 route#2",
        "1 status#2",
    ];
    assert_eq!(told, expected);
    let mut out = Vec::new();
    joiner.tick(LATER, &mut out);
    assert_eq!(names(&out), [""; 0], "the other request is not wanted");
}

#[test]
fn what_goes_on_is_told_after_a_moment_and_only_once() {
    let mut joiner = Joiner::new(Filter::default());
    let hangs = flow(1, [0, 0]).into_iter().take(4).collect();
    assert_eq!(join(&mut joiner, hangs), [""; 0]);
    let mut out = Vec::new();
    joiner.tick(NOW + Duration::from_millis(10), &mut out);
    assert_eq!(names(&out), [""; 0]);
    joiner.tick(LATER, &mut out);
    assert_eq!(
        names(&out),
        ["1 packet", "1 accept", "1 tls", "1 request#1"]
    );
    out.clear();
    let rest = flow(1, [504, 0]).into_iter().skip(4).take(2);
    for stage in rest {
        joiner.take(stage, LATER, &mut out);
    }
    assert_eq!(names(&out), ["1 route#1", "1 status#1"]);
}

#[test]
fn a_failed_handshake_is_the_last_of_its_connection() {
    let mut joiner = Joiner::new(query(|it| it.listener = Some("web".to_owned())));
    let failed = vec![
        told(1, None, packet("pass")),
        told(1, None, accept()),
        told(1, None, tls(Some("unknown_name"))),
    ];
    assert_eq!(join(&mut joiner, failed), ["1 packet", "1 accept", "1 tls"]);
}

#[test]
fn a_dropped_packet_is_a_flow_by_itself() {
    let mut joiner = Joiner::new(query(|it| it.verdict = Some("drop".to_owned())));
    let packets = vec![told(1, None, packet("drop")), told(2, None, packet("pass"))];
    assert_eq!(join(&mut joiner, packets), [""; 0]);
    let mut out = Vec::new();
    joiner.finish(&mut out);
    assert_eq!(names(&out), ["1 packet"]);
}

#[test]
fn what_is_nobodys_is_shown_to_those_who_ask_for_it() {
    let stranger = |id| {
        let mut stage = told(id, None, packet("pass"));
        let Stage::Packet(packet) = &mut stage.stage else {
            panic!("{stage:?}");
        };
        packet.reason = "not_service".to_owned();
        stage
    };
    let shown = |filter| {
        let mut joiner = Joiner::new(filter);
        let accepted = told(2, None, accept());
        join(&mut joiner, vec![stranger(1), stranger(2), accepted]);
        let mut out = Vec::new();
        joiner.tick(LATER, &mut out);
        names(&out)
    };
    assert_eq!(shown(Filter::default()), ["2 packet", "2 accept"]);
    let asked = query(|it| it.reason = Some("not_service".to_owned()));
    assert_eq!(shown(asked), ["1 packet", "2 packet", "2 accept"]);
}

#[test]
fn flows_and_stages_are_bounded_and_losses_counted() {
    let mut joiner = Joiner::new(Filter::default());
    let mut out = Vec::new();
    for id in 1..=5000 {
        joiner.take(told(id, None, packet("drop")), NOW, &mut out);
    }
    assert_eq!(joiner.take_given_up(), 5000 - 4096);
    for _ in 0..100 {
        joiner.take(told(5000, None, packet("drop")), NOW, &mut out);
    }
    assert_eq!(joiner.take_given_up(), 100 + 1 - 32);
    joiner.tick(LATER, &mut out);
    assert_eq!(out.len(), 4095 + 32);
    joiner.tick(LATER + Duration::from_secs(61), &mut out);
    joiner.take(told(1, None, packet("drop")), LATER, &mut out);
    joiner.tick(LATER + Duration::from_secs(120), &mut out);
    assert_eq!(joiner.take_given_up(), 0);
}

fn connection() -> ConnectionTrace {
    ConnectionTrace::new(Flow { id: 0xabc, rank: 0 }, [7, 9])
}

fn traced(ms: u64, stage: Stage) -> Note {
    Note {
        at: Duration::from_millis(100_000 + ms),
        trace: match stage {
            Stage::Packet(_) => None,
            _ => Some(connection()),
        },
        ..note(0xabc, None, stage)
    }
}

fn attribute(span: &ConnectionSpan, key: &str) -> Option<String> {
    use crate::observe::trace::Fact;
    let found = span.attributes.iter().find(|(known, _)| *known == key)?;
    Some(match &found.1 {
        Fact::Text(text) => text.clone(),
        Fact::Number(number) => number.to_string(),
        Fact::Bool(is) => is.to_string(),
    })
}

#[test]
fn a_connections_spans_begin_with_the_packet() {
    let mut assembler = Assembler::default();
    let mut spans = Vec::new();
    for note in [
        traced(0, packet("pass")),
        traced(10, packet("pass")),
        traced(20, accept()),
        traced(270, tls(None)),
    ] {
        assembler.take(&note, &mut spans);
    }
    let [packet, accept, tls] = spans.as_slice() else {
        panic!("{spans:#?}");
    };
    assert_eq!(
        (&*packet.name, &*accept.name, &*tls.name),
        ("packet", "accept", "TLS handshake")
    );
    assert_eq!((packet.parent, accept.parent), (None, Some(packet.id)));
    assert_eq!(
        (accept.id, tls.parent),
        (connection().span, Some(connection().span))
    );
    for span in &spans {
        assert_eq!(span.trace, connection().trace);
        assert_eq!(
            attribute(span, "sluice.flow.id").as_deref(),
            Some("0000000000000abc")
        );
    }
    let ms = Duration::from_millis;
    assert_eq!(
        (accept.began_at, accept.ended_at),
        (ms(100_000), ms(100_020))
    );
    assert_eq!((tls.began_at, tls.ended_at), (ms(100_020), ms(100_270)));
    assert_eq!(attribute(packet, "sluice.verdict").as_deref(), Some("pass"));
    assert_eq!(
        attribute(tls, "tls.protocol.version").as_deref(),
        Some("1.3")
    );
    spans.clear();
    assembler.tick(Duration::from_secs(200), &mut spans);
    assert_eq!(spans, []);
}

#[test]
fn without_a_packet_the_accept_begins_the_trace() {
    let mut spans = Vec::new();
    let mut assembler = Assembler::default();
    assembler.take(&traced(20, accept()), &mut spans);
    assembler.tick(Duration::from_millis(100_260), &mut spans);
    assert_eq!(spans, [], "its packet may come yet");
    assembler.tick(Duration::from_millis(100_270), &mut spans);
    assert_eq!((spans.len(), spans[0].parent), (1, None));
}

#[test]
fn a_packet_may_be_told_after_its_accept() {
    let (mut assembler, mut spans) = (Assembler::default(), Vec::new());
    assembler.take(&traced(20, accept()), &mut spans);
    assembler.take(&traced(0, packet("pass")), &mut spans);
    let [packet, accept] = spans.as_slice() else {
        panic!("{spans:#?}");
    };
    assert_eq!((&*packet.name, &*accept.name), ("packet", "accept"));
    assert_eq!(accept.parent, Some(packet.id));
    spans.clear();
    assembler.tick(Duration::from_secs(200), &mut spans);
    assert_eq!(spans, [], "told once");
}

#[test]
fn a_packet_that_nobody_accepts_is_a_trace_unless_it_was_let_pass() {
    let mut assembler = Assembler::default();
    let mut spans = Vec::new();
    assembler.take(&traced(0, packet("drop")), &mut spans);
    let passed = Note {
        flow: Flow { id: 5, rank: 0 },
        ..traced(0, packet("pass"))
    };
    assembler.take(&passed, &mut spans);
    assembler.tick(Duration::from_millis(100_500), &mut spans);
    assert_eq!(spans, []);
    assembler.tick(Duration::from_millis(101_000), &mut spans);
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].error.as_deref(), Some("local_service"));
    assert_eq!(spans[0].trace[..8], 0xabc_u64.to_be_bytes());
}

#[test]
fn an_exchange_is_a_route_its_attempts_and_a_status() {
    let mut record = crate::observe::trace::testing::record();
    assert_eq!(exchange(&record), [], "its flow is not traced");
    record.flow = Some(Traced {
        flow: Flow { id: 3, rank: 0 },
        ends: ends("192.0.2.1:4711", "198.51.100.1:443"),
        number: 4,
        connection: None,
    });
    (record.end, record.phase) = (End::BackendClosed, Phase::Data);
    let notes = exchange(&record);
    let stages: Vec<FlowStage> = notes.into_iter().map(FlowStage::of).collect();
    assert_eq!(
        names(&stages),
        ["3 route#4", "3 attempt#4", "3 attempt#4", "3 status#4"]
    );
    let Stage::Attempt(Attempt { retry, status, .. }) = &stages[2].stage else {
        panic!("{stages:?}");
    };
    assert_eq!((retry.as_deref(), *status), (Some("connect"), Some(200)));
    let Stage::Status(Status {
        flags, trace_id, ..
    }) = &stages[3].stage
    else {
        panic!("{stages:?}");
    };
    assert_eq!(flags, "SD");
    assert_eq!(trace_id.as_deref().map(str::len), Some(32));
}

/// With the secrets of these tests.
const VECTOR_V4: (&str, u32) = ("8e4a7973e75eae0e", 2_103_126_735);
const VECTOR_V6: (&str, u32) = ("c55d13f8080eb3fc", 458_788_902);
