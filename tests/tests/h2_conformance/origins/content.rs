//! Content and its end.

use super::*;
use proxy_tests::http2::{flag, kind};

/// It began well, unless its end was seen before its beginning was passed on.
const CUT_OR_BAD: &[Outcome] = &[Closed, Answered(502)];

const CONTENT: &[Case] = &[
    case("content", answer, WHOLE),
    case(
        "less content than announced",
        |c, s| {
            half(c, s);
            c.send(Frame::data(s, []).ending());
        },
        BAD_OR_CUT,
    ),
    case(
        "more content than announced",
        |c, s| {
            half(c, s);
            c.send(Frame::data(s, *b"too much").ending());
        },
        BAD_OR_CUT,
    ),
    case(
        "no content where some was announced",
        |c, s| only_head(c, s, &[(":status", "200"), ("content-length", "5")]),
        BAD_OR_CUT,
    ),
    case(
        "content behind 204",
        |c, s| {
            head(c, s, &[(":status", "204")]);
            c.send(Frame::data(s, *b"evil").ending());
        },
        &[Answered(204), Answered(502)],
    ),
    case(
        "content behind 304",
        |c, s| {
            head(c, s, &[(":status", "304"), ("content-length", "4")]);
            c.send(Frame::data(s, *b"evil").ending());
        },
        &[Answered(304), Answered(502)],
    ),
    case(
        "content with padding",
        |c, s| {
            head(c, s, &[(":status", "200"), ("content-length", "2")]);
            c.send(Frame::data(s, *b"ok").padded(255).ending());
        },
        WHOLE,
    ),
    case(
        "padding that does not fit",
        |c, s| {
            half(c, s);
            c.send(Frame::new(
                kind::DATA,
                flag::PADDED | flag::END_STREAM,
                s,
                [9, 0, 0],
            ));
        },
        BAD_OR_CUT,
    ),
    case(
        "content longer than a frame may be",
        |c, s| {
            half(c, s);
            c.send(Frame::data(s, vec![b'x'; 16_385]));
        },
        BAD_OR_CUT,
    ),
    case(
        "a second head",
        |c, s| {
            half(c, s);
            head(c, s, &[(":status", "200")]);
            rest(c, s);
        },
        BAD_OR_CUT,
    ),
    case(
        "trailers",
        |c, s| {
            head(c, s, &[(":status", "200")]);
            c.send(Frame::data(s, *b"ok"));
            only_head(c, s, &[("x-sum", "1")]);
        },
        WHOLE,
    ),
    case(
        "trailers before all content",
        |c, s| {
            half(c, s);
            only_head(c, s, &[("x-sum", "1")]);
        },
        BAD_OR_CUT,
    ),
    case(
        "trailers with a name in upper case",
        |c, s| {
            half(c, s);
            c.send(Frame::data(s, *b"other"));
            only_head(c, s, &[("X-Sum", "1")]);
        },
        BORNE,
    ),
    case(
        "trailers of two lines",
        |c, s| {
            head(c, s, &[(":status", "200")]);
            c.send(Frame::data(s, *b"ok"));
            only_head(c, s, &[("x-sum", "1\r\nx: y")]);
        },
        BAD_OR_CUT,
    ),
    case(
        "content behind the end",
        |c, s| {
            answer(c, s);
            c.send(Frame::data(s, *b"evil"));
        },
        WHOLE,
    ),
    case(
        "a head behind the end",
        |c, s| {
            answer(c, s);
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "a reset within",
        |c, s| {
            half(c, s);
            c.send(Frame::reset(s, error::INTERNAL_ERROR));
        },
        CUT_OR_BAD,
    ),
    case(
        "a reset without error within",
        |c, s| {
            half(c, s);
            c.send(Frame::reset(s, error::NO_ERROR));
        },
        CUT_OR_BAD,
    ),
    case(
        "an end of the connection within",
        |c, s| {
            half(c, s);
            c.close();
        },
        CUT_OR_BAD,
    ),
    case(
        "an end of the connection, of content without length",
        |c, s| {
            head(c, s, &[(":status", "200")]);
            c.send(Frame::data(s, *b"half"));
            c.close();
        },
        CUT_OR_BAD,
    ),
    case(
        "GOAWAY with an error within",
        |c, s| {
            half(c, s);
            c.send(Frame::go_away(s, error::INTERNAL_ERROR));
            c.close();
        },
        CUT_OR_BAD,
    ),
    case(
        "GOAWAY within, and the rest",
        |c, s| {
            half(c, s);
            c.send(Frame::go_away(s, error::NO_ERROR));
            rest(c, s);
        },
        WHOLE,
    ),
    case("silence within", half, CUT),
    case(
        "frames that do not matter within",
        |c, s| {
            half(c, s);
            c.send(Frame::ping([1; 8]));
            c.send(Frame::settings(&[]));
            c.send(Frame::unknown(0));
            c.send(Frame::unknown(s));
            c.send(Frame::priority(s, 0, 1));
            c.send(Frame::window_update(0, 1));
            c.send(Frame::window_update(s, 1));
            rest(c, s);
        },
        WHOLE,
    ),
    case(
        "frames without octets",
        |c, s| {
            half(c, s);
            for _ in 0..20 {
                c.send(Frame::data(s, []));
            }
            rest(c, s);
        },
        WHOLE,
    ),
    case(
        "content beyond every window",
        |c, s| {
            head(
                c,
                s,
                &[(":status", "200"), ("content-length", "1000000000")],
            );
            for _ in 0..2000 {
                c.send(Frame::data(s, vec![b'x'; 16_384]));
            }
        },
        CUT_OR_BAD,
    ),
];

#[test]
fn content_of_origins_is_judged() {
    check("origins' content", CONTENT);
}
