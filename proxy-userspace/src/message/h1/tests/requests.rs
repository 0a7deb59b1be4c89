use super::*;
use crate::message::{Length, Method, Version};

/// Heads that are refused, with the reason. `H` stands for a valid `Host` line.
const REFUSED: &[(&str, Refusal)] = &[
    // Request line.
    ("\r\n\r\n\r\nGET / HTTP/1.1\r\nH\r\n", Refusal::RequestLine),
    ("\nGET / HTTP/1.1\r\nH\r\n", Refusal::BareLineEnd),
    ("\rGET / HTTP/1.1\r\nH\r\n", Refusal::BareLineEnd),
    (" GET / HTTP/1.1\r\nH\r\n", Refusal::Method),
    ("GET  / HTTP/1.1\r\nH\r\n", Refusal::RequestLine),
    ("GET\t/ HTTP/1.1\r\nH\r\n", Refusal::Method),
    ("GE(T / HTTP/1.1\r\nH\r\n", Refusal::Method),
    ("GET\0 / HTTP/1.1\r\nH\r\n", Refusal::Method),
    ("\u{16}\u{3}\u{1}", Refusal::Method),
    ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", Refusal::Method),
    ("GET /\r\n", Refusal::RequestLine),
    ("GET\r\n", Refusal::RequestLine),
    ("GET /\n", Refusal::RequestLine),
    ("GET / HTTP/1.1 \r\n", Refusal::RequestLine),
    ("GET /  HTTP/1.1\r\n", Refusal::RequestLine),
    ("GET / a HTTP/1.1\r\n", Refusal::RequestLine),
    ("GET / http/1.1\r\n", Refusal::RequestLine),
    ("GET / HTTP/11.1\r\n", Refusal::RequestLine),
    ("GET / HTTP/1.10\r\n", Refusal::RequestLine),
    ("GET / HTTP/1\r\n", Refusal::RequestLine),
    ("GET / HTTPS/1.1\r\n", Refusal::RequestLine),
    ("GET / HTTP/1.1\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\rX", Refusal::BareLineEnd),
    ("GET / HTTP/\r\r1.1\r\n", Refusal::RequestLine),
    ("GET / HTTP/0.9\r\n", Refusal::Version),
    ("GET / HTTP/1.2\r\n", Refusal::Version),
    ("GET / HTTP/9.9\r\n", Refusal::Version),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version),
    // Target.
    ("GET /a\tb HTTP/1.1\r\n", Refusal::Target),
    ("GET /a\0b HTTP/1.1\r\n", Refusal::Target),
    ("GET /a\u{7f} HTTP/1.1\r\n", Refusal::Target),
    ("GET /\u{e4} HTTP/1.1\r\n", Refusal::Target),
    ("GET /a#b HTTP/1.1\r\n", Refusal::Target),
    ("GET a HTTP/1.1\r\n", Refusal::Target),
    ("GET * HTTP/1.1\r\n", Refusal::Target),
    ("GET a.test:80 HTTP/1.1\r\n", Refusal::Target),
    ("OPTIONS ** HTTP/1.1\r\n", Refusal::Target),
    ("CONNECT / HTTP/1.1\r\n", Refusal::Target),
    ("CONNECT a.test HTTP/1.1\r\n", Refusal::Target),
    ("CONNECT http://a.test:80/ HTTP/1.1\r\n", Refusal::Target),
    ("CONNECT a.test:80/ HTTP/1.1\r\n", Refusal::Target),
    ("GET ftp://a.test/ HTTP/1.1\r\n", Refusal::Target),
    ("GET http:///x HTTP/1.1\r\n", Refusal::Target),
    ("GET http:/x HTTP/1.1\r\n", Refusal::Target),
    ("GET http://u:p@a.test/ HTTP/1.1\r\n", Refusal::Target),
    ("GET http://a.test:x/ HTTP/1.1\r\n", Refusal::Target),
    // Fields.
    ("GET / HTTP/1.1\r\n H\r\n", Refusal::ObsFold),
    ("GET / HTTP/1.1\r\nH\r\n\tb\r\n", Refusal::ObsFold),
    ("GET / HTTP/1.1\r\nA: b\r\n c\r\nH\r\n", Refusal::ObsFold),
    ("GET / HTTP/1.1\r\nHost : a.test\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nHost\t: a.test\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nHost\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\n: a\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nA\0: a\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nA\u{e4}: a\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nA@b: a\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nA\rB: a\r\n", Refusal::FieldName),
    ("GET / HTTP/1.1\r\nA\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nA: b\0c\r\n", Refusal::FieldValue),
    ("GET / HTTP/1.1\r\nA: b\u{7f}\r\n", Refusal::FieldValue),
    ("GET / HTTP/1.1\r\nA: \u{b}b\r\n", Refusal::FieldValue),
    ("GET / HTTP/1.1\r\nA: b\u{1b}[1m\r\n", Refusal::FieldValue),
    ("GET / HTTP/1.1\r\nA: b\rc\r\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nA: b\nC: d\r\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nA: b\r\r\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nH\r\n\n", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nH\r\n\rZ", Refusal::BareLineEnd),
    ("GET / HTTP/1.1\r\nConnection: a b\r\n", Refusal::FieldValue),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", Refusal::HostMissing),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Refusal::HostMissing),
    ("GET / HTTP/1.0\r\nHost: \r\n\r\n", Refusal::HostMissing),
    ("GET http://a.test/ HTTP/1.1\r\n\r\n", Refusal::HostMissing),
    ("GET / HTTP/1.1\r\nH\r\nH\r\n", Refusal::HostAmbiguous),
    (
        "GET / HTTP/1.1\r\nH\r\nhOST: b.test\r\n",
        Refusal::HostAmbiguous,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test, b.test\r\n",
        Refusal::HostInvalid,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test,b.test\r\n",
        Refusal::HostInvalid,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a.test b.test\r\n",
        Refusal::HostInvalid,
    ),
    (
        "GET / HTTP/1.1\r\nHost: http://a.test\r\n",
        Refusal::HostInvalid,
    ),
    ("GET / HTTP/1.1\r\nHost: u@a.test\r\n", Refusal::HostInvalid),
    ("GET / HTTP/1.1\r\nHost: a.test/x\r\n", Refusal::HostInvalid),
    (
        "GET / HTTP/1.1\r\nHost: a.test:99999\r\n",
        Refusal::HostInvalid,
    ),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n", Refusal::HostInvalid),
    (
        "GET / HTTP/1.1\r\nHost: a\u{e4}.test\r\n",
        Refusal::HostInvalid,
    ),
    (
        "GET http://b.test/ HTTP/1.1\r\nH\r\n",
        Refusal::HostAmbiguous,
    ),
    (
        "GET http://a.test:81/ HTTP/1.1\r\nH\r\n",
        Refusal::HostAmbiguous,
    ),
    (
        "GET https://a.test:80/ HTTP/1.1\r\nH\r\n",
        Refusal::HostAmbiguous,
    ),
    (
        "CONNECT b.test:443 HTTP/1.1\r\nH\r\n",
        Refusal::HostAmbiguous,
    ),
    (
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:80\r\n",
        Refusal::HostAmbiguous,
    ),
    // Framing.
    (
        "POST / HTTP/1.1\r\nContent-Length:\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: +1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 0x1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1 1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1_0\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1.0\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1,\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nContent-Length: 1\u{b2}\r\n",
        Refusal::ContentLength,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::LengthConflict,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        Refusal::LengthConflict,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        Refusal::LengthConflict,
    ),
    (
        "POST / HTTP/1.0\r\nH\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding:\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: ,chunked\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked; q=1\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: chun\u{212a}ed\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nTransfer-Encoding: \u{b}chunked\r\n",
        Refusal::FieldValue,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: gzip\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: xchunked\r\n\r\n",
        Refusal::TransferEncoding,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        Refusal::TransferCodingUnknown,
    ),
    (
        "POST / HTTP/1.1\r\nH\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
        Refusal::TransferCodingUnknown,
    ),
    // The rest.
    (
        "CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\nContent-Length: 1\r\n\r\n",
        Refusal::Upgrade,
    ),
    (
        "POST / HTTP/1.1\r\nExpect: 200-ok\r\n",
        Refusal::Expectation,
    ),
    (
        "POST / HTTP/1.1\r\nExpect: 100-continue, x\r\n",
        Refusal::Expectation,
    ),
    ("GET / HTTP/1.1\r\nUpgrade: a b\r\n", Refusal::Upgrade),
];

