//! PROXY headers in front of requests and towards backends, as engine and listener treat them. The
//! parser's own vectors are beside it.

use crate::h2_support::{HEADERS, SETTINGS};
use crate::support::{Client, Origin, Proxy, field};
use proxy_tests::family;
use proxy_userspace::config::model::Config;
use proxy_userspace::config::model::http::ProxyVersion;
use proxy_userspace::message::{Refusal, RefusedBy};
use proxy_userspace::net::proxy_protocol::{self, Addition, write_local, write_v2};
use std::net::SocketAddr;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A listener that takes PROXY headers from these networks and nothing without one.
fn listening_to(nets: &[&str], origin: &Origin, edit: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::with(&[origin.address], |config| {
        config.http_listeners[0].proxy_protocol_from =
            nets.iter().map(|net| net.parse().expect("a net")).collect();
        edit(config);
    })
}

fn local(origin: &Origin) -> Proxy {
    listening_to(&[family::network()], origin, |_| {})
}

fn refused(proxy: &Proxy) -> u64 {
    let snapshot = proxy.workers.snapshot();
    let refusals = snapshot.listeners().map(|(_, plan)| {
        plan.cells
            .sum(|c| c.refusals(RefusedBy::Client, Refusal::ProxyHeader))
    });
    refusals.sum()
}

/// Version 2 with what stands behind the signature.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

