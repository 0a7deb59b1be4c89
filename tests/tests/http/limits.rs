//! Clients that are refused, and those that take too long.

use crate::support::{Origin, Proxy, pattern};
use proxy_userspace::message::{Refusal, RefusedBy};
use std::time::Duration;

fn refusals(proxy: &Proxy, refusal: Refusal) -> u64 {
    let snapshot = proxy.workers.snapshot();
    let listeners = snapshot.listeners();
    let count =
        listeners.map(|(_, plan)| plan.cells.sum(|c| c.refusals(RefusedBy::Client, refusal)));
    count.sum()
}

#[test]
fn ambiguous_requests_are_refused_counted_and_end_the_connection() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    for (request, refusal) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refusal::LengthConflict,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            Refusal::ContentLength,
        ),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::FieldName),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
            Refusal::ObsFold,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", Refusal::BareLineEnd),
        ("GET / HTTP/1.1\r\n\r\n", Refusal::HostMissing),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Refusal::HostAmbiguous,
        ),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::PathNul),
        (
            "GET /a/..%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
            Refusal::PathAmbiguous,
        ),
    ] {
        let mut client = proxy.client();
        client.send(request);
        // What follows must never be taken for a request.
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.status, refusal.status(), "{request:?}");
        assert_eq!(answer.field("connection"), Some("close"), "{request:?}");
        client.end();
        assert!(client.is_ended(), "{request:?}");
        assert_eq!(refusals(&proxy, refusal), 1, "{request:?}");
    }
}

#[test]
fn heads_and_targets_that_are_too_long_are_refused() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let long = "a".repeat(40_000);
    let answer = proxy.ask(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(answer.status, 414);
    let answer = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"));
    assert_eq!(answer.status, 431);
    let many = "X: y\r\n".repeat(101);
    let answer = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    assert_eq!(answer.status, 431);
    let fits = "a".repeat(20_000);
    let answer = proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {fits}\r\n\r\n"));
    assert!(answer.text().contains(&fits), "longer than a small buffer");
}

#[test]
fn content_that_is_too_long_is_refused_however_it_is_framed() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].limits.body_bytes = Some(1000);
    });
    let answer = proxy.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(answer.status, 413);
    assert_eq!(origin.connections(), 0);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
    client.send(pattern(1001));
    assert_eq!(client.answer().status, 413);
}

#[test]
fn a_head_that_does_not_end_is_timed_out() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].timeouts.head = Duration::from_millis(150);
    });
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost:");
    assert_eq!(client.answer().status, 408);
    assert_eq!(refusals(&proxy, Refusal::HeadTimeout), 1);
}

#[test]
fn a_connection_without_a_request_is_closed_without_a_word() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].timeouts.idle = Duration::from_millis(100);
    });
    let mut client = proxy.client();
    assert!(client.is_ended());
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert!(client.is_ended());
}

#[test]
fn content_that_stops_or_trickles_is_timed_out() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        let timeouts = &mut config.http_listeners[0].timeouts;
        timeouts.body_idle = Duration::from_millis(200);
        timeouts.body_rate = 10_000;
    });
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let mut client = proxy.client();
    client.send(post);
    client.send("begin");
    assert_eq!(client.answer().status, 408);
    let mut client = proxy.client();
    client.send(post);
    let mut sending = client.clone();
    let trickle = std::thread::spawn(move || {
        while sending.try_send(b"x") {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(client.answer().status, 408, "each octet came in time");
    drop(client);
    trickle.join().expect("ends");
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while client.try_send(&[0; 65536]) {}
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].timeouts.write = Duration::from_millis(200);
    });
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.head().expect("a head");
    crate::support::eventually("given up", || proxy.workers.connections() == 0);
}

#[test]
fn requests_of_one_connection_are_counted_to_the_last() {
    let proxy = Proxy::with(&[Origin::mirror().address], |config| {
        config.http_listeners[0].max_requests_per_connection = 2;
    });
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    assert_eq!(client.answer().field("connection"), None);
    assert_eq!(client.answer().field("connection"), Some("close"));
    client.end();
    assert!(client.is_ended());
}
