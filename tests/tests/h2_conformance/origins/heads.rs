//! The head of an answer.

use super::*;
use proxy_tests::http2::hpack::{Form, Text};

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

#[test]
fn heads_of_origins_are_judged() {
    check("origins' heads", HEADS);
}
