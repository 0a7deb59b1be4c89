use super::*;
use crate::config::model::Service;
use crate::config::model::http::{Action, HttpListener, Route};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// A configuration with one listener and a fixed answer.
fn config(name: &str, body: &str) -> Config {
    let address = "127.0.0.1:0".parse().expect("an address");
    let fixed = crate::config::model::http::FixedResponse {
        body: body.to_owned(),
        ..crate::config::model::http::FixedResponse::new(200)
    };
    let mut config = Config {
        http_listeners: vec![HttpListener::new(name, address)],
        routes: vec![Route::catch_all("all", name, Action::Respond(fixed))],
        services: vec![Service::new("unused")],
        ..Config::default()
    };
    config.workers.count = Some(2);
    config
}

fn ask(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("writes");
    let mut answer = Vec::new();
    let mut octets = [0; 1024];
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") || !answer.ends_with(b"!") {
        match stream.read(&mut octets).expect("reads") {
            0 => break,
            n => answer.extend_from_slice(&octets[..n]),
        }
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_reload_concerns_the_next_request_of_an_open_connection() {
    let mut workers = Workers::start(&config("a", "one!")).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let mut stream = TcpStream::connect(address).expect("connects");
    assert!(ask(&mut stream).ends_with("one!"));
    let prepared = workers.prepare(&config("a", "two!")).expect("valid");
    workers.put_in_force(prepared);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !ask(&mut stream).ends_with("two!") {
        assert!(std::time::Instant::now() < deadline, "never took effect");
    }
    drop(stream);
    assert_eq!(workers.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn an_idle_connection_ends_when_its_listener_does() {
    let mut workers = Workers::start(&config("a", "one!")).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let mut stream = TcpStream::connect(address).expect("connects");
    ask(&mut stream);
    let prepared = workers.prepare(&config("b", "two!")).expect("valid");
    workers.put_in_force(prepared);
    assert_eq!(stream.read(&mut [0; 10]).expect("reads"), 0, "closed");
    let other = workers.listeners().next().expect("listens");
    assert_ne!(other, address);
    let mut stream = TcpStream::connect(other).expect("connects");
    assert!(ask(&mut stream).ends_with("two!"));
}

#[tokio::test]
async fn an_address_in_use_is_refused_and_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let mut workers = Workers::start(&config("a", "one!")).expect("starts");
    let mut next = config("b", "two!");
    next.http_listeners[0].address = taken.local_addr().expect("bound");
    let error = workers.prepare(&next).expect_err("in use");
    assert!(error.to_string().contains("listener `b`"), "{error}");
    let address = workers.listeners().next().expect("listens still");
    let mut stream = TcpStream::connect(address).expect("connects");
    assert!(ask(&mut stream).ends_with("one!"));
}

/// An address that nobody has at the moment.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound")
}

#[tokio::test]
async fn a_listener_that_gets_another_name_keeps_its_sockets_and_what_waits_in_them() {
    let address = free_address();
    let at = |name, body| {
        let mut config = config(name, body);
        config.http_listeners[0].address = address;
        config
    };
    let known = Known::default();
    let started = Workers::take_over(&at("a", "one!"), Inherited::default(), &known);
    let mut workers = started.expect("starts");
    // Nobody accepts yet: it waits in the queue of one of the sockets.
    let mut waiting = TcpStream::connect(address).expect("connects");
    let prepared = workers.prepare(&at("b", "two!")).expect("valid");
    assert!(prepared.opened.is_empty() && prepared.closed.is_empty());
    workers.put_in_force(prepared);
    assert_eq!(workers.bound().collect::<Vec<_>>(), [("b", address)]);
    assert!(workers.offered().all(|(place, ..)| place.name == "b"));
    workers.serve();
    assert!(ask(&mut waiting).ends_with("two!"));
    drop(waiting);
    assert_eq!(workers.drain(Duration::from_secs(10)).await, 0);
}

#[tokio::test]
async fn connections_of_a_listener_that_is_gone_are_counted_until_they_end() {
    let mut workers = Workers::start(&config("a", "one!")).expect("starts");
    let address = workers.listeners().next().expect("listens");
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\n").expect("writes");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let until = |count, workers: &Workers| {
        while workers.connections() != count {
            assert!(std::time::Instant::now() < deadline, "never {count}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until(1, &workers);
    let prepared = workers.prepare(&config("b", "two!")).expect("valid");
    workers.put_in_force(prepared);
    assert_eq!(workers.connections(), 1, "it is in the middle of a request");
    drop(stream);
    until(0, &workers);
}
