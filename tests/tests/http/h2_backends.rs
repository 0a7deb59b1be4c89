//! Backends that speak HTTP/2, and WebSockets between all versions.

use crate::h2_clients::to_protocol;
use crate::h2_support::{
    H2Origin, ask, begin, connect, content, get, post, reply, send_all, soon, whole,
};
use crate::support::{Origin, Proxy, eventually, field, pattern};
use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, SendStream};
use http::{Method, Request, Response};
use proxy_tests::family;
use proxy_userspace::config::model::http::{BackendProtocol, ProxyVersion};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn a_request_of_http_1_reaches_a_backend_as_one_of_http_2() {
    let origin = H2Origin::mirror();
    let proxy = to_protocol(origin.address, true);
    let answer = proxy.ask(
        "GET /a?b=<c> HTTP/1.1\r\nHost: Shop.test\r\nX-Thing: y\r\nConnection: x-gone, keep-alive\r\n\
         X-Gone: z\r\nKeep-Alive: 5\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let seen = answer.text();
    assert!(seen.starts_with("GET http://shop.test/a?b="), "{seen}");
    assert_eq!(field(&seen, "x-thing"), Some("y"));
    for gone in [
        "x-gone",
        "connection",
        "keep-alive",
        "host",
        "transfer-encoding",
    ] {
        assert_eq!(field(&seen, gone), None, "{gone}");
    }
    assert!(seen.ends_with("\n\n"), "no content");
}

#[test]
fn content_of_http_1_keeps_its_framing_or_finds_a_new_one() {
    let origin = H2Origin::mirror();
    let proxy = to_protocol(origin.address, true);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let seen = client.answer().text();
    assert_eq!(field(&seen, "content-length"), Some("4"));
    assert!(seen.ends_with("\n\nbody"), "{seen}");
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\
         Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let answer = client.answer();
    let seen = answer.text();
    assert_eq!(field(&seen, "content-length"), None);
    assert_eq!(field(&seen, "te"), Some("trailers"));
    assert!(seen.ends_with("\n\nbody"), "{seen}");
    assert_eq!(answer.trailers, "x-sum: 1\r\n");
}

#[tokio::test]
async fn requests_share_a_connection_and_open_another_when_it_is_full() {
    let go_on = Arc::new(AtomicBool::new(false));
    let waits = Arc::clone(&go_on);
    let origin = H2Origin::new(move |_, mut respond, number| {
        let waits = Arc::clone(&waits);
        async move {
            while !waits.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            reply(&mut respond, number.to_string().as_bytes()).await;
        }
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.protocol = BackendProtocol::H2;
        upstream.max_streams = 10;
    });
    let client = connect(proxy.address).await;
    let asked: Vec<_> = (0..25)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, get("/")).await.expect("an answer").text() })
        })
        .collect();
    let reached = Arc::new(origin);
    let waiting = Arc::clone(&reached);
    let all = tokio::task::spawn_blocking(move || {
        eventually("all reach the backend", || waiting.requests() == 25);
    });
    soon(all).await.expect("reached");
    go_on.store(true, Ordering::SeqCst);
    let mut by_connection = [0; 3];
    for one in asked {
        let number: usize = soon(one).await.expect("served").parse().expect("a number");
        by_connection[number] += 1;
    }
    by_connection.sort_unstable();
    assert_eq!(by_connection, [5, 10, 10]);
    assert_eq!(reached.connections(), 3);
}

#[tokio::test]
async fn a_backend_that_takes_few_streams_is_given_no_more() {
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    let (highest, under_way) = (Arc::clone(&most), Arc::clone(&now));
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(3);
    let origin = H2Origin::with(builder, move |_, mut respond, number| {
        let (highest, under_way) = (Arc::clone(&highest), Arc::clone(&under_way));
        async move {
            if number == 0 {
                let at_once = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(at_once, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if number == 0 {
                under_way.fetch_sub(1, Ordering::SeqCst);
            }
            reply(&mut respond, b"ok").await;
        }
    });
    let proxy = to_protocol(origin.address, true);
    let client = connect(proxy.address).await;
    // The backend's limit is known after the first.
    ask(&client, get("/")).await.expect("an answer");
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, get("/")).await.expect("an answer").text() })
        })
        .collect();
    for one in asked {
        assert_eq!(soon(one).await.expect("served"), "ok");
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn what_a_backend_did_not_begin_with_is_tried_again() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let origin = H2Origin::new(move |request, mut respond, _| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() == "/refused" && count.fetch_add(1, Ordering::SeqCst) == 0 {
                respond.send_reset(Reason::REFUSED_STREAM);
                return;
            }
            reply(&mut respond, b"ok").await;
        }
    });
    let proxy = to_protocol(origin.address, true);
    let client = connect(proxy.address).await;
    // POST is not idempotent: that it was refused is what makes it safe.
    let mut send = soon(client.clone().ready()).await.expect("ready");
    let (response, _) = send.send_request(post("/refused"), true).expect("sent");
    let answer = whole(response).await.expect("an answer");
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "ok")
    );
    assert_eq!(refused.load(Ordering::SeqCst), 2);
}

