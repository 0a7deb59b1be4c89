//! Traces as a collector gets them: what it is sent is decoded by the standard's own definitions.

use crate::h2_support::{H2Origin, connect, get, post, soon};
use crate::support::{Client, Origin, Proxy, eventually, field};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{
    Action, BackendProtocol, FixedResponse, PathMatch, Route,
};
use proxy_userspace::config::model::tracing::{Collector as Endpoint, Propagation, Tracing};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that takes spans.
struct Collector {
    origin: Origin,
    taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn new() -> Self {
        Self::answering(|_| (200, ExportTraceServiceResponse::default()))
    }

    /// `answer` is told how many requests came before.
    fn answering(
        answer: impl Fn(usize) -> (u16, ExportTraceServiceResponse) + Send + Sync + 'static,
    ) -> Self {
        let taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>> = Arc::default();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (all, all_heads) = (Arc::clone(&taken), Arc::clone(&heads));
        let origin = Origin::new(move |mut client, _| {
            while let Some(head) = client.head() {
                let length = field(&head, "content-length").expect("a length");
                let body = client.exactly(length.parse().expect("a number"));
                let spans = ExportTraceServiceRequest::decode(&*body).expect("protobuf");
                let before = all_heads.lock().expect("no panic").len();
                all_heads.lock().expect("no panic").push(head);
                let (status, message) = answer(before);
                if status == 200 {
                    all.lock().expect("no panic").push(spans);
                }
                let message = message.encode_to_vec();
                let length = message.len();
                client.send(format!(
                    "HTTP/1.1 {status} X\r\nRetry-After: 0\r\nContent-Length: {length}\r\n\r\n"
                ));
                client.send(message);
            }
        });
        Self {
            origin,
            taken,
            heads,
        }
    }

    /// What has come so far, in the order of begins.
    fn spans(&self) -> Vec<Span> {
        let taken = self.taken.lock().expect("no panic");
        let resources = taken.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let mut spans: Vec<Span> = scopes.flat_map(|scope| scope.spans.clone()).collect();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }

    /// Waits for one exchange: the server's span, and those of its attempts in their order.
    fn tree(&self) -> (Span, Vec<Span>) {
        self.trees(1).remove(0)
    }

    fn trees(&self, count: usize) -> Vec<(Span, Vec<Span>)> {
        let servers = || {
            let all = self.spans();
            let servers = all.into_iter().filter(|it| it.kind() == SpanKind::Server);
            servers.collect::<Vec<_>>()
        };
        eventually("the collector has them", || servers().len() >= count);
        let all = self.spans();
        let of = |server: Span| {
            let children = all.iter().filter(|it| it.parent_span_id == server.span_id);
            let children: Vec<Span> = children.cloned().collect();
            for child in &children {
                assert_eq!(child.kind(), SpanKind::Client);
                assert_eq!(child.trace_id, server.trace_id);
                assert!(child.start_time_unix_nano >= server.start_time_unix_nano);
                assert!(child.end_time_unix_nano <= server.end_time_unix_nano);
            }
            (server, children)
        };
        let trees: Vec<_> = servers().into_iter().map(of).collect();
        let spans: usize = trees.iter().map(|(_, children)| 1 + children.len()).sum();
        assert_eq!(spans, all.len(), "every span belongs to a tree: {all:#?}");
        trees
    }
}

/// What an attribute holds, as text.
fn attribute(span: &Span, key: &str) -> Option<String> {
    text(&span.attributes, key)
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is) => is.to_string(),
        other => format!("{other:?}"),
    })
}

#[track_caller]
fn expect(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(
            attribute(span, key).as_deref(),
            Some(*value),
            "{key} of {span:#?}"
        );
    }
}

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code() == StatusCode::Error)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn export(config: &mut Config, collector: SocketAddr) -> &mut Tracing {
    config.http_listeners[0].trace_share = 1.0;
    let endpoint = Endpoint::parse(&format!("http://{collector}")).expect("a URL");
    config.tracing.insert(Tracing::to(endpoint))
}

fn traced(backends: &[SocketAddr], collector: &Collector) -> Proxy {
    Proxy::with(backends, |config| {
        export(config, collector.origin.address);
    })
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    listener.local_addr().expect("bound")
}

