//! Retries and hedges: an origin fails on command, and what clients and backends see of it.

use crate::h2_clients::to_protocol;
use crate::h2_support::{H2Origin, begin, connect, content, post, send_all, whole};
use crate::support::{Client, Origin, Proxy, eventually, field};
use http::{Request, Response};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{
    BackendProtocol, Budget, Hedge, HedgeAfter, Retries, RetryOn,
};
use proxy_userspace::observe::http::{HedgeResult, RetryReason};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// An origin that does what a script says, one line for each request, the last for all later ones.
struct Scripted {
    origin: Origin,
    /// Requests with their content, and when they came.
    seen: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Scripted {
    fn new(script: &'static [&'static str]) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let origin = Origin::new(move |mut client, _| {
            while let Some(request) = request(&mut client) {
                let number = {
                    let mut notes = notes.lock().expect("not poisoned");
                    notes.push((request, Instant::now()));
                    notes.len() - 1
                };
                match script[number.min(script.len() - 1)] {
                    "close" => return,
                    "reset" => return client.abort(),
                    "hang" => drop(client.rest()),
                    answer => {
                        let (status, fields) = answer.split_once('|').unwrap_or((answer, ""));
                        client.send(format!(
                            "HTTP/1.1 {status} X\r\n{fields}Content-Length: 3\r\n\r\n{status}"
                        ));
                    }
                }
            }
        });
        Self { origin, seen }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }

    fn requests(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }

    fn request(&self, number: usize) -> (String, Instant) {
        self.seen.lock().expect("not poisoned")[number].clone()
    }
}

/// A request's head and content.
fn request(client: &mut Client) -> Option<String> {
    let head = client.head()?;
    let body = if field(&head, "transfer-encoding").is_some() {
        client.chunked()?.0
    } else {
        let length = field(&head, "content-length").map_or(0, |it| it.parse().expect("a length"));
        client.exactly(length)
    };
    Some(head + &String::from_utf8_lossy(&body))
}

/// A proxy whose service retries so.
fn retrying(backends: &[SocketAddr], edit: impl FnOnce(&mut Retries)) -> Proxy {
    Proxy::with(backends, |config| {
        let retries = retries(config);
        (retries.backoff_base, retries.backoff_max) = (Duration::ZERO, Duration::ZERO);
        edit(retries);
    })
}

fn retries(config: &mut Config) -> &mut Retries {
    &mut config.services[0].upstream.resilience.retries
}

fn retried(proxy: &Proxy, reason: RetryReason) -> u64 {
    let cells = proxy.workers.metrics().service("origins");
    cells.sum(|cells| cells.retries(reason))
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    listener.local_addr().expect("bound")
}

#[test]
fn each_condition_is_met_by_another_attempt_and_by_none_if_it_is_not_listed() {
    use RetryOn::{GatewayError, Reset, Retriable4xx, RetriableStatus, ServerError};
    let cases: [(RetryOn, &'static [&'static str], u16); 9] = [
        (ServerError, &["500", "200"], 500),
        (ServerError, &["reset", "200"], 502),
        (GatewayError, &["502", "200"], 502),
        (GatewayError, &["503", "200"], 503),
        (GatewayError, &["close", "200"], 502),
        (Retriable4xx, &["409", "200"], 409),
        (RetriableStatus, &["429", "200"], 429),
        (Reset, &["close", "200"], 502),
        (Reset, &["reset", "200"], 502),
    ];
    for (on, script, without) in cases {
        let origin = Scripted::new(script);
        let proxy = retrying(&[origin.address()], |retries| {
            retries.on = vec![on];
            retries.statuses = vec![429];
        });
        assert_eq!(proxy.ask(GET).status, 200, "{on:?} {script:?}");
        assert_eq!(origin.requests(), 2, "{on:?} {script:?}");

        let origin = Scripted::new(script);
        let proxy = retrying(&[origin.address()], |retries| retries.on.clear());
        assert_eq!(proxy.ask(GET).status, without, "{script:?}");
        assert_eq!(origin.requests(), 1, "{script:?}");
    }
}

