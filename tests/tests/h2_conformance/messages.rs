//! Requests and answers (RFC 9113, section 8).

use crate::case::{
    Answered, Away, Case, IGNORED, MALFORMED, PROTOCOL, Reset, SERVED, case, check, connect, get,
    open, request,
};
use crate::support::{Sluice, origin};
use proxy_tests::http2::error::{PROTOCOL_ERROR, STREAM_CLOSED};
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Role};

/// Sends a head with these fields behind those of GET.
fn with(c: &mut Connection, fields: &[(&str, &str)]) {
    let add = |block: Block, (name, value): &(&str, &str)| block.field(name, *value);
    let block = fields.iter().fold(request("GET"), add);
    c.send(Frame::headers(1, block).ending());
}

/// Sends a head of these fields.
fn of(c: &mut Connection, fields: &[(&str, &str)]) {
    c.send(Frame::headers(1, Block::of(fields)).ending());
}

/// Sends a head that announces so much content, and the content frame by frame.
fn announced(c: &mut Connection, length: &str, content: &[&str]) {
    let block = request("POST").field("content-length", length);
    c.send(Frame::headers(1, block));
    for (number, part) in (1..).zip(content) {
        let data = Frame::data(1, part.as_bytes());
        c.send(if number == content.len() {
            data.ending()
        } else {
            data
        });
    }
}