#[test]
fn a_request_is_a_span_between_the_clients_and_the_backends() {
    let collector = Collector::new();
    let origin = Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        let tracing = export(config, collector.origin.address);
        tracing.service_name = "edge".to_owned();
        tracing.attributes = vec![("deployment.environment.name".to_owned(), "test".to_owned())];
        tracing.headers = vec![("X-Key".to_owned(), "k".to_owned())];
        config.routes[0].matches[0].path = PathMatch::Prefix("/items".to_owned());
    });
    let answer = proxy.ask(&format!(
        "GET /items/7?secret=1 HTTP/1.1\r\nHost: Shop.test:81\r\nUser-Agent: test/1\r\n\
         traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\n\r\n"
    ));
    let (server, attempts) = collector.tree();
    let [attempt] = attempts.as_slice() else {
        panic!("{attempts:#?}");
    };
    assert_eq!(
        (hex(&server.trace_id), hex(&server.parent_span_id)),
        (TRACE.into(), PARENT.into())
    );
    let told = format!("00-{TRACE}-{}-01", hex(&attempt.span_id));
    assert_eq!(
        field(&answer.text(), "traceparent"),
        Some(&*told),
        "the attempt is the parent"
    );
    assert_eq!(field(&answer.text(), "tracestate"), Some("a=b"));
    assert_eq!((&*server.name, &*attempt.name), ("GET /items", "GET"));
    let port = origin.address.port().to_string();
    let own = origin.address.ip().to_string();
    expect(
        &server,
        &[
            ("http.request.method", "GET"),
            ("url.path", "/items/7"),
            ("url.scheme", "http"),
            ("http.route", "/items"),
            ("http.response.status_code", "200"),
            ("server.address", "shop.test"),
            ("client.address", &own),
            ("network.protocol.version", "1.1"),
            ("user_agent.original", "test/1"),
            ("sluice.listener", "web"),
            ("sluice.route", "all"),
            ("sluice.service", "origins"),
        ],
    );
    expect(
        attempt,
        &[
            ("server.address", &own),
            ("server.port", &port),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "1.1"),
            ("sluice.connection_reused", "false"),
        ],
    );
    for span in [&server, attempt] {
        assert!(!is_error(span) && attribute(span, "error.type").is_none());
        assert!(
            !format!("{span:?}").contains("secret"),
            "queries may hold secrets"
        );
    }
    let taken = collector.taken.lock().expect("no panic");
    let resource = taken[0].resource_spans[0].resource.as_ref().expect("one");
    assert_eq!(
        text(&resource.attributes, "service.name").as_deref(),
        Some("edge")
    );
    let environment = text(&resource.attributes, "deployment.environment.name");
    assert_eq!(environment.as_deref(), Some("test"));
    let head = &collector.heads.lock().expect("no panic")[0];
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "content-type"), Some("application/x-protobuf"));
    assert_eq!(field(head, "x-key"), Some("k"));
}

#[test]
fn each_attempt_of_a_retried_request_is_a_span() {
    let collector = Collector::new();
    let origin = Origin::mirror();
    let proxy = traced(&[nobody(), origin.address], &collector);
    // Round robin: one of two begins with the backend that is not there.
    let told = [(); 2].map(|()| proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text());
    let trees = collector.trees(2);
    let retried = trees.iter().find(|(_, attempts)| attempts.len() == 2);
    let (server, attempts) = retried.expect("one was retried");
    expect(
        server,
        &[
            ("http.response.status_code", "200"),
            ("sluice.retries", "1"),
        ],
    );
    assert!(!is_error(server) && is_error(&attempts[0]) && !is_error(&attempts[1]));
    expect(&attempts[0], &[("error.type", "connect_failed")]);
    expect(
        &attempts[1],
        &[
            ("sluice.retry", "connect"),
            ("http.request.resend_count", "1"),
            ("http.response.status_code", "200"),
        ],
    );
    let parents = told
        .iter()
        .map(|seen| field(seen, "traceparent").expect("told"));
    let served = format!(
        "00-{}-{}-01",
        hex(&server.trace_id),
        hex(&attempts[1].span_id)
    );
    assert!(parents.into_iter().any(|told| told == served));
}