fn spell(text: &str) -> Vec<u8> {
    text.replace("\r\nH\r\n", "\r\nHost: a.test\r\n")
        .replace("\r\nH\r\n", "\r\nHost: a.test\r\n")
        .into_bytes()
}

#[test]
fn what_the_grammar_does_not_allow_is_refused_with_its_reason() {
    for (text, refusal) in REFUSED {
        let input = spell(text);
        let mut head = RequestHead::default();
        let found = parse_request(&input, &LIMITS, &mut head);
        assert_eq!(found, Err(*refusal), "{text:?}");
    }
}

#[test]
fn a_target_a_head_and_its_fields_have_bounds() {
    let exact = |target: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(target));
    let limit = LIMITS.target_bytes as usize;
    assert!(request(exact(limit - 1).as_bytes()).is_ok());
    assert_eq!(
        request(exact(limit).as_bytes()).unwrap_err(),
        Refusal::TargetTooLong
    );
    let without_end = format!("GET /{}", "x".repeat(limit));
    assert_eq!(
        request(without_end.as_bytes()).unwrap_err(),
        Refusal::TargetTooLong
    );

    let head = |value: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
            "x".repeat(value)
        )
    };
    let room = LIMITS.head_bytes as usize - head(0).len();
    assert!(request(head(room).as_bytes()).is_ok());
    assert_eq!(
        request(head(room + 1).as_bytes()).unwrap_err(),
        Refusal::HeadTooLong
    );

    let many = |count: u32| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "A: b\r\n".repeat(count as usize)
        )
    };
    assert!(request(many(LIMITS.fields - 1).as_bytes()).is_ok());
    assert_eq!(
        request(many(LIMITS.fields).as_bytes()).unwrap_err(),
        Refusal::TooManyFields
    );
}

