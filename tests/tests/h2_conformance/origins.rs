//! Origins that speak HTTP/2 badly, or well and strangely, frame by frame: what the clients of a
//! proxy in front of them get, over HTTP/1 and over HTTP/2. Nobody may take a bad answer for a whole
//! one, and whatever an origin does, the next request to it is served when it behaves again.

use crate::case::{Answered, Closed, connect, request};
use crate::support::Sluice;
use proxy_tests::family;
use proxy_tests::http2::hpack::{Block, Form, Text};
use proxy_tests::http2::{Connection, Frame, Outcome, Role, error, flag, kind, setting};
use proxy_tests::wait;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long it may take until an origin that behaves again is used again.
const RECOVERY: Duration = Duration::from_secs(20);

/// What an origin does.
struct Case {
    about: &'static str,
    /// Does it, once a request has come on a stream; with [`Self::raw`], when the connection has
    /// just been opened, and the stream is 0.
    act: fn(&mut Connection, u32),
    /// What a client may get; [`Closed`] stands for an answer that is cut off.
    allowed: &'static [Outcome],
    raw: bool,
    /// Octets of content in the request.
    content: usize,
}

const fn case(
    about: &'static str,
    act: fn(&mut Connection, u32),
    allowed: &'static [Outcome],
) -> Case {
    Case {
        about,
        act,
        allowed,
        raw: false,
        content: 0,
    }
}

impl Case {
    const fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    const fn with_content(mut self, octets: usize) -> Self {
        self.content = octets;
        self
    }
}

/// The answer is no answer.
const BAD: &[Outcome] = &[Answered(502)];

/// None came in time.
const LATE: &[Outcome] = &[Answered(504)];

/// It began well.
const CUT: &[Outcome] = &[Closed];

/// It is whole.
const WHOLE: &[Outcome] = &[Answered(200)];

/// Whether it is an answer is seen at its end, which may come before it is passed on.
const BAD_OR_CUT: &[Outcome] = &[Answered(502), Closed];

/// It is borne for some time.
const BORNE: &[Outcome] = &[Answered(200), Answered(502), Closed];

/// Sends the head of an answer with these fields.
fn head(c: &mut Connection, stream: u32, fields: &[(&str, &str)]) {
    c.send(Frame::headers(stream, Block::of(fields)));
}

/// Sends an answer that is all head.
fn only_head(c: &mut Connection, stream: u32, fields: &[(&str, &str)]) {
    c.send(Frame::headers(stream, Block::of(fields)).ending());
}

/// Sends a good answer.
fn answer(c: &mut Connection, stream: u32) {
    head(c, stream, &[(":status", "200"), ("content-length", "2")]);
    c.send(Frame::data(stream, *b"ok").ending());
}

/// Sends the beginning of a good answer.
fn half(c: &mut Connection, stream: u32) {
    head(c, stream, &[(":status", "200"), ("content-length", "9")]);
    c.send(Frame::data(stream, *b"half"));
}

/// Sends the rest of it.
fn rest(c: &mut Connection, stream: u32) {
    c.send(Frame::data(stream, *b"other").ending());
}

