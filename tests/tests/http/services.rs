//! Who gets a request, how many at once, and what is answered without anybody.

use crate::support::{Client, Origin, Proxy, config, eventually};
use proxy_tests::family;
use proxy_userspace::config::model::http::{
    AccessLog, Action, FixedResponse, LogFormat, LogTarget, PathMatch, Redirect, Route,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An origin that answers with this word.
fn saying(word: &str) -> Origin {
    Origin::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}",
        word.len()
    ))
}

#[test]
fn backends_take_turns() {
    let origins = ["a", "b", "c"].map(saying);
    let proxy = Proxy::to(&origins.each_ref().map(|origin| origin.address));
    let mut client = proxy.client();
    let mut heard: Vec<String> = (0..6)
        .map(|_| {
            client.send(GET);
            client.answer().text()
        })
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, ["a", "a", "b", "b", "c", "c"]);
}

/// An origin that answers once it is let go.
fn held() -> (Origin, Arc<AtomicBool>) {
    let go = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&go);
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            eventually("let go", || gone.load(Ordering::SeqCst));
            client.send(OK);
        }
    });
    (origin, go)
}

#[test]
fn requests_wait_for_a_place_and_not_for_ever() {
    let (origin, go) = held();
    let proxy = Proxy::with(&[origin.address], |config| {
        let upstream = &mut config.services[0].upstream;
        (upstream.max_connections, upstream.queue) = (1, 1);
        upstream.queue_timeout = Duration::from_secs(10);
    });
    let waiting = |count| {
        let service = &proxy.workers.snapshot().services()[0];
        service.state.waiting() == count
    };
    let mut first = proxy.client();
    first.send(GET);
    eventually("the first is there", || origin.connections() == 1);
    let mut second = proxy.client();
    second.send(GET);
    eventually("the second waits", || waiting(1));
    assert_eq!(proxy.ask(GET).status, 503, "no room to wait in");
    go.store(true, Ordering::SeqCst);
    assert_eq!(first.answer().status, 200);
    assert_eq!(second.answer().status, 200);
    assert_eq!(origin.connections(), 1, "never more than one");

    let (origin, _go) = held();
    let proxy = Proxy::with(&[origin.address], |config| {
        let upstream = &mut config.services[0].upstream;
        upstream.max_connections = 1;
        upstream.queue_timeout = Duration::from_millis(100);
    });
    let mut first = proxy.client();
    first.send(GET);
    eventually("the first is there", || origin.connections() == 1);
    assert_eq!(proxy.ask(GET).status, 503);
}

#[test]
fn workers_give_up_idle_connections_before_there_are_more_than_may_be() {
    let origin = saying("ok");
    let proxy = Proxy::with(&[origin.address], |config| {
        config.workers.count = Some(2);
        config.services[0].upstream.max_connections = 1;
    });
    let snapshot = proxy.workers.snapshot();
    let service = snapshot.registry().service("origins").expect("known");
    // Which worker serves whom, the kernel says: of so many each gets some.
    let mut clients: Vec<Client> = (0..32).map(|_| proxy.client()).collect();
    for _ in 0..2 {
        for client in &mut clients {
            client.send(GET);
            assert_eq!(client.answer().status, 200);
            assert_eq!(service.backends()[0].connections(), 1, "never more");
        }
    }
    let opened = origin.connections();
    assert!(opened > 1, "one worker has served all of them");
    assert!(opened < 64, "what is kept is used again");
}

#[test]
fn routes_answer_by_themselves() {
    let route = |name: &str, prefix: &str, action| {
        let mut route = Route::catch_all(name, "web", action);
        route.matches[0].path = PathMatch::Prefix(prefix.to_owned());
        route
    };
    let proxy = Proxy::with(&[saying("origin").address], |config| {
        let fixed = FixedResponse {
            body: "gone fishing".to_owned(),
            ..FixedResponse::new(410)
        };
        config
            .routes
            .push(route("gone", "/gone", Action::Respond(fixed)));
        let redirect = Redirect {
            status: 308,
            scheme: Some("https".to_owned()),
            ..Redirect::default()
        };
        config
            .routes
            .push(route("moved", "/moved", Action::Redirect(redirect)));
    });
    let mut client = proxy.client();
    client.send("GET /gone/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (410, "gone fishing")
    );
    client.send("HEAD /gone HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer_to("HEAD");
    assert_eq!(answer.field("content-length"), Some("12"));
    client.send("GET /moved/a?b HTTP/1.1\r\nHost: shop.example:81\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.field("location"),
        Some("https://shop.example/moved/a?b")
    );
    client.send("GET /else HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "origin");
}

#[test]
fn a_reload_under_load_fails_no_request() {
    let origins = [saying("a"), saying("b")];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let mut proxy = Proxy::to(&addresses[..1]);
    let address = proxy.address;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut client, mut asked) = (Client::to(address), 0);
                while !stop.load(Ordering::SeqCst) {
                    client.send(GET);
                    assert_eq!(client.answer().status, 200);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for n in 0..20 {
        // The listener's number is that of its name and address, which must not change.
        let next = config(&addresses[n % 2..=n % 2], |config| {
            config.http_listeners[0].address = family::any();
        });
        let prepared = proxy.workers.prepare(&next).expect("valid");
        proxy.workers.put_in_force(prepared);
        std::thread::sleep(Duration::from_millis(10));
    }
    stop.store(true, Ordering::SeqCst);
    let asked: u64 = clients
        .into_iter()
        .map(|c| c.join().expect("no failure"))
        .sum();
    assert!(asked > 0);
}

#[test]
fn requests_are_logged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.log");
    let proxy = Proxy::with(&[saying("origin").address], |config| {
        let mut log = AccessLog::new(LogTarget::File(path.clone()));
        log.format = LogFormat::Common;
        config.http_listeners[0].access_log = Some(log);
    });
    proxy.ask("GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n");
    proxy.ask("BREW\r\n\r\n");
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("both are logged", || text().lines().count() == 2);
    let text = text();
    assert!(text.contains("\"GET /x?y HTTP/1.1\" 200 6"), "{text}");
    assert!(text.contains("\"BREW\" 400 "), "{text}");
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_takes_no_others() {
    let (origin, go) = held();
    let mut proxy = Proxy::to(&[origin.address]);
    let mut idle = proxy.client();
    let mut busy = proxy.client();
    busy.send(GET);
    eventually("the request is there", || origin.connections() == 1);
    let look = std::thread::spawn(move || {
        assert!(idle.is_ended(), "idle connections end at once");
        go.store(true, Ordering::SeqCst);
        let answer = busy.answer();
        (answer.status, answer.field("connection").map(str::to_owned))
    });
    assert_eq!(proxy.workers.drain(Duration::from_secs(20)).await, 0);
    let (status, connection) = look.join().expect("answered");
    assert_eq!((status, connection.as_deref()), (200, Some("close")));
}