#[test]
fn a_request_is_understood() {
    let (meta, head) = request(
        b"\r\n\r\nPOST /a/b?c=d HTTP/1.1\r\nuser-agent: \t x y \t\r\nHOST: A.test:8080\r\n\
          Content-Length: 010\r\nX-Empty:\r\nX-Text: \xff\t\xe4\r\nTE: gzip, trailers\r\n\
          Expect: 100-Continue\r\nTrailer: x\r\n\r\n0123456789",
    )
    .unwrap();
    assert_eq!(meta.framing, Framing::Exact(10));
    assert!(meta.keep_alive);
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.version, Version::Http11);
    assert_eq!(
        (head.path(), head.query()),
        (&b"/a/b"[..], Some(&b"c=d"[..]))
    );
    assert_eq!(
        (head.authority(), head.host()),
        (&b"a.test:8080"[..], &b"a.test"[..])
    );
    assert_eq!(head.length, Length::Exact(10));
    assert!(head.expects_continue && head.accepts_trailers);
    let fields: Vec<_> = head.fields.iter().map(|f| (f.spelled, f.value)).collect();
    assert_eq!(
        fields,
        [
            (&b"user-agent"[..], &b"x y"[..]),
            (b"X-Empty", b""),
            (b"X-Text", b"\xff\t\xe4"),
        ]
    );
}

