//! What backends are told about the client, whom we believe, and what browsers are told.

use crate::h2_support::{H2Origin, ask, connect, get, soon};
use crate::support::{Origin, Proxy, field};
use proxy_tests::family;
use proxy_userspace::config::model::http::{
    Action, BackendProtocol, FixedResponse, Forwarded, HttpListener, PathMatch, Route,
    SecurityHeaders,
};
use std::net::SocketAddr;

/// A proxy that tells all that it can, and trusts these networks.
fn telling(origin: SocketAddr, trusted: &[&str]) -> Proxy {
    Proxy::with(&[origin], |config| {
        config.http_listeners[0].forwarded = Forwarded {
            trusted: trusted
                .iter()
                .map(|net| net.parse().expect("a net"))
                .collect(),
            x_forwarded: true,
            x_real_ip: true,
            forwarded: true,
            via: Some("edge".to_owned()),
            request_id: true,
        };
    })
}

/// This host as a client, in `X-Forwarded-For` and in `Forwarded` (RFC 7239 §6).
fn own() -> (String, String) {
    let own = family::loopback();
    let node = match own.is_ipv6() {
        true => format!("\"[{own}]\""),
        false => own.to_string(),
    };
    (own.to_string(), node)
}

const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: Shop.test\r\nX-Forwarded-For: 203.0.113.9, 127.0.0.9\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\nX-Forwarded-Port: 443\r\n\
    X-Real-IP: 6.6.6.6\r\nForwarded: for=203.0.113.9;proto=https\r\nVia: 1.0 before\r\n\
    X-Request-ID: theirs\r\n\r\n";

#[test]
fn nothing_that_a_stranger_claims_reaches_a_backend() {
    let origin = Origin::mirror();
    let proxy = telling(origin.address, &[]);
    let seen = proxy.ask(CLAIMS).text();
    let port = proxy.address.port().to_string();
    let (own, own_node) = own();
    for (name, value) in [
        ("x-forwarded-for", &*own),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-port", &*port),
        ("x-real-ip", &*own),
        (
            "forwarded",
            &*format!("for={own_node};host=\"shop.test\";proto=http"),
        ),
        ("via", "1.0 before, 1.1 edge"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{name} in {seen}");
    }
    let id = field(&seen, "x-request-id").expect("an id");
    assert!(
        id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()),
        "{id}"
    );
    let again = proxy.ask(CLAIMS).text();
    assert_ne!(
        field(&again, "x-request-id"),
        Some(id),
        "each request has its own"
    );
}

#[test]
fn what_trusted_proxies_say_is_kept_and_extended() {
    let origin = Origin::mirror();
    let proxy = telling(origin.address, &["127.0.0.0/8", "::1/128"]);
    let seen = proxy.ask(CLAIMS).text();
    let (own, own_node) = own();
    for (name, value) in [
        (
            "x-forwarded-for",
            &*format!("203.0.113.9, 127.0.0.9, {own}"),
        ),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "public.test"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "203.0.113.9"),
        (
            "forwarded",
            &*format!("for=203.0.113.9;proto=https, for={own_node};host=\"shop.test\";proto=http"),
        ),
        ("x-request-id", "theirs"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{name} in {seen}");
    }
    // An empty id is none.
    let seen = proxy
        .ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID:\r\n\r\n")
        .text();
    assert_eq!(field(&seen, "x-request-id").map(str::len), Some(32));
}

#[test]
fn via_is_told_both_ways_and_nothing_is_told_unasked() {
    let origin =
        Origin::answering("HTTP/1.0 200 OK\r\nVia: 1.1 cache\r\nContent-Length: 0\r\n\r\n");
    let proxy = telling(origin.address, &[]);
    let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.field("via"), Some("1.1 cache, 1.0 edge"));
    let mirror = Origin::mirror();
    let proxy = Proxy::with(&[mirror.address], |config| {
        config.http_listeners[0].forwarded.x_forwarded = false;
    });
    let answer = proxy.ask(CLAIMS);
    let seen = answer.text();
    for name in [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-real-ip",
        "forwarded",
    ] {
        assert_eq!(
            field(&seen, name),
            None,
            "{name}: a stranger's word is no word"
        );
    }
    assert_eq!(
        field(&seen, "x-request-id"),
        Some("theirs"),
        "that is nobody's matter here"
    );
    assert_eq!(answer.field("via"), None);
}

