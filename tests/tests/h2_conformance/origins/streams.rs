//! Streams, and what may come on them at all.

use super::*;
use proxy_tests::http2::kind;

const STREAMS: &[Case] = &[
    case(
        "an answer on a stream that nobody opened",
        |c, s| answer(c, s + 2),
        BAD,
    ),
    case("an answer on an even stream", |c, s| answer(c, s + 1), BAD),
    case("an answer on the connection", |c, _| answer(c, 0), BAD),
    case(
        "content of a stream that nobody opened",
        |c, s| {
            c.send(Frame::data(s + 2, *b"x"));
        },
        BAD,
    ),
    case(
        "content of the connection",
        |c, _| {
            c.send(Frame::data(0, *b"x"));
        },
        BAD,
    ),
    case(
        "a reset of a stream that nobody opened",
        |c, s| {
            c.send(Frame::reset(s + 2, error::CANCEL));
        },
        BAD,
    ),
    case(
        "a window of a stream that nobody opened",
        |c, s| {
            c.send(Frame::window_update(s + 2, 1));
        },
        BAD,
    ),
    case(
        "a push",
        |c, s| {
            c.send(Frame::push_promise(s, 2, request("GET")));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "a reset: REFUSED_STREAM",
        |c, s| {
            c.send(Frame::reset(s, error::REFUSED_STREAM));
        },
        &[Answered(502), Answered(503)],
    ),
    case(
        "a reset: CANCEL",
        |c, s| {
            c.send(Frame::reset(s, error::CANCEL));
        },
        BAD,
    ),
    case(
        "a reset: NO_ERROR",
        |c, s| {
            c.send(Frame::reset(s, error::NO_ERROR));
        },
        BAD,
    ),
    case(
        "a reset: HTTP_1_1_REQUIRED",
        |c, s| {
            c.send(Frame::reset(s, error::HTTP_1_1_REQUIRED));
        },
        BAD,
    ),
    case(
        "a reset: an unknown error",
        |c, s| {
            c.send(Frame::reset(s, u32::MAX));
        },
        BAD,
    ),
    case(
        "a reset of 3 octets",
        |c, s| {
            c.send(Frame::new(kind::RST_STREAM, 0, s, [0; 3]));
        },
        BAD,
    ),
    case(
        "GOAWAY that leaves the request out",
        |c, _| {
            c.send(Frame::go_away(0, error::NO_ERROR));
        },
        &[Answered(502), Answered(503)],
    ),
    case(
        "GOAWAY with an error",
        |c, s| {
            c.send(Frame::go_away(s, error::ENHANCE_YOUR_CALM));
            c.close();
        },
        BAD,
    ),
    case(
        "GOAWAY, then an answer",
        |c, s| {
            c.send(Frame::go_away(s, error::NO_ERROR));
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "GOAWAY of 4 octets",
        |c, _| {
            c.send(Frame::new(kind::GOAWAY, 0, 0, [0; 4]));
        },
        BAD,
    ),
    case(
        "GOAWAY on a stream",
        |c, s| {
            c.send(Frame {
                stream: s,
                ..Frame::go_away(s, 0)
            });
        },
        BAD,
    ),
    case("the end of the connection", |c, _| c.close(), BAD),
    case("silence", |_, _| {}, LATE),
];

#[test]
fn streams_of_origins_are_judged() {
    check("origins' streams", STREAMS);
}
