//! Field blocks (RFC 7541; RFC 9113, 4.3).

use crate::case::{
    Answered, Away, COMPRESSION, Case, MALFORMED, SERVED, case, check, request, served,
};
use proxy_tests::http2::error::{COMPRESSION_ERROR, ENHANCE_YOUR_CALM, PROTOCOL_ERROR};
use proxy_tests::http2::hpack::{Block, Form, Text, huffman};
use proxy_tests::http2::{Connection, Frame};

/// The first entry behind the static table.
const DYNAMIC: u64 = 62;

/// `:authority`, `accept-encoding` and `user-agent` in the static table.
const ACCEPT_ENCODING: u64 = 16;
const USER_AGENT: u64 = 58;

/// Sends a request of this block.
fn ask(c: &mut Connection, stream: u32, block: Block) {
    c.send(Frame::headers(stream, block).ending());
}

/// Sends a request with something behind its fields.
fn with(c: &mut Connection, more: impl FnOnce(Block) -> Block) {
    ask(c, 1, more(request("GET")));
}

/// Sends a request with something before its fields.
fn behind(c: &mut Connection, stream: u32, first: Block) {
    let rest: Vec<u8> = request("GET").into();
    ask(c, stream, first.raw(&rest));
}

const FORMS: &[Case] = &[
    case(
        "6.1: indexed fields",
        |c| {
            ask(
                c,
                1,
                Block::new()
                    .indexed(2)
                    .indexed(6)
                    .indexed(4)
                    .field(":authority", "a.test"),
            )
        },
        SERVED,
    ),
    case(
        "6.2.1: kept, name of an entry",
        |c| with(c, |b| b.literal(Form::Indexed, USER_AGENT, "x")),
        SERVED,
    ),
    case(
        "6.2.1: kept, name of an entry, by Huffman's code",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, USER_AGENT, huffman("sluice"))
            })
        },
        SERVED,
    ),
    case(
        "6.2.1: kept, new name",
        |c| with(c, |b| b.literal(Form::Indexed, "x-test", "x")),
        SERVED,
    ),
    case(
        "6.2.1: kept, new name, by Huffman's code",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, huffman("x-test"), huffman("sluice"))
            })
        },
        SERVED,
    ),
    case(
        "6.2.2: not kept, name of an entry",
        |c| with(c, |b| b.literal(Form::Plain, USER_AGENT, "x")),
        SERVED,
    ),
    case(
        "6.2.2: not kept, name of an entry, by Huffman's code",
        |c| with(c, |b| b.literal(Form::Plain, USER_AGENT, huffman("sluice"))),
        SERVED,
    ),
    case(
        "6.2.2: not kept, new name",
        |c| with(c, |b| b.literal(Form::Plain, "x-test", "x")),
        SERVED,
    ),
    case(
        "6.2.2: not kept, new name, by Huffman's code",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, huffman("x-test"), huffman("sluice"))
            })
        },
        SERVED,
    ),
    case(
        "6.2.3: never kept, name of an entry",
        |c| with(c, |b| b.literal(Form::Never, USER_AGENT, "x")),
        SERVED,
    ),
    case(
        "6.2.3: never kept, name of an entry, by Huffman's code",
        |c| with(c, |b| b.literal(Form::Never, USER_AGENT, huffman("sluice"))),
        SERVED,
    ),
    case(
        "6.2.3: never kept, new name",
        |c| with(c, |b| b.literal(Form::Never, "x-test", "x")),
        SERVED,
    ),
    case(
        "6.2.3: never kept, new name, by Huffman's code",
        |c| {
            with(c, |b| {
                b.literal(Form::Never, huffman("x-test"), huffman("sluice"))
            })
        },
        SERVED,
    ),
    case(
        "5.2: a string without octets, by Huffman's code",
        |c| with(c, |b| b.field("x", huffman(""))),
        SERVED,
    ),
    case(
        "5.2: every short code",
        |c| {
            with(c, |b| {
                b.field("x", huffman("!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"))
            })
        },
        SERVED,
    ),
    case(
        "5.2: a code of 19 bits",
        |c| with(c, |b| b.field("x", Text::Coded(vec![0xff, 0xfe, 0x1f]))),
        SERVED,
    ),
    case(
        "5.2: a code of 20 bits",
        |c| with(c, |b| b.field("x", Text::Coded(vec![0xff, 0xfe, 0x6f]))),
        SERVED,
    ),
    case(
        "5.2: a string of the length that the prefix cannot say",
        |c| with(c, |b| b.field("x", &[b'x'; 127][..])),
        SERVED,
    ),
    case(
        "5.1: an integer of two octets more",
        |c| with(c, |b| b.field("x", &[b'x'; 4000][..])),
        SERVED,
    ),
    case(
        "5.1: an integer with zeros to spare",
        |c| {
            with(c, |b| {
                b.raw(&[0, 1, b'x', 0x7f, 0x81, 0x80, 0x00])
                    .raw(&[b'x'; 128])
            })
        },
        &[Answered(200), Away(COMPRESSION_ERROR)],
    ),
];

