//! gRPC through the proxy: what clients are told when it cannot serve them, and what servers' own
//! statuses say of their health.

use crate::h2_support::{H2Origin, Whole, begin, connect, send_all, whole};
use crate::support::{Proxy, eventually};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::{
    BackendProtocol, CircuitErrors, Fault, PathMatch, RouteMatch,
};
use proxy_userspace::config::model::outlier::{Detector, Outlier};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const FOR_EVER: Duration = Duration::from_secs(3600);

/// Calls with one message of so many octets.
async fn call(proxy: &Proxy, path: &str, octets: usize) -> Whole {
    let client = connect(proxy.address).await;
    let request = Request::post(format!("http://a.test{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (response, mut stream) = begin(&client, request).await;
    // It may be refused before all of it was sent.
    let _ = send_all(&mut stream, &vec![b'x'; octets], true).await;
    whole(response).await.expect("an answer")
}

/// What a call ends with: the code, and whether it came without content.
fn code(answer: &Whole) -> (&str, bool) {
    let trailers = answer.trailers.as_ref();
    let trailer = trailers.and_then(|it| it.get("grpc-status")?.to_str().ok());
    let is_alone = answer.body.is_empty() && trailer.is_none();
    (
        answer.field("grpc-status").or(trailer).expect("a code"),
        is_alone,
    )
}

fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    listener.local_addr().expect("bound")
}

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A head, and nothing else.
    Head,
    /// A message, then trailers.
    Trailers,
}

async fn answer(mut respond: SendResponse<Bytes>, form: Form, code: u16) {
    let head = Response::builder().header("content-type", "application/grpc");
    if form == Form::Head {
        let head = head.header("grpc-status", code);
        let _ = respond.send_response(head.body(()).expect("a head"), true);
        return;
    }
    let head = head.body(()).expect("a head");
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    let _ = send_all(&mut stream, b"message", false).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    let _ = stream.send_trailers(trailers);
}

/// A server that answers with a code, which may be changed.
fn server(form: Form) -> (H2Origin, Arc<AtomicU16>) {
    let code: Arc<AtomicU16> = Arc::default();
    let told = Arc::clone(&code);
    let origin =
        H2Origin::new(move |_, respond, _| answer(respond, form, told.load(Ordering::SeqCst)));
    (origin, code)
}

fn to(backends: &[SocketAddr], edit: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::with(backends, |config| {
        config.services[0].upstream.protocol = BackendProtocol::H2;
        edit(config);
    })
}

#[tokio::test]
async fn what_the_proxy_cannot_do_is_told_by_a_code_and_nothing_else() {
    let silent = H2Origin::new(|_, respond, _| async move {
        // Dropping it would be an answer.
        let _respond = respond;
        std::future::pending().await
    });
    let limited = |config: &mut Config| config.http_listeners[0].limits.body_bytes = Some(10);
    let other = |config: &mut Config| {
        config.routes[0].matches = vec![RouteMatch {
            path: PathMatch::Exact("/other".to_owned()),
            ..RouteMatch::default()
        }];
    };
    let impatient = |config: &mut Config| {
        config.services[0].upstream.resilience.request_timeout = Some(Duration::from_millis(50));
    };
    let patient = |config: &mut Config| {
        config.services[0].upstream.response_timeout = Duration::from_millis(50);
    };
    let cases = [
        (
            "no backend",
            to(&[], |_| {}),
            "14",
            "503 Service Unavailable",
        ),
        (
            "not there",
            to(&[nobody()], |_| {}),
            "14",
            "502 Bad Gateway",
        ),
        ("no route", to(&[nobody()], other), "12", "404 Not Found"),
        (
            "too long",
            to(&[silent.address], limited),
            "2",
            "413 Content Too Large",
        ),
        (
            "the call's time",
            to(&[silent.address], impatient),
            "4",
            "504 Gateway Timeout",
        ),
        (
            "a server's time",
            to(&[silent.address], patient),
            "14",
            "504 Gateway Timeout",
        ),
    ];
    for (about, proxy, expected, message) in cases {
        let answer = call(&proxy, "/thing.Service/Do", 20).await;
        assert_eq!(answer.status.as_u16(), 200, "{about}");
        assert_eq!(code(&answer), (expected, true), "{about}");
        assert_eq!(answer.field("grpc-message"), Some(message), "{about}");
        assert_eq!(
            answer.field("content-type"),
            Some("application/grpc"),
            "{about}"
        );
        assert_eq!(answer.field("content-length"), None, "{about}");
    }
}

