//! What routes do: rewrites, edits, redirects, copies, faults, shares, and clients that are kept.

use crate::support::{Answer, Origin, Proxy, config, eventually, field};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A proxy for a configuration file's text, in which `{name}` stands for an address.
fn proxy(text: &str, origins: &[(&str, SocketAddr)]) -> Proxy {
    Proxy::with(&[], |config| *config = parsed(text, origins))
}

fn parsed(text: &str, origins: &[(&str, SocketAddr)]) -> Config {
    let mut text = text.to_owned();
    for (name, address) in origins {
        text = text.replace(&format!("{{{name}}}"), &address.to_string());
    }
    let loaded = proxy_userspace::config::parse("test", &text);
    let loaded = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
    let mut config = loaded.config;
    config.workers.count = Some(1);
    for listener in &mut config.http_listeners {
        // A file cannot ask for a port that the system chooses.
        listener.address = family::any();
    }
    config
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")
}

/// An origin that says its name and counts.
fn named(name: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Origin: {name}\r\n\r\n{name}",
                name.len()
            ));
        }
    });
    (origin, asked)
}

#[test]
fn paths_hosts_and_fields_are_rewritten() {
    let origin = Origin::mirror();
    let proxy = proxy(
        "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 1, forwarded: {via: edge, x_real_ip: true}}]
routes:
  - {name: prefix, match: [/old], service: app, rewrite: {path: {prefix: /new}, host: inner.example}}
  - {name: regex, match: [/user], service: app, rewrite: {path: {regex: '/user/([0-9]+)', replacement: '/id/$1'}}}
  - name: edits
    match: [/edits]
    service: app
    request_headers: {remove: [X-Secret], set: {X-Set: new}, add: {X-Added: '1'}}
    response_headers: {remove: [X-Origin], set: {X-Frame: none}}
    security_headers: strict
services: [{name: app, backends: ['{origin}']}]",
        &[("origin", origin.address)],
    );
    let seen = |path: &str, fields: &str| proxy.ask(&get(path, fields)).text();
    let rewritten = seen("/old/a?q=1", "");
    assert!(
        rewritten.starts_with("GET /new/a?q=1 HTTP/1.1\r\n"),
        "{rewritten}"
    );
    assert_eq!(field(&rewritten, "host"), Some("inner.example"));
    assert_eq!(field(&rewritten, "x-forwarded-host"), Some("shop.example"));
    assert_eq!(
        field(&rewritten, "x-real-ip"),
        Some(&*family::loopback().to_string())
    );
    assert_eq!(field(&rewritten, "via"), Some("1.1 edge"));
    assert!(seen("/user/42/x", "").starts_with("GET /id/42/x "));
    let edited = proxy.ask(&get(
        "/edits",
        "X-Secret: 1\r\nX-Set: old\r\nX-Added: 0\r\n",
    ));
    let request = edited.text();
    assert_eq!(field(&request, "x-secret"), None);
    assert_eq!(field(&request, "x-set"), Some("new"));
    assert_eq!(request.matches("X-Added:").count(), 2, "{request}");
    assert_eq!(edited.field("x-frame"), Some("none"));
    assert!(
        edited.field("content-security-policy").is_some(),
        "{}",
        edited.head
    );
}

#[test]
fn redirects_and_fixed_answers_need_no_backend() {
    let proxy = proxy(
        "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 1}]
routes:
  - {name: moved, match: [/blog], redirect: {status: 308, path: {prefix: /articles}}}
  - {name: secure, match: [/secure], redirect: {scheme: https, host: www.example, status: 301, keep_query: false}}
  - {name: gone, match: [/gone], respond: {status: 410, body: gone, content_type: text/plain}}
  - {name: rest, respond: 404}
services: []",
        &[],
    );
    let to = |path: &str| {
        let answer = proxy.ask(&get(path, ""));
        (answer.status, answer.field("location").map(str::to_owned))
    };
    let articles = "http://shop.example/articles/7?x=1".to_owned();
    assert_eq!(to("/blog/7?x=1"), (308, Some(articles)));
    let secure = "https://www.example/secure".to_owned();
    assert_eq!(to("/secure?x=1"), (301, Some(secure)));
    let gone = proxy.ask(&get("/gone", ""));
    assert_eq!((gone.status, gone.text().as_str()), (410, "gone"));
    assert_eq!(to("/else"), (404, None));
}