#[tokio::test]
async fn all_of_it_holds_over_http_2() {
    let origin = H2Origin::mirror();
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.protocol = BackendProtocol::H2;
        config.http_listeners[0].forwarded = Forwarded {
            x_real_ip: true,
            forwarded: true,
            via: Some("edge".to_owned()),
            request_id: true,
            ..Forwarded::default()
        };
        config.http_listeners[0].security_headers = SecurityHeaders::Basic;
    });
    let client = connect(proxy.address).await;
    let mut request = get("/");
    for name in ["x-forwarded-for", "x-real-ip", "forwarded", "x-request-id"] {
        request
            .headers_mut()
            .insert(name, "6.6.6.6".parse().expect("a value"));
    }
    let answer = soon(ask(&client, request)).await.expect("an answer");
    let seen = answer.text();
    assert!(!seen.contains("6.6.6.6"), "{seen}");
    assert_eq!(
        field(&seen, "x-forwarded-for"),
        Some(&*family::loopback().to_string())
    );
    assert_eq!(
        field(&seen, "x-real-ip"),
        Some(&*family::loopback().to_string())
    );
    assert_eq!(field(&seen, "via"), Some("2 edge"));
    assert_eq!(field(&seen, "x-request-id").map(str::len), Some(32));
    assert_eq!(answer.field("via"), Some("2 edge"));
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
}

#[test]
fn security_fields_are_on_every_response_of_a_listener() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nX-Frame-Options: ALLOWALL\r\nContent-Length: 0\r\n\r\n",
    );
    let mut second = None;
    let mut proxy = Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].security_headers = SecurityHeaders::Strict;
        let mut other = HttpListener::new("other", family::any());
        other.security_headers = SecurityHeaders::Api;
        config.http_listeners.push(other);
        config.routes[0].listeners.push("other".to_owned());
        let fixed = FixedResponse {
            status: 403,
            content_type: "text/plain".to_owned(),
            body: "no".to_owned(),
        };
        let mut own = Route::catch_all("own", "web", Action::Respond(fixed));
        own.matches[0].path = PathMatch::Prefix("/own".to_owned());
        own.security_headers = Some(SecurityHeaders::Off);
        config.routes.push(own);
        let mut gone = Route::catch_all("gone", "web", Action::service("nobody"));
        gone.matches[0].path = PathMatch::Prefix("/gone".to_owned());
        config.routes.push(gone);
    });
    for address in proxy.workers.listeners() {
        if address != proxy.address {
            second = Some(address);
        }
    }
    let ask =
        |proxy: &Proxy, path: &str| proxy.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let answer = ask(&proxy, "/");
    assert_eq!(answer.field("referrer-policy"), Some("no-referrer"));
    assert_eq!(
        answer.field("x-frame-options"),
        Some("ALLOWALL"),
        "the backend knows better"
    );
    for (path, status) in [("/gone", 503), ("/own", 403)] {
        let answer = ask(&proxy, path);
        assert_eq!(answer.status, status);
        let expected = (status == 503).then_some("DENY");
        assert_eq!(answer.field("x-frame-options"), expected, "{path}");
    }
    let refused = proxy.ask("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        (refused.status, refused.field("x-frame-options")),
        (400, Some("DENY"))
    );
    // A route of two listeners has the fields of the one that the request came to.
    proxy.address = second.expect("another listener");
    assert_eq!(ask(&proxy, "/").field("cache-control"), Some("no-store"));
}
