//! SETTINGS and PING (RFC 9113, sections 6.5 and 6.7; RFC 8441, section 3).

use crate::case::{
    Answered, Away, Case, FRAME_SIZE, GoesOn, IGNORED, PROTOCOL, SERVED, case, check, connect, get,
    open, request,
};
use crate::support::{Sluice, origin};
use proxy_tests::http2::error::{FLOW_CONTROL_ERROR, PROTOCOL_ERROR};
use proxy_tests::http2::{Connection, Frame, Role, flag, kind, setting};

const SETTINGS: &[Case] = &[
    case(
        "6.5: SETTINGS",
        |c| {
            c.send(Frame::settings(&[]));
        },
        IGNORED,
    ),
    case(
        "6.5: an acknowledgement with octets",
        |c| {
            c.send(Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.5: SETTINGS on a stream",
        |c| {
            c.send(Frame {
                stream: 1,
                ..Frame::settings(&[])
            });
        },
        PROTOCOL,
    ),
    case(
        "6.5: an acknowledgement on a stream",
        |c| {
            c.send(Frame {
                stream: 1,
                ..Frame::settings_ack()
            });
        },
        PROTOCOL,
    ),
    case(
        "6.5: SETTINGS of 3 octets",
        |c| {
            c.send(Frame::new(kind::SETTINGS, 0, 0, [0; 3]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.5: SETTINGS of 7 octets",
        |c| {
            c.send(Frame::new(kind::SETTINGS, 0, 0, [0; 7]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.5: SETTINGS between head and content",
        |c| {
            open(c, 1);
            c.send(Frame::settings(&[]));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
    case(
        "6.5.2: ENABLE_PUSH of 2",
        |c| {
            c.send(Frame::settings(&[(setting::ENABLE_PUSH, 2)]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.2: ENABLE_PUSH of 0",
        |c| {
            c.send(Frame::settings(&[(setting::ENABLE_PUSH, 0)]));
        },
        IGNORED,
    ),
    case(
        "6.5.2: ENABLE_PUSH of 1",
        |c| {
            c.send(Frame::settings(&[(setting::ENABLE_PUSH, 1)]));
        },
        IGNORED,
    ),
    case(
        "6.5.2: a window of 2^31",
        |c| {
            c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]));
        },
        &[Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.5.2: a window of 2^32 - 1",
        |c| {
            c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, u32::MAX)]));
        },
        &[Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.5.2: the largest window",
        |c| {
            c.send(Frame::settings(&[(
                setting::INITIAL_WINDOW_SIZE,
                (1 << 31) - 1,
            )]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: frames of 2^14 - 1",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, 16_383)]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.2: frames of 0",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, 0)]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.2: frames of 2^24",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.2: frames of 2^24 - 1",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, (1 << 24) - 1)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: frames of 2^14",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_FRAME_SIZE, 16_384)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: no streams",
        |c| {
            c.send(Frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: no table",
        |c| {
            c.settle(&[(setting::HEADER_TABLE_SIZE, 0)]);
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: no table, then one",
        |c| {
            c.settle(&[
                (setting::HEADER_TABLE_SIZE, 0),
                (setting::HEADER_TABLE_SIZE, 4096),
            ]);
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: the largest table",
        |c| {
            c.settle(&[(setting::HEADER_TABLE_SIZE, u32::MAX)]);
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: an unknown setting",
        |c| {
            c.send(Frame::settings(&[(0xff, 1)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: a setting 0",
        |c| {
            c.send(Frame::settings(&[(0, u32::MAX)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.2: the setting that HTTP/1's upgrade had",
        |c| {
            c.send(Frame::settings(&[(7, 1)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.5.3: a bad value behind good ones",
        |c| {
            c.send(Frame::settings(&[
                (setting::MAX_FRAME_SIZE, 16_384),
                (0xff, 1),
                (setting::ENABLE_PUSH, 7),
            ]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.3: a bad value that a good one replaces",
        |c| {
            c.send(Frame::settings(&[
                (setting::ENABLE_PUSH, 7),
                (setting::ENABLE_PUSH, 0),
            ]));
        },
        PROTOCOL,
    ),
    case(
        "6.5.3: an acknowledgement of nothing",
        |c| {
            c.send(Frame::settings_ack());
        },
        &[GoesOn, Away(PROTOCOL_ERROR)],
    ),
    case(
        "8441 3: ENABLE_CONNECT_PROTOCOL of 1",
        |c| {
            c.send(Frame::settings(&[(setting::ENABLE_CONNECT_PROTOCOL, 1)]));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "8441 3: ENABLE_CONNECT_PROTOCOL of 2",
        |c| {
            c.send(Frame::settings(&[(setting::ENABLE_CONNECT_PROTOCOL, 2)]));
        },
        &[GoesOn, Away(PROTOCOL_ERROR)],
    ),
];

const PINGS: &[Case] = &[
    case(
        "6.7: PING",
        |c| {
            c.send(Frame::ping([7; 8]));
        },
        IGNORED,
    ),
    case(
        "6.7: an answer to no PING",
        |c| {
            c.send(Frame::new(kind::PING, flag::ACK, 0, *b"unasked!"));
        },
        IGNORED,
    ),
    case(
        "6.7: PING on a stream",
        |c| {
            c.send(Frame {
                stream: 1,
                ..Frame::ping([0; 8])
            });
        },
        PROTOCOL,
    ),
    case(
        "6.7: PING of 6 octets",
        |c| {
            c.send(Frame::new(kind::PING, 0, 0, [0; 6]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.7: PING of 9 octets",
        |c| {
            c.send(Frame::new(kind::PING, 0, 0, [0; 9]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.7: PING of 0 octets",
        |c| {
            c.send(Frame::new(kind::PING, 0, 0, []));
        },
        FRAME_SIZE,
    ),
    case(
        "6.7: an answer of 7 octets",
        |c| {
            c.send(Frame::new(kind::PING, flag::ACK, 0, [0; 7]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.7: PING between head and content",
        |c| {
            open(c, 1);
            c.send(Frame::ping([0; 8]));
            c.send(Frame::data(1, *b"x").ending());
        },
        SERVED,
    ),
];

#[test]
fn settings_have_values() {
    check("settings", SETTINGS);
}

#[test]
fn pings_are_answered() {
    check("pings", PINGS);
}

fn begun() -> (Sluice, Connection) {
    let sluice = Sluice::start(origin(), "", "");
    let mut connection = Connection::new(Role::Client, connect(sluice.address));
    connection.greet(&[]);
    (sluice, connection)
}

#[test]
fn the_answer_to_a_ping_is_the_same() {
    let (_sluice, mut c) = begun();
    for octets in [*b"sluice!!", [0; 8], [0xff; 8]] {
        c.send(Frame::ping(octets));
    }
    assert!(c.read_until(|c| c.pongs().len() == 3));
    assert_eq!(c.pongs(), [b"sluice!!".to_vec(), vec![0; 8], vec![0xff; 8]]);
}

/// RFC 9113, 6.5.3: one for each, in order.
#[test]
fn every_settings_frame_is_acknowledged() {
    let (_sluice, mut c) = begun();
    let before = c.settings_acknowledged();
    for value in 0..20 {
        c.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, value)]));
    }
    assert!(c.read_until(|c| c.settings_acknowledged() == before + 20));
    c.send(Frame::ping([1; 8]));
    assert!(c.read_until(|c| c.pongs().len() == 1));
    assert_eq!(c.settings_acknowledged(), before + 20);
}

/// RFC 9113, 6.5.3: the last value of a setting is the one in force.
#[test]
fn values_are_taken_in_order() {
    let (_sluice, mut c) = begun();
    let id = setting::INITIAL_WINDOW_SIZE;
    c.settle(&[(id, 100), (id, 7)]);
    c.send(Frame::headers(1, request("GET").field("x", "y")).ending());
    c.send(Frame::headers(3, crate::flow::request_for(50)).ending());
    assert!(c.read_until(|c| c.message(3).content.len() >= 7));
    c.send(Frame::ping([1; 8]));
    assert!(c.read_until(|c| c.pongs().len() == 1));
    assert_eq!(c.message(3).content.len(), 7);
    c.send(Frame::window_update(3, 43));
    assert_eq!(c.outcome(3, false), Answered(200));
}