const HEADS: &[Case] = &[
    case("no :status", |c, s| only_head(c, s, &[("x", "y")]), BAD),
    case("no field", |c, s| only_head(c, s, &[]), BAD),
    case(
        "two :status",
        |c, s| only_head(c, s, &[(":status", "200"), (":status", "200")]),
        BAD,
    ),
    case(
        "a :status that is no number",
        |c, s| only_head(c, s, &[(":status", "abc")]),
        BAD,
    ),
    case(
        "a :status of two digits",
        |c, s| only_head(c, s, &[(":status", "99")]),
        BAD,
    ),
    case(
        "a :status of four digits",
        |c, s| only_head(c, s, &[(":status", "0200")]),
        BAD,
    ),
    case(
        "a :status below 100",
        |c, s| only_head(c, s, &[(":status", "099")]),
        BAD,
    ),
    case(
        "an empty :status",
        |c, s| only_head(c, s, &[(":status", "")]),
        BAD,
    ),
    case(
        "a :status with a phrase",
        |c, s| only_head(c, s, &[(":status", "200 OK")]),
        BAD,
    ),
    case(
        "a :status behind a field",
        |c, s| only_head(c, s, &[("x", "y"), (":status", "200")]),
        BAD,
    ),
    case(
        "a pseudo-field of requests",
        |c, s| only_head(c, s, &[(":status", "200"), (":path", "/")]),
        BAD,
    ),
    case(
        "an unknown pseudo-field",
        |c, s| only_head(c, s, &[(":status", "200"), (":x", "y")]),
        BAD,
    ),
    case("101", |c, s| head(c, s, &[(":status", "101")]), BAD),
    case(
        "103 that ends the stream",
        |c, s| only_head(c, s, &[(":status", "103")]),
        BAD,
    ),
    case(
        "103, then 200",
        |c, s| {
            head(c, s, &[(":status", "103"), ("link", "<a>")]);
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "103, then content",
        |c, s| {
            head(c, s, &[(":status", "103")]);
            c.send(Frame::data(s, *b"x").ending());
        },
        BAD,
    ),
    case(
        "a name in upper case",
        |c, s| only_head(c, s, &[(":status", "200"), ("X-A", "y")]),
        BAD,
    ),
    case(
        "a name with a blank",
        |c, s| only_head(c, s, &[(":status", "200"), ("x a", "y")]),
        BAD,
    ),
    case(
        "a name without octets",
        |c, s| only_head(c, s, &[(":status", "200"), ("", "y")]),
        BAD,
    ),
    case(
        "a value of two lines",
        |c, s| {
            only_head(
                c,
                s,
                &[(":status", "200"), ("x", "a\r\nset-cookie: evil=1")],
            )
        },
        BAD,
    ),
    case(
        "a value with NUL",
        |c, s| only_head(c, s, &[(":status", "200"), ("x", "a\0")]),
        BAD,
    ),
    case(
        "a field of the connection",
        |c, s| only_head(c, s, &[(":status", "200"), ("connection", "close")]),
        BAD,
    ),
    case(
        "transfer-encoding",
        |c, s| {
            only_head(
                c,
                s,
                &[(":status", "200"), ("transfer-encoding", "chunked")],
            )
        },
        BAD,
    ),
    case(
        "upgrade",
        |c, s| only_head(c, s, &[(":status", "200"), ("upgrade", "h3")]),
        BAD,
    ),
    case(
        "a length that is none",
        |c, s| only_head(c, s, &[(":status", "200"), ("content-length", "x")]),
        BAD,
    ),
    case(
        "two lengths that differ",
        |c, s| {
            only_head(
                c,
                s,
                &[
                    (":status", "200"),
                    ("content-length", "0"),
                    ("content-length", "1"),
                ],
            )
        },
        BAD,
    ),
    case(
        "content before the head",
        |c, s| {
            c.send(Frame::data(s, *b"x"));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "a head of 70 000 octets in one field",
        |c, s| {
            let value = [b'x'; 14_000];
            let many = (0..5).fold(Block::new().indexed(8), |block, _| {
                block.field("x", &value[..])
            });
            in_pieces(c, s, many);
        },
        BAD,
    ),
    case(
        "a head of ten thousand fields",
        |c, s| {
            in_pieces(
                c,
                s,
                (0..10_000).fold(Block::new().indexed(8), |block, _| block.field("x", "y")),
            );
        },
        BAD,
    ),
    case(
        "a head without end",
        |c, s| {
            c.send(Frame::headers(s, Block::new().indexed(8)).unfinished());
            let more: Vec<u8> = Block::of(&[("x", "y")]).into();
            while c.send(Frame::continuation(s, &more[..]).unfinished()) {}
        },
        BAD,
    ),
    case(
        "a head without end or octets",
        |c, s| {
            c.send(Frame::headers(s, []).unfinished());
            while c.send(Frame::continuation(s, []).unfinished()) {}
        },
        BAD,
    ),
    case(
        "a head that grows when it is decoded",
        |c, s| {
            let block = Block::new()
                .indexed(8)
                .literal(Form::Indexed, "x", &[b'x'; 4000][..]);
            c.send(Frame::headers(s, block.raw(&[0x80 | 62; 10_000])).ending());
        },
        BAD,
    ),
    case(
        "an index beyond all entries",
        |c, s| {
            c.send(Frame::headers(s, Block::new().indexed(8).indexed(99)).ending());
        },
        BAD,
    ),
    case(
        "a string with bad padding",
        |c, s| {
            c.send(
                Frame::headers(
                    s,
                    Block::new().indexed(8).field("x", Text::Coded(vec![0x18])),
                )
                .ending(),
            );
        },
        BAD,
    ),
    case(
        "a table larger than allowed",
        |c, s| {
            c.send(Frame::headers(s, Block::new().resized(1 << 30).indexed(8)).ending());
        },
        BAD,
    ),
    case(
        "another frame within the head",
        |c, s| {
            c.send(Frame::headers(s, Block::new().indexed(8)).unfinished());
            c.send(Frame::ping([0; 8]));
        },
        BAD,
    ),
    case(
        "informational answers without number",
        |c, s| {
            for _ in 0..2000 {
                head(c, s, &[(":status", "103"), ("x", "y")]);
            }
        },
        BAD,
    ),
];

/// Sends an answer whose head takes several frames.
fn in_pieces(c: &mut Connection, stream: u32, block: Block) {
    let octets: Vec<u8> = block.into();
    c.send(Frame::headers(stream, []).ending().unfinished());
    for piece in octets.chunks(16_000) {
        c.send(Frame::continuation(stream, piece).unfinished());
    }
    c.send(Frame::continuation(stream, []));
}

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

/// It began well, unless its end was seen before its beginning was passed on.
const CUT_OR_BAD: &[Outcome] = &[Closed, Answered(502)];

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

const CONNECTIONS: &[Case] = &[
    case(
        "HTTP/1 in place of HTTP/2",
        |c, _| {
            c.send_octets(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        },
        BAD,
    )
    .raw(),
    case(
        "octets of no protocol",
        |c, _| {
            c.send_octets(&[0x80; 1000]);
        },
        BAD,
    )
    .raw(),
    case(
        "another frame in place of SETTINGS",
        |c, _| {
            c.send(Frame::ping([0; 8]));
        },
        BAD,
    )
    .raw(),
    case("the end in place of SETTINGS", |c, _| c.close(), BAD).raw(),
    case(
        "silence in place of SETTINGS",
        |_, _| {},
        &[Answered(502), Answered(504)],
    )
    .raw(),
    case(
        "ENABLE_PUSH of 1",
        |c, s| {
            c.send(Frame::settings(&[(setting::ENABLE_PUSH, 1)]));
            answer(c, s);
        },
        BAD_OR_CUT,
    ),
    case(
        "ENABLE_PUSH of 2",
        |c, s| {
            c.send(Frame::settings(&[(setting::ENABLE_PUSH, 2)]));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "a window of 2^31",
        |c, s| {
            c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "frames of 0",
        |c, s| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, 0)]));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "SETTINGS of 5 octets",
        |c, s| {
            c.send(Frame::new(kind::SETTINGS, 0, 0, [0; 5]));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "SETTINGS on a stream",
        |c, s| {
            c.send(Frame {
                stream: s,
                ..Frame::settings(&[])
            });
            answer(c, s);
        },
        BAD,
    ),
    case(
        "PING of 7 octets",
        |c, s| {
            c.send(Frame::new(kind::PING, 0, 0, [0; 7]));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "PING on a stream",
        |c, s| {
            c.send(Frame {
                stream: s,
                ..Frame::ping([0; 8])
            });
            answer(c, s);
        },
        BAD,
    ),
    case(
        "an increment of 0",
        |c, s| {
            c.send(Frame::window_update(0, 0));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "an increment of 0, of the stream",
        |c, s| {
            c.send(Frame::window_update(s, 0));
        },
        BAD,
    ),
    case(
        "a window beyond the largest",
        |c, s| {
            c.send(Frame::window_update(0, (1 << 31) - 1));
            answer(c, s);
        },
        BAD,
    ),
    case(
        "a frame longer than any",
        |c, _| {
            c.send_octets(&[0xff, 0xff, 0xff, kind::HEADERS, 4, 0, 0, 0, 1]);
        },
        BAD,
    ),
    case(
        "CONTINUATION without head",
        |c, s| {
            c.send(Frame::continuation(s, Block::new().indexed(8)));
        },
        BAD,
    ),
    case(
        "no table",
        |c, s| {
            c.send(Frame::settings(&[(setting::HEADER_TABLE_SIZE, 0)]));
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "a setting that nobody knows",
        |c, s| {
            c.send(Frame::settings(&[(0xff, 1)]));
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "no streams",
        |c, s| {
            c.send(Frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)]));
            answer(c, s);
        },
        WHOLE,
    ),
    case(
        "a window that stays shut",
        |c, s| {
            c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]));
            let _ = s;
        },
        &[Answered(504), Answered(502)],
    )
    .with_content(1 << 20),
    case("an answer before the content", answer, WHOLE).with_content(10),
    case(
        "an answer and a reset before the content",
        |c, s| {
            answer(c, s);
            c.send(Frame::reset(s, error::NO_ERROR));
        },
        &[Answered(200), Answered(502), Closed],
    )
    .with_content(1 << 20),
    case(
        "a window beyond the largest, of the stream",
        |c, s| {
            c.send(Frame::window_update(s, (1 << 31) - 1));
            c.send(Frame::window_update(s, (1 << 31) - 1));
        },
        BAD,
    )
    .with_content(1 << 20),
    case(
        "SETTINGS without number",
        |c, s| {
            for _ in 0..20_000 {
                c.send(Frame::settings(&[]));
            }
            answer(c, s);
        },
        BORNE,
    ),
    case(
        "PING without number",
        |c, s| {
            for _ in 0..20_000 {
                c.send(Frame::ping([3; 8]));
            }
            answer(c, s);
        },
        BORNE,
    ),
    case(
        "windows without number",
        |c, s| {
            for _ in 0..20_000 {
                c.send(Frame::window_update(s, 1));
            }
            answer(c, s);
        },
        BORNE,
    ),
    case(
        "unknown frames without number",
        |c, s| {
            for _ in 0..20_000 {
                c.send(Frame::unknown(0));
            }
            answer(c, s);
        },
        BORNE,
    ),
    case(
        "empty frames without number",
        |c, s| {
            half(c, s);
            for _ in 0..20_000 {
                c.send(Frame::data(s, []));
            }
            rest(c, s);
        },
        BORNE,
    ),
];