/// Sends a request with content and these trailers.
fn trailers(c: &mut Connection, fields: &[(&str, &str)]) {
    open(c, 1);
    c.send(Frame::data(1, *b"content"));
    c.send(Frame::headers(1, Block::of(fields)).ending());
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a.test");
const PATH: (&str, &str) = (":path", "/");

const EXCHANGES: &[Case] = &[
    case("8.1: GET", |c| get(c, 1), SERVED),
    case(
        "8.1: HEAD",
        |c| {
            c.send(Frame::headers(1, request("HEAD")).ending());
        },
        SERVED,
    ),
    case(
        "8.1: POST",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
    case(
        "8.1: POST without content",
        |c| {
            c.send(Frame::headers(1, request("POST")).ending());
        },
        SERVED,
    ),
    case(
        "8.1: GET with content",
        |c| {
            c.send(Frame::headers(1, request("GET")));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
    case(
        "8.1: OPTIONS of the server",
        |c| {
            of(
                c,
                &[(":method", "OPTIONS"), SCHEME, AUTHORITY, (":path", "*")],
            )
        },
        SERVED,
    ),
    case("8.1: trailers", |c| trailers(c, &[("x-sum", "1")]), SERVED),
    case("8.1: trailers without fields", |c| trailers(c, &[]), SERVED),
    case(
        "8.1: trailers without content",
        |c| {
            open(c, 1);
            c.send(Frame::headers(1, Block::of(&[("x-sum", "1")])).ending());
        },
        SERVED,
    ),
    case(
        "8.1: a second head that does not end",
        |c| {
            open(c, 1);
            c.send(Frame::headers(1, request("POST")));
        },
        MALFORMED,
    ),
    case(
        "8.1: trailers that do not end",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"x"));
            c.send(Frame::headers(1, Block::of(&[("x-sum", "1")])));
        },
        MALFORMED,
    ),
    case(
        "8.1: content behind trailers",
        |c| {
            trailers(c, &[("x-sum", "1")]);
            c.send(Frame::data(1, *b"x"));
        },
        &[Reset(STREAM_CLOSED), Away(STREAM_CLOSED), Answered(200)],
    ),
    case(
        "8.1: trailers with :method",
        |c| trailers(c, &[METHOD]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with :path",
        |c| trailers(c, &[PATH, ("x-sum", "1")]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with :status",
        |c| trailers(c, &[(":status", "200")]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with an unknown pseudo-field",
        |c| trailers(c, &[(":sum", "1")]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with a name in upper case",
        |c| trailers(c, &[("X-Sum", "1")]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with a field of the connection",
        |c| trailers(c, &[("connection", "close")]),
        MALFORMED,
    ),
    case(
        "8.1: trailers with a value of two lines",
        |c| trailers(c, &[("x-sum", "1\r\nx: y")]),
        MALFORMED,
    ),
    case(
        "8.4: PUSH_PROMISE",
        |c| {
            open(c, 1);
            c.send(Frame::push_promise(1, 2, request("GET")));
        },
        PROTOCOL,
    ),
    case(
        "8.4: PUSH_PROMISE of the connection",
        |c| {
            c.send(Frame::push_promise(0, 2, request("GET")));
        },
        PROTOCOL,
    ),
    case(
        "8.4: CANCEL_PUSH's counterpart of HTTP/3 is unknown",
        |c| {
            c.send(Frame::new(0xd, 0, 0, [0]));
        },
        IGNORED,
    ),
];

const LENGTHS: &[Case] = &[
    case(
        "8.1.1: as much as announced",
        |c| announced(c, "4", &["four"]),
        SERVED,
    ),
    case(
        "8.1.1: as much as announced, in frames",
        |c| announced(c, "4", &["f", "", "our", ""]),
        SERVED,
    ),
    case(
        "8.1.1: none, as announced",
        |c| announced(c, "0", &[""]),
        SERVED,
    ),
    case(
        "8.1.1: less than announced",
        |c| announced(c, "5", &["four"]),
        MALFORMED,
    ),
    case(
        "8.1.1: more than announced",
        |c| announced(c, "3", &["four"]),
        MALFORMED,
    ),
    case(
        "8.1.1: less than announced, in frames",
        |c| announced(c, "5", &["f", "our"]),
        MALFORMED,
    ),
    case(
        "8.1.1: more than announced, in frames",
        |c| announced(c, "3", &["f", "our"]),
        MALFORMED,
    ),
    case(
        "8.1.1: some where none was announced",
        |c| announced(c, "0", &["f"]),
        MALFORMED,
    ),
    case(
        "8.1.1: none where some was announced",
        |c| with(c, &[("content-length", "5")]),
        MALFORMED,
    ),
    case(
        "8.1.1: trailers in place of the rest",
        |c| {
            announced(c, "5", &["f", ""]);
        },
        MALFORMED,
    ),
    case(
        "8.1.1: trailers before all has come",
        |c| {
            c.send(Frame::headers(
                1,
                request("POST").field("content-length", "5"),
            ));
            c.send(Frame::data(1, *b"four"));
            c.send(Frame::headers(1, Block::of(&[("x-sum", "1")])).ending());
        },
        MALFORMED,
    ),
    case(
        "8.1.1: padding is no content",
        |c| {
            c.send(Frame::headers(
                1,
                request("POST").field("content-length", "4"),
            ));
            c.send(Frame::data(1, *b"four").padded(9).ending());
        },
        SERVED,
    ),
    case(
        "8.1.1: a length that is none",
        |c| with(c, &[("content-length", "x")]),
        MALFORMED,
    ),
    case(
        "8.1.1: a length below nothing",
        |c| with(c, &[("content-length", "-1")]),
        MALFORMED,
    ),
    case(
        "8.1.1: a length with a sign",
        |c| with(c, &[("content-length", "+0")]),
        MALFORMED,
    ),
    case(
        "8.1.1: a length beyond all numbers",
        |c| announced(c, "18446744073709551617", &["x"]),
        MALFORMED,
    ),
    case(
        "8.1.1: two lengths that differ",
        |c| with(c, &[("content-length", "0"), ("content-length", "1")]),
        MALFORMED,
    ),
    case(
        "8.1.1: a list of lengths that differ",
        |c| with(c, &[("content-length", "0, 1")]),
        MALFORMED,
    ),
    case(
        "8.1.1: a length without value",
        |c| with(c, &[("content-length", "")]),
        MALFORMED,
    ),
];

const FIELDS: &[Case] = &[
    case(
        "8.2: a name in upper case",
        |c| with(c, &[("X-TEST", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2: one letter in upper case",
        |c| with(c, &[("x-tesT", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name with a blank",
        |c| with(c, &[("x test", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name with a control character",
        |c| with(c, &[("x\x01", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name with DEL",
        |c| with(c, &[("x\x7f", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name beyond ASCII",
        |c| with(c, &[("x\u{e4}", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name with a colon",
        |c| with(c, &[("x:y", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name without octets",
        |c| with(c, &[("", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a name that is a colon",
        |c| with(c, &[(":", "ok")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a value with NUL",
        |c| with(c, &[("x", "a\0b")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a value with LF",
        |c| with(c, &[("x", "a\nb")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a value with CR",
        |c| with(c, &[("x", "a\rb")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a value with another request",
        |c| {
            with(
                c,
                &[("x", "a\r\n\r\nGET /evil HTTP/1.1\r\nhost: b\r\n\r\n")],
            )
        },
        MALFORMED,
    ),
    case(
        "8.2.1: a blank before the value",
        |c| with(c, &[("x", " a")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a blank behind the value",
        |c| with(c, &[("x", "a ")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a tab before the value",
        |c| with(c, &[("x", "\ta")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a tab behind the value",
        |c| with(c, &[("x", "a\t")]),
        MALFORMED,
    ),
    case(
        "8.2.1: a tab within the value",
        |c| with(c, &[("x", "a\tb")]),
        SERVED,
    ),
    case(
        "8.2.1: a value without octets",
        |c| with(c, &[("x", "")]),
        SERVED,
    ),
    case(
        "8.2.1: a value beyond ASCII",
        |c| with(c, &[("x", "\u{e4}")]),
        SERVED,
    ),
    case(
        "8.2.2: connection",
        |c| with(c, &[("connection", "keep-alive")]),
        MALFORMED,
    ),
    case(
        "8.2.2: keep-alive",
        |c| with(c, &[("keep-alive", "timeout=5")]),
        MALFORMED,
    ),
    case(
        "8.2.2: proxy-connection",
        |c| with(c, &[("proxy-connection", "keep-alive")]),
        MALFORMED,
    ),
    case(
        "8.2.2: transfer-encoding",
        |c| with(c, &[("transfer-encoding", "chunked")]),
        MALFORMED,
    ),
    case(
        "8.2.2: upgrade",
        |c| with(c, &[("upgrade", "websocket")]),
        MALFORMED,
    ),
    case(
        "8.2.2: te: trailers",
        |c| with(c, &[("te", "trailers")]),
        SERVED,
    ),
    case(
        "8.2.2: te with something else",
        |c| with(c, &[("te", "trailers, deflate;q=0.5")]),
        MALFORMED,
    ),
    case(
        "8.2.3: cookies in pieces",
        |c| {
            with(
                c,
                &[("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")],
            )
        },
        SERVED,
    ),
];

const PSEUDO: &[Case] = &[
    case(
        "8.3: in another order",
        |c| of(c, &[PATH, AUTHORITY, METHOD, SCHEME]),
        SERVED,
    ),
    case(
        "8.3: an unknown one",
        |c| with(c, &[(":test", "ok")]),
        MALFORMED,
    ),
    case(
        "8.3: an unknown one in front",
        |c| of(c, &[(":test", "ok"), METHOD, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3: that of answers",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")]),
        MALFORMED,
    ),
    case(
        "8.3: behind a field",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, ("x-test", "ok"), PATH]),
        MALFORMED,
    ),
    case(
        "8.3: a name in upper case",
        |c| of(c, &[(":METHOD", "GET"), SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: no :method",
        |c| of(c, &[SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: no :scheme",
        |c| of(c, &[METHOD, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: no :path",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY]),
        MALFORMED,
    ),
    case(
        "8.3.1: none at all",
        |c| of(c, &[("host", "a.test")]),
        MALFORMED,
    ),
    case("8.3.1: no field at all", |c| of(c, &[]), MALFORMED),
    case(
        "8.3.1: two :method",
        |c| of(c, &[METHOD, METHOD, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: two :scheme",
        |c| of(c, &[METHOD, SCHEME, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: two :authority",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: two :path",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, PATH, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: two :path that differ",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, PATH, (":path", "/b")]),
        MALFORMED,
    ),
    case(
        "8.3.1: an empty :path",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, (":path", "")]),
        MALFORMED,
    ),
    case(
        "8.3.1: a :path without slash",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, (":path", "a")]),
        MALFORMED,
    ),
    case(
        "8.3.1: a :path with a blank",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, (":path", "/a b")]),
        MALFORMED,
    ),
    case(
        "8.3.1: a :path with another request",
        |c| {
            of(
                c,
                &[
                    METHOD,
                    SCHEME,
                    AUTHORITY,
                    (":path", "/ HTTP/1.1\r\nhost: b\r\n\r\nGET /b"),
                ],
            )
        },
        MALFORMED,
    ),
    case(
        "8.3.1: an asterisk for GET",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, (":path", "*")]),
        MALFORMED,
    ),
    case(
        "8.3.1: an empty :method",
        |c| of(c, &[(":method", ""), SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: a :method with a blank",
        |c| of(c, &[(":method", "GET /b"), SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: an empty :scheme",
        |c| of(c, &[METHOD, (":scheme", ""), AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: a :scheme with a colon",
        |c| of(c, &[METHOD, (":scheme", "http:"), AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: an :authority with a user",
        |c| of(c, &[METHOD, SCHEME, (":authority", "user@a.test"), PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: an :authority with a path",
        |c| of(c, &[METHOD, SCHEME, (":authority", "a.test/b"), PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: an empty :authority",
        |c| of(c, &[METHOD, SCHEME, (":authority", ""), PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: no :authority and no host",
        |c| of(c, &[METHOD, SCHEME, PATH]),
        MALFORMED,
    ),
    case(
        "8.3.1: host in place of :authority",
        |c| of(c, &[METHOD, SCHEME, PATH, ("host", "a.test")]),
        SERVED,
    ),
    case(
        "8.3.1: host and :authority that agree",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "a.test")]),
        SERVED,
    ),
    case(
        "8.3.1: host and :authority that differ",
        |c| of(c, &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "b.test")]),
        MALFORMED,
    ),
    case(
        "8.3.1: two hosts",
        |c| {
            of(
                c,
                &[METHOD, SCHEME, PATH, ("host", "a.test"), ("host", "a.test")],
            )
        },
        MALFORMED,
    ),
];

#[test]
fn messages_are_exchanged() {
    check("exchanges", EXCHANGES);
}

#[test]
fn content_has_the_length_that_was_announced() {
    check("lengths", LENGTHS);
}

#[test]
fn fields_are_valid() {
    check("fields", FIELDS);
}

#[test]
fn pseudo_fields_are_valid() {
    check("pseudo-fields", PSEUDO);
}

fn begun() -> (Sluice, Connection) {
    let sluice = Sluice::start(origin(), "", "");
    let mut connection = Connection::new(Role::Client, connect(sluice.address));
    connection.greet(&[]);
    (sluice, connection)
}

/// RFC 9110, 9.3.2: an answer to HEAD has no content, whatever its length says.
#[test]
fn an_answer_to_head_has_no_content() {
    let (_sluice, mut c) = begun();
    let fields = [(":method", "HEAD"), SCHEME, AUTHORITY, (":path", "/500")];
    c.send(Frame::headers(1, Block::of(&fields)).ending());
    assert_eq!(c.outcome(1, false), Answered(200));
    assert_eq!(c.message(1).field("content-length"), b"500");
    assert!(c.message(1).content.is_empty());
}

/// RFC 9113, 5.1: an answer may be whole before its request is; then a reset without error asks for
/// no more, or the rest is taken.
#[test]
fn an_answer_before_the_request_has_ended_is_whole() {
    let origin = Sluice::start(origin(), "", "").address;
    let mut sluice = Sluice::start(origin, "", "");
    let mut c = Connection::new(Role::Client, connect(sluice.address));
    c.greet(&[]);
    // Nobody listens behind the first proxy any more.
    open(&mut c, 1);
    c.send(Frame::data(1, *b"x"));
    let outcome = c.outcome(1, false);
    assert!(matches!(outcome, Answered(502 | 503)), "{outcome:?}");
    c.send(Frame::data(1, *b"x").ending());
    get(&mut c, 3);
    let outcome = c.outcome(3, false);
    assert!(matches!(outcome, Answered(502 | 503)), "{outcome:?}");
    assert!(c.faults().is_empty(), "{:?}", c.faults());
    assert_eq!(sluice.complaint(), None);
    assert_ne!(c.away(), Some(PROTOCOL_ERROR));
}