#[test]
fn a_backend_that_fails_is_an_error_of_both() {
    let collector = Collector::new();
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all of it");
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        export(config, collector.origin.address);
        let mut gone = Route::catch_all("gone", "web", Action::service("nobody"));
        gone.matches[0].path = PathMatch::Exact("/gone".to_owned());
        config.routes.insert(0, gone);
        let mut service = proxy_userspace::config::model::Service::new("nobody");
        service.push_backend(nobody(), 1, Default::default());
        config.services.push(service);
    });
    assert_eq!(
        proxy.ask("GET /gone HTTP/1.1\r\nHost: a\r\n\r\n").status,
        502
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.rest();
    let trees = collector.trees(2);
    let (server, attempts) = &trees[0];
    assert!(is_error(server) && is_error(&attempts[0]));
    expect(
        server,
        &[("http.response.status_code", "502"), ("error.type", "502")],
    );
    expect(&attempts[0], &[("error.type", "connect_failed")]);
    let (server, attempts) = &trees[1];
    assert!(is_error(server) && is_error(&attempts[0]));
    for span in [server, &attempts[0]] {
        expect(
            span,
            &[
                ("http.response.status_code", "200"),
                ("error.type", "backend_closed"),
                ("sluice.end", "backend_closed"),
            ],
        );
    }
}

#[test]
fn a_client_that_goes_away_is_no_fault_of_the_servers() {
    let collector = Collector::new();
    let origin = Origin::new(|mut client, _| {
        client.head();
        // Until the proxy gives up.
        client.rest();
    });
    let proxy = traced(&[origin.address], &collector);
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the backend was asked", || origin.connections() == 1);
    client.abort();
    let (server, attempts) = collector.tree();
    for span in [&server, &attempts[0]] {
        expect(span, &[("sluice.end", "client_closed")]);
        assert!(!is_error(span), "{span:#?}");
        assert_eq!(attribute(span, "http.response.status_code"), None);
    }
}