/// An origin that does what the case at hand says, or answers well.
struct Origin {
    address: SocketAddr,
    cases: &'static [Case],
    at_hand: AtomicUsize,
    is_well: AtomicBool,
    /// What the proxy must not have sent.
    faults: Mutex<Vec<String>>,
}

impl Origin {
    fn new(cases: &'static [Case]) -> Arc<Self> {
        let listener = TcpListener::bind(family::any()).expect("binds");
        let origin = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            cases,
            at_hand: AtomicUsize::new(0),
            is_well: AtomicBool::new(true),
            faults: Mutex::default(),
        });
        let accepting = Arc::clone(&origin);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let origin = Arc::clone(&accepting);
                std::thread::spawn(move || origin.serve(Connection::new(Role::Server, stream)));
            }
        });
        origin
    }

    fn serve(&self, mut c: Connection) {
        let is_well = || self.is_well.load(Ordering::SeqCst);
        let case = || &self.cases[self.at_hand.load(Ordering::SeqCst)];
        if !is_well() && case().raw {
            (case().act)(&mut c, 0);
            while !is_well() {
                std::thread::sleep(Duration::from_millis(5));
            }
            return;
        }
        c.greet(&[]);
        while let Some(stream) = c.request(false) {
            if is_well() {
                answer(&mut c, stream);
            } else {
                (case().act)(&mut c, stream);
            }
        }
        let mut faults = self.faults.lock().expect("no panic");
        let about = case().about;
        faults.extend(c.faults().iter().map(|fault| format!("{about}: {fault}")));
    }
}

