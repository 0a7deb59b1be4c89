//! Streams: their identifiers, states and number, and the frames that end them or rank them (RFC
//! 9113, sections 5, 6.1 to 6.4 and 6.8).

use crate::case::{
    Answered, Away, Case, Closed, FRAME_SIZE, GoesOn, IGNORED, PROTOCOL, Reset, SERVED, case,
    check, connect, get, half_closed, open, request, served,
};
use crate::support::{Sluice, origin};
use proxy_tests::http2::error::{
    CANCEL, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED,
};
use proxy_tests::http2::{Connection, Frame, Outcome, Role, flag, kind};

/// What is sent on a stream on which nothing more can come.
const ON_CLOSED: &[Outcome] = &[Reset(STREAM_CLOSED), Away(STREAM_CLOSED)];

/// The same for HEADERS, which would open a stream with too low an identifier (5.1.1).
const HEADERS_ON_CLOSED: &[Outcome] = &[
    Reset(STREAM_CLOSED),
    Away(STREAM_CLOSED),
    Away(PROTOCOL_ERROR),
];

/// An error of one frame's length, on a stream.
const LENGTH: &[Outcome] = &[Reset(FRAME_SIZE_ERROR), Away(FRAME_SIZE_ERROR)];

/// Opens a stream and resets it.
fn canceled(c: &mut Connection) {
    open(c, 1);
    c.send(Frame::reset(1, CANCEL));
}

const STATES: &[Case] = &[
    case(
        "5.1: DATA on an idle stream",
        |c| {
            c.send(Frame::data(1, *b"x").ending());
        },
        PROTOCOL,
    ),
    case(
        "5.1: RST_STREAM on an idle stream",
        |c| {
            c.send(Frame::reset(1, CANCEL));
        },
        PROTOCOL,
    ),
    case(
        "5.1: WINDOW_UPDATE on an idle stream",
        |c| {
            c.send(Frame::window_update(1, 100));
        },
        PROTOCOL,
    ),
    case(
        "5.1: CONTINUATION on an idle stream",
        |c| {
            c.send(Frame::continuation(1, request("GET")));
        },
        PROTOCOL,
    ),
    case(
        "5.1: PRIORITY on an idle stream",
        |c| {
            c.send(Frame::priority(1, 0, 255));
        },
        IGNORED,
    ),
    case(
        "5.1: DATA on a stream of the server",
        |c| {
            c.send(Frame::data(2, *b"x"));
        },
        PROTOCOL,
    ),
    case(
        "5.1: RST_STREAM on a stream of the server",
        |c| {
            c.send(Frame::reset(2, CANCEL));
        },
        PROTOCOL,
    ),
    case(
        "5.1: WINDOW_UPDATE on a stream of the server",
        |c| {
            c.send(Frame::window_update(2, 100));
        },
        PROTOCOL,
    ),
    case(
        "5.1: DATA on a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::data(1, *b"x").ending());
        },
        ON_CLOSED,
    ),
    case(
        "5.1: HEADERS on a half-closed stream",
        |c| {
            half_closed(c);
            get(c, 1);
        },
        HEADERS_ON_CLOSED,
    ),
    case(
        "5.1: CONTINUATION on a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::continuation(1, request("GET")));
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1: PRIORITY on a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::priority(1, 0, 255));
        },
        IGNORED,
    ),
    case(
        "5.1: RST_STREAM on a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::reset(1, CANCEL));
        },
        IGNORED,
    ),
    case(
        "5.1: WINDOW_UPDATE on a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::window_update(1, 100));
        },
        SERVED,
    ),
    case(
        "5.1: DATA on a stream that was reset",
        |c| {
            canceled(c);
            c.send(Frame::data(1, *b"x").ending());
        },
        ON_CLOSED,
    ),
    case(
        "5.1: HEADERS on a stream that was reset",
        |c| {
            canceled(c);
            get(c, 1);
        },
        HEADERS_ON_CLOSED,
    ),
    case(
        "5.1: CONTINUATION on a stream that was reset",
        |c| {
            canceled(c);
            c.send(Frame::continuation(1, request("GET")));
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1: PRIORITY on a stream that was reset",
        |c| {
            canceled(c);
            c.send(Frame::priority(1, 0, 255));
        },
        IGNORED,
    ),
    case(
        "5.1: RST_STREAM on a stream that was reset",
        |c| {
            canceled(c);
            c.send(Frame::reset(1, CANCEL));
        },
        &[GoesOn, Reset(STREAM_CLOSED), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1: DATA on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::data(1, *b"x").ending());
        },
        ON_CLOSED,
    ),
    case(
        "5.1: HEADERS on a closed stream",
        |c| {
            served(c, 1);
            get(c, 1);
        },
        HEADERS_ON_CLOSED,
    ),
    case(
        "5.1: CONTINUATION on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::continuation(1, request("GET")));
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1: PRIORITY on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::priority(1, 0, 255));
        },
        IGNORED,
    ),
    case(
        "5.1: WINDOW_UPDATE on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::window_update(1, 100));
        },
        IGNORED,
    ),
    case(
        "5.1: RST_STREAM on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::reset(1, CANCEL));
        },
        IGNORED,
    ),
    case(
        "6.1: DATA of the connection",
        |c| {
            open(c, 1);
            c.send(Frame::data(0, *b"x"));
        },
        PROTOCOL,
    ),
    case(
        "6.1: padding as long as the frame",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::DATA, flag::PADDED, 1, [4, 0, 0, 0]));
        },
        PROTOCOL,
    ),
    case(
        "6.1: padding and nothing else",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, []).ending().padded(255));
        },
        SERVED,
    ),
    case(
        "6.1: content and padding",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"xyz").ending().padded(200));
        },
        SERVED,
    ),
    case(
        "6.1: padding without octets",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"xyz").ending().padded(0));
        },
        SERVED,
    ),
    case(
        "6.1: content in several frames",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"x"));
            c.send(Frame::data(1, *b"y"));
            c.send(Frame::data(1, []).ending());
        },
        SERVED,
    ),
    case(
        "6.1: frames without octets in between",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, []));
            c.send(Frame::data(1, *b"y"));
            c.send(Frame::data(1, []));
            c.send(Frame::data(1, []).ending());
        },
        SERVED,
    ),
];