#[test]
fn a_connect_failure_is_retried_as_often_as_is_allowed_and_only_if_it_is_listed() {
    let origin = Scripted::new(&["200"]);
    for (on, status) in [
        (vec![RetryOn::ConnectFailure], 200),
        (vec![RetryOn::Reset], 502),
    ] {
        let backends = [nobody(), origin.address()];
        let proxy = retrying(&backends, |retries| retries.on = on);
        // In turn, so that one of two meets nobody at first.
        let mut worst = 200;
        for _ in 0..2 {
            worst = worst.max(proxy.ask(GET).status);
        }
        assert_eq!(worst, status);
    }
}

#[test]
fn another_backend_gets_the_retry() {
    let (ill, well) = (Scripted::new(&["503"]), Scripted::new(&["200"]));
    let proxy = retrying(&[ill.address(), well.address()], |retries| {
        retries.on = vec![RetryOn::GatewayError];
    });
    for _ in 0..6 {
        assert_eq!(proxy.ask(GET).status, 200);
    }
    assert_eq!(well.requests(), 6);
    assert_eq!(retried(&proxy, RetryReason::Status), ill.requests() as u64);
}

#[test]
fn the_last_answer_is_passed_on_when_the_attempts_are_used_up() {
    let origin = Scripted::new(&["500", "502", "504"]);
    let proxy = retrying(&[origin.address()], |retries| {
        retries.on = vec![RetryOn::ServerError];
    });
    let answer = proxy.ask(GET);
    assert_eq!((answer.status, answer.text().as_str()), (504, "504"));
    assert_eq!(origin.requests(), 3);
}

#[test]
fn what_is_not_idempotent_is_repeated_only_if_its_method_is_listed() {
    for (methods, status, requests) in [(vec![], 503, 1), (vec!["POST".to_owned()], 200, 2)] {
        let origin = Scripted::new(&["503", "200"]);
        let proxy = retrying(&[origin.address()], |retries| {
            retries.on = vec![RetryOn::ServerError];
            retries.methods = methods;
        });
        assert_eq!(proxy.ask(POST).status, status);
        assert_eq!(origin.requests(), requests);
    }
}

#[test]
fn content_is_sent_again_up_to_the_bound() {
    let body = "x".repeat(5000);
    let exact = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{body}");
    let chunked = format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n{body}\r\n0\r\n\r\n"
    );
    for request in [&exact, &chunked] {
        for (bound, status, requests) in [(5000, 200, 2), (4999, 503, 1), (0, 503, 1)] {
            let origin = Scripted::new(&["503", "200"]);
            let proxy = retrying(&[origin.address()], |retries| {
                retries.on = vec![RetryOn::ServerError];
                retries.buffer_bytes = bound;
            });
            let mut client = proxy.client();
            client.send(request);
            assert_eq!(client.answer().status, status, "{bound}");
            assert_eq!(origin.requests(), requests, "{bound}");
            for number in 0..requests {
                let (seen, _) = origin.request(number);
                assert!(seen.ends_with(&format!("\r\n\r\n{body}")), "{bound}");
            }
            client.send(GET);
            assert_eq!(client.answer().status, 200, "the connection is sound");
        }
    }
}

#[test]
fn retry_after_is_waited_for_up_to_the_bound() {
    let origin = Scripted::new(&["503|Retry-After: 1\r\n", "200"]);
    let proxy = retrying(&[origin.address()], |retries| {
        retries.on = vec![RetryOn::ServerError];
    });
    assert_eq!(proxy.ask(GET).status, 200);
    let took = origin.request(1).1 - origin.request(0).1;
    assert!(took >= Duration::from_secs(1), "{took:?}");

    let origin = Scripted::new(&["503|Retry-After: 3\r\n", "200"]);
    let proxy = retrying(&[origin.address()], |retries| {
        retries.on = vec![RetryOn::ServerError];
    });
    let answer = proxy.ask(GET);
    assert_eq!(
        (answer.status, answer.field("retry-after")),
        (503, Some("3"))
    );
    assert_eq!(origin.requests(), 1);
}

