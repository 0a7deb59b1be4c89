//! Frames as such: format, size, and what may stand between the frames of a field block (RFC 9113,
//! sections 4, 5.5 and 6.10).

use crate::case::{
    Away, COMPRESSION, Case, Closed, FRAME_SIZE, IGNORED, PROTOCOL, Reset, SERVED, case, check,
    get, open, request, served,
};
use proxy_tests::http2::error::{
    COMPRESSION_ERROR, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED,
};
use proxy_tests::http2::{Connection, Frame, flag, kind};

/// One more than any frame may have, unless the receiver says otherwise.
const TOO_LONG: usize = 16_385;

/// The first part of a request's field block, and the rest.
fn halves() -> (Vec<u8>, Vec<u8>) {
    request("GET").split(9)
}

/// Begins a field block and does not end it.
fn begin(c: &mut Connection) {
    c.send(Frame::headers(1, halves().0).ending().unfinished());
}

const FORMAT: &[Case] = &[
    case(
        "4.1: a frame of unknown type",
        |c| {
            c.send(Frame::unknown(0));
        },
        IGNORED,
    ),
    case(
        "4.1: flags that are not defined for PING",
        |c| {
            c.send(Frame::new(kind::PING, 0xfe, 0, [0; 8]));
        },
        IGNORED,
    ),
    case(
        "4.1: flags that are not defined for HEADERS",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending().with(0xd2));
        },
        SERVED,
    ),
    case(
        "4.1: flags that are not defined for DATA",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"x").ending().with(0xf6));
        },
        SERVED,
    ),
    case(
        "4.1: flags that are not defined for RST_STREAM",
        |c| {
            open(c, 1);
            c.send(Frame::reset(1, 8).with(0xff));
        },
        IGNORED,
    ),
    case(
        "4.1: flags that are not defined for WINDOW_UPDATE",
        |c| {
            c.send(Frame::window_update(0, 1).with(0xff));
        },
        IGNORED,
    ),
    case(
        "4.1: the reserved bit of a stream's identifier",
        |c| {
            c.send(Frame::headers(1 | 1 << 31, request("GET")).ending());
        },
        SERVED,
    ),
    case(
        "4.1: the reserved bit of the connection's identifier",
        |c| {
            c.send(Frame {
                stream: 1 << 31,
                ..Frame::ping([0; 8])
            });
        },
        IGNORED,
    ),
    case(
        "4.1: half a frame's header, and the end",
        |c| {
            c.send_octets(&[0, 0, 8, 6]);
            c.finish();
        },
        &[
            Closed,
            Away(NO_ERROR),
            Away(PROTOCOL_ERROR),
            Away(FRAME_SIZE_ERROR),
        ],
    ),
    case(
        "4.1: half a frame, and the end",
        |c| {
            c.send_octets(&Frame::ping([0; 8]).encode()[..13]);
            c.finish();
        },
        &[
            Closed,
            Away(NO_ERROR),
            Away(PROTOCOL_ERROR),
            Away(FRAME_SIZE_ERROR),
        ],
    ),
    case(
        "4.1: a frame octet by octet",
        |c| {
            for octet in Frame::headers(1, request("GET")).ending().encode() {
                c.send_octets(&[octet]);
            }
            c.note(Frame::headers(1, request("GET")).ending());
        },
        SERVED,
    ),
    case(
        "5.5: an unknown frame on an idle stream",
        |c| {
            c.send(Frame::unknown(77));
        },
        IGNORED,
    ),
    case(
        "5.5: an unknown frame without octets",
        |c| {
            c.send(Frame::new(kind::UNKNOWN, 0, 0, []));
        },
        IGNORED,
    ),
    case(
        "5.5: an unknown frame of the largest size",
        |c| {
            c.send(Frame::new(kind::UNKNOWN, 0, 0, vec![0; 16_384]));
        },
        IGNORED,
    ),
    case(
        "5.5: an unknown frame between head and content",
        |c| {
            open(c, 1);
            c.send(Frame::unknown(1));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
    case(
        "5.5: an unknown frame on a closed stream",
        |c| {
            served(c, 1);
            c.send(Frame::unknown(1));
        },
        IGNORED,
    ),
    case(
        "5.5: every type that is not defined",
        |c| {
            for kind in kind::LAST + 1..=255 {
                c.send(Frame::new(kind, 0, 0, *b"x"));
            }
        },
        IGNORED,
    ),
];

const SIZE: &[Case] = &[
    case(
        "4.2: DATA of 2^14 octets",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, vec![0; 16_384]).ending());
        },
        SERVED,
    ),
    case(
        "4.2: DATA of more",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, vec![0; TOO_LONG]).ending());
        },
        &[Reset(FRAME_SIZE_ERROR), Away(FRAME_SIZE_ERROR)],
    ),
    case(
        "4.2: HEADERS of 2^14 octets",
        |c| {
            c.send(Frame::headers(1, request("GET").field("x", &vec![b'x'; 16_000][..])).ending());
        },
        SERVED,
    ),
    case(
        "4.2: HEADERS of more",
        |c| {
            c.send(Frame::headers(1, vec![0; TOO_LONG]).ending());
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: CONTINUATION of more",
        |c| {
            begin(c);
            c.send(Frame::continuation(1, vec![0; TOO_LONG]));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: SETTINGS of more",
        |c| {
            c.send(Frame::new(kind::SETTINGS, 0, 0, vec![0; 16_386]));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: PING of more",
        |c| {
            c.send(Frame::new(kind::PING, 0, 0, vec![0; TOO_LONG]));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: GOAWAY of more",
        |c| {
            c.send(Frame::new(kind::GOAWAY, 0, 0, vec![0; TOO_LONG]));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: an unknown frame of more",
        |c| {
            c.send(Frame::new(kind::UNKNOWN, 0, 0, vec![0; TOO_LONG]));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: the header of the largest frame there is",
        |c| {
            c.send_octets(&[0xff, 0xff, 0xff, kind::HEADERS, 4, 0, 0, 0, 1]);
            c.note(Frame::headers(1, []));
        },
        FRAME_SIZE,
    ),
    case(
        "4.2: HEADERS too short for their priority",
        |c| {
            c.send(Frame::headers(1, [0; 4]).ending().with(flag::PRIORITY));
        },
        &[Away(FRAME_SIZE_ERROR), Away(PROTOCOL_ERROR)],
    ),
    case(
        "4.2: HEADERS too short for the length of their padding",
        |c| {
            c.send(Frame::headers(1, []).ending().with(flag::PADDED));
        },
        &[Away(FRAME_SIZE_ERROR), Away(PROTOCOL_ERROR)],
    ),
    case(
        "4.2: DATA too short for the length of their padding",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, []).ending().with(flag::PADDED));
        },
        &[Away(FRAME_SIZE_ERROR), Away(PROTOCOL_ERROR)],
    ),
];

const CONTINUATION: &[Case] = &[
    case(
        "4.3: a block that is none",
        |c| {
            c.send(Frame::headers(1, [0, 0, 0, 0, 0xff]).ending());
        },
        COMPRESSION,
    ),
    case(
        "4.3: a block that ends within a field",
        |c| {
            c.send(Frame::headers(1, halves().0).ending());
        },
        COMPRESSION,
    ),
    case(
        "4.3: PRIORITY within a block",
        |c| {
            begin(c);
            c.send(Frame::priority(1, 0, 0));
        },
        PROTOCOL,
    ),
    case(
        "4.3: PRIORITY of another stream within a block",
        |c| {
            begin(c);
            c.send(Frame::priority(3, 0, 0));
        },
        PROTOCOL,
    ),
    case(
        "4.3: HEADERS of another stream within a block",
        |c| {
            begin(c);
            get(c, 3);
        },
        PROTOCOL,
    ),
    case(
        "4.3: HEADERS within a block",
        |c| {
            begin(c);
            get(c, 1);
        },
        PROTOCOL,
    ),
    case(
        "4.3: DATA within a block",
        |c| {
            begin(c);
            c.send(Frame::data(1, *b"x"));
        },
        PROTOCOL,
    ),
    case(
        "4.3: RST_STREAM within a block",
        |c| {
            begin(c);
            c.send(Frame::reset(1, 8));
        },
        PROTOCOL,
    ),
    case(
        "4.3: SETTINGS within a block",
        |c| {
            begin(c);
            c.send(Frame::settings(&[]));
        },
        PROTOCOL,
    ),
    case(
        "4.3: PING within a block",
        |c| {
            begin(c);
            c.send(Frame::ping([0; 8]));
        },
        PROTOCOL,
    ),
    case(
        "4.3: GOAWAY within a block",
        |c| {
            begin(c);
            c.send(Frame::go_away(0, NO_ERROR));
        },
        PROTOCOL,
    ),
    case(
        "4.3: WINDOW_UPDATE within a block",
        |c| {
            begin(c);
            c.send(Frame::window_update(0, 1));
        },
        PROTOCOL,
    ),
    case(
        "5.5: an unknown frame within a block",
        |c| {
            begin(c);
            c.send(Frame::unknown(0));
        },
        PROTOCOL,
    ),
    case(
        "5.5: an unknown frame of the stream within a block",
        |c| {
            begin(c);
            c.send(Frame::unknown(1));
        },
        PROTOCOL,
    ),
    case(
        "6.10: CONTINUATION of another stream within a block",
        |c| {
            begin(c);
            c.send(Frame::continuation(3, halves().1));
        },
        PROTOCOL,
    ),
    case(
        "6.10: HEADERS and CONTINUATION",
        |c| {
            begin(c);
            c.send(Frame::continuation(1, halves().1));
        },
        SERVED,
    ),
    case(
        "6.10: HEADERS and many CONTINUATION",
        |c| {
            let (first, rest) = halves();
            c.send(Frame::headers(1, first).ending().unfinished());
            for part in rest.chunks(16) {
                c.send(Frame::continuation(1, part).unfinished());
            }
            c.send(Frame::continuation(1, []));
        },
        SERVED,
    ),
    case(
        "6.10: HEADERS without octets, then CONTINUATION",
        |c| {
            c.send(Frame::headers(1, []).ending().unfinished());
            c.send(Frame::continuation(1, request("GET")));
        },
        SERVED,
    ),
    case(
        "6.10: CONTINUATION without octets in between",
        |c| {
            begin(c);
            c.send(Frame::continuation(1, []).unfinished());
            c.send(Frame::continuation(1, halves().1));
        },
        SERVED,
    ),
    case(
        "6.10: flags that are not defined for CONTINUATION",
        |c| {
            begin(c);
            c.send(Frame::continuation(1, halves().1).with(0xfb));
        },
        SERVED,
    ),
    case(
        "6.10: padding is of HEADERS alone",
        |c| {
            c.send(
                Frame::headers(1, halves().0)
                    .ending()
                    .unfinished()
                    .padded(9),
            );
            c.send(Frame::continuation(1, halves().1));
        },
        SERVED,
    ),
    case(
        "6.10: CONTINUATION of the connection",
        |c| {
            begin(c);
            c.send(Frame::continuation(0, halves().1));
        },
        PROTOCOL,
    ),
    case(
        "6.10: CONTINUATION behind a block that was whole",
        |c| {
            get(c, 1);
            c.send(Frame::continuation(1, []));
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "6.10: CONTINUATION behind the last CONTINUATION",
        |c| {
            begin(c);
            c.send(Frame::continuation(1, halves().1));
            c.send(Frame::continuation(1, halves().1));
        },
        &[Away(PROTOCOL_ERROR), Away(STREAM_CLOSED)],
    ),
    case(
        "6.10: CONTINUATION behind DATA",
        |c| {
            open(c, 1);
            c.send(Frame::data(1, *b"x"));
            c.send(Frame::continuation(1, halves().1));
        },
        PROTOCOL,
    ),
    case(
        "6.10: a block that is cut off by the end",
        |c| {
            begin(c);
            c.finish();
        },
        &[
            Closed,
            Away(NO_ERROR),
            Away(PROTOCOL_ERROR),
            Away(COMPRESSION_ERROR),
        ],
    ),
    case(
        "6.2: HEADERS of the connection",
        |c| {
            get(c, 0);
        },
        PROTOCOL,
    ),
    case(
        "6.2: padding as long as the frame",
        |c| {
            c.send(Frame::new(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM | flag::PADDED,
                1,
                [2, 0x82],
            ));
        },
        PROTOCOL,
    ),
    case(
        "6.2: padding",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending().padded(255));
        },
        SERVED,
    ),
    case(
        "6.2: padding without octets",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending().padded(0));
        },
        SERVED,
    ),
    case(
        "6.2: a priority",
        |c| {
            c.send(Frame::headers(1, request("GET")).ending().depending(0, 255));
        },
        SERVED,
    ),
    case(
        "6.2: a priority and padding",
        |c| {
            c.send(
                Frame::headers(1, request("GET"))
                    .ending()
                    .depending(3, 0)
                    .padded(100),
            );
        },
        SERVED,
    ),
];

#[test]
fn frames_have_a_format() {
    check("format", FORMAT);
}

#[test]
fn frames_have_a_size() {
    check("size", SIZE);
}

#[test]
fn field_blocks_are_not_interrupted() {
    check("field blocks", CONTINUATION);
}