#[test]
fn each_form_of_target_yields_host_and_path() {
    for (line, authority, target) in [
        (
            "GET http://b.test HTTP/1.1\r\nHost: B.test:80",
            "b.test",
            "/",
        ),
        (
            "GET HTTP://b.test:80?x=/ HTTP/1.1\r\nHost: b.test",
            "b.test:80",
            "/?x=/",
        ),
        (
            "GET https://b.test/x HTTP/1.1\r\nHost: b.test:443",
            "b.test",
            "/x",
        ),
        (
            "GET http://[::1]:8080/ HTTP/1.1\r\nHost: [::1]:8080",
            "[::1]:8080",
            "/",
        ),
        ("GET http://b.test/ HTTP/1.0", "b.test", "/"),
        ("GET http://b.test/ HTTP/1.1\r\nHost: b.test", "b.test", "/"),
        (
            "OPTIONS http://b.test HTTP/1.1\r\nHost: b.test",
            "b.test",
            "*",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: b.test", "b.test", "*"),
        ("OPTIONS /x HTTP/1.1\r\nHost: b.test", "b.test", "/x"),
        (
            "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test",
            "b.test:443",
            "",
        ),
        (
            "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443",
            "b.test:443",
            "",
        ),
        (
            "GET //b.test/x HTTP/1.1\r\nHost: a.test",
            "a.test",
            "//b.test/x",
        ),
        ("GET / HTTP/1.0", "", "/"),
        ("BREW /{\"|\\^` HTTP/1.0", "", "/{\"|\\^`"),
    ] {
        let (_, head) = request(format!("{line}\r\n\r\n").as_bytes()).expect(line);
        assert_eq!(head.authority(), authority.as_bytes(), "{line}");
        assert_eq!(head.target(), target.as_bytes(), "{line}");
    }
}

#[test]
fn what_follows_a_head_depends_on_version_and_fields() {
    for (line, framing, keep_alive) in [
        ("GET / HTTP/1.1", Framing::None, true),
        ("POST / HTTP/1.1", Framing::None, true),
        (
            "GET / HTTP/1.1\r\nContent-Length: 0",
            Framing::Exact(0),
            true,
        ),
        (
            "GET / HTTP/1.1\r\nTransfer-Encoding: Chunked",
            Framing::Chunked,
            true,
        ),
        (
            "PUT / HTTP/1.1\r\ncontent-length: 9223372036854775807\r\nConnection: close",
            Framing::Exact(i64::MAX as u64),
            false,
        ),
        ("GET / HTTP/1.0", Framing::None, false),
        (
            "POST / HTTP/1.0\r\nContent-Length: 3\r\nConnection: Keep-Alive",
            Framing::Exact(3),
            true,
        ),
    ] {
        let (meta, _) = request(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).expect(line);
        assert_eq!(
            (meta.framing, meta.keep_alive),
            (framing, keep_alive),
            "{line}"
        );
    }
}

#[test]
fn fields_of_one_connection_stay_behind() {
    let (meta, head) = request(
        b"GET / HTTP/1.1\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
          Proxy-Connection: keep-alive\r\nCookie: a\r\nConnection: cookie, host, content-length\r\n\
          HTTP2-Settings: AAMAAABk\r\nHost: a.test\r\nContent-Length: 3\r\nX-End: 1\r\n\r\n",
    )
    .unwrap();
    assert_eq!(lines(&head.fields), ["Cookie: a", "X-End: 1"]);
    assert!(!meta.keep_alive);
    assert_eq!(meta.framing, Framing::Exact(3));
    assert_eq!(head.authority(), b"a.test");
}

#[test]
fn an_upgrade_needs_its_option_and_leaves_no_doubt() {
    for (line, protocol) in [
        (
            "GET / HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket",
            "websocket",
        ),
        (
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\nUpgrade: WebSocket\r\nConnection: upgrade",
            "WebSocket",
        ),
        ("GET / HTTP/1.1\r\nUpgrade: websocket", ""),
        (
            "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
            "",
        ),
        (
            "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket",
            "",
        ),
        (
            "HEAD / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket",
            "",
        ),
        (
            "POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
            "",
        ),
        (
            "POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: tcp\r\nContent-Length: 0",
            "tcp",
        ),
    ] {
        let (_, head) = request(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).expect(line);
        assert_eq!(head.protocol, protocol.as_bytes(), "{line}");
    }
}

#[test]
fn an_expectation_counts_only_with_content_and_in_http_1_1() {
    for (line, expects) in [
        (
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked",
            true,
        ),
        (
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0",
            false,
        ),
        ("GET / HTTP/1.1\r\nExpect: 100-continue", false),
        (
            "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1",
            false,
        ),
        ("POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1", false),
    ] {
        let (_, head) = request(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).expect(line);
        assert_eq!(head.expects_continue, expects, "{line}");
    }
}

#[test]
fn a_parser_reads_one_head_after_the_other() {
    let input = b"GET /1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n\r\nGET /2 HTTP/1.0\r\n\r\n";
    let mut parser = RequestParser::default();
    let mut head = RequestHead::default();
    let first = parser.parse(input, &LIMITS, &mut head).unwrap().unwrap();
    assert_eq!((head.target(), head.fields.len()), (&b"/1"[..], 1));
    let rest = &input[first.consumed..];
    let second = parser.parse(rest, &LIMITS, &mut head).unwrap().unwrap();
    assert_eq!(second.consumed, rest.len());
    assert_eq!((head.target(), head.fields.len()), (&b"/2"[..], 0));
    assert_eq!(head.authority(), b"");
}