#[test]
fn without_a_budget_an_answer_is_passed_on_and_that_is_counted() {
    let origin = Scripted::new(&["503"]);
    let proxy = Proxy::with(&[origin.address()], |config| {
        let resilience = &mut config.services[0].upstream.resilience;
        resilience.retries.on = vec![RetryOn::ServerError];
        resilience.budget = Budget { share: 0.0, min: 0 };
    });
    assert_eq!(proxy.ask(GET).status, 503);
    assert_eq!(origin.requests(), 1);
    let cells = proxy.workers.metrics().service("origins");
    assert_eq!(cells.sum(|cells| cells.budget_exhausted.get()), 1);
    let protection = &proxy.workers.snapshot().services()[0].protection;
    assert_eq!(protection.retrying.active(), 0);
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_for_another() {
    let origin = Scripted::new(&["hang", "200"]);
    let proxy = Proxy::with(&[origin.address()], |config| {
        retries(config).announce = true;
        config.services[0].upstream.resilience.per_try_timeout = Some(Duration::from_millis(80));
    });
    assert_eq!(proxy.ask(GET).status, 200);
    assert_eq!(retried(&proxy, RetryReason::Timeout), 1);
    for (number, count) in [(0, "1"), (1, "2")] {
        let (head, _) = origin.request(number);
        assert_eq!(field(&head, "x-sluice-attempt-count"), Some(count));
    }
}

#[test]
fn a_whole_request_has_its_time_whatever_its_attempts_have() {
    let origin = Scripted::new(&["hang"]);
    let proxy = Proxy::with(&[origin.address()], |config| {
        retries(config).attempts = 8;
        let resilience = &mut config.services[0].upstream.resilience;
        resilience.per_try_timeout = Some(Duration::from_millis(60));
        resilience.request_timeout = Some(Duration::from_millis(100));
    });
    assert_eq!(proxy.ask(GET).status, 504);
    assert!(origin.requests() <= 2, "{}", origin.requests());
}

#[test]
fn a_route_has_retries_of_its_own() {
    let origin = Scripted::new(&["503", "200"]);
    let proxy = Proxy::with(&[origin.address()], |config| {
        config.routes[0].retries = Some(Retries {
            on: vec![RetryOn::GatewayError],
            ..Retries::default()
        });
    });
    assert_eq!(proxy.ask(GET).status, 200);
    assert_eq!(origin.requests(), 2);
}

#[tokio::test]
async fn what_a_backend_refused_is_sent_again_with_its_content() {
    let count = Arc::new(AtomicUsize::new(0));
    let origin = H2Origin::new(move |request, mut respond, _| {
        let count = Arc::clone(&count);
        async move {
            let mut body = request.into_body();
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                // Some of the content has come by then.
                let _ = body.data().await;
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                return;
            }
            let Ok(octets) = content(&mut body).await else {
                return;
            };
            let Ok(mut stream) = respond.send_response(Response::new(()), false) else {
                return;
            };
            let _ = send_all(&mut stream, &octets, true).await;
        }
    });
    let proxy = to_protocol(origin.address, true);
    let client = connect(proxy.address).await;
    let (response, mut stream) = begin(&client, post("/")).await;
    send_all(&mut stream, b"some ", false).await.expect("sent");
    send_all(&mut stream, b"content", true).await.expect("sent");
    let answer = whole(response).await.expect("an answer");
    assert_eq!(answer.text(), "some content");
}

