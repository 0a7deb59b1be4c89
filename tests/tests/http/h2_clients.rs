//! HTTP/2 with clients.

use crate::h2_support::{
    END_HEADERS, END_STREAM, GOAWAY, H2Origin, HEADERS, ask, begin, block, connect, connect_with,
    content, frame, get, post, send_all, soon, whole,
};
use crate::support::{Client, Origin, Proxy, eventually, field, pattern};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Request, StatusCode};
use proxy_tests::family;
use proxy_userspace::message::{Refusal, RefusedBy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn refusals(proxy: &Proxy, refusal: Refusal) -> u64 {
    let snapshot = proxy.workers.snapshot();
    let listeners = snapshot.listeners();
    let count =
        listeners.map(|(_, plan)| plan.cells.sum(|c| c.refusals(RefusedBy::Client, refusal)));
    count.sum()
}

/// A request of frames by hand, on stream 1.
fn plain_request() -> Vec<u8> {
    let fields = block(&[
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"a.test"),
        (b":path", b"/"),
    ]);
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)
}

#[test]
fn both_versions_are_served_on_one_port_however_the_preface_comes() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::to(&[origin.address]);
    for piece in [1, 5, 23, 24, 1000] {
        let mut client = proxy.client();
        let mut octets = PREFACE.to_vec();
        octets.extend(frame(4, 0, 0, &[]));
        octets.extend(plain_request());
        for some in octets.chunks(piece) {
            client.send(some);
        }
        let head = client
            .frame_where(|frame| frame.kind == HEADERS)
            .expect("an answer");
        assert_eq!(
            (head.stream, head.payload[0]),
            (1, 0x88),
            "200, in pieces of {piece}"
        );
        let data = client
            .frame_where(|frame| frame.kind == 0)
            .expect("content");
        assert_eq!(
            (&data.payload[..], data.flags & END_STREAM),
            (&b"ok"[..], END_STREAM)
        );
    }
    for (begin, expected) in [
        ("P", 200),
        ("PRI", 200),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", 505),
    ] {
        let mut client = proxy.client();
        client.send(begin);
        client.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.answer().status, expected, "{begin:?}");
    }
}

#[test]
fn a_listener_may_do_without_http_2() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].http2.enabled = false;
    });
    let mut client = proxy.client();
    client.greet();
    assert_eq!(client.answer().status, 505);
}

#[tokio::test]
async fn a_request_reaches_an_http_1_backend_as_one_of_its_own() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let client = connect(proxy.address).await;
    let request = Request::get("http://Shop.test/a?b=c")
        .header("cookie", "a=1")
        .header("x-thing", "y")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("cookie", "c=3")
        .body(())
        .expect("a request");
    let answer = ask(&client, request).await.expect("an answer");
    let seen = answer.text();
    assert!(
        seen.starts_with("GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\n"),
        "{seen}"
    );
    assert_eq!(field(&seen, "cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(seen.to_lowercase().matches("cookie:").count(), 1);
    assert_eq!(field(&seen, "x-thing"), Some("y"));
    assert_eq!(field(&seen, "te"), Some("trailers"));
    assert_eq!(
        field(&seen, "x-forwarded-for"),
        Some(&*family::loopback().to_string())
    );
    assert_eq!(answer.field("connection"), None);
}

#[tokio::test]
async fn many_requests_are_served_at_once() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            std::thread::sleep(Duration::from_millis(20));
            let path = head.split(' ').nth(1).expect("a path").to_owned();
            let length = path.len();
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}"
            ));
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let client = connect(proxy.address).await;
    let mut asked = Vec::new();
    for number in 0..50 {
        let client = client.clone();
        asked.push(tokio::spawn(async move {
            let path = format!("/{number}");
            let answer = ask(&client, get(&path)).await.expect("an answer");
            assert_eq!(answer.text(), path);
        }));
    }
    for one in asked {
        soon(one).await.expect("served");
    }
    assert!(origin.connections() > 1, "one after the other");
}

