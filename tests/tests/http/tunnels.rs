//! Connections that become something else.

use crate::h2_support::{self, begin, connect, post};
use crate::support::{Origin, Proxy, field, pattern};
use std::thread;
use std::time::Duration;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[test]
fn an_upgraded_connection_carries_any_octets_both_ways() {
    let origin = Origin::new(|mut client, _| {
        let head = client.head().expect("a request");
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "connection"), Some("Upgrade"));
        client.send(SWITCH);
        let mut sending = client.clone();
        let all = client.rest();
        sending.send(all);
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert!(answer.field("sec-websocket-accept").is_some());
    let octets = pattern(1_000_000);
    let (mut sending, sent) = (client.clone(), octets.clone());
    let send = thread::spawn(move || {
        sending.send(sent);
        // The other direction stays open.
        sending.end();
    });
    let echoed = client.rest();
    send.join().expect("sends");
    assert!(echoed == octets, "{} octets", echoed.len());
}

#[test]
fn octets_behind_the_heads_are_not_lost() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send(format!("{SWITCH}first"));
        let word = client.exactly(5);
        client.send(word);
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}early"));
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.exactly(10), b"firstearly");
}

#[test]
fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let origin = Origin::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno");
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(UPGRADE);
        assert_eq!(client.answer().text(), "no");
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_refused() {
    let proxy = Proxy::to(&[Origin::answering(SWITCH).address]);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 502);
}

#[test]
fn connect_is_not_served() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let answer = proxy.ask("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert_eq!(
        (answer.status, answer.field("connection")),
        (405, Some("close"))
    );
    let allowed = answer.field("allow").expect("what is served");
    assert!(
        allowed.contains("GET") && !allowed.contains("CONNECT"),
        "{allowed}"
    );
}

#[test]
fn an_upgrade_to_http_2_is_not_passed_on() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let answer = proxy.ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    let seen = answer.text();
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(field(&seen, gone), None, "{gone}");
    }
}

/// So long may a tunnel be silent in the tests below.
const IDLE: Duration = Duration::from_secs(1);

/// In all longer than that, with pauses that are much shorter.
fn for_a_while(mut say: impl FnMut()) {
    for _ in 0..15 {
        say();
        thread::sleep(IDLE / 6);
    }
}

#[test]
fn one_side_of_a_tunnel_may_be_silent_while_the_other_speaks() {
    // First the backend speaks, then the client.
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send(SWITCH);
        for_a_while(|| client.send("s"));
        let echo = client.exactly(15);
        client.send(echo);
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.idle_timeout = IDLE;
        config.http_listeners[0].timeouts.body_idle = IDLE;
    });
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.exactly(15), [b's'; 15]);
    for_a_while(|| client.send("c"));
    assert_eq!(client.exactly(15), [b'c'; 15]);
    // And when nobody speaks any more it is over.
    assert!(client.is_ended());
}

#[tokio::test]
async fn a_stream_of_answers_does_not_wait_for_more_of_the_request() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for_a_while(|| client.send("1\r\ns\r\n"));
        client.send("0\r\n\r\n");
        client.rest();
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].timeouts.body_idle = IDLE;
    });
    let client = connect(proxy.address).await;
    let (response, _open) = begin(&client, post("/")).await;
    let answer = h2_support::whole(response).await.expect("whole");
    assert_eq!(answer.body, [b's'; 15]);
}