/// What a client of HTTP/1 gets.
fn by_http_1(proxy: SocketAddr, content: usize) -> Outcome {
    let mut stream = connect(proxy);
    let method = if content > 0 { "POST" } else { "GET" };
    let fields = format!("Host: a.test\r\nConnection: close\r\nContent-Length: {content}");
    let _ = stream.write_all(format!("{method} / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
    let mut sending = stream.try_clone().expect("a handle");
    // It may be answered before it has all.
    let sender = std::thread::spawn(move || sending.write_all(&vec![b'x'; content]));
    stream
        .set_read_timeout(Some(wait::PATIENCE))
        .expect("a timeout");
    let mut octets = Vec::new();
    let mut piece = [0; 65_536];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        octets.extend(&piece[..read]);
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = sender.join();
    read_http_1(&octets)
}

/// What an answer by HTTP/1 is, if this is all.
fn read_http_1(mut octets: &[u8]) -> Outcome {
    loop {
        let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Outcome::Silence;
        };
        let (head, body) = octets.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status = head
            .get(9..12)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if (100..200).contains(&status) {
            octets = body;
            continue;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let is_whole = match length.and_then(|text| text.parse::<usize>().ok()) {
            _ if matches!(status, 204 | 304) => body.is_empty(),
            Some(length) => body.len() == length,
            None => body
                .windows(5)
                .any(|last| last == b"0\r\n\r\n" || last == b"0\r\nx-"),
        };
        return if is_whole { Answered(status) } else { Closed };
    }
}

/// What a client of HTTP/2 gets.
fn by_http_2(proxy: SocketAddr, content: usize) -> Outcome {
    let mut c = Connection::new(Role::Client, connect(proxy));
    // Whatever comes may come at once.
    let most = (1 << 31) - 1;
    c.greet(&[(setting::INITIAL_WINDOW_SIZE, most)]);
    c.send(Frame::window_update(0, most - 65_535));
    if content == 0 {
        c.send(Frame::headers(1, request("GET")).ending());
    } else {
        c.send(Frame::headers(1, request("POST")));
        // No more than the first window.
        let content = content.min(60_000);
        for piece in vec![b'x'; content].chunks(16_000) {
            c.send(Frame::data(1, piece));
        }
        c.send(Frame::data(1, []).ending());
    }
    let outcome = c.outcome(1, false);
    match outcome {
        // The head may have been passed on, or not yet.
        Outcome::Reset(error::INTERNAL_ERROR) => Closed,
        _ if !c.faults().is_empty() => panic!("the proxy sent {:?}", c.faults()),
        _ => outcome,
    }
}

/// True if a request is served before long.
fn serves_again(ask: impl Fn() -> Outcome) -> bool {
    let deadline = Instant::now() + RECOVERY;
    while ask() != Answered(200) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Runs cases, each for a client of each protocol, and fails with all that is wrong.
fn check(chapter: &str, cases: &'static [Case]) {
    let origin = Origin::new(cases);
    let begin = || {
        Sluice::start(
            origin.address,
            "",
            ", protocol: h2, timeouts: {connect: 3s, response: 3s, idle: 3s}",
        )
    };
    let mut sluice = begin();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (client, ask) in [
            ("HTTP/1", by_http_1 as fn(SocketAddr, usize) -> Outcome),
            ("HTTP/2", by_http_2),
        ] {
            if case.raw {
                // No connection is kept on which a request would come that has begun well.
                sluice = begin();
            }
            origin.at_hand.store(number, Ordering::SeqCst);
            origin.is_well.store(false, Ordering::SeqCst);
            let outcome = ask(sluice.address, case.content);
            println!("{client}, {}: {outcome:?}", case.about);
            if !case.allowed.contains(&outcome) {
                let allowed = case.allowed;
                wrong.push(format!(
                    "{client}, {}: {outcome:?}, not {allowed:?}",
                    case.about
                ));
            }
            origin.is_well.store(true, Ordering::SeqCst);
            if !serves_again(|| ask(sluice.address, 0)) {
                wrong.push(format!("{client}, {}: it is not served again", case.about));
            }
        }
        if let Some(complaint) = sluice.complaint() {
            panic!("{}: {complaint}", case.about);
        }
    }
    wrong.extend(origin.faults.lock().expect("no panic").drain(..));
    let all = cases.len();
    println!("{chapter}: {all} cases, each for two clients");
    let failed = wrong.len();
    assert!(
        wrong.is_empty(),
        "{failed} faults in {all} cases of {chapter}:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn heads_of_origins_are_judged() {
    check("origins' heads", HEADS);
}

#[test]
fn content_of_origins_is_judged() {
    check("origins' content", CONTENT);
}

#[test]
fn streams_of_origins_are_judged() {
    check("origins' streams", STREAMS);
}

#[test]
fn connections_to_origins_are_judged() {
    check("connections to origins", CONNECTIONS);
}