const IDENTIFIERS: &[Case] = &[
    case(
        "5.1.1: an even identifier",
        |c| {
            get(c, 2);
        },
        PROTOCOL,
    ),
    case(
        "5.1.1: an identifier below the last one",
        |c| {
            served(c, 5);
            get(c, 3);
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1.1: an identifier that was left out",
        |c| {
            get(c, 5);
            get(c, 1);
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "5.1.1: DATA on a stream that was left out",
        |c| {
            get(c, 5);
            c.send(Frame::data(1, *b"x"));
        },
        &[
            Reset(STREAM_CLOSED),
            Away(STREAM_CLOSED),
            Away(PROTOCOL_ERROR),
        ],
    ),
    case(
        "5.1.1: identifiers that are left out",
        |c| {
            served(c, 1);
            get(c, 101);
        },
        SERVED,
    )
    .on(101),
    case(
        "5.1.1: the highest identifier",
        |c| {
            get(c, 0x7fff_ffff);
        },
        SERVED,
    )
    .on(0x7fff_ffff)
    .last(),
];

const PRIORITIES: &[Case] = &[
    case(
        "6.3: PRIORITY of the connection",
        |c| {
            c.send(Frame::priority(0, 1, 0));
        },
        PROTOCOL,
    ),
    case(
        "6.3: PRIORITY of 4 octets",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::PRIORITY, 0, 1, [0; 4]));
        },
        LENGTH,
    ),
    case(
        "6.3: PRIORITY of 6 octets",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::PRIORITY, 0, 1, [0; 6]));
        },
        LENGTH,
    ),
    case(
        "6.3: the smallest weight",
        |c| {
            c.send(Frame::priority(1, 0, 0));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.3: the largest weight",
        |c| {
            c.send(Frame::priority(1, 0, 255));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.3: another stream to depend on",
        |c| {
            c.send(Frame::priority(1, 0, 255));
            c.send(Frame::priority(3, 1, 255));
            get(c, 3);
        },
        SERVED,
    )
    .on(3),
    case(
        "6.3: an exclusive dependency",
        |c| {
            c.send(Frame::priority(1, 3 | 1 << 31, 255));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.3: an idle stream to depend on",
        |c| {
            c.send(Frame::priority(1, 0x7fff_fff1, 255));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.3: PRIORITY of a stream above the one that is opened",
        |c| {
            c.send(Frame::priority(9, 0, 255));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.3: PRIORITY between head and content",
        |c| {
            open(c, 1);
            c.send(Frame::priority(1, 0, 3));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
    // RFC 9113 leaves all of priorities to be ignored; what RFC 7540 forbade is an error still.
    case(
        "7540 5.3.1: HEADERS that depend on themselves",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending().depending(1, 255));
        },
        &[Reset(PROTOCOL_ERROR), Away(PROTOCOL_ERROR)],
    ),
    case(
        "7540 5.3.1: PRIORITY that depends on itself",
        |c| {
            open(c, 1);
            c.send(Frame::priority(1, 1, 255));
        },
        &[Reset(PROTOCOL_ERROR), Away(PROTOCOL_ERROR)],
    ),
];

const ENDS: &[Case] = &[
    case(
        "6.4: RST_STREAM",
        |c| {
            open(c, 1);
            c.send(Frame::reset(1, CANCEL));
        },
        IGNORED,
    ),
    case(
        "6.4: RST_STREAM without error",
        |c| {
            open(c, 1);
            c.send(Frame::reset(1, NO_ERROR));
        },
        IGNORED,
    ),
    case(
        "6.4: RST_STREAM of the connection",
        |c| {
            open(c, 1);
            c.send(Frame::reset(0, CANCEL));
        },
        PROTOCOL,
    ),
    case(
        "6.4: RST_STREAM of 3 octets",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::RST_STREAM, 0, 1, [0; 3]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.4: RST_STREAM of 5 octets",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::RST_STREAM, 0, 1, [0; 5]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.4: RST_STREAM of 0 octets",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::RST_STREAM, 0, 1, []));
        },
        FRAME_SIZE,
    ),
    case(
        "7: RST_STREAM with an unknown error",
        |c| {
            open(c, 1);
            c.send(Frame::reset(1, 0xff));
        },
        IGNORED,
    ),
    case(
        "5.4.2: RST_STREAM within content",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, vec![0; 1000]));
            c.send(Frame::reset(1, CANCEL));
        },
        IGNORED,
    ),
    case(
        "6.8: GOAWAY",
        |c| {
            c.send(Frame::go_away(0, NO_ERROR));
        },
        &[GoesOn, Closed, Away(NO_ERROR)],
    )
    .last(),
    case(
        "6.8: GOAWAY with words",
        |c| {
            let mut frame = Frame::go_away(0, NO_ERROR);
            frame.payload.extend(b"good night");
            c.send(frame);
        },
        &[GoesOn, Closed, Away(NO_ERROR)],
    )
    .last(),
    case(
        "6.8: GOAWAY while a request is under way",
        |c| {
            open(c, 1);
            c.send(Frame::go_away(0, NO_ERROR));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    )
    .last(),
    case(
        "6.8: GOAWAY on a stream",
        |c| {
            c.send(Frame {
                stream: 1,
                ..Frame::go_away(0, NO_ERROR)
            });
        },
        PROTOCOL,
    ),
    case(
        "6.8: GOAWAY of 7 octets",
        |c| {
            c.send(Frame::new(kind::GOAWAY, 0, 0, [0; 7]));
        },
        FRAME_SIZE,
    ),
    case(
        "7: GOAWAY with an unknown error",
        |c| {
            c.send(Frame::go_away(0, 0xff));
        },
        &[GoesOn, Closed, Away(NO_ERROR)],
    )
    .last(),
];