fn between(client: &str, server: &str, additions: &[Addition<'_>]) -> Vec<u8> {
    let (client, server) = (client.parse().expect("one"), server.parse().expect("one"));
    let mut header = Vec::new();
    write_v2(client, server, false, additions, true, &mut header);
    header
}

/// Headers, and the client that each tells of.
fn valid() -> Vec<(Vec<u8>, &'static str)> {
    let own = if family::is_v6() { "::1" } else { "127.0.0.1" };
    let mut to_self = Vec::new();
    write_local(&mut to_self);
    let values = [
        Addition::Authority("shop.example"),
        Addition::UniqueId(&[7; 128]),
        Addition::Alpn(b"h2"),
        Addition::Other(0xe0, b"own"),
        Addition::Other(0x04, &[0; 200]),
    ];
    let tls = [Addition::Other(0x20, b"\x07\0\0\0\0\x21\0\x07TLSv1.3")];
    let mut unix = [0; 216].to_vec();
    unix[0] = b'/';
    vec![
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n".to_vec(),
            "2001:db8::7",
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 80\r\n".to_vec(),
            "192.0.2.7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), own),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), own),
        (between("192.0.2.8:1", "198.51.100.1:80", &[]), "192.0.2.8"),
        (between("[2001:db8::8]:1", "[::1]:80", &[]), "2001:db8::8"),
        (
            between("192.0.2.9:1", "198.51.100.1:80", &values),
            "192.0.2.9",
        ),
        (between("192.0.2.9:1", "198.51.100.1:80", &tls), "192.0.2.9"),
        (to_self, own),
        (v2(0x20, 0x11, &[192, 0, 2, 1, 0, 0, 0, 0, 0, 1, 0, 2]), own),
        (v2(0x20, 0xff, b"whatever"), own),
        (v2(0x21, 0x00, b"whatever"), own),
        (v2(0x21, 0x31, &unix), own),
    ]
}

fn malformed() -> Vec<Vec<u8>> {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 80];
    let with = |values: &[u8]| v2(0x21, 0x11, &[&v4[..], values].concat());
    let mut sum = between("192.0.2.9:1", "198.51.100.1:80", &[]);
    let last = sum.len() - 1;
    sum[last] ^= 1;
    vec![
        GET.into(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 04711 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 70000 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7  198.51.100.1 4711 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80 \r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 ::1 4711 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 80\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(),
        b"PROXY tcp4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(),
        b"proxy TCP4 192.0.2.7 198.51.100.1 4711 80\r\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120], b"\r\n"].concat(),
        v2(0x31, 0x11, &v4),
        v2(0x22, 0x11, &v4),
        v2(0x21, 0x41, &v4),
        v2(0x21, 0x13, &v4),
        v2(0x21, 0x11, &v4[..11]),
        v2(0x21, 0x21, &v4),
        v2(0x21, 0x11, &[0; 9000]),
        with(&[0x02, 0]),
        with(&[0x02, 0, 9, b'a']),
        with(&[0x03, 0, 3, 1, 2, 3]),
        with(&[0x20, 0, 2, 0, 0]),
        with(&[0x02, 0, 1, 0xff]),
        sum,
    ]
}

#[test]
fn who_is_told_of_is_the_client() {
    let origin = Origin::mirror();
    let proxy = local(&origin);
    for (header, client) in valid() {
        let what = String::from_utf8_lossy(&header).into_owned();
        let mut connection = proxy.client();
        connection.send([&header[..], GET.as_bytes()].concat());
        for _ in 0..2 {
            let answer = connection.answer();
            let seen = answer.text();
            assert_eq!(field(&seen, "x-forwarded-for"), Some(client), "{what:?}");
            connection.send(GET);
        }
    }
    assert_eq!(refused(&proxy), 0);
}

#[test]
fn a_header_may_come_octet_by_octet() {
    let origin = Origin::mirror();
    let proxy = local(&origin);
    for (header, client) in valid() {
        let mut connection = proxy.client();
        for octet in &header {
            connection.send([*octet]);
        }
        connection.send(GET);
        let seen = connection.answer().text();
        assert_eq!(field(&seen, "x-forwarded-for"), Some(client));
    }
}

#[test]
fn a_connection_without_a_valid_header_is_closed_without_a_word_and_counted() {
    let origin = Origin::mirror();
    let proxy = local(&origin);
    for (number, header) in malformed().into_iter().enumerate() {
        let what = String::from_utf8_lossy(&header).into_owned();
        let mut connection = proxy.client();
        connection.send([&header[..], GET.as_bytes()].concat());
        assert!(connection.is_ended(), "{what:?}");
        assert_eq!(refused(&proxy), number as u64 + 1, "{what:?}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_header_that_ends_early_or_never_is_not_waited_for() {
    let origin = Origin::mirror();
    let proxy = listening_to(&["127.0.0.1/32", "::1/128"], &origin, |config| {
        config.http_listeners[0].timeouts.head = Duration::from_millis(100);
    });
    let whole = between("192.0.2.8:1", "198.51.100.1:80", &[]);
    for begun in [
        &b""[..],
        b"P",
        b"PROXY TCP4 192.0.2.7",
        &SIGNATURE[..5],
        &whole[..20],
    ] {
        for is_ended in [true, false] {
            let mut connection = proxy.client();
            connection.send(begun);
            if is_ended {
                connection.end();
            }
            assert!(connection.is_ended(), "{begun:?}");
        }
    }
    assert_eq!(refused(&proxy), 10);
}

#[test]
fn a_header_of_somebody_else_is_an_invalid_request() {
    let origin = Origin::mirror();
    for nets in [&[][..], &["192.0.2.0/24", "2001:db8::/32"]] {
        let proxy = listening_to(nets, &origin, |_| {});
        for (header, _) in valid() {
            let mut connection = proxy.client();
            connection.send([&header[..], GET.as_bytes()].concat());
            assert_eq!(connection.answer().status, 400, "{header:?}");
        }
        let answer = proxy.ask(GET);
        let seen = answer.text();
        assert_eq!(
            field(&seen, "x-forwarded-for"),
            Some(&*family::loopback().to_string())
        );
        assert_eq!(refused(&proxy), 0);
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn http_2_may_follow_a_header() {
    let origin = Origin::mirror();
    let proxy = local(&origin);
    let mut connection = proxy.client();
    connection.send(between("192.0.2.8:1", "198.51.100.1:80", &[]));
    connection.greet();
    let fields = [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/"),
    ];
    let block = crate::h2_support::block(&fields);
    connection.send(crate::h2_support::frame(HEADERS, 5, 1, &block));
    connection.send(crate::h2_support::frame(SETTINGS, 1, 0, &[]));
    let data = connection.frame_where(|frame| frame.kind == crate::h2_support::DATA);
    let seen = String::from_utf8(data.expect("content").payload).expect("text");
    assert_eq!(field(&seen, "x-forwarded-for"), Some("192.0.2.8"));
}

/// What a backend is told in front of a request.
fn told(version: ProxyVersion, connect: impl FnOnce(&Proxy) -> Client) -> (SocketAddr, SocketAddr) {
    let (told, ask) = std::sync::mpsc::channel();
    let origin = Origin::new(move |mut client, _| {
        let mut header = Vec::new();
        loop {
            header.extend(client.exactly(1));
            if let Some((header, _)) = proxy_protocol::parse(&header).expect("valid") {
                told.send(header.origin).expect("heard");
                break;
            }
        }
        assert!(client.head().expect("a request").starts_with("GET / "));
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        client.rest();
    });
    let proxy = listening_to(&["127.0.0.2/32"], &origin, |config| {
        config.services[0].upstream.send_proxy = Some(version);
    });
    let mut client = connect(&proxy);
    client.send(GET);
    assert_eq!(client.answer().status, 200);
    match ask.recv().expect("told") {
        proxy_protocol::Origin::Client { client, server, .. } => (client, server),
        origin => panic!("{origin:?}"),
    }
}

#[test]
fn backends_are_told_of_the_client_and_of_whom_an_earlier_proxy_told() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut own = None;
        let (client, server) = told(version, |proxy| {
            let client = proxy.client();
            own = Some((client.local_address(), proxy.address));
            client
        });
        assert_eq!(Some((client, server)), own);

        for (from, to) in [
            ("192.0.2.8:4711", "198.51.100.1:80"),
            ("[2001:db8::8]:4711", "[2001:db8::1]:80"),
        ] {
            let (client, server) = told(version, |proxy| {
                let mut client = Client::from("127.0.0.2", proxy.address);
                client.send(between(from, to, &[]));
                client
            });
            assert_eq!(
                (client.to_string(), server.to_string()),
                (from.into(), to.into())
            );
        }
    }
}