const TABLE: &[Case] = &[
    case(
        "2.3.2: an entry in the same block",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-test", "x").indexed(DYNAMIC)
            })
        },
        SERVED,
    ),
    case(
        "2.3.2: an entry of the block before",
        |c| {
            ask(c, 1, request("GET").literal(Form::Indexed, "x-test", "x"));
            c.outcome(1, false);
            ask(c, 3, request("GET").indexed(DYNAMIC));
        },
        SERVED,
    )
    .on(3),
    case(
        "2.3.2: the name of an entry",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-test", "x")
                    .literal(Form::Plain, DYNAMIC, "y")
            })
        },
        SERVED,
    ),
    case(
        "2.3.2: the second entry",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-a", "x")
                    .literal(Form::Indexed, "x-b", "x")
                    .indexed(DYNAMIC + 1)
            })
        },
        SERVED,
    ),
    case(
        "2.3.3: index beyond all entries",
        |c| with(c, |b| b.indexed(DYNAMIC)),
        COMPRESSION,
    ),
    case(
        "2.3.3: index behind the last entry",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-a", "x").indexed(DYNAMIC + 1)
            })
        },
        COMPRESSION,
    ),
    case(
        "2.3.3: index far beyond all entries",
        |c| with(c, |b| b.indexed(70_000)),
        COMPRESSION,
    ),
    case(
        "2.3.3: a name beyond all entries",
        |c| with(c, |b| b.literal(Form::Plain, DYNAMIC, "x")),
        COMPRESSION,
    ),
    case(
        "2.3.3: a name beyond all entries, to be kept",
        |c| with(c, |b| b.literal(Form::Indexed, DYNAMIC, "x")),
        COMPRESSION,
    ),
    case(
        "2.3.3: a name beyond all entries, never to be kept",
        |c| with(c, |b| b.literal(Form::Never, DYNAMIC, "x")),
        COMPRESSION,
    ),
    case(
        "4.4: an entry that has gone",
        |c| {
            with(c, |b| {
                let value = [b'x'; 3000];
                b.literal(Form::Indexed, "x-a", &value[..])
                    .literal(Form::Indexed, "x-b", &value[..])
                    .indexed(DYNAMIC + 1)
            })
        },
        COMPRESSION,
    ),
    case(
        "4.4: an entry that another has not driven out",
        |c| {
            with(c, |b| {
                let value = [b'x'; 1000];
                b.literal(Form::Indexed, "x-a", &value[..])
                    .literal(Form::Indexed, "x-b", &value[..])
                    .indexed(DYNAMIC + 1)
            })
        },
        SERVED,
    ),
    case(
        "4.4: an entry as large as the table",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-a", &[b'x'; 4096 - 32 - 3][..])
                    .indexed(DYNAMIC)
            })
        },
        SERVED,
    ),
    case(
        "4.4: an entry larger than the table",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-a", &[b'x'; 4096 - 32 - 2][..])
            })
        },
        SERVED,
    ),
    case(
        "4.4: an entry larger than the table leaves it empty",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-b", "x")
                    .literal(Form::Indexed, "x-a", &[b'x'; 4096][..])
                    .indexed(DYNAMIC)
            })
        },
        COMPRESSION,
    ),
    case(
        "4.4: an entry drives out the one that gives its name",
        |c| {
            with(c, |b| {
                b.literal(Form::Indexed, "x-a", &[b'x'; 2000][..])
                    .literal(Form::Indexed, DYNAMIC, &[b'y'; 3000][..])
                    .indexed(DYNAMIC)
            })
        },
        SERVED,
    ),
    case(
        "9113 4.3: an entry of a request that was refused",
        |c| {
            ask(
                c,
                1,
                request("GET")
                    .literal(Form::Indexed, "x-test", "x")
                    .field("connection", "close"),
            );
            c.outcome(1, false);
            if c.away().is_none() {
                ask(c, 3, request("GET").indexed(DYNAMIC));
            }
        },
        &[Answered(200), Away(PROTOCOL_ERROR)],
    )
    .on(3),
    case(
        "9113 4.3: an entry of a stream that was closed",
        |c| {
            served(c, 1);
            c.send(Frame::headers(3, request("POST")));
            c.send(Frame::headers(3, Block::new().literal(Form::Indexed, "x-sum", "1")).ending());
            c.outcome(3, false);
            ask(c, 5, request("GET").indexed(DYNAMIC));
        },
        SERVED,
    )
    .on(5),
];

