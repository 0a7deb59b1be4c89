use super::*;
use crate::message::{Fields, Name};
use crate::observe::access_log::End;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const RANDOM: [u64; 3] = [1, 2, 3];
const W3C: Forms = Forms::W3C;

fn fields(all: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in all {
        fields.append_named(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn read(all: &[(&str, &str)]) -> Option<Incoming> {
    Incoming::read(&fields(all))
}

fn traceparent(value: &str) -> Option<Incoming> {
    read(&[("traceparent", value)])
}

fn told(span: Span, before: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut fields = fields(before);
    span.propagate(&mut fields);
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).expect("ASCII");
    fields
        .iter()
        .map(|field| (text(field.spelled).to_lowercase(), text(field.value)))
        .collect()
}

#[test]
fn traceparent_is_read_as_the_standard_says() {
    let valid = format!("00-{TRACE}-{PARENT}-01");
    let context = traceparent(&valid).expect("valid");
    assert_eq!(
        context.parent.expect("a parent").1,
        [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 2, 0xb7]
    );
    assert_eq!(context.sampled, Some(true));
    for (value, sampled) in [
        (format!("00-{TRACE}-{PARENT}-00"), false),
        (format!("00-{TRACE}-{PARENT}-03"), true),
        (format!("cc-{TRACE}-{PARENT}-01"), true),
        (format!("cc-{TRACE}-{PARENT}-01-what-the-future"), true),
    ] {
        assert_eq!(traceparent(&value).and_then(|c| c.sampled), Some(sampled));
    }
    for invalid in [
        String::new(),
        format!("00-{TRACE}-{PARENT}"),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("00-{TRACE}-{PARENT}-01-"),
        format!("cc-{TRACE}-{PARENT}-01.x"),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{}-{PARENT}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}-{PARENT}-0x"),
        format!("00_{TRACE}-{PARENT}-01"),
        "é".repeat(40),
    ] {
        assert_eq!(traceparent(&invalid), None, "{invalid}");
    }
    assert_eq!(
        read(&[("traceparent", &valid), ("traceparent", &valid)]),
        None
    );
}

#[test]
fn b3_is_read_in_both_forms() {
    let short = "a3ce929d0e0e4736";
    for (value, sampled) in [
        (format!("{TRACE}-{PARENT}"), None),
        (format!("{TRACE}-{PARENT}-1"), Some(true)),
        (format!("{TRACE}-{PARENT}-d"), Some(true)),
        (format!("{short}-{PARENT}-0-{PARENT}"), Some(false)),
    ] {
        let context = read(&[("b3", &value)]).expect("valid");
        assert_eq!(context.sampled, sampled, "{value}");
        assert!(context.parent.is_some());
    }
    assert_eq!(read(&[("b3", "0")]).and_then(|c| c.sampled), Some(false));
    for invalid in [
        "",
        "x",
        "1-2",
        &format!("{TRACE}-{PARENT}-2"),
        &format!("{TRACE}-{PARENT}-1-{PARENT}-1"),
    ] {
        assert_eq!(read(&[("b3", invalid)]), None, "{invalid}");
    }
    let multi = [
        ("X-B3-TraceId", short),
        ("X-B3-SpanId", PARENT),
        ("x-b3-sampled", "false"),
    ];
    let context = read(&multi).expect("valid");
    assert_eq!(context.parent.expect("a parent").0[..8], [0; 8]);
    assert_eq!(
        (context.sampled, context.form),
        (Some(false), Form::B3Multi)
    );
    assert_eq!(
        read(&[("X-B3-Flags", "1")]).and_then(|c| c.sampled),
        Some(true)
    );
    assert_eq!(read(&[("X-B3-TraceId", TRACE)]), None);
    assert_eq!(read(&[]), None);
}

#[test]
fn the_client_decides_and_else_the_draw() {
    let incoming = traceparent(&format!("00-{TRACE}-{PARENT}-00"));
    assert!(!Span::begin(incoming, W3C, 1.0, 0.0, RANDOM).sampled);
    let undecided = read(&[("b3", &format!("{TRACE}-{PARENT}"))]);
    assert!(Span::begin(undecided, W3C, 0.5, 0.4, RANDOM).sampled);
    assert!(!Span::begin(None, W3C, 0.5, 0.5, RANDOM).sampled);
    assert!(!Span::begin(None, W3C, 0.0, 0.0, RANDOM).sampled);
    let unlucky = Span::begin(None, W3C, 1.0, 0.0, [0, 0, 0]);
    assert!(unlucky.trace != [0; 16] && unlucky.id != [0; 8]);
}

#[test]
fn backends_are_told_in_the_clients_form() {
    let before = format!("00-{TRACE}-{PARENT}-01");
    let before = [("traceparent", before.as_str()), ("tracestate", "a=b")];
    let span = Span::begin(read(&before), W3C, 0.0, 0.0, RANDOM);
    assert_eq!(span.parent.map(|parent| parent[1]), Some(0xf0));
    let after = told(span, &before);
    assert!(after.contains(&("tracestate".into(), "a=b".into())));
    let expected = format!("00-{TRACE}-0000000000000003-01");
    assert!(
        after.contains(&("traceparent".into(), expected)),
        "{after:?}"
    );

    let single = format!("{TRACE}-{PARENT}-1");
    let before = [("b3", single.as_str()), ("tracestate", "stale=1")];
    let after = told(Span::begin(read(&before), W3C, 1.0, 0.0, RANDOM), &before);
    let expected = format!("{TRACE}-0000000000000003-1-{PARENT}");
    assert!(after.contains(&("b3".into(), expected)), "{after:?}");
    assert!(!after.iter().any(|(name, _)| name == "tracestate"));

    let before = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", PARENT)];
    let after = told(Span::begin(read(&before), W3C, 1.0, 0.0, RANDOM), &before);
    for (name, value) in [
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", "0000000000000003"),
        ("x-b3-parentspanid", PARENT),
        ("x-b3-sampled", "1"),
    ] {
        assert!(after.contains(&(name.into(), value.into())), "{after:?}");
    }
}

#[test]
fn a_new_trace_drops_the_state_of_an_invalid_one() {
    let before = [("traceparent", "garbage"), ("tracestate", "a=b")];
    let after = told(Span::begin(read(&before), W3C, 0.0, 0.0, RANDOM), &before);
    let expected = "00-00000000000000010000000000000002-0000000000000003-00";
    assert_eq!(after, [("traceparent".to_owned(), expected.to_owned())]);
    let mut fields = Fields::new();
    Span::begin(None, W3C, 0.0, 0.0, RANDOM).propagate(&mut fields);
    let written = Incoming::read(&fields).expect("what we write, we read");
    assert_eq!(written.sampled, Some(false));
    assert!(!fields.contains(Name::B3));
}

#[test]
fn what_the_client_does_not_want_recorded_passes_as_it_came() {
    for before in [
        vec![("traceparent", format!("00-{TRACE}-{PARENT}-00"))],
        vec![("b3", "0".to_owned())],
        vec![
            ("x-b3-sampled", "0".to_owned()),
            ("tracestate", "a=b".to_owned()),
        ],
    ] {
        let before: Vec<_> = before.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let span = Span::begin(read(&before), W3C, 1.0, 0.0, RANDOM);
        let as_it_came = before.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        assert_eq!(told(span, &before), as_it_came.collect::<Vec<_>>());
    }
}

#[test]
fn backends_are_told_in_the_forms_that_are_configured() {
    let all = [Form::W3c, Form::B3Single, Form::B3Multi]
        .into_iter()
        .collect();
    let after = told(Span::begin(None, all, 1.0, 0.0, RANDOM), &[]);
    let names: Vec<_> = after.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "traceparent",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-sampled",
    ];
    assert_eq!(names, expected);
    let b3 = Forms::default().with(Form::B3Single);
    let after = told(Span::begin(None, b3, 1.0, 0.0, RANDOM), &[]);
    assert_eq!(after.len(), 1, "{after:?}");
    // A client that speaks two forms is not contradicted in one of them.
    let (w3c, single) = (
        format!("00-{TRACE}-{PARENT}-01"),
        format!("{TRACE}-{PARENT}-1"),
    );
    let before = [("traceparent", w3c.as_str()), ("b3", single.as_str())];
    let span = Span::begin(read(&before), Forms::default(), 0.0, 0.0, RANDOM);
    for (name, value) in told(span.child(9), &before) {
        assert!(value.contains("0000000000000009"), "{name}: {value}");
    }
}

