//! HTTP/2 clients that mean no good.

use crate::h2_support::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::support::{Client, Origin, Proxy, eventually};
use proxy_userspace::message::{Refusal, RefusedBy};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ENHANCE_YOUR_CALM: u32 = 11;

type Field<'f> = (&'f [u8], &'f [u8]);

const PLAIN: [Field<'_>; 4] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"a.test"),
    (b":path", b"/"),
];

/// How a request was refused.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Reset(u32),
    Away(u32),
    Answer,
    Passed,
}

fn refusals(proxy: &Proxy) -> u64 {
    let snapshot = proxy.workers.snapshot();
    let all = snapshot.listeners().map(|(_, plan)| {
        let refusals = Refusal::ALL.iter();
        let counts = refusals.map(|r| plan.cells.sum(|c| c.refusals(RefusedBy::Client, *r)));
        counts.sum::<u64>()
    });
    all.sum()
}

/// Sends a head, perhaps with content, and tells what came of it.
fn send(proxy: &Proxy, fields: &[Field<'_>], content: Option<&[u8]>) -> Refused {
    let mut client = proxy.client();
    client.greet();
    let end = if content.is_none() { END_STREAM } else { 0 };
    client.send(frame(HEADERS, END_HEADERS | end, 1, &block(fields)));
    if let Some(content) = content {
        client.send(frame(DATA, END_STREAM, 1, content));
    }
    // Answered in turn: what is refused in silence would be seen, too.
    loop {
        let Some(came) = client.frame() else {
            return Refused::Away(0);
        };
        match came.kind {
            RST_STREAM => return Refused::Reset(came.error().expect("an error")),
            GOAWAY => return Refused::Away(came.error().expect("an error")),
            // 200 and 400 stand in HPACK's table.
            HEADERS if came.payload[0] == 0x88 => return Refused::Passed,
            HEADERS => return Refused::Answer,
            _ => {}
        }
    }
}

/// An origin that counts what reaches it.
fn counting() -> (Origin, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let origin = Origin::new(move |mut client, _| {
        while client.head().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (origin, seen)
}

/// Heads that are malformed, or would be as HTTP/1.
fn malformed() -> Vec<(&'static str, Vec<Field<'static>>)> {
    let mut all: Vec<(&'static str, Vec<Field<'static>>)> = Vec::new();
    let mut with = |what, more: &[Field<'static>]| {
        let mut fields = PLAIN.to_vec();
        fields.extend(more);
        all.push((what, fields));
    };
    with("connection", &[(b"connection", b"x")]);
    with("keep-alive", &[(b"keep-alive", b"x")]);
    with("proxy-connection", &[(b"proxy-connection", b"x")]);
    with("transfer-encoding", &[(b"transfer-encoding", b"chunked")]);
    with("upgrade", &[(b"upgrade", b"x")]);
    with("http2-settings", &[(b"http2-settings", b"x")]);
    with("TE", &[(b"te", b"gzip")]);
    with("upper case", &[(b"X-A", b"x")]);
    with("a name with a colon", &[(b"a: b\r\nx", b"x")]);
    with("a name with a blank", &[(b"a b", b"x")]);
    with("a name with quotation marks", &[(b"\"a\"", b"x")]);
    with("an empty name", &[(b"", b"x")]);
    with("a value with CRLF", &[(b"a", b"x\r\nb: c")]);
    with("a value with LF", &[(b"a", b"x\nb: c")]);
    with("a value with NUL", &[(b"a", b"x\0")]);
    with("a blank before the value", &[(b"a", b" x")]);
    with("a tab behind the value", &[(b"a", b"x\t")]);
    with("a late pseudo-field", &[(b"a", b"b"), (b":path", b"/b")]);
    with("an unknown pseudo-field", &[(b":foo", b"b")]);
    with("a response's pseudo-field", &[(b":status", b"200")]);
    with("a second path", &[(b":path", b"/b")]);
    with("a second method", &[(b":method", b"POST")]);
    with(
        "a protocol without CONNECT",
        &[(b":protocol", b"websocket")],
    );
    with("another host", &[(b"host", b"b.test")]);
    with("two hosts", &[(b"host", b"a.test"), (b"host", b"b.test")]);
    with("a host that is none", &[(b"host", b"a.test/b")]);
    with("a length that is none", &[(b"content-length", b"1x")]);
    with("a signed length", &[(b"content-length", b"+0")]);
    with(
        "two lengths",
        &[(b"content-length", b"0"), (b"content-length", b"0")],
    );
    with("a length without content", &[(b"content-length", b"5")]);
    with("an expectation", &[(b"expect", b"the-spanish-inquisition")]);
    for (what, at, value) in [
        ("no method", 0, None),
        ("no scheme", 1, None),
        ("no authority", 2, None),
        ("no path", 3, None),
        ("an empty method", 0, Some(&b""[..])),
        ("a method with a blank", 0, Some(b"GET /b")),
        (
            "a method with CRLF",
            0,
            Some(b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET"),
        ),
        ("another scheme", 1, Some(b"ftp")),
        ("an empty authority", 2, Some(b"")),
        ("an authority with a user", 2, Some(b"u@a.test")),
        ("an authority with a path", 2, Some(b"a.test/b")),
        ("an authority with a blank", 2, Some(b"a.test b")),
        ("an authority with CRLF", 2, Some(b"a.test\r\nA: b")),
        ("an authority with two hosts", 2, Some(b"a.test,b.test")),
        ("an empty path", 3, Some(b"")),
        ("a path with a blank", 3, Some(b"/ HTTP/1.1")),
        (
            "a path with CRLF",
            3,
            Some(b"/ HTTP/1.1\r\nA: b\r\n\r\nGET /b"),
        ),
        ("a path with a tab", 3, Some(b"/\tb")),
        ("a path with NUL", 3, Some(b"/\0")),
        ("a path beyond ASCII", 3, Some(b"/\xc3\xa4")),
        ("a path without a slash", 3, Some(b"b")),
        ("an absolute path", 3, Some(b"http://b.test/")),
        ("an asterisk", 3, Some(b"*")),
    ] {
        let mut fields = PLAIN.to_vec();
        match value {
            Some(value) => fields[at].1 = value,
            None => drop(fields.remove(at)),
        }
        all.push((what, fields));
    }
    all.push(("CONNECT with a path", {
        let mut fields = PLAIN.to_vec();
        fields[0].1 = b"CONNECT";
        fields
    }));
    all.push((
        "CONNECT",
        vec![(b":method", b"CONNECT"), (b":authority", b"a.test:443")],
    ));
    let mut upgrade = PLAIN.to_vec();
    upgrade[0].1 = b"CONNECT";
    upgrade.insert(1, (b":protocol", b"web socket\r\nA: b"));
    all.push(("a protocol that is none", upgrade));
    all
}

#[test]
fn malformed_heads_are_refused_counted_and_reach_no_backend() {
    let (origin, seen) = counting();
    let proxy = Proxy::to(&[origin.address]);
    for (number, (what, fields)) in malformed().into_iter().enumerate() {
        let refused = send(&proxy, &fields, None);
        let is_refused = match refused {
            Refused::Reset(error) | Refused::Away(error) => error != 0,
            Refused::Answer => true,
            Refused::Passed => false,
        };
        assert!(is_refused, "{what}: {refused:?}");
        eventually(what, || refusals(&proxy) > number as u64);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
    assert_eq!(send(&proxy, &PLAIN, None), Refused::Passed);
}

#[test]
fn content_that_is_not_as_announced_is_refused() {
    let (origin, _) = counting();
    let proxy = Proxy::to(&[origin.address]);
    for (length, content) in [(&b"3"[..], &b"four"[..]), (b"5", b"four")] {
        let mut fields = PLAIN.to_vec();
        fields[0].1 = b"POST";
        fields.push((b"content-length", length));
        let refused = send(&proxy, &fields, Some(content));
        assert!(
            matches!(refused, Refused::Reset(1) | Refused::Answer),
            "{refused:?}"
        );
    }
}

#[test]
fn a_host_that_says_the_same_is_no_contradiction() {
    let (origin, _) = counting();
    let proxy = Proxy::to(&[origin.address]);
    for host in [&b"a.test"[..], b"A.TEST:80"] {
        let mut fields = PLAIN.to_vec();
        fields.push((b"host", host));
        assert_eq!(send(&proxy, &fields, None), Refused::Passed);
    }
    let mut fields = PLAIN.to_vec();
    fields[2] = (b"host", b"a.test");
    fields.swap(2, 3);
    assert_eq!(send(&proxy, &fields, None), Refused::Passed, "Host alone");
}

#[test]
fn a_head_that_is_too_long_is_answered_so() {
    let (origin, seen) = counting();
    let proxy = Proxy::to(&[origin.address]);
    let long = vec![b'a'; 40_000];
    let mut fields = PLAIN.to_vec();
    fields.push((b"a", &long));
    let mut client = proxy.client();
    client.greet();
    let octets = block(&fields);
    let mut pieces = octets.chunks(16_000).peekable();
    let (mut kind, mut flags) = (HEADERS, END_STREAM);
    while let Some(piece) = pieces.next() {
        flags |= if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        client.send(frame(kind, flags, 1, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    let came = client.frame_where(|frame| matches!(frame.kind, HEADERS | RST_STREAM));
    assert_eq!(came.expect("an answer").kind, HEADERS, "431");
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

/// A proxy with low limits.
fn careful(origin: &Origin) -> Proxy {
    Proxy::with(&[origin.address], |config| {
        let http2 = &mut config.http_listeners[0].http2;
        http2.max_resets = 50;
        http2.max_control_frames = 100;
        http2.abuse_window = Duration::from_secs(60);
    })
}

/// What a flood ends with. The client may be cut off while it still sends.
fn flood(proxy: &Proxy, mut send: impl FnMut(&mut Client, u32)) -> Option<u32> {
    let mut client = proxy.client();
    client.greet();
    let mut sending = client.clone();
    for number in 0..400 {
        send(&mut sending, number);
    }
    client.go_away()
}

#[test]
fn floods_are_answered_with_enhance_your_calm_and_counted() {
    let (origin, _) = counting();
    let request = |number: u32| {
        let stream = 2 * number + 1;
        (
            stream,
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&PLAIN)),
        )
    };
    let open = |client: &mut Client, number: u32| {
        if number == 0 {
            client.send(frame(HEADERS, END_HEADERS, 1, &block(&PLAIN)));
        }
    };
    type Send<'s> = Box<dyn FnMut(&mut Client, u32) + 's>;
    let floods: Vec<(&str, Send<'_>)> = vec![
        (
            "rapid reset",
            Box::new(|client, number| {
                let (stream, head) = request(number);
                client.send(head);
                client.send(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            }),
        ),
        (
            "resets that the client brings about",
            Box::new(|client, number| {
                let mut fields = PLAIN.to_vec();
                fields.push((b"content-length", b"5"));
                let (flags, stream) = (END_HEADERS | END_STREAM, 2 * number + 1);
                client.send(frame(HEADERS, flags, stream, &block(&fields)));
            }),
        ),
        (
            "pings",
            Box::new(|client, _| client.send(frame(PING, 0, 0, &[0; 8]))),
        ),
        (
            "settings",
            Box::new(|client, _| client.send(frame(SETTINGS, 0, 0, &[]))),
        ),
        (
            "priorities",
            Box::new(|client, _| {
                client.send(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]));
            }),
        ),
        (
            "unknown frames",
            Box::new(|client, _| client.send(frame(0xbb, 0, 0, b"x"))),
        ),
        (
            "window updates",
            Box::new(|client, _| {
                client.send(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
            }),
        ),
        (
            "empty data",
            Box::new(move |client, number| {
                open(client, number);
                client.send(frame(DATA, 0, 1, &[]));
            }),
        ),
        (
            "continuations",
            Box::new(|client, number| match number {
                0 => client.send(frame(HEADERS, END_STREAM, 1, &block(&PLAIN))),
                _ => client.send(frame(CONTINUATION, 0, 1, &block(&[(b"a", b"b")]))),
            }),
        ),
    ];
    let proxy = careful(&origin);
    for (number, (what, send)) in floods.into_iter().enumerate() {
        assert_eq!(flood(&proxy, send), Some(ENHANCE_YOUR_CALM), "{what}");
        eventually(what, || {
            let snapshot = proxy.workers.snapshot();
            let (_, plan) = snapshot.listeners().next().expect("a listener");
            let floods = plan
                .cells
                .sum(|c| c.refusals(RefusedBy::Client, Refusal::Flood));
            floods > number as u64
        });
    }
    assert_eq!(
        send(&proxy, &PLAIN, None),
        Refused::Passed,
        "others are served"
    );
}

#[test]
fn many_requests_and_their_updates_are_no_flood() {
    let origin = Origin::new(|mut client, _| {
        while client.head().is_some() {
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n");
            client.send(vec![b'x'; 4000]);
        }
    });
    let proxy = careful(&origin);
    let mut client = proxy.client();
    client.greet();
    for number in 0..500_u32 {
        let stream = 2 * number + 1;
        client.send(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &block(&PLAIN),
        ));
        let end = client.frame_where(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0);
        assert_eq!(end.expect("an answer").stream, stream);
        client.send(frame(WINDOW_UPDATE, 0, 0, &4000_u32.to_be_bytes()));
    }
}

/// One field in the table of HPACK, and references to it of one octet each.
#[test]
fn a_head_that_grows_when_it_is_decoded_is_refused() {
    let (origin, requests) = counting();
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.greet();
    let mut head = block(&PLAIN);
    // Literal with incremental indexing: 4000 octets stay in the table, as its entry 62.
    let kept = block(&[(b"x-bomb", &[b'x'; 4000])]);
    head.push(0x40);
    head.extend(&kept[1..]);
    head.extend(vec![0x80 | 62; 10_000]);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
    let refused = client.frame_where(|frame| {
        matches!(frame.kind, RST_STREAM | GOAWAY) || (frame.kind == HEADERS && frame.stream == 1)
    });
    let refused = refused.expect("an answer");
    // 431 without or with the rest of the fields, or an error.
    assert!(
        refused.kind != HEADERS || !refused.payload.starts_with(&[0x88]),
        "{refused:?}"
    );
    drop(client);
    assert_eq!(
        send(&proxy, &PLAIN, None),
        Refused::Passed,
        "others are served"
    );
    assert_eq!(
        requests.load(Ordering::SeqCst),
        1,
        "and nobody saw the first"
    );
}
