//! What a client sends after a request was answered before all of it had come (RFC 9113, 8.1): the rest
//! of the request is ignored, but what is wrong is wrong all the same.

use crate::case::{Case, IGNORED, Reset, case, connect, open, request, run_all};
use crate::support::{Sluice, early_origin};
use proxy_tests::http2::error::{FLOW_CONTROL_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED};
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Outcome, setting};

/// Another reset than the one that stopped the request.
const PROTOCOL: &[Outcome] = &[Reset(PROTOCOL_ERROR)];
const CLOSED: &[Outcome] = &[Reset(STREAM_CLOSED)];
const FLOW: &[Outcome] = &[Reset(FLOW_CONTROL_ERROR)];

/// Waits until a request whose head was sent has been answered, and stopped.
fn answered(c: &mut Connection) {
    c.read_until(|c| c.message(1).reset.is_some());
    let answer = c.message(1);
    assert_eq!(
        (answer.status(), answer.is_whole),
        (200, true),
        "a whole answer"
    );
    assert_eq!(answer.reset, Some(NO_ERROR));
    c.forget(1);
}

/// Sends the head of a request, and waits for its answer.
fn early(c: &mut Connection) {
    open(c, 1);
    answered(c);
}

/// As [`early`], of a request that says how long its content will be.
fn early_with_length(c: &mut Connection, length: &str) {
    let head = request("POST").field("content-length", length);
    c.send(Frame::headers(1, head));
    answered(c);
}

fn trailers() -> Block {
    Block::of(&[("x-sum", "0")])
}

const CASES: &[Case] = &[
    case(
        "8.1: the rest of the request",
        |c| {
            early(c);
            c.send(Frame::data(1, *b"test"));
            c.send(Frame::window_update(1, 1));
            c.send(Frame::data(1, *b"test"));
            c.send(Frame::headers(1, trailers()).ending());
            c.send(Frame::window_update(1, 1));
        },
        IGNORED,
    ),
    case(
        "8.1: the rest of a request of a known length",
        |c| {
            early_with_length(c, "4");
            c.send(Frame::data(1, *b"te"));
            c.send(Frame::data(1, *b"st").ending());
        },
        IGNORED,
    ),
    case(
        "8.1: a second HEADERS without END_STREAM",
        |c| {
            early(c);
            c.send(Frame::headers(1, trailers()));
        },
        PROTOCOL,
    ),
    case(
        "8.1: a second HEADERS without END_STREAM behind content",
        |c| {
            early(c);
            c.send(Frame::data(1, *b"test"));
            c.send(Frame::headers(1, trailers()));
        },
        PROTOCOL,
    ),
    case(
        "8.1: pseudo-fields in trailers",
        |c| {
            early(c);
            c.send(Frame::headers(1, request("POST")).ending());
        },
        PROTOCOL,
    ),
    case(
        "8.1.1: less content than was said",
        |c| {
            early_with_length(c, "5");
            c.send(Frame::data(1, *b"test").ending());
        },
        PROTOCOL,
    ),
    case(
        "8.1.1: more content than was said",
        |c| {
            early_with_length(c, "3");
            c.send(Frame::data(1, *b"te"));
            c.send(Frame::data(1, *b"st"));
        },
        PROTOCOL,
    ),
    case(
        "5.1: content after the end",
        |c| {
            early(c);
            c.send(Frame::data(1, *b"te").ending());
            c.send(Frame::data(1, *b"st"));
        },
        CLOSED,
    ),
    case(
        "5.1: HEADERS after the end",
        |c| {
            early(c);
            c.send(Frame::headers(1, trailers()).ending());
            c.send(Frame::headers(1, trailers()).ending());
        },
        CLOSED,
    ),
    case(
        "6.9: a WINDOW_UPDATE of nothing",
        |c| {
            early(c);
            c.send(Frame::window_update(1, 0));
        },
        PROTOCOL,
    ),
    case(
        "6.9.1: a window beyond 2^31-1",
        |c| {
            early(c);
            c.send(Frame::window_update(1, 0x7fff_ffff));
        },
        FLOW,
    ),
    case(
        "6.9.2: a window that was taken back and opened",
        |c| {
            early(c);
            c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]));
            c.send(Frame::window_update(1, 0x7fff_ffff));
        },
        IGNORED,
    ),
];

#[test]
fn what_follows_an_early_answer_is_judged() {
    let mut sluice = Sluice::start(early_origin(), "", "");
    let address = sluice.address;
    run_all(
        "early answers",
        CASES,
        || connect(address),
        || sluice.complaint(),
    );
}