#[test]
fn a_share_of_requests_is_copied_with_its_content() {
    let (main, _) = named("main");
    let bodies = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bodies);
    let shadow = Origin::new(move |mut client, _| {
        while let Some(head) = client.head() {
            let length = field(&head, "content-length").unwrap_or("0");
            let body = client.exactly(length.parse().expect("a length"));
            assert!(body.iter().all(|octet| *octet == b'x'));
            count.fetch_add(body.len(), Ordering::SeqCst);
            // What it answers, and that it fails, is nobody's concern.
            client.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let text = |share: &str| {
        format!(
            "
listeners: [{{name: web, kind: http, address: 127.0.0.1, port: 1}}]
routes: [{{name: all, service: main, mirror: {{service: shadow, share: {share}}}}}]
services: [{{name: main, backends: ['{{main}}']}}, {{name: shadow, backends: ['{{shadow}}']}}]"
        )
    };
    let origins = [("main", main.address), ("shadow", shadow.address)];
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let all = proxy(&text("100%"), &origins);
    for _ in 0..5 {
        assert_eq!(all.ask(&post(1000)).text(), "main");
    }
    eventually("all five were copied", || {
        bodies.load(Ordering::SeqCst) == 5000
    });
    drop(all);
    bodies.store(0, Ordering::SeqCst);
    let some = proxy(&text("25%"), &origins);
    let mut client = some.client();
    for _ in 0..400 {
        client.send(post(1));
        assert_eq!(client.answer().text(), "main");
    }
    // 100 are expected; ten standard deviations are 87.
    eventually("about a quarter was copied", || {
        bodies.load(Ordering::SeqCst) >= 14
    });
    assert!(bodies.load(Ordering::SeqCst) <= 186, "{bodies:?}");
}

#[test]
fn a_cookie_keeps_a_client_with_its_backend() {
    let (a, _) = named("a");
    let (b, _) = named("b");
    let text = "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 1, service: app}]
services: [{name: app, sticky_cookie: {name: route, max_age: 1h, same_site: strict}, backends: ['{a}', '{b}']}]";
    let proxy = proxy(text, &[("a", a.address), ("b", b.address)]);
    let first = proxy.ask(&get("/", ""));
    let cookie = first.field("set-cookie").expect("a cookie").to_owned();
    assert!(
        cookie.contains("Max-Age=3600") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let value = cookie.split(';').next().expect("a value").to_owned();
    let with = format!("Cookie: other=1; {value}\r\n");
    for _ in 0..10 {
        let again = proxy.ask(&get("/", &with));
        assert_eq!(again.text(), first.text());
        assert_eq!(again.field("set-cookie"), None, "it has it already");
    }
    // One that is drained keeps its clients and takes no new ones; one that is down keeps none.
    let name = if first.text() == "a" {
        a.address
    } else {
        b.address
    }
    .to_string();
    let registry = |change: &dyn Fn(&proxy_userspace::balance::l7::ServiceState)| {
        change(
            proxy
                .workers
                .snapshot()
                .registry()
                .service("app")
                .expect("known"),
        );
    };
    registry(&|service| assert_eq!(service.set_draining(&name, true, 1), Some(true)));
    assert_eq!(proxy.ask(&get("/", &with)).text(), first.text());
    for _ in 0..4 {
        assert_ne!(
            proxy.ask(&get("/", "")).text(),
            first.text(),
            "a new client"
        );
    }
    registry(&|service| assert_eq!(service.set_healthy(&name, false, 1), Some(true)));
    let moved = proxy.ask(&get("/", &with));
    assert_ne!(moved.text(), first.text());
    assert!(moved.field("set-cookie").is_some(), "a new one");
    let made_up = proxy.ask(&get("/", "Cookie: route=0123456789abcdef\r\n"));
    assert_eq!(made_up.status, 200);
}

#[test]
fn a_weight_of_nothing_gets_nothing() {
    let (a, asked_a) = named("a");
    let (b, asked_b) = named("b");
    let text = "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 1}]
routes:
  - {name: weights, service: app}
  - {name: none, match: [/none], split: {services: {app: 0, other: 0}}}
  - {name: one, match: [/one], split: {services: {app: 0, other: 1}}}
services:
  - {name: app, backends: [{address: '{a}', weight: 0}, '{b}']}
  - {name: other, backends: ['{b}']}";
    let proxy = proxy(text, &[("a", a.address), ("b", b.address)]);
    for _ in 0..6 {
        assert_eq!(proxy.ask(&get("/", "")).text(), "b");
        assert_eq!(proxy.ask(&get("/one", "")).text(), "b");
    }
    assert_eq!(proxy.ask(&get("/none", "")).status, 503);
    assert_eq!(asked_a.load(Ordering::SeqCst), 0);
    assert_eq!(asked_b.load(Ordering::SeqCst), 12);
}

#[test]
fn faults_on_purpose_meet_their_share() {
    let (origin, asked) = named("a");
    let text = "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 1}]
routes:
  - {name: all, match: [/all], service: app, fault: {abort: {status: 418, share: 100%}}}
  - {name: half, match: [/half], service: app, fault: {abort: {status: 503, share: 50%}}}
  - {name: late, match: [/late], service: app, fault: {delay: {time: 300ms, share: 100%}}}
services: [{name: app, backends: ['{origin}']}]";
    let proxy = proxy(text, &[("origin", origin.address)]);
    assert_eq!(proxy.ask(&get("/all", "")).status, 418);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the backend is spared");
    let mut client = proxy.client();
    let statuses: Vec<u16> = (0..200)
        .map(|_| {
            client.send(get("/half", ""));
            client.answer().status
        })
        .collect();
    let aborted = statuses.iter().filter(|status| **status == 503).count();
    // 100 are expected; seven standard deviations are 50.
    assert!((50..=150).contains(&aborted), "{aborted} of 200");
    let began = Instant::now();
    assert_eq!(proxy.ask(&get("/late", "")).status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn hops_are_counted_down_and_the_last_answers() {
    let origin = Origin::mirror();
    let proxy = Proxy::to(&[origin.address]);
    let ask = |method: &str, left: &str| -> Answer {
        proxy.ask(&format!(
            "{method} /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\nCookie: s3cret\r\n\
             X-Probe: 1\r\n\r\n"
        ))
    };
    for method in ["TRACE", "OPTIONS"] {
        let passed = ask(method, "3").text();
        assert_eq!(field(&passed, "max-forwards"), Some("2"), "{method}");
    }
    assert_eq!(field(&ask("GET", "3").text(), "max-forwards"), Some("3"));
    let before = origin.connections();
    let trace = ask("TRACE", "0");
    assert_eq!(
        (trace.status, trace.field("content-type")),
        (200, Some("message/http"))
    );
    let text = trace.text();
    assert!(
        text.starts_with("TRACE /x HTTP/1.1\r\nHost: a\r\n"),
        "{text}"
    );
    assert!(
        text.contains("X-Probe: 1") && !text.contains("s3cret"),
        "{text}"
    );
    let options = ask("OPTIONS", "0");
    assert_eq!(
        (options.status, options.field("content-length")),
        (200, Some("0"))
    );
    assert!(options.field("allow").expect("methods").contains("OPTIONS"));
    assert_eq!(origin.connections(), before, "nobody else was asked");
}

#[test]
fn a_reload_moves_requests_and_no_websocket() {
    let (one, two) = (crate::websocket::echo("one"), crate::websocket::echo("two"));
    let mut proxy = Proxy::to(&[one.address]);
    let mut socket = crate::websocket::WebSocket::open(proxy.address, "/", "");
    assert_eq!(socket.echo("hello"), "one: hello");
    for to in [two.address, one.address, two.address] {
        let prepared = proxy
            .workers
            .prepare(&config(&[to], |_| {}))
            .expect("valid");
        proxy.workers.put_in_force(prepared);
    }
    eventually("requests go to the other", || {
        proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text() == "two"
    });
    assert_eq!(socket.echo("still here"), "one: still here");
    assert!(socket.close());
}