/// An origin of gRPC whose first answer is this status, and later ones 0; and what it was told of
/// the time that is left.
fn grpc(code: &'static str) -> (H2Origin, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let origin = H2Origin::new(move |request, mut respond, _| {
        let notes = Arc::clone(&notes);
        async move {
            let left = request.headers().get("grpc-timeout");
            let left = left
                .map_or("", |left| left.to_str().expect("text"))
                .to_owned();
            let number = {
                let mut notes = notes.lock().expect("not poisoned");
                notes.push(left);
                notes.len()
            };
            if code == "hang" {
                return std::future::pending().await;
            }
            let status = if number == 1 { code } else { "0" };
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", status)
                .body(())
                .expect("a response");
            let _ = respond.send_response(response, true);
        }
    });
    (origin, told)
}

/// A call, with the time that it may take.
fn call(timeout: Option<&str>) -> Request<()> {
    let request = Request::post("http://a.test/thing.Service/Do");
    let request = request.header("content-type", "application/grpc");
    let request = match timeout {
        Some(timeout) => request.header("grpc-timeout", timeout),
        None => request,
    };
    request.body(()).expect("a request")
}

fn to_grpc(backend: SocketAddr, on: Vec<RetryOn>) -> Proxy {
    Proxy::with(&[backend], |config| {
        config.services[0].upstream.protocol = BackendProtocol::H2;
        let retries = retries(config);
        (retries.on, retries.backoff_base) = (on, Duration::from_millis(1));
    })
}

#[tokio::test]
async fn calls_of_grpc_are_retried_by_their_status() {
    let codes = [
        (RetryOn::Cancelled, "1"),
        (RetryOn::DeadlineExceeded, "4"),
        (RetryOn::ResourceExhausted, "8"),
        (RetryOn::Internal, "13"),
        (RetryOn::Unavailable, "14"),
    ];
    for (on, code) in codes {
        for (listed, expected) in [(vec![on], "0"), (vec![RetryOn::Reset], code)] {
            let (origin, _) = grpc(code);
            let proxy = to_grpc(origin.address, listed);
            let client = connect(proxy.address).await;
            let (response, mut stream) = begin(&client, call(None)).await;
            send_all(&mut stream, b"message", true).await.expect("sent");
            let answer = whole(response).await.expect("an answer");
            assert_eq!(answer.field("grpc-status"), Some(expected), "{on:?}");
        }
    }
}

#[tokio::test]
async fn the_deadline_of_a_grpc_client_holds_and_is_told_on() {
    let (origin, told) = grpc("0");
    let proxy = to_grpc(origin.address, Vec::new());
    let client = connect(proxy.address).await;
    let (response, mut stream) = begin(&client, call(Some("20S"))).await;
    send_all(&mut stream, b"message", true).await.expect("sent");
    whole(response).await.expect("an answer");
    let left = told.lock().expect("not poisoned")[0].clone();
    let micros: u64 = left.trim_end_matches('u').parse().expect("microseconds");
    assert!(micros <= 20_000_000, "{left}");

    let (origin, told) = grpc("hang");
    let proxy = to_grpc(origin.address, Vec::new());
    let client = connect(proxy.address).await;
    let (response, mut stream) = begin(&client, call(Some("50m"))).await;
    send_all(&mut stream, b"message", true).await.expect("sent");
    let answer = whole(response).await.expect("an answer");
    assert_eq!(answer.field("grpc-status"), Some("4"));
    assert_eq!(told.lock().expect("not poisoned").len(), 1);
}

#[test]
fn a_client_that_leaves_during_a_wait_ends_the_attempts() {
    let origin = Scripted::new(&["503"]);
    let proxy = Proxy::with(&[origin.address()], |config| {
        let retries = retries(config);
        retries.on = vec![RetryOn::ServerError];
        retries.attempts = 8;
        (retries.backoff_base, retries.backoff_max) =
            (Duration::from_secs(3600), Duration::from_secs(3600));
    });
    let mut client = proxy.client();
    client.send(GET);
    eventually("the first attempt", || origin.requests() == 1);
    client.abort();
    let protection = Arc::clone(&proxy.workers.snapshot().services()[0].protection);
    eventually("nobody waits", || {
        proxy.workers.connections() == 0 && protection.retrying.active() == 0
    });
    assert_eq!(origin.requests(), 1);
}