#[tokio::test]
async fn content_passes_octet_by_octet_between_all_versions() {
    let octets = pattern(3_000_000);
    let h1 = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            let body = match field(&head, "content-length") {
                Some(length) => client.exactly(length.parse().expect("a length")),
                None => client.chunked().expect("chunks").0,
            };
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            client.send(body);
        }
    });
    let h2 = H2Origin::new(|request, mut respond, _| async move {
        let octets = content(&mut request.into_body()).await.expect("content");
        crate::h2_support::reply(&mut respond, &octets).await;
    });
    for (origin, is_h2) in [(h1.address, false), (h2.address, true)] {
        let proxy = to_protocol(origin, is_h2);
        let client = connect(proxy.address).await;
        for with_length in [true, false] {
            let mut request = post("/");
            if with_length {
                let length = octets.len().into();
                request.headers_mut().insert("content-length", length);
            }
            let (response, mut stream) = begin(&client, request).await;
            let sent = octets.clone();
            let sending = tokio::spawn(async move { send_all(&mut stream, &sent, true).await });
            let answer = whole(response).await.expect("an answer");
            soon(sending).await.expect("no panic").expect("sent");
            assert!(
                answer.body == octets,
                "h2 backend: {is_h2}, length: {with_length}"
            );
        }
        let answer = tokio::task::spawn_blocking({
            let octets = octets.clone();
            move || {
                let mut client = proxy.client();
                let length = octets.len();
                client.send(format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                ));
                let mut sending = client.clone();
                let send = std::thread::spawn(move || sending.send(octets));
                let answer = client.answer();
                send.join().expect("sends");
                answer
            }
        });
        assert!(
            soon(answer).await.expect("an answer").body == octets,
            "from HTTP/1"
        );
    }
}

/// A proxy whose backend speaks this.
pub(crate) fn to_protocol(origin: std::net::SocketAddr, is_h2: bool) -> Proxy {
    use proxy_userspace::config::model::http::BackendProtocol;
    Proxy::with(&[origin], |config| {
        config.services[0].upstream.protocol = match is_h2 {
            true => BackendProtocol::H2,
            false => BackendProtocol::H1,
        };
    })
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let h1 = Origin::new(|mut client, _| {
        while client.head().is_some() {
            let (body, trailers) = client.chunked().expect("chunks");
            assert_eq!((&body[..], &trailers[..]), (&b"ping"[..], "x-sum: 1\r\n"));
            client.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n0\r\n\
                 grpc-status: 0\r\ngrpc-status-details-bin: AA\r\nX-Sum: 1\r\n\r\n",
            );
        }
    });
    let h2 = H2Origin::new(|request, mut respond, _| async move {
        let mut body = request.into_body();
        assert_eq!(content(&mut body).await.expect("content"), b"ping");
        let trailers = body.trailers().await.expect("no error").expect("trailers");
        assert_eq!(trailers["x-sum"], "1");
        let mut stream = respond
            .send_response(http::Response::new(()), false)
            .expect("sent");
        stream
            .send_data(Bytes::from_static(b"pong"), false)
            .expect("sent");
        let mut trailers = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0"),
            ("grpc-status-details-bin", "AA"),
            ("x-sum", "1"),
        ] {
            trailers.insert(name, value.parse().expect("a value"));
        }
        stream.send_trailers(trailers).expect("sent");
    });
    for (origin, is_h2) in [(h1.address, false), (h2.address, true)] {
        let proxy = to_protocol(origin, is_h2);
        let client = connect(proxy.address).await;
        let (response, mut stream) = begin(&client, post("/svc/Call")).await;
        stream
            .send_data(Bytes::from_static(b"ping"), false)
            .expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().expect("a value"));
        // A trailer that would be taken for a field is dropped.
        trailers.insert("x-forwarded-for", "6.6.6.6".parse().expect("a value"));
        stream.send_trailers(trailers).expect("sent");
        let answer = whole(response).await.expect("an answer");
        assert_eq!(answer.text(), "pong");
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["grpc-status-details-bin"], "AA");
        assert_eq!(trailers["x-sum"], "1");
    }
}

#[tokio::test]
async fn informational_heads_come_before_the_answer() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        client.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = client.exactly(4);
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        client.send(body);
    });
    let proxy = Proxy::to(&[origin.address]);
    let client = connect(proxy.address).await;
    let mut request = post("/");
    request
        .headers_mut()
        .insert("expect", "100-continue".parse().expect("a value"));
    request.headers_mut().insert("content-length", 4.into());
    let (mut response, mut stream) = begin(&client, request).await;
    for status in [103, 100] {
        let informed = std::future::poll_fn(|cx| response.poll_informational(cx));
        let informed = soon(informed).await.expect("one").expect("no error");
        assert_eq!(informed.status(), status);
    }
    send_all(&mut stream, b"body", true).await.expect("sent");
    assert_eq!(whole(response).await.expect("an answer").text(), "body");
}