#[test]
fn streams_have_states() {
    check("states", STATES);
}

#[test]
fn streams_have_identifiers() {
    check("identifiers", IDENTIFIERS);
}

#[test]
fn priorities_move_nothing() {
    check("priorities", PRIORITIES);
}

#[test]
fn streams_and_connections_end() {
    check("ends", ENDS);
}

/// RFC 9113, 5.1.2: one more is refused, and room comes again.
#[test]
fn no_more_streams_than_announced() {
    let mut sluice = Sluice::start(origin(), "", "");
    let mut c = Connection::new(Role::Client, connect(sluice.address));
    c.greet(&[]);
    let most = c.max_streams().expect("a bound, as 5.1.2 recommends");
    let beyond = 2 * most + 1;
    for stream in (1..=beyond).step_by(2) {
        open(&mut c, stream);
    }
    let outcome = c.outcome(beyond, false);
    let refused = [
        Reset(REFUSED_STREAM),
        Reset(PROTOCOL_ERROR),
        Away(PROTOCOL_ERROR),
    ];
    assert!(refused.contains(&outcome), "{outcome:?}");
    if matches!(outcome, Reset(_)) {
        c.send(Frame::data(1, []).ending());
        assert_eq!(c.outcome(1, false), Answered(200));
        get(&mut c, beyond + 2);
        assert_eq!(c.outcome(beyond + 2, false), Answered(200));
    }
    assert!(c.faults().is_empty(), "{:?}", c.faults());
    assert_eq!(sluice.complaint(), None);
}

/// RFC 9113, 6.8 and 5.4.1: GOAWAY tells which request was the last that may have been seen.
#[test]
fn goaway_names_the_last_stream() {
    let sluice = Sluice::start(origin(), "", "");
    let mut c = Connection::new(Role::Client, connect(sluice.address));
    c.greet(&[]);
    served(&mut c, 1);
    get(&mut c, 3);
    assert_eq!(c.outcome(3, false), Answered(200));
    c.send(Frame::new(kind::PING, 0, 0, [0; 6]));
    let outcome = c.outcome(5, false);
    assert!(matches!(outcome, Away(_)), "{outcome:?}");
    assert_eq!(c.last_of_goaway(), Some(3));
}
