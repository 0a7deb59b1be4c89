//! Origins that mean no good, or are broken: what clients see of it is never a wrong answer.

use crate::h2_support::{self, H2Origin};
use crate::support::{Client, Origin, Proxy, eventually};
use http::Response;
use proxy_userspace::config::model::http::BackendProtocol;
use proxy_userspace::message::{Refusal, RefusedBy};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn refusals(proxy: &Proxy, refusal: Refusal) -> u64 {
    let snapshot = proxy.workers.snapshot();
    let listeners = snapshot.listeners();
    let count =
        listeners.map(|(_, plan)| plan.cells.sum(|c| c.refusals(RefusedBy::Backend, refusal)));
    count.sum()
}

/// The client gets a 502, the refusal is counted, and the client's connection stays in step.
#[track_caller]
fn is_refused(answer: impl Into<Vec<u8>>, refusal: Refusal) {
    let answer = answer.into();
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(100)]).into_owned();
    let proxy = Proxy::to(&[Origin::answering(answer).address]);
    let mut client = proxy.client();
    for n in 1..=2 {
        client.send(GET);
        let mut answer = client.answer();
        while answer.status < 200 {
            answer = client.answer();
        }
        assert_eq!(answer.status, 502, "{shown:?}");
        assert_eq!(answer.text(), "502 Bad Gateway\n", "{shown:?}");
        assert_eq!(
            refusals(&proxy, refusal),
            n,
            "{shown:?} {}",
            refusal.label()
        );
    }
}

#[test]
fn status_lines_that_are_none_are_refused() {
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1 099 Low",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 -20 OK",
        "http/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1",
        "HTTP/11 200 OK",
        "ICY 200 OK",
        "GET / HTTP/1.1",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\x1bK",
        "",
    ] {
        is_refused(
            format!("{line}\r\nContent-Length: 0\r\n\r\n"),
            Refusal::StatusLine,
        );
    }
}

#[test]
fn framing_that_can_be_read_in_two_ways_is_refused() {
    for (fields, refusal) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            Refusal::LengthConflict,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            Refusal::LengthConflict,
        ),
        ("Content-Length: 5, 6", Refusal::ContentLength),
        ("Content-Length: +5", Refusal::ContentLength),
        ("Content-Length: 0x5", Refusal::ContentLength),
        ("Content-Length: 5 5", Refusal::ContentLength),
        ("Content-Length:", Refusal::ContentLength),
        (
            "Content-Length: 9223372036854775808",
            Refusal::ContentLength,
        ),
        (
            "Content-Length: 18446744073709551621",
            Refusal::ContentLength,
        ),
        (
            "Transfer-Encoding: chunked, chunked",
            Refusal::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Refusal::TransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked, gzip",
            Refusal::TransferEncoding,
        ),
        ("Transfer-Encoding: gzip", Refusal::TransferEncoding),
        ("Transfer-Encoding: xchunked", Refusal::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"", Refusal::TransferEncoding),
        (
            "Transfer-Encoding: gzip, chunked",
            Refusal::TransferCodingUnknown,
        ),
    ] {
        is_refused(
            format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            refusal,
        );
    }
    is_refused(
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refusal::TransferEncoding,
    );
}

#[test]
fn field_lines_that_are_none_are_refused() {
    for (line, refusal) in [
        ("A : b", Refusal::FieldName),
        (": b", Refusal::FieldName),
        ("A", Refusal::FieldName),
        ("A\0: b", Refusal::FieldName),
        ("A: b\0c", Refusal::FieldValue),
        ("A: b\x7f", Refusal::FieldValue),
        ("A: b\r\n c: d", Refusal::ObsFold),
        ("A: b\nC: d", Refusal::BareLineEnd),
        ("A: b\rC: d", Refusal::BareLineEnd),
        ("Connection: a b", Refusal::FieldValue),
    ] {
        is_refused(
            format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 0\r\n\r\n"),
            refusal,
        );
    }
    let many = "X: y\r\n".repeat(300);
    is_refused(
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        Refusal::TooManyFields,
    );
    let long = "y".repeat(70_000);
    is_refused(
        format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n"),
        Refusal::HeadTooLong,
    );
}