#[test]
fn a_backend_that_goes_away_gets_no_new_requests() {
    use crate::h2_support::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, frame};
    // Each connection answers its first request, then says that it goes away. A second one on
    // it would be lost.
    let origin = Origin::new(|mut client, _| {
        client.exactly(24);
        client.send(frame(SETTINGS, 0, 0, &[]));
        let mut served = 0;
        while let Some(came) = client.frame() {
            if came.kind == HEADERS && served == 0 {
                served += 1;
                client.send(frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    came.stream,
                    &[0x88],
                ));
                let mut last = came.stream.to_be_bytes().to_vec();
                last.extend([0; 4]);
                client.send(frame(GOAWAY, 0, 0, &last));
            }
        }
    });
    let proxy = to_protocol(origin.address, true);
    for _ in 0..5 {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(proxy.ask(request).status, 200);
    }
}

#[test]
fn a_backend_that_speaks_http_1_only_is_an_answer() {
    let origin = Origin::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let proxy = to_protocol(origin.address, true);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 502);
}

#[test]
fn a_backend_that_resets_is_an_answer_or_a_cut() {
    let origin = H2Origin::new(|request, mut respond, _| async move {
        if request.uri().path() == "/before" {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
        let response = Response::new(());
        let mut stream = respond.send_response(response, false).expect("sent");
        stream
            .send_data(Bytes::from_static(b"some"), false)
            .expect("sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    });
    let proxy = to_protocol(origin.address, true);
    assert_eq!(
        proxy
            .ask("POST /before HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .status,
        502
    );
    let mut client = proxy.client();
    client.send("GET /within HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().expect("a head").starts_with("HTTP/1.1 200"));
    assert!(client.chunked().is_none(), "no last chunk");
}

#[test]
fn each_connection_that_begins_with_a_proxy_header_serves_one_client() {
    let origin = Origin::new(|mut client, _| {
        let line = client.until(b"\r\n").expect("a PROXY header");
        assert!(line.starts_with(&family::proxy_header()), "{line}");
        assert_eq!(client.exactly(24), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        client.send(crate::h2_support::frame(4, 0, 0, &[]));
        let head = client
            .frame_where(|frame| frame.kind == 1)
            .expect("a request");
        client.send(crate::h2_support::frame(1, 5, head.stream, &[0x88]));
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.protocol = BackendProtocol::H2;
        upstream.send_proxy = Some(ProxyVersion::V1);
    });
    for number in 1..3 {
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
        assert_eq!(origin.connections(), number);
    }
}

fn auto(origin: std::net::SocketAddr) -> Proxy {
    Proxy::with(&[origin], |config| {
        config.services[0].upstream.protocol = BackendProtocol::Auto;
    })
}

#[tokio::test]
async fn grpc_finds_out_what_an_automatic_backend_speaks() {
    let mut grpc = post("/svc/Call");
    grpc.headers_mut().insert(
        "content-type",
        "application/grpc+proto".parse().expect("a value"),
    );
    let origin = H2Origin::mirror();
    let proxy = auto(origin.address);
    let client = connect(proxy.address).await;
    let (response, mut stream) = begin(&client, grpc.clone()).await;
    send_all(&mut stream, b"", true).await.expect("sent");
    assert!(
        whole(response)
            .await
            .expect("an answer")
            .text()
            .starts_with("POST http://")
    );
    // Now it is known.
    let answer = ask(&client, get("/")).await.expect("an answer");
    assert!(answer.text().starts_with("GET http://"), "{answer:?}");
    assert_eq!(origin.connections(), 1);

    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            if head.starts_with("PRI") {
                client
                    .send("HTTP/1.1 505 Version\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return;
            }
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh1");
        }
    });
    let proxy = auto(origin.address);
    let client = connect(proxy.address).await;
    for _ in 0..2 {
        let mut send = soon(client.clone().ready()).await.expect("ready");
        let (response, _) = send.send_request(grpc.clone(), true).expect("sent");
        assert_eq!(whole(response).await.expect("an answer").text(), "h1");
    }
    assert_eq!(origin.connections(), 2, "asked once");
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// A WebSocket server of HTTP/1 that sends back what it gets.
fn h1_echo() -> Origin {
    Origin::new(|mut client, _| {
        let head = client.head().expect("a request");
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "sec-websocket-key").expect("a key").len(), 24);
        assert_eq!(field(&head, "sec-websocket-protocol"), Some("chat"));
        client.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        );
        let mut sending = client.clone();
        loop {
            let mut some = client.exactly(1);
            if some.is_empty() {
                sending.end();
                return;
            }
            // Octet by octet would make frames so small that the client's library hangs up.
            some.extend(client.there());
            sending.send(some);
        }
    })
}

/// The same over HTTP/2.
fn h2_echo() -> H2Origin {
    H2Origin::new(|request, mut respond, _| async move {
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(
            request
                .extensions()
                .get::<Protocol>()
                .expect("one")
                .as_str(),
            "websocket"
        );
        assert_eq!(request.uri().path(), "/chat");
        assert!(!request.headers().contains_key("sec-websocket-key"));
        assert_eq!(request.headers()["sec-websocket-protocol"], "chat");
        let mut response = Response::new(());
        let protocol = "chat".parse().expect("a value");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let mut stream = respond.send_response(response, false).expect("sent");
        let mut body = request.into_body();
        while let Some(Ok(some)) = body.data().await {
            let _ = body.flow_control().release_capacity(some.len());
            if send_all(&mut stream, &some, false).await.is_err() {
                return;
            }
        }
        let _ = send_all(&mut stream, b"", true).await;
    })
}

/// Extended CONNECT to `/chat`.
async fn chat(proxy: &Proxy) -> (Response<h2::RecvStream>, SendStream<Bytes>) {
    let mut client = connect(proxy.address).await;
    // Known once SETTINGS have come.
    while !client.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a/chat")
        .extension(Protocol::from("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .expect("a request");
    let (response, stream) = client.send_request(request, false).expect("sent");
    (soon(response).await.expect("an answer"), stream)
}

#[tokio::test]
async fn websockets_pass_between_all_versions() {
    let (h1, h2) = (h1_echo(), h2_echo());
    for (origin, is_h2) in [(h1.address, false), (h2.address, true)] {
        let proxy = to_protocol(origin, is_h2);
        let octets = pattern(300_000);

        let (response, mut stream) = chat(&proxy).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        assert!(!response.headers().contains_key("content-length"));
        let sent = octets.clone();
        let sending = tokio::spawn(async move { send_all(&mut stream, &sent, true).await });
        let echoed = content(&mut response.into_body()).await.expect("content");
        soon(sending).await.expect("no panic").expect("sent");
        assert!(
            echoed == octets,
            "h2 client, h2 backend: {is_h2}: {}",
            echoed.len()
        );

        let echoed = tokio::task::spawn_blocking(move || {
            let mut client = proxy.client();
            client.send(UPGRADE);
            let answer = client.answer();
            assert_eq!(answer.status, 101, "{answer:?}");
            assert_eq!(answer.field("upgrade"), Some("websocket"));
            assert_eq!(answer.field("connection"), Some("Upgrade"));
            assert_eq!(answer.field("sec-websocket-protocol"), Some("chat"));
            let accept = answer.field("sec-websocket-accept");
            assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            let mut sending = client.clone();
            let send = std::thread::spawn(move || {
                sending.send(pattern(300_000));
                sending.end();
            });
            let echoed = client.rest();
            send.join().expect("sends");
            echoed
        });
        assert!(
            soon(echoed).await.expect("echoed") == octets,
            "h1 client, h2 backend: {is_h2}"
        );
    }
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_an_ordinary_answer() {
    let h1 = Origin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let h2 = H2Origin::new(|_, mut respond, _| async move {
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::FORBIDDEN;
        let mut stream = respond.send_response(response, false).expect("sent");
        let _ = stream.send_data(Bytes::from_static(b"no"), true);
    });
    for (origin, is_h2) in [(h1.address, false), (h2.address, true)] {
        let proxy = to_protocol(origin, is_h2);
        let (response, _stream) = chat(&proxy).await;
        assert_eq!(response.status(), 403, "h2 backend: {is_h2}");
        assert_eq!(
            content(&mut response.into_body()).await.expect("content"),
            b"no"
        );
        let mut client = proxy.client();
        client.send(UPGRADE);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    }
}

#[tokio::test]
async fn an_ordinary_answer_never_becomes_a_tunnel() {
    // 200 to an upgrade is a page; to extended CONNECT it would be a tunnel.
    let h1 = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage");
    let proxy = to_protocol(h1.address, false);
    let (response, _stream) = chat(&proxy).await;
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn a_backend_without_extended_connect_is_not_sent_one() {
    let origin = H2Origin::with(
        h2::server::Builder::new(),
        |request, mut respond, _| async move {
            assert_eq!(request.method(), Method::GET);
            reply(&mut respond, b"page").await;
        },
    );
    let proxy = to_protocol(origin.address, true);
    let (response, _stream) = chat(&proxy).await;
    assert_eq!(response.status(), 502);
    // A server may ignore an upgrade, so HTTP/1 clients get what there is.
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "page"));
}