const SIZES: &[Case] = &[
    case(
        "6.3: a smaller table",
        |c| behind(c, 1, Block::new().resized(100)),
        SERVED,
    ),
    case(
        "6.3: no table",
        |c| behind(c, 1, Block::new().resized(0)),
        SERVED,
    ),
    case(
        "6.3: as large as it may be",
        |c| behind(c, 1, Block::new().resized(4096)),
        SERVED,
    ),
    case(
        "6.3: smaller and larger again",
        |c| behind(c, 1, Block::new().resized(0).resized(4096)),
        SERVED,
    ),
    case(
        "6.3: in two blocks",
        |c| {
            behind(c, 1, Block::new().resized(0));
            behind(c, 3, Block::new().resized(4096));
        },
        SERVED,
    )
    .on(3),
    case(
        "6.3: larger than it may be",
        |c| behind(c, 1, Block::new().resized(1 << 20)),
        COMPRESSION,
    ),
    case(
        "6.3: larger than any number",
        |c| behind(c, 1, Block::new().resized(u64::from(u32::MAX))),
        COMPRESSION,
    ),
    case(
        "4.2: at the end of a block",
        |c| with(c, |b| b.resized(0)),
        COMPRESSION,
    ),
    case(
        "4.2: between two fields",
        |c| {
            ask(
                c,
                1,
                Block::new()
                    .indexed(2)
                    .indexed(6)
                    .resized(0)
                    .indexed(4)
                    .field(":authority", "a.test"),
            )
        },
        COMPRESSION,
    ),
    case(
        "4.3: a smaller table drives entries out",
        |c| {
            ask(c, 1, request("GET").literal(Form::Indexed, "x-test", "x"));
            c.outcome(1, false);
            ask(c, 3, Block::new().resized(0).indexed(DYNAMIC));
        },
        COMPRESSION,
    )
    .on(3),
    case(
        "4.3: a table without room keeps nothing",
        |c| {
            behind(
                c,
                1,
                Block::new()
                    .resized(0)
                    .literal(Form::Indexed, ":method", "GET")
                    .indexed(DYNAMIC),
            );
        },
        COMPRESSION,
    ),
    case(
        "6.3: no block but for the size",
        |c| {
            c.send(Frame::headers(1, Block::new().resized(0)).ending());
        },
        MALFORMED,
    ),
];