#[tokio::test]
async fn answers_without_content_end_with_their_head() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            let path = head.split(' ').nth(1).expect("a path");
            client.send(match path {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            });
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let client = connect(proxy.address).await;
    for (method, path, status, length) in [
        (Method::GET, "/204", 204, None),
        (Method::GET, "/304", 304, Some("7")),
        (Method::HEAD, "/", 200, Some("7")),
    ] {
        let mut request = get(path);
        *request.method_mut() = method;
        let mut send = soon(client.clone().ready()).await.expect("ready");
        let (response, _) = send.send_request(request, true).expect("sent");
        let response = soon(response).await.expect("an answer");
        assert_eq!(response.status(), status);
        assert_eq!(
            response
                .headers()
                .get("content-length")
                .map(|v| v.to_str().expect("text")),
            length
        );
        assert!(response.body().is_end_stream(), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_resets_takes_its_request_to_the_backend_with_it() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let h1 = Origin::new(move |mut client, _| {
        client.head();
        client.rest();
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let counted = Arc::clone(&ended);
    let h2 = H2Origin::new(move |request, mut respond, _| {
        let counted = Arc::clone(&counted);
        async move {
            let _body = request.into_body();
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx));
            assert_eq!(soon(reset).await.expect("no error"), Reason::CANCEL);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    for (origin, is_h2) in [(h1.address, false), (h2.address, true)] {
        let proxy = to_protocol(origin, is_h2);
        let client = connect(proxy.address).await;
        // With content that is still coming, and without.
        for request in [post("/"), get("/")] {
            let before = ended.load(Ordering::SeqCst);
            let (response, mut stream) = begin(&client, request.clone()).await;
            if request.method() == Method::GET {
                send_all(&mut stream, b"", true).await.expect("sent");
            } else {
                send_all(&mut stream, b"some", false).await.expect("sent");
            }
            let snapshot = Arc::clone(proxy.workers.snapshot());
            let reached = tokio::task::spawn_blocking(move || {
                eventually("it reaches the backend", || {
                    let services = snapshot.services();
                    services[0].state.backends()[0].in_flight() == 1
                });
            });
            soon(reached).await.expect("reached");
            stream.send_reset(Reason::CANCEL);
            drop(response);
            let ended = Arc::clone(&ended);
            let waited = tokio::task::spawn_blocking(move || {
                eventually("it ends", || ended.load(Ordering::SeqCst) > before);
            });
            soon(waited).await.expect("ended");
        }
    }
}

#[tokio::test]
async fn a_backend_that_fails_within_its_answer_resets_the_stream_and_no_other() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            if head.starts_with("GET /bad") {
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
                return;
            }
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let client = connect(proxy.address).await;
    let error = ask(&client, get("/bad")).await.expect_err("cut off");
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(
        ask(&client, get("/good")).await.expect("an answer").text(),
        "ok"
    );
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_is_an_answer_not_a_reset() {
    let nobody = std::net::TcpListener::bind(family::any()).expect("binds");
    let address = nobody.local_addr().expect("bound");
    drop(nobody);
    for is_h2 in [false, true] {
        let proxy = to_protocol(address, is_h2);
        let client = connect(proxy.address).await;
        let answer = ask(&client, get("/")).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_stops_the_backend() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let octets = pattern(100_000);
        for _ in 0..1000 {
            if !client.try_send(&octets) {
                return;
            }
            counted.fetch_add(octets.len(), Ordering::SeqCst);
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(70_000)
        .initial_connection_window_size(100_000);
    let client = connect_with(proxy.address, &builder).await;
    let (response, mut stream) = begin(&client, get("/")).await;
    send_all(&mut stream, b"", true).await.expect("sent");
    let mut response = soon(response).await.expect("a head");
    let mut before = usize::MAX;
    // Nothing moves any more once all buffers between are full.
    while taken.load(Ordering::SeqCst) != before {
        before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        before < 20_000_000,
        "{before} octets were taken for a client that takes none"
    );
    // Another stream is served meanwhile: the first one's octets are not all of the window.
    assert_eq!(
        content(response.body_mut()).await.expect("content").len(),
        100_000_000
    );
}

#[tokio::test]
async fn a_sender_is_slowed_down_by_a_backend_that_reads_slowly() {
    let go_on = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&go_on);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        eventually("the test goes on", || waits.load(Ordering::SeqCst));
        let body = client.exactly(20_000_000);
        client.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        client.send(body);
    });
    let proxy = Proxy::to(&[origin.address]);
    let client = connect(proxy.address).await;
    let mut request = post("/");
    request
        .headers_mut()
        .insert("content-length", 20_000_000.into());
    let (response, mut stream) = begin(&client, request).await;
    let octets = pattern(20_000_000);
    let sent = Arc::new(AtomicUsize::new(0));
    let (counted, all) = (Arc::clone(&sent), octets.clone());
    let sending = tokio::spawn(async move {
        for some in all.chunks(50_000) {
            send_all(&mut stream, some, false).await?;
            counted.fetch_add(some.len(), Ordering::SeqCst);
        }
        send_all(&mut stream, b"", true).await
    });
    let mut before = usize::MAX;
    while sent.load(Ordering::SeqCst) != before {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < octets.len(), "all of it was taken");
    go_on.store(true, Ordering::SeqCst);
    let answer = whole(response).await.expect("an answer");
    soon(sending).await.expect("no panic").expect("sent");
    assert!(answer.body == octets);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].http2.max_streams = 2;
    });
    let address = proxy.address;
    let refused = tokio::task::spawn_blocking(move || {
        let mut client = Client::to(address);
        client.greet();
        let fields = block(&[
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"a.test"),
            (b":path", b"/"),
        ]);
        for stream in [1, 3, 5] {
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields));
        }
        client
            .frame_where(|frame| frame.kind == 3)
            .expect("a reset")
    });
    let refused = soon(refused).await.expect("no panic");
    assert_eq!((refused.stream, refused.error()), (5, Some(7)));
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_streams_end() {
    let go_on = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&go_on);
    let origin = Origin::new(move |mut client, _| {
        client.head();
        eventually("the test goes on", || waits.load(Ordering::SeqCst));
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast");
    });
    let mut proxy = Proxy::to(&[origin.address]);
    let address = proxy.address;
    let client = tokio::task::spawn_blocking(move || {
        let mut client = Client::to(address);
        client.greet();
        client.send(plain_request());
        let away = client
            .frame_where(|frame| frame.kind == GOAWAY)
            .expect("GOAWAY");
        assert_eq!(away.error(), Some(0));
        // The answer to our ping says that we have seen it (RFC 9113 §6.8).
        go_on.store(true, Ordering::SeqCst);
        let data = client
            .frame_where(|frame| frame.kind == 0)
            .expect("content");
        assert_eq!(data.payload, b"last");
    });
    let snapshot = Arc::clone(proxy.workers.snapshot());
    eventually("it is under way", || {
        snapshot.services()[0].state.backends()[0].in_flight() == 1
    });
    let left = soon(proxy.workers.drain(Duration::from_secs(20))).await;
    soon(client).await.expect("served");
    assert_eq!(left, 0);
}

