//! What goes wrong at backends, and what clients see of it.

use crate::support::{Origin, Proxy, eventually};
use proxy_tests::family;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(family::any()).expect("binds");
    listener.local_addr().expect("bound")
}

#[test]
fn a_backend_that_cannot_be_reached_is_a_bad_gateway() {
    let proxy = Proxy::to(&[nobody()]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(GET);
        assert_eq!(client.answer().status, 502, "and the connection is kept");
    }
}

#[test]
fn another_backend_is_tried_when_one_cannot_be_reached() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&[nobody(), origin.address]);
    for request in [GET, POST, GET, POST] {
        assert_eq!(
            proxy.ask(request).status,
            200,
            "nothing of it was seen by anybody else"
        );
    }
}

#[test]
fn no_route_and_no_backend_are_told_apart() {
    let proxy = Proxy::with(&[], |_| {});
    assert_eq!(proxy.ask(GET).status, 503);
    let proxy = Proxy::with(&[], |config| config.routes.clear());
    assert_eq!(proxy.ask(GET).status, 404);
}

#[test]
fn a_backend_that_says_nothing_is_a_bad_gateway() {
    let origin = Origin::new(|mut client, _| {
        client.head();
    });
    let proxy = Proxy::to(&[origin.address]);
    assert_eq!(proxy.ask(POST).status, 502);
    assert_eq!(origin.connections(), 1, "a POST is not repeated");
}

#[test]
fn a_kept_connection_that_was_closed_costs_no_request() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send(OK);
        // Closes although it said nothing of it.
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for n in 1..20 {
        client.send(GET);
        assert_eq!(client.answer().text(), "ok");
        assert_eq!(origin.connections(), n);
    }
}

#[test]
fn what_is_cut_off_looks_cut_off() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let origin = Origin::new(move |mut client, _| {
            client.head();
            client.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n"));
        });
        let proxy = Proxy::to(&[origin.address]);
        let mut client = proxy.client();
        client.send(GET);
        client.head().expect("a head");
        let body = client.rest();
        assert!(
            body.len() < 100 && !body.ends_with(b"0\r\n\r\n"),
            "{body:?}"
        );
    }
    // Where the end of the connection is all that delimits, it must not look like one.
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.head().expect("a head");
    assert!(client.is_reset(), "a reset, not an end");
}

#[test]
fn answers_that_are_not_http_are_refused() {
    for answer in [
        "HTTP/1.1 2000 OK\r\n\r\n",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\n\n",
    ] {
        let proxy = Proxy::to(&[Origin::answering(answer).address]);
        let mut client = proxy.client();
        client.send(GET);
        assert_eq!(client.answer().status, 502, "{answer:?}");
    }
}

#[test]
fn an_endless_head_is_refused() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\n");
        while client.try_send(b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") {}
    });
    let proxy = Proxy::to(&[origin.address]);
    assert_eq!(proxy.ask(GET).status, 502);
}

#[test]
fn a_backend_that_takes_too_long_is_a_gateway_timeout() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.response_timeout = Duration::from_millis(100);
    });
    assert_eq!(proxy.ask(GET).status, 504);
    let proxy = Proxy::with(&[origin.address], |config| {
        config.routes[0].timeout = Some(Duration::from_millis(100));
    });
    assert_eq!(proxy.ask(GET).status, 504);
}

#[test]
fn a_backend_that_stops_halfway_is_given_up() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.idle_timeout = Duration::from_millis(100);
    });
    let mut client = proxy.client();
    client.send(GET);
    client.head().expect("a head");
    assert_eq!(client.rest(), b"half");
}

#[test]
fn surplus_octets_do_not_answer_the_next_request() {
    let origin = Origin::answering(format!(
        "{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    ));
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for n in 1..10 {
        client.send(GET);
        assert_eq!(client.answer().text(), "ok");
        eventually("a connection of its own", || origin.connections() == n);
    }
}
