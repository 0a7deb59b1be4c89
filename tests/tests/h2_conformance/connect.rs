//! CONNECT (RFC 9113, 8.5) and extended CONNECT (RFC 8441).

use crate::case::{Answered, Away, Case, MALFORMED, Reset, case, check, connect, get};
use crate::support::{Sluice, origin};
use proxy_tests::http2::error::{CANCEL, PROTOCOL_ERROR, REFUSED_STREAM};
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Outcome, Role, setting};

const CONNECT: (&str, &str) = (":method", "CONNECT");
const WEBSOCKET: (&str, &str) = (":protocol", "websocket");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a.test");
const PATH: (&str, &str) = (":path", "/chat");

/// Sends a head of these fields that does not end the stream.
fn of(c: &mut Connection, fields: &[(&str, &str)]) {
    c.send(Frame::headers(1, Block::of(fields)));
}

/// What is not malformed, and not done either.
const NOT_DONE: &[Outcome] = &[
    Answered(400),
    Answered(403),
    Answered(404),
    Answered(405),
    Answered(501),
    Reset(PROTOCOL_ERROR),
    Reset(REFUSED_STREAM),
    Away(PROTOCOL_ERROR),
];

const CASES: &[Case] = &[
    case(
        "9113 8.5: CONNECT, of a server that is no tunnel",
        |c| of(c, &[CONNECT, (":authority", "a.test:443")]),
        NOT_DONE,
    ),
    case(
        "9113 8.5: CONNECT with :path",
        |c| of(c, &[CONNECT, (":authority", "a.test:443"), PATH]),
        MALFORMED,
    ),
    case(
        "9113 8.5: CONNECT with :scheme",
        |c| of(c, &[CONNECT, (":authority", "a.test:443"), SCHEME]),
        MALFORMED,
    ),
    case(
        "9113 8.5: CONNECT with both",
        |c| of(c, &[CONNECT, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "9113 8.5: CONNECT without :authority",
        |c| of(c, &[CONNECT]),
        MALFORMED,
    ),
    case(
        "9113 8.5: CONNECT without a port",
        |c| of(c, &[CONNECT, AUTHORITY]),
        NOT_DONE,
    ),
    case(
        "8441 4: :protocol without CONNECT",
        |c| of(c, &[(":method", "GET"), WEBSOCKET, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8441 4: :protocol without :scheme",
        |c| of(c, &[CONNECT, WEBSOCKET, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8441 4: :protocol without :path",
        |c| of(c, &[CONNECT, WEBSOCKET, SCHEME, AUTHORITY]),
        MALFORMED,
    ),
    case(
        "8441 4: :protocol without :authority",
        |c| of(c, &[CONNECT, WEBSOCKET, SCHEME, PATH]),
        MALFORMED,
    ),
    case(
        "8441 4: two :protocol",
        |c| of(c, &[CONNECT, WEBSOCKET, WEBSOCKET, SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8441 4: an empty :protocol",
        |c| of(c, &[CONNECT, (":protocol", ""), SCHEME, AUTHORITY, PATH]),
        MALFORMED,
    ),
    case(
        "8441 4: a :protocol of two lines",
        |c| {
            of(
                c,
                &[
                    CONNECT,
                    (":protocol", "websocket\r\nx: y"),
                    SCHEME,
                    AUTHORITY,
                    PATH,
                ],
            )
        },
        MALFORMED,
    ),
    case(
        "8441 4: :protocol behind a field",
        |c| {
            of(
                c,
                &[CONNECT, SCHEME, AUTHORITY, PATH, ("x", "y"), WEBSOCKET],
            )
        },
        MALFORMED,
    ),
    case(
        "8441 4: extended CONNECT with upgrade",
        |c| {
            of(
                c,
                &[
                    CONNECT,
                    WEBSOCKET,
                    SCHEME,
                    AUTHORITY,
                    PATH,
                    ("upgrade", "websocket"),
                ],
            )
        },
        MALFORMED,
    ),
    case(
        "8441 4: extended CONNECT with connection",
        |c| {
            of(
                c,
                &[
                    CONNECT,
                    WEBSOCKET,
                    SCHEME,
                    AUTHORITY,
                    PATH,
                    ("connection", "upgrade"),
                ],
            )
        },
        MALFORMED,
    ),
];

#[test]
fn tunnels_are_asked_for_as_the_rfcs_say() {
    check("CONNECT", CASES);
}

/// A tunnel to the origin's echo.
fn tunnel() -> (Sluice, Connection) {
    let sluice = Sluice::start(origin(), "", "");
    let mut c = Connection::new(Role::Client, connect(sluice.address));
    c.greet(&[]);
    assert_eq!(c.setting(setting::ENABLE_CONNECT_PROTOCOL), Some(1));
    of(
        &mut c,
        &[
            CONNECT,
            WEBSOCKET,
            SCHEME,
            AUTHORITY,
            PATH,
            ("sec-websocket-version", "13"),
        ],
    );
    assert!(c.read_until(|c| c.message(1).status() != 0));
    assert_eq!(c.message(1).status(), 200, "8441 5: 200 in place of 101");
    (sluice, c)
}

fn finish(mut sluice: Sluice, c: &Connection) {
    assert!(c.faults().is_empty(), "{:?}", c.faults());
    assert_eq!(sluice.complaint(), None);
}

#[test]
fn a_tunnel_carries_octets_both_ways_and_ends() {
    let (sluice, mut c) = tunnel();
    for text in ["first", "second"] {
        let length = c.message(1).content.len() + text.len();
        c.send(Frame::data(1, text.as_bytes()));
        assert!(c.read_until(|c| c.message(1).content.len() == length));
    }
    get(&mut c, 3);
    assert_eq!(
        c.outcome(3, false),
        Answered(200),
        "others are served meanwhile"
    );
    c.send(Frame::data(1, *b"last").ending());
    assert_eq!(c.outcome(1, false), Answered(200));
    assert_eq!(c.message(1).content, b"firstsecondlast");
    finish(sluice, &c);
}

/// RFC 8441, 5, and RFC 9113, 8.5: a reset is the connection's reset.
#[test]
fn a_tunnel_is_canceled() {
    let (sluice, mut c) = tunnel();
    c.send(Frame::data(1, *b"some"));
    c.send(Frame::reset(1, CANCEL));
    get(&mut c, 3);
    assert_eq!(c.outcome(3, false), Answered(200));
    finish(sluice, &c);
}

/// RFC 9113, 8.5: frames other than DATA and those that manage streams are errors in a tunnel.
#[test]
fn a_tunnel_has_no_second_head() {
    let (sluice, mut c) = tunnel();
    c.send(Frame::headers(1, Block::of(&[(":method", "GET")])));
    let outcome = c.outcome(1, false);
    assert!(MALFORMED.contains(&outcome), "{outcome:?}");
    finish(sluice, &c);
}