const BAD: &[Case] = &[
    case("6.1: index 0", |c| with(c, |b| b.indexed(0)), COMPRESSION),
    case(
        "5.1: an integer that is cut off",
        |c| with(c, |b| b.raw(&[0xff])),
        COMPRESSION,
    ),
    case(
        "5.1: an integer that goes on to the end",
        |c| with(c, |b| b.raw(&[0xff, 0x80, 0x80])),
        COMPRESSION,
    ),
    case(
        "5.1: an index of 64 bits",
        |c| {
            with(c, |b| {
                b.raw(&[
                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ])
            })
        },
        COMPRESSION,
    ),
    case(
        "5.1: an index that becomes small by overflow",
        |c| {
            with(c, |b| {
                b.raw(&[
                    0xff, 0x83, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ])
            })
        },
        COMPRESSION,
    ),
    case(
        "5.1: an index of 32 bits and one",
        |c| with(c, |b| b.raw(&[0xff, 0x83, 0xff, 0xff, 0xff, 0x0f])),
        COMPRESSION,
    ),
    case(
        "5.1: an integer of many octets",
        |c| with(c, |b| b.raw(&[0xff]).raw(&[0x80; 100]).raw(&[0])),
        COMPRESSION,
    ),
    case(
        "5.1: a size of the table of 64 bits",
        |c| {
            behind(
                c,
                1,
                Block::new().raw(&[
                    0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ]),
            )
        },
        COMPRESSION,
    ),
    case(
        "5.2: a name longer than its block",
        |c| with(c, |b| b.raw(&[0, 100, b'x'])),
        COMPRESSION,
    ),
    case(
        "5.2: a value longer than its block",
        |c| with(c, |b| b.raw(&[0, 1, b'x', 100, b'x'])),
        COMPRESSION,
    ),
    case(
        "5.2: a value longer than any",
        |c| {
            with(c, |b| {
                b.raw(&[
                    0, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                ])
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: a name without value",
        |c| with(c, |b| b.raw(&[0, 1, b'x'])),
        COMPRESSION,
    ),
    case(
        "5.2: a literal without name",
        |c| with(c, |b| b.raw(&[0x40])),
        COMPRESSION,
    ),
    case(
        "5.2: padding of more than 7 bits",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, ACCEPT_ENCODING, Text::Coded(vec![0x1f, 0xff]))
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: padding of zeros",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, ACCEPT_ENCODING, Text::Coded(vec![0x18]))
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: padding of one zero among ones",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, ACCEPT_ENCODING, Text::Coded(vec![0x1d]))
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: padding alone",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, ACCEPT_ENCODING, Text::Coded(vec![0xff]))
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: the symbol for the end",
        |c| {
            with(c, |b| {
                b.literal(
                    Form::Plain,
                    ACCEPT_ENCODING,
                    Text::Coded(vec![0xff, 0xff, 0xff, 0xff]),
                )
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: the symbol for the end, in a name",
        |c| {
            with(c, |b| {
                b.literal(Form::Plain, Text::Coded(vec![0xff, 0xff, 0xff, 0xfc]), "x")
            })
        },
        COMPRESSION,
    ),
    case(
        "5.2: bad padding in a name",
        |c| with(c, |b| b.literal(Form::Plain, Text::Coded(vec![0x18]), "x")),
        COMPRESSION,
    ),
    case(
        "5.2: a CRLF that is coded",
        |c| {
            with(c, |b| {
                b.field(
                    "x",
                    Text::Coded(vec![0xff, 0xff, 0xff, 0xf7, 0xff, 0xff, 0xff, 0xcf]),
                )
            })
        },
        MALFORMED,
    ),
    case(
        "7.3: entries that are large and called often",
        |c| {
            let block = request("GET").literal(Form::Indexed, "x-a", &[b'x'; 4000][..]);
            ask(c, 1, block.raw(&[0x80 | DYNAMIC as u8; 10_000]));
        },
        &[
            Answered(431),
            Answered(400),
            Away(ENHANCE_YOUR_CALM),
            Away(COMPRESSION_ERROR),
            Away(PROTOCOL_ERROR),
            crate::case::Reset(PROTOCOL_ERROR),
        ],
    ),
];

#[test]
fn fields_have_forms() {
    check("forms", FORMS);
}

#[test]
fn entries_are_kept_and_driven_out() {
    check("table", TABLE);
}

#[test]
fn tables_have_sizes() {
    check("sizes", SIZES);
}

#[test]
fn blocks_that_are_none_end_the_connection() {
    check("bad blocks", BAD);
}