/// A proxy that hedges after this time.
fn hedging(backends: &[SocketAddr], after: Duration) -> Proxy {
    Proxy::with(backends, |config| {
        config.services[0].upstream.resilience.hedge = Some(Hedge {
            after: HedgeAfter::Fixed(after),
        });
    })
}

fn hedges(proxy: &Proxy, result: HedgeResult) -> u64 {
    let cells = proxy.workers.metrics().service("origins");
    cells.sum(|cells| cells.hedges(result))
}

/// An origin that answers no request, and tells how many of its connections were closed on it.
fn silent() -> (Origin, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        client.rest();
        count.fetch_add(1, Ordering::SeqCst);
    });
    (origin, closed)
}

#[test]
fn a_hedge_wins_where_the_first_is_slow_and_exactly_that_one_is_cancelled() {
    let (slow, closed) = silent();
    let fast = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfast");
    let proxy = hedging(&[slow.address, fast.address], Duration::from_millis(30));
    let mut client = proxy.client();
    for _ in 0..6 {
        client.send(GET);
        assert_eq!(client.answer().text(), "fast");
    }
    let won = hedges(&proxy, HedgeResult::Won);
    assert!(won > 0, "in turn, some went to the slow one first");
    eventually("the slow ones are cancelled", || {
        closed.load(Ordering::SeqCst) as u64 >= won
            && slow.connections() == closed.load(Ordering::SeqCst)
    });
    assert_eq!(hedges(&proxy, HedgeResult::Failed), 0);
    let protection = &proxy.workers.snapshot().services()[0].protection;
    assert_eq!(protection.retrying.active(), 0, "the budget has it back");
    let state = &proxy.workers.snapshot().services()[0].state;
    eventually("nothing is in progress", || {
        state.selection().in_flight() == 0
    });
}

#[test]
fn whoever_answers_in_time_is_not_hedged() {
    let backends = [Scripted::new(&["200"]), Scripted::new(&["200"])];
    let addresses = [backends[0].address(), backends[1].address()];
    let proxy = hedging(&addresses, Duration::from_secs(3600));
    for _ in 0..4 {
        assert_eq!(proxy.ask(GET).status, 200);
    }
    assert_eq!(backends.iter().map(Scripted::requests).sum::<usize>(), 4);
    for result in HedgeResult::ALL {
        assert_eq!(hedges(&proxy, *result), 0);
    }
}

#[test]
fn what_has_content_or_is_not_idempotent_is_not_hedged() {
    let (slow, _) = silent();
    let (other, _) = silent();
    let proxy = Proxy::with(&[slow.address, other.address], |config| {
        let resilience = &mut config.services[0].upstream.resilience;
        resilience.hedge = Some(Hedge {
            after: HedgeAfter::Fixed(Duration::from_millis(1)),
        });
        resilience.request_timeout = Some(Duration::from_millis(150));
    });
    for request in [
        POST,
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        assert_eq!(proxy.ask(request).status, 504);
    }
    assert_eq!(slow.connections() + other.connections(), 2);
}

#[test]
fn a_hedge_without_another_backend_is_denied_and_the_first_goes_on() {
    let origin = Origin::new(|mut client, _| {
        while client.head().is_some() {
            std::thread::sleep(Duration::from_millis(80));
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = hedging(&[origin.address], Duration::from_millis(1));
    assert_eq!(proxy.ask(GET).text(), "ok");
    assert_eq!(hedges(&proxy, HedgeResult::Denied), 1);
}