#[tokio::test]
async fn who_is_refused_for_a_while_is_told_for_how_long() {
    let (origin, code_of_it) = server(Form::Head);
    code_of_it.store(14, Ordering::SeqCst);
    let proxy = to(&[origin.address], |config| {
        config.services[0].upstream.resilience.circuit.errors = Some(CircuitErrors {
            min_requests: 1,
            open: FOR_EVER,
            max_open: FOR_EVER,
            ..CircuitErrors::default()
        });
    });
    let own = call(&proxy, "/thing.Service/Do", 1).await;
    assert_eq!(own.field("grpc-message"), None, "the server's own answer");
    let refused = call(&proxy, "/thing.Service/Do", 1).await;
    assert_eq!(code(&refused), ("14", true));
    let wait: u64 = refused
        .field("grpc-retry-pushback-ms")
        .expect("told")
        .parse()
        .expect("a number");
    assert!((3_000_000..=3_600_000).contains(&wait), "{wait}");
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn a_fault_on_purpose_is_one_of_grpc_too_and_others_get_http() {
    let (origin, _) = server(Form::Head);
    let proxy = to(&[origin.address], |config| {
        config.routes[0].fault = Some(Fault {
            delay: None,
            abort: Some((429, 1.0)),
        });
    });
    let answer = call(&proxy, "/thing.Service/Do", 1).await;
    assert_eq!(code(&answer), ("14", true));
    let client = connect(proxy.address).await;
    for kind in ["text/plain", "application/grpc-web+proto"] {
        let request = Request::post("http://a.test/").header("content-type", kind);
        let request = request.body(()).expect("a request");
        let (response, mut stream) = begin(&client, request).await;
        let _ = send_all(&mut stream, b"x", true).await;
        let answer = whole(response).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), 429, "{kind}");
        assert_eq!(answer.field("grpc-status"), None, "{kind}");
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_not_well_is_ejected_wherever_it_says_so() {
    for form in [Form::Head, Form::Trailers] {
        for (ill, found) in [
            (14, Detector::GatewayErrors),
            (4, Detector::GatewayErrors),
            (13, Detector::Consecutive5xx),
        ] {
            let (bad, code_of_bad) = server(form);
            let (good, _) = server(form);
            let proxy = to(&[bad.address, good.address], |config| {
                config.services[0].upstream.outlier = Some(Outlier {
                    consecutive_5xx: 3,
                    consecutive_gateway_errors: 3,
                    base_ejection_time: FOR_EVER,
                    max_ejection_time: FOR_EVER,
                    ..Outlier::default()
                });
            });
            let service = Arc::clone(&proxy.workers.snapshot().services()[0].state);
            // The caller's fault is not the server's.
            code_of_bad.store(3, Ordering::SeqCst);
            for _ in 0..8 {
                call(&proxy, "/thing.Service/Do", 1).await;
            }
            assert!(service.ejected().is_empty(), "{form:?}");
            code_of_bad.store(ill, Ordering::SeqCst);
            let mut codes = Vec::new();
            for _ in 0..8 {
                let answer = call(&proxy, "/thing.Service/Do", 1).await;
                codes.push(code(&answer).0.to_owned());
            }
            eventually("it is ejected", || !service.ejected().is_empty());
            let out = service.ejected().swap_remove(0);
            assert_eq!(out.address(), bad.address, "{form:?} {ill}");
            let ejection = service.ejection(&out).expect("ejected");
            assert_eq!(ejection.evidence.detector(), found, "{form:?} {ill}");
            let answer = call(&proxy, "/thing.Service/Do", 1).await;
            assert_eq!(code(&answer).0, "0", "after {codes:?}");
        }
    }
}