#[test]
fn answers_of_our_own_have_no_attempts() {
    let collector = Collector::new();
    let proxy = Proxy::with(&[], |config| {
        export(config, collector.origin.address);
        config.routes[0].action = Action::Respond(FixedResponse {
            status: 418,
            content_type: "text/plain".to_owned(),
            body: String::new(),
        });
        config.routes[0].matches[0].path = PathMatch::Exact("/tea".to_owned());
    });
    let mut client = proxy.client();
    for path in ["/tea", "/nothing"] {
        client.send(format!("BREW {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer();
    }
    let trees = collector.trees(2);
    let [(tea, of_tea), (nothing, of_nothing)] = trees.as_slice() else {
        panic!("{trees:#?}");
    };
    assert!(of_tea.is_empty() && of_nothing.is_empty());
    assert_eq!((&*tea.name, &*nothing.name), ("HTTP /tea", "HTTP"));
    expect(
        tea,
        &[
            ("http.response.status_code", "418"),
            ("http.request.method", "_OTHER"),
            ("http.request.method_original", "BREW"),
        ],
    );
    expect(
        nothing,
        &[
            ("http.response.status_code", "404"),
            ("sluice.end", "no_route"),
        ],
    );
    assert!(
        !is_error(tea) && !is_error(nothing),
        "4xx is the client's matter"
    );
}

#[tokio::test]
async fn the_status_of_grpc_is_told() {
    let collector = Collector::new();
    let origin = H2Origin::new(|_, mut respond, number| async move {
        let response = http::Response::builder().header("content-type", "application/grpc");
        let response = response.body(()).expect("a response");
        let mut stream = respond.send_response(response, false).expect("sent");
        stream
            .send_data(Bytes::from_static(&[0; 5]), false)
            .expect("sent");
        let mut trailers = http::HeaderMap::new();
        // Unavailable is the server's fault, not found is the client's.
        let status = if number == 0 { "14" } else { "5" };
        trailers.insert("grpc-status", status.parse().expect("a value"));
        stream.send_trailers(trailers).expect("sent");
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        export(config, collector.origin.address);
        config.services[0].upstream.protocol = BackendProtocol::H2;
    });
    let client = connect(proxy.address).await;
    let mut request = post("/shop.Items/Get");
    let kind = "application/grpc".parse().expect("a value");
    request.headers_mut().insert("content-type", kind);
    let answer = soon(crate::h2_support::ask(&client, request))
        .await
        .expect("an answer");
    assert_eq!(answer.trailers.expect("some")["grpc-status"], "14");
    let (server, attempts) = soon(tokio::task::spawn_blocking(move || collector.tree()))
        .await
        .expect("a tree");
    for span in [&server, &attempts[0]] {
        assert!(is_error(span), "{span:#?}");
        expect(
            span,
            &[
                ("network.protocol.version", "2"),
                ("http.response.status_code", "200"),
                ("rpc.grpc.status_code", "14"),
                ("error.type", "14"),
            ],
        );
    }
    assert_eq!(
        attribute(&server, "url.path").as_deref(),
        Some("/shop.Items/Get")
    );
}

#[tokio::test]
async fn streams_of_one_connection_are_traces_of_their_own() {
    let collector = Collector::new();
    let origin = Origin::mirror();
    let proxy = traced(&[origin.address], &collector);
    let client = connect(proxy.address).await;
    for path in ["/a", "/b"] {
        let asked = crate::h2_support::ask(&client, get(path));
        assert_eq!(soon(asked).await.expect("an answer").status, 200);
    }
    let trees = soon(tokio::task::spawn_blocking(move || collector.trees(2)))
        .await
        .expect("trees");
    assert_ne!(trees[0].0.trace_id, trees[1].0.trace_id);
    for ((server, attempts), path) in trees.iter().zip(["/a", "/b"]) {
        expect(
            server,
            &[("url.path", path), ("network.protocol.version", "2")],
        );
        expect(&attempts[0], &[("network.protocol.version", "1.1")]);
    }
}

#[test]
fn what_is_not_sampled_is_not_exported() {
    let collector = Collector::new();
    let origin = Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        export(config, collector.origin.address);
        config.http_listeners[0].trace_share = 0.0;
    });
    let ask = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        proxy.ask(&request).text()
    };
    let no = format!("00-{TRACE}-{PARENT}-00");
    let seen = ask(&format!("traceparent: {no}\r\nb3: 0\r\n"));
    assert_eq!(field(&seen, "traceparent"), Some(&*no), "as it came");
    assert_eq!(field(&seen, "b3"), Some("0"));
    let seen = ask("");
    let told = field(&seen, "traceparent").expect("the decision is passed on");
    assert!(told.ends_with("-00"), "{told}");
    // A client that wants to be traced is.
    let seen = ask(&format!("b3: {TRACE}-{PARENT}-1\r\n"));
    let (server, attempts) = collector.tree();
    assert_eq!(collector.spans().len(), 2, "of the last one alone");
    let told = format!(
        "{TRACE}-{}-1-{}",
        hex(&attempts[0].span_id),
        hex(&server.span_id)
    );
    assert_eq!(field(&seen, "b3"), Some(&*told));
}

#[test]
fn backends_are_told_in_the_forms_that_are_asked_for() {
    let collector = Collector::new();
    let origin = Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        let tracing = export(config, collector.origin.address);
        tracing.propagation = vec![Propagation::B3Multi];
    });
    let seen = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text();
    let (server, attempts) = collector.tree();
    assert_eq!(field(&seen, "x-b3-traceid"), Some(&*hex(&server.trace_id)));
    assert_eq!(
        field(&seen, "x-b3-spanid"),
        Some(&*hex(&attempts[0].span_id))
    );
    assert_eq!(
        field(&seen, "x-b3-parentspanid"),
        Some(&*hex(&server.span_id))
    );
    assert_eq!(field(&seen, "x-b3-sampled"), Some("1"));
    assert_eq!(field(&seen, "traceparent"), None);
}

#[test]
fn without_a_collector_contexts_pass_as_they_came() {
    let origin = Origin::mirror();
    let proxy = Proxy::to(&[origin.address]);
    let came = format!("00-{TRACE}-{PARENT}-01");
    let seen = proxy.ask(&format!(
        "GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {came}\r\n\r\n"
    ));
    assert_eq!(field(&seen.text(), "traceparent"), Some(&*came));
    let seen = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(field(&seen.text(), "traceparent"), None);
}