#[test]
fn chunks_that_are_none_cut_the_answer_off() {
    let many = "T: v\r\n".repeat(300);
    let long = "x".repeat(100_000);
    for (end, refusal) in [
        ("x\r\nhello\r\n0\r\n\r\n", Refusal::Chunk),
        ("-5\r\nhello\r\n0\r\n\r\n", Refusal::Chunk),
        ("5\nhello\r\n0\r\n\r\n", Refusal::Chunk),
        ("5\r\nhello0\r\n\r\n", Refusal::Chunk),
        ("5\r\nhello\n0\r\n\r\n", Refusal::Chunk),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", Refusal::Chunk),
        ("5;a=\"\x01\"\r\nhello\r\n0\r\n\r\n", Refusal::Chunk),
        (&format!("5;{long}\r\nhello\r\n0\r\n\r\n"), Refusal::Chunk),
        ("0\r\nA : b\r\n\r\n", Refusal::Trailers),
        ("0\r\nA: b\r\n c\r\n\r\n", Refusal::Trailers),
        (&format!("0\r\n{many}\r\n"), Refusal::Trailers),
        (&format!("0\r\nT: {long}\r\n\r\n"), Refusal::Trailers),
    ] {
        let shown = &end[..end.len().min(40)];
        let origin = Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n{end}"
        ));
        let proxy = Proxy::to(&[origin.address]);
        let mut client = proxy.client();
        client.send(GET);
        assert!(client.head().expect("a head").starts_with("HTTP/1.1 200"));
        let rest = client.rest();
        assert!(rest.starts_with(b"4\r\nbody\r\n"), "{shown:?}: {rest:?}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{shown:?}: it looks whole");
        let refused: u64 = [Refusal::Chunk, Refusal::Trailers, Refusal::BareLineEnd]
            .map(|refusal| refusals(&proxy, refusal))
            .iter()
            .sum();
        assert_eq!(refused, 1, "{shown:?} {}", refusal.label());
    }
}

#[test]
fn trailers_that_would_be_fields_are_dropped() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 9\r\n\
         Transfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nX-Sum: 1\r\n\r\n",
    );
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
        let answer = client.answer();
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.trailers, "X-Sum: 1\r\n");
    }
}

#[test]
fn informational_answers_without_end_are_refused() {
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let origin = Origin::new(move |mut client, _| {
        client.head();
        while client.try_send(hint.as_bytes()) {}
    });
    let proxy = Proxy::to(&[origin.address]);
    let mut client = proxy.client();
    client.send(GET);
    let mut early = 0;
    let last = loop {
        match client.answer() {
            answer if answer.status == 103 => early += 1,
            answer => break answer,
        }
    };
    assert_eq!(last.status, 502);
    assert!((10..1000).contains(&early), "{early} were passed on");
    assert_eq!(refusals(&proxy, Refusal::Informational), 1);
}

#[tokio::test]
async fn informational_answers_without_end_are_refused_in_http_2_too() {
    // "Without end" has one: what the proxy does not take waits in this process's memory, for heads
    // have no window in HTTP/2.
    const MANY: usize = 10_000;
    let origin = H2Origin::new(|_, mut respond, _| async move {
        let hint = || {
            Response::builder()
                .status(103)
                .header("link", "</style.css>")
        };
        for _ in 0..MANY {
            let sent = respond.send_informational(hint().body(()).expect("valid"));
            if sent.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let proxy = Proxy::with(&[origin.address], |config| {
        config.services[0].upstream.protocol = BackendProtocol::H2;
    });
    let client = h2_support::connect(proxy.address).await;
    let answer = h2_support::ask(&client, h2_support::get("/")).await;
    assert_eq!(answer.expect("an answer").status, 502);
    assert_eq!(refusals(&proxy, Refusal::Informational), 1);
}

#[test]
fn an_informational_answer_has_no_content() {
    // What follows its head is the next head, whatever it says.
    is_refused(
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\
         Content-Length: 0\r\n\r\n",
        Refusal::StatusLine,
    );
}

#[test]
fn content_that_must_not_be_there_answers_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (method, head) in [
        (
            "HEAD",
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}", evil.len()),
        ),
        (
            "GET",
            format!(
                "HTTP/1.1 304 Not Modified\r\nContent-Length: {}",
                evil.len()
            ),
        ),
        (
            "GET",
            format!("HTTP/1.1 204 No Content\r\nContent-Length: {}", evil.len()),
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked".to_owned(),
        ),
        ("GET", "HTTP/1.1 204 No Content".to_owned()),
    ] {
        let origin = Origin::answering(format!("{head}\r\n\r\n{evil}"));
        let proxy = Proxy::to(&[origin.address]);
        let mut client = proxy.client();
        for n in 1..=3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let answer = client.answer_to(method);
            assert!(!answer.text().contains("evil"), "{head}");
            assert_ne!(
                answer.field("content-length"),
                Some("4"),
                "{head}: {}",
                answer.head
            );
            eventually("a connection of its own", || origin.connections() == n);
        }
    }
}

