use super::*;
use crate::message::Length;
use RequestKind::{Connect, Head, Plain, Upgrade};

const REFUSED: &[(&str, Refusal)] = &[
    ("HTTP/1.1 20 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1 2000 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1 099 X\r\n", Refusal::StatusLine),
    ("HTTP/1.1 2x0 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1  200 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1\t200 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1 200\tOK\r\n", Refusal::StatusLine),
    ("HTTP/1.1 200OK\r\n", Refusal::StatusLine),
    ("HTTP/1.1 -20 OK\r\n", Refusal::StatusLine),
    ("HTTP/1.2 200 OK\r\n", Refusal::StatusLine),
    ("HTTP/2.0 200 OK\r\n", Refusal::StatusLine),
    ("HTTP/0.9 200 OK\r\n", Refusal::StatusLine),
    ("http/1.1 200 OK\r\n", Refusal::StatusLine),
    ("ICY 200 OK\r\n", Refusal::StatusLine),
    ("\r\nHTTP/1.1 200 OK\r\n", Refusal::StatusLine),
    ("<html>", Refusal::StatusLine),
    ("HTTP/1.1 200 O\0K\r\n", Refusal::StatusLine),
    ("HTTP/1.1 200 OK\n", Refusal::BareLineEnd),
    ("HTTP/1.1 200\n", Refusal::BareLineEnd),
    ("HTTP/1.1 200 O\rK\r\n", Refusal::BareLineEnd),
    ("HTTP/1.1 200 OK\r\nA : b\r\n", Refusal::FieldName),
    ("HTTP/1.1 200 OK\r\nno colon\r\n", Refusal::FieldName),
    ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", Refusal::ObsFold),
    ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n", Refusal::BareLineEnd),
    ("HTTP/1.1 200 OK\r\nA: b\0\r\n", Refusal::FieldValue),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1,\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n",
        Refusal::ContentLength,
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::LengthConflict,
    ),
    (
        "HTTP/1.1 304 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::LengthConflict,
    ),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Refusal::TransferCodingUnknown,
    ),
    (
        "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        Refusal::Upgrade,
    ),
];

#[test]
fn what_the_grammar_does_not_allow_is_refused_with_its_reason() {
    for (text, refusal) in REFUSED {
        let mut head = ResponseHead::default();
        let found = parse_response(text.as_bytes(), &LIMITS, Plain, &mut head);
        assert_eq!(found, Err(*refusal), "{text:?}");
    }
}

#[test]
fn a_head_without_end_is_refused_at_its_bound() {
    let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(2000));
    let found = response(Plain, endless.as_bytes()).unwrap_err();
    assert_eq!(found, Refusal::HeadTooLong);
    let many = format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(17));
    let found = response(Plain, many.as_bytes()).unwrap_err();
    assert_eq!(found, Refusal::TooManyFields);
}

#[test]
fn a_response_is_understood() {
    let (meta, head) = response(
        Plain,
        b"HTTP/1.1 404 Not \xe4 Found\r\nServer: x\r\nContent-Length: 5, 5\r\nconnection: X-Hop\r\n\
          content-length: 5\r\nX-Hop: 1\r\nUpgrade: h2c\r\nSet-Cookie: a\r\nset-cookie: b\r\n\
          Keep-Alive: 1\r\nTrailer: x\r\n\r\nhello",
    )
    .unwrap();
    assert_eq!(head.status, 404);
    assert_eq!(head.reason, b"Not \xe4 Found");
    assert_eq!(head.length, Length::Exact(5));
    assert_eq!(meta.framing, ResponseFraming::Exact(5));
    assert!(meta.keep_alive);
    assert!(head.protocol.is_empty());
    assert_eq!(
        lines(&head.fields),
        ["Server: x", "Set-Cookie: a", "set-cookie: b", "Trailer: x"]
    );
}

#[test]
fn a_missing_reason_phrase_is_no_fault() {
    for line in ["HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200\r\n\r\n"] {
        let (_, head) = response(Plain, line.as_bytes()).unwrap();
        assert_eq!((head.status, head.reason.len()), (200, 0));
    }
}