#[test]
fn a_collector_may_ask_to_be_sent_a_batch_again() {
    let collector = Collector::answering(|before| {
        let status = if before < 2 { 503 } else { 200 };
        (status, ExportTraceServiceResponse::default())
    });
    let origin = Origin::answering(OK);
    let proxy = traced(&[origin.address], &collector);
    proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    collector.tree();
    assert_eq!(collector.heads.lock().expect("no panic").len(), 3);
    let counters = proxy.workers.span_counters();
    eventually("counted", || counters.exported.load(Ordering::Relaxed) == 2);
    assert_eq!(counters.failed.load(Ordering::Relaxed), 0);
}

#[test]
fn spans_that_the_collector_refuses_are_counted() {
    let collector = Collector::answering(|before| {
        let rejected_spans = 1;
        let partial = ExportTracePartialSuccess {
            rejected_spans,
            ..Default::default()
        };
        let answer = ExportTraceServiceResponse {
            partial_success: Some(partial),
        };
        (if before == 0 { 200 } else { 400 }, answer)
    });
    let origin = Origin::answering(OK);
    let proxy = traced(&[origin.address], &collector);
    let counters = Arc::clone(proxy.workers.span_counters());
    let counts = || {
        let counts = [&counters.exported, &counters.failed, &counters.dropped];
        counts.map(|count| count.load(Ordering::Relaxed))
    };
    proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("one of two is taken", || counts() == [1, 1, 0]);
    proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("400 is not tried again", || counts() == [1, 3, 0]);
    assert_eq!(collector.heads.lock().expect("no panic").len(), 2);
}

#[test]
fn a_collector_that_is_stuck_holds_up_no_request() {
    // Takes connections and never answers.
    let collector = Origin::new(|mut client, _| {
        client.rest();
    });
    let proxy = Proxy::with(&[], |config| {
        export(config, collector.address).timeout = Duration::from_secs(3600);
        config.routes[0].action = Action::Respond(FixedResponse {
            status: 204,
            content_type: String::new(),
            body: String::new(),
        });
    });
    let counters = Arc::clone(proxy.workers.span_counters());
    let mut client = proxy.client();
    let many = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let dropped = || counters.dropped.load(Ordering::Relaxed);
    let mut asked = 0;
    while dropped() == 0 {
        client.send(&many);
        for _ in 0..100 {
            assert_eq!(client.answer().status, 204);
        }
        asked += 100;
        assert!(asked < 20_000, "the queue has no end");
    }
    assert_eq!(counters.exported.load(Ordering::Relaxed), 0);
    // The end does not wait for it either: at most a few seconds.
    let all = asked;
    drop(proxy);
    let failed = counters.failed.load(Ordering::Relaxed);
    assert!(
        failed + dropped() >= all - 4096,
        "{failed} failed, {} dropped",
        dropped()
    );
}

#[test]
fn spans_that_wait_are_exported_at_the_end() {
    let collector = Collector::new();
    let origin = Origin::answering(OK);
    let proxy = traced(&[origin.address], &collector);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    drop(proxy);
    assert_eq!(collector.spans().len(), 6, "without another wait");
}

#[test]
fn a_reload_begins_and_ends_the_export() {
    let (first, second) = (Collector::new(), Collector::new());
    let origin = Origin::mirror();
    let mut proxy = Proxy::to(&[origin.address]);
    let address = proxy.address;
    let ask = || {
        let mut client = Client::to(address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.answer().text()
    };
    let mut load = |collector: Option<&Collector>| {
        let config = crate::support::config(&[origin.address], |config| {
            config.http_listeners[0].address = family::any();
            if let Some(collector) = collector {
                export(config, collector.origin.address);
            }
        });
        let prepared = proxy.workers.prepare(&config).expect("prepared");
        proxy.workers.put_in_force(prepared);
        let is_told = collector.is_some();
        eventually("in force", || {
            field(&ask(), "traceparent").is_some() == is_told
        });
    };
    load(Some(&first));
    first.tree();
    load(Some(&second));
    eventually("the other one has spans", || {
        ask();
        !second.spans().is_empty()
    });
    load(None);
}
