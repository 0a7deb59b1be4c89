//! Heads and connections: what is kept, passed on, added, and in which order.

use crate::support::{Client, Origin, Proxy, field};
use proxy_tests::family;
use proxy_userspace::config::model::http::{FieldEdits, PathRewrite};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn connections_are_kept_on_both_sides() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.field("connection"), None);
        assert!(answer.field("date").is_some(), "added: the origin has none");
    }
    assert_eq!(origin.connections(), 1);
    drop(client);
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(
        origin.connections(),
        1,
        "another client's request uses it, too"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let mut client = proxy.client();
    let requests = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.send(requests.collect::<String>());
    for n in 0..20 {
        let answer = client.answer();
        assert!(answer.text().starts_with(&format!("GET /{n} HTTP/1.1\r\n")));
    }
}

#[test]
fn a_client_that_asks_to_close_is_closed() {
    let proxy = Proxy::to(&[Origin::answering(OK).address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.is_ended());
}

#[test]
fn the_backend_learns_who_asks_and_nothing_of_the_connection() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let answer = proxy.ask(
        "GET /a?b=c HTTP/1.1\r\nHost: Shop.Example:81\r\nX-Forwarded-For: 6.6.6.6\r\n\
         Connection: keep-alive, X-Secret\r\nKeep-Alive: 5\r\nX-Secret: 1\r\nAccept: */*\r\n\r\n",
    );
    let seen = answer.text();
    assert!(
        seen.starts_with("GET /a?b=c HTTP/1.1\r\nHost: shop.example:81\r\n"),
        "{seen}"
    );
    assert_eq!(
        field(&seen, "x-forwarded-for"),
        Some(&*family::loopback().to_string())
    );
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(&seen, "x-forwarded-host"), Some("shop.example:81"));
    let port = proxy.address.port().to_string();
    assert_eq!(field(&seen, "x-forwarded-port"), Some(&*port));
    assert_eq!(field(&seen, "accept"), Some("*/*"));
    for gone in ["keep-alive", "x-secret", "connection"] {
        assert_eq!(field(&seen, gone), None, "{gone}");
    }
}

#[test]
fn fields_are_edited_and_the_path_is_rewritten() {
    let origin = Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        let route = &mut config.routes[0];
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        route.request_fields = FieldEdits {
            remove: vec!["accept".to_owned()],
            set: vec![pair("X-Stage", "test")],
            add: Vec::new(),
        };
        route.response_fields.add = vec![pair("X-Served-By", "us")];
        route.rewrite.path = Some(PathRewrite::Prefix("/v2".to_owned()));
        route.rewrite.host = Some("inner.example".to_owned());
    });
    let answer = proxy.ask("GET /a/b?q HTTP/1.1\r\nHost: a\r\nAccept: x\r\n\r\n");
    assert_eq!(answer.field("x-served-by"), Some("us"));
    let seen = answer.text();
    assert!(
        seen.starts_with("GET /v2/a/b?q HTTP/1.1\r\nHost: inner.example\r\n"),
        "{seen}"
    );
    assert_eq!(field(&seen, "x-stage"), Some("test"));
    assert_eq!(field(&seen, "accept"), None);
    assert_eq!(
        field(&seen, "x-forwarded-host"),
        Some("a"),
        "what the client asked for"
    );
}

#[test]
fn answers_without_content_leave_the_connection_in_step() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            client.send(match head.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => {
                    "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n"
                }
                _ if head.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
                _ => OK,
            });
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for (method, path, status, length) in [
        ("HEAD", "/", 200, Some("99")),
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("9")),
        ("GET", "/", 200, Some("2")),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer_to(method);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.field("content-length"), length, "{path}");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn informational_answers_are_passed_on_to_those_who_know_them() {
    let origin = Origin::answering(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{OK}"
    ));
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let early = client.answer();
    assert_eq!((early.status, early.field("link")), (103, Some("</a.css>")));
    assert_eq!(client.answer().status, 102);
    assert_eq!(client.answer().status, 200);
    assert_eq!(proxy.ask("GET / HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn old_clients_are_answered_in_their_way() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let proxy = Proxy::to(&[Origin::answering(chunked).address]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.field("transfer-encoding"), None);
    assert_eq!(answer.text(), "abc");
    let proxy = Proxy::to(&[Origin::answering(OK).address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().field("connection"), Some("keep-alive"));
    }
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "ok");
    assert!(client.is_ended());
}

#[test]
fn an_old_origin_delimits_by_its_end() {
    let origin = Origin::new(|mut client, _| {
        client.head();
        client.send("HTTP/1.0 200 OK\r\nServer: old\r\n\r\nall of it");
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "all of it");
        assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.field("server"), Some("old"));
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_client_that_has_ended_its_sending_is_still_answered() {
    let proxy = Proxy::to(&[Origin::mirror().address]);
    let mut client = Client::to(proxy.address);
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.end();
    assert!(client.answer().text().starts_with("GET /x"));
    assert!(client.is_ended());
}

#[test]
fn pipelined_content_is_answered_in_order_also_behind_an_end() {
    let origin = Origin::new(|mut client, _| {
        while let Some(head) = client.head() {
            let body = match field(&head, "content-length") {
                Some(length) => client.exactly(length.parse().expect("a length")),
                None if field(&head, "transfer-encoding").is_some() => {
                    client.chunked().expect("whole").0
                }
                None => head.lines().next().expect("a line").as_bytes().to_vec(),
            };
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            client.send(body);
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = Client::to(proxy.address);
    client.send(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
         GET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nthree\r\n0\r\nX-T: v\r\n\r\n\
         POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n\
         \r\nGET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    client.end();
    for expected in ["one", "GET /2 HTTP/1.1", "three", "", "GET /5 HTTP/1.1"] {
        assert_eq!(client.answer().text(), expected);
    }
    assert!(client.is_ended());
}

#[test]
fn an_expectation_that_is_not_waited_for_is_no_fault() {
    // The client sends its content at once, and the backend answers without 100.
    let origin = Origin::new(|mut client, _| {
        while client.head().is_some() {
            let body = client.exactly(5);
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            client.send(body);
        }
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello",
        );
        assert_eq!(client.answer().text(), "hello");
    }
    for expectation in ["100-continue, x", "200-ok", "100-continue;q=1"] {
        let answer = proxy.ask(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\nContent-Length: 5\r\n\r\n"
        ));
        assert_eq!(answer.status, 417, "{expectation}");
    }
    // HTTP/1.0 has no expectations (RFC 9110 §10.1.1).
    let old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(proxy.ask(old).text(), "hello");
}