#[test]
fn what_follows_a_head_depends_on_request_status_and_fields() {
    use ResponseFraming::{Chunked, Exact, None, Tunnel, UntilClose};
    for (to, head, framing, keep_alive) in [
        (Plain, "HTTP/1.1 200 X\r\nContent-Length: 5", Exact(5), true),
        (Plain, "HTTP/1.1 200 X\r\nContent-Length: 0", Exact(0), true),
        (
            Plain,
            "HTTP/1.1 200 X\r\nContent-Length: 5\r\nConnection: close",
            Exact(5),
            false,
        ),
        (
            Plain,
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked",
            Chunked,
            true,
        ),
        (Plain, "HTTP/1.1 200 X", UntilClose, false),
        (
            Plain,
            "HTTP/1.1 200 X\r\nConnection: keep-alive",
            UntilClose,
            false,
        ),
        (Plain, "HTTP/1.0 200 X", UntilClose, false),
        (
            Plain,
            "HTTP/1.0 200 X\r\nContent-Length: 5",
            Exact(5),
            false,
        ),
        (
            Plain,
            "HTTP/1.0 200 X\r\nContent-Length: 5\r\nConnection: keep-alive",
            Exact(5),
            true,
        ),
        (Head, "HTTP/1.1 200 X\r\nContent-Length: 5", None, true),
        (
            Head,
            "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked",
            None,
            true,
        ),
        (Head, "HTTP/1.1 200 X", None, true),
        (Plain, "HTTP/1.1 304 X\r\nContent-Length: 5", None, true),
        (Plain, "HTTP/1.1 204 X", None, true),
        (Plain, "HTTP/1.1 204 X\r\nContent-Length: 0", None, true),
        (Plain, "HTTP/1.1 204 X\r\nContent-Length: 5", None, false),
        (
            Plain,
            "HTTP/1.1 204 X\r\nTransfer-Encoding: chunked",
            None,
            false,
        ),
        (Plain, "HTTP/1.1 100 X", None, true),
        (Plain, "HTTP/1.1 103 X\r\nLink: x", None, true),
        (Plain, "HTTP/1.1 199 X\r\nContent-Length: 5", None, false),
        (
            Connect,
            "HTTP/1.1 200 X\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            Tunnel,
            false,
        ),
        (
            Connect,
            "HTTP/1.1 403 X\r\nContent-Length: 5",
            Exact(5),
            true,
        ),
        (
            Upgrade,
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket",
            Tunnel,
            false,
        ),
        (
            Upgrade,
            "HTTP/1.1 200 X\r\nContent-Length: 5",
            Exact(5),
            true,
        ),
    ] {
        let (meta, _) = response(to, format!("{head}\r\n\r\n").as_bytes()).expect(head);
        assert_eq!(
            (meta.framing, meta.keep_alive),
            (framing, keep_alive),
            "{to:?} {head}"
        );
    }
}

#[test]
fn a_change_of_protocol_must_have_been_asked_for_and_be_said() {
    for (to, head) in [
        (
            Plain,
            "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket",
        ),
        (
            Head,
            "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket",
        ),
        (
            Connect,
            "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket",
        ),
        (Upgrade, "HTTP/1.1 101 X\r\nUpgrade: websocket"),
        (Upgrade, "HTTP/1.1 101 X\r\nConnection: upgrade"),
        (
            Upgrade,
            "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c",
        ),
        (
            Upgrade,
            "HTTP/1.0 101 X\r\nConnection: upgrade\r\nUpgrade: websocket",
        ),
    ] {
        let found = response(to, format!("{head}\r\n\r\n").as_bytes()).unwrap_err();
        assert_eq!(found, Refusal::Upgrade, "{to:?} {head}");
    }
    let input = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (_, head) = response(Upgrade, input).unwrap();
    assert_eq!(head.protocol, b"websocket");
}

#[test]
fn lengths_without_content_are_kept_as_a_description() {
    let input = b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(Head, input).unwrap().1.described_length, Some(5));
    assert_eq!(response(Plain, input).unwrap().1.described_length, None);
    let input = b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(Plain, input).unwrap().1.described_length, Some(5));
    // These may have none, whatever the request was.
    let input = b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(response(Head, input).unwrap().1.described_length, None);
}
