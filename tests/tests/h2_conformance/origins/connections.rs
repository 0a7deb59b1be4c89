//! What is wrong with the connection as a whole.

use super::*;
use proxy_tests::http2::kind;

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

#[test]
fn connections_to_origins_are_judged() {
    check("connections to origins", CONNECTIONS);
}