#[test]
fn an_idle_connection_is_told_that_it_ends() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].timeouts.idle = Duration::from_millis(200);
    });
    let mut client = proxy.client();
    client.greet();
    assert_eq!(client.go_away(), Some(0));
    assert!(client.is_ended());
}

#[test]
fn a_connection_has_only_so_many_requests() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].max_requests_per_connection = 1;
    });
    let mut client = proxy.client();
    client.greet();
    client.send(plain_request());
    assert_eq!(client.go_away(), Some(0));
}

#[test]
fn a_head_that_does_not_end_ends_the_connection() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].timeouts.head = Duration::from_millis(200);
    });
    let mut client = proxy.client();
    client.greet();
    client.send(frame(
        HEADERS,
        END_STREAM,
        1,
        &block(&[(b":method", b"GET")]),
    ));
    assert_eq!(client.go_away(), Some(11));
    eventually("it is counted", || {
        refusals(&proxy, Refusal::HeadTimeout) == 1
    });
}

#[tokio::test]
async fn content_that_does_not_come_is_not_waited_for() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].timeouts.body_idle = Duration::from_millis(200);
    });
    let client = connect(proxy.address).await;
    let (response, _stream) = begin(&client, post("/")).await;
    let answer = whole(response).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
}

#[test]
fn a_listener_may_speak_nothing_else() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].http2.only = true;
    });
    for begin in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/1.1\r\n\r\n",
        "INVALID CONNECTION PREFACE\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(begin);
        assert_eq!(client.rest(), b"", "{begin:?}");
    }
    let url = format!("http://{}/", proxy.address);
    let answer = crate::peers::curl(&["--http2-prior-knowledge", &url]);
    assert_eq!(answer, b"ok");
    assert_eq!(refusals(&proxy, Refusal::Preface), 3);
    assert_eq!(origin.connections(), 1);
}