#[test]
fn a_switch_to_another_protocol_than_asked_for_is_refused() {
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for head in [
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade",
        "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c",
    ] {
        let proxy = Proxy::to(&[Origin::answering(format!("{head}\r\n\r\n")).address]);
        assert_eq!(proxy.ask(upgrade).status, 502, "{head:?}");
        assert_eq!(refusals(&proxy, Refusal::Upgrade), 1, "{head:?}");
    }
}

/// How a connection is given up.
#[derive(Clone, Copy, Debug)]
enum GiveUp {
    End,
    Reset,
}

impl GiveUp {
    fn carry_out(self, client: Client) {
        match self {
            Self::End => client.end(),
            Self::Reset => client.abort(),
        }
    }
}

#[test]
fn an_answer_that_is_cut_off_anywhere_never_looks_whole() {
    let informational = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n";
    let wholes = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n"
            .to_owned(),
        format!("{informational}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ];
    for whole in wholes {
        for give_up in [GiveUp::End, GiveUp::Reset] {
            let cut = Arc::new(AtomicUsize::new(0));
            let (at, text) = (Arc::clone(&cut), whole.clone());
            let origin = Origin::new(move |mut client, _| {
                client.head();
                client.send(&text.as_bytes()[..at.load(Ordering::SeqCst)]);
                give_up.carry_out(client);
            });
            let proxy = Proxy::to(&[origin.address]);
            for length in 0..whole.len() {
                cut.store(length, Ordering::SeqCst);
                let mut client = proxy.client();
                client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                let all = String::from_utf8_lossy(&client.rest()).into_owned();
                let what = format!("{give_up:?} after {length} of {whole:?}: {all:?}");
                let is_answered = all.contains("HTTP/1.1 502 Bad Gateway\r\n");
                let is_begun = all.contains("HTTP/1.1 200 OK\r\n");
                assert!(is_answered != is_begun, "{what}");
                let is_whole = all.ends_with("0\r\n\r\n")
                    || all.ends_with("X-Sum: 5\r\n\r\n")
                    || (all.ends_with("hello") && whole.ends_with("hello"));
                assert!(!is_begun || !is_whole, "{what}");
            }
            cut.store(whole.len(), Ordering::SeqCst);
            assert!(proxy.ask(GET).status < 300, "{give_up:?}");
        }
    }
}

#[test]
fn a_request_that_is_cut_off_anywhere_reaches_nobody_whole() {
    let whole =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for give_up in [GiveUp::End, GiveUp::Reset] {
        let completed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&completed);
        let origin = Origin::new(move |mut client, _| {
            while let Some(head) = client.head() {
                if head.starts_with("POST") {
                    if client.chunked().is_none() {
                        return;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                client.send(OK);
            }
        });
        let proxy = Proxy::to(&[origin.address]);
        for length in 0..whole.len() {
            let mut client = proxy.client();
            client.send(&whole.as_bytes()[..length]);
            match give_up {
                GiveUp::End => {
                    client.end();
                    let answer = client.rest();
                    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{length} octets");
                }
                GiveUp::Reset => client.abort(),
            }
        }
        eventually("all are gone", || proxy.workers.connections() == 0);
        assert_eq!(proxy.ask(GET).status, 200, "{give_up:?}");
        assert_eq!(completed.load(Ordering::SeqCst), 0, "{give_up:?}");
    }
}