fn record(status: u16, end: End) -> SpanRecord {
    SpanRecord {
        status,
        end,
        ..super::span::testing::record()
    }
}

#[test]
fn only_the_servers_faults_are_errors() {
    for (status, end, error) in [
        (200, End::Complete, None),
        (404, End::NoRoute, None),
        (302, End::Local, None),
        (200, End::ClientClosed, None),
        (503, End::NoBackend, Some("503")),
        (502, End::ConnectFailed, Some("502")),
        (200, End::BackendClosed, Some("backend_closed")),
        (0, End::RouteTimeout, Some("route_timeout")),
    ] {
        assert_eq!(
            record(status, end).error().as_deref(),
            error,
            "{status} {end:?}"
        );
    }
    let mut failed = record(200, End::Complete);
    failed.grpc_status = Some(14);
    assert_eq!(failed.error().as_deref(), Some("14"));
    failed.grpc_status = Some(5);
    assert_eq!(failed.error(), None, "not found is the client's matter");
    assert_eq!(record(200, End::Complete).name(), "GET /items");
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_every_span() {
    let counters = Arc::new(SpanCounters::default());
    let (queue, mut receiver) = SpanQueue::new(2, Arc::clone(&counters));
    for status in [200, 201, 202] {
        let record = Box::new(record(status, End::Complete));
        queue.push(Exported::Exchange(record));
    }
    let spans = record(200, End::Complete).spans();
    assert_eq!(counters.dropped.load(Relaxed), spans);
    let mut batch = Vec::new();
    assert!(receiver.receive(&mut batch, 10).await);
    assert_eq!(batch.iter().map(status).collect::<Vec<_>>(), [200, 201]);
    drop(queue);
    assert!(!receiver.receive(&mut batch, 10).await);
}

fn status(exported: &Exported) -> u16 {
    match exported {
        Exported::Exchange(record) => record.status,
        Exported::Connection(span) => panic!("{span:?}"),
    }
}

#[test]
fn the_first_request_of_a_traced_flow_goes_on_with_its_connections_trace() {
    let flow = Flow { id: 0xabc, rank: 0 };
    let connection = ConnectionTrace::new(flow, [1, 2]);
    let traced = |number, connection| Traced {
        flow,
        ends: (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 80).into()),
        number,
        connection,
    };
    let begin = |incoming| Span::begin(incoming, W3C, 0.0, 0.0, RANDOM);
    let first = begin(None).within(&traced(1, Some(connection)));
    assert!(first.sampled);
    assert_eq!(
        (first.trace, first.parent),
        (connection.trace, Some(connection.span))
    );
    let second = begin(None).within(&traced(2, Some(connection)));
    assert!(second.sampled && second.parent.is_none());
    assert_eq!(second.trace[..8], connection.trace[..8]);
    assert_ne!(second.trace, connection.trace);
    let observed = begin(None).within(&traced(1, None));
    assert_eq!(observed, begin(None), "observing changes no trace");

    let theirs = format!("00-{TRACE}-{PARENT}-01");
    let incoming = read(&[("traceparent", &theirs)]);
    let span = begin(incoming).within(&traced(1, Some(connection)));
    assert_eq!(span, begin(incoming), "the client's trace goes on");
    let against = format!("00-{TRACE}-{PARENT}-00");
    let incoming = read(&[("traceparent", &against)]);
    assert!(!begin(incoming).within(&traced(1, Some(connection))).sampled);
}
