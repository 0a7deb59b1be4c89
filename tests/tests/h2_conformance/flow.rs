//! Windows (RFC 9113, sections 5.2 and 6.9).

use crate::case::{
    Answered, Away, Case, FRAME_SIZE, IGNORED, PROTOCOL, Reset, SERVED, case, check, connect, get,
    half_closed, open,
};
use crate::support::{Sluice, origin, stalling_origin};
use proxy_tests::http2::error::{FLOW_CONTROL_ERROR, PROTOCOL_ERROR};
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Role, kind, setting};

/// The largest window, and the largest increment.
const MOST: u32 = (1 << 31) - 1;

/// The window that all have at first.
const FIRST: u32 = 65_535;

/// The field block of a request for so many octets.
pub(crate) fn request_for(octets: u32) -> Block {
    Block::of(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", &format!("/{octets}")),
    ])
}

fn initial(window: u32) -> Frame {
    Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, window)])
}

const WINDOWS: &[Case] = &[
    case(
        "6.9: WINDOW_UPDATE of the connection",
        |c| {
            c.send(Frame::window_update(0, 1));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.9: WINDOW_UPDATE of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, 1));
            c.send(Frame::data(1, []).ending());
        },
        SERVED,
    ),
    case(
        "6.9: the reserved bit of an increment",
        |c| {
            c.send(Frame::window_update(0, 1 | 1 << 31));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.9: an increment of 0, of the connection",
        |c| {
            c.send(Frame::window_update(0, 0));
        },
        PROTOCOL,
    ),
    case(
        "6.9: an increment of 0 but for the reserved bit",
        |c| {
            c.send(Frame::window_update(0, 1 << 31));
        },
        PROTOCOL,
    ),
    case(
        "6.9: an increment of 0, of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, 0));
        },
        &[Reset(PROTOCOL_ERROR), Away(PROTOCOL_ERROR)],
    ),
    case(
        "6.9: WINDOW_UPDATE of 3 octets",
        |c| {
            c.send(Frame::new(kind::WINDOW_UPDATE, 0, 0, [0; 3]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.9: WINDOW_UPDATE of 5 octets",
        |c| {
            c.send(Frame::new(kind::WINDOW_UPDATE, 0, 0, [1; 5]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.9: WINDOW_UPDATE of 3 octets, of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::new(kind::WINDOW_UPDATE, 0, 1, [0; 3]));
        },
        FRAME_SIZE,
    ),
    case(
        "6.9.1: the largest window of the connection",
        |c| {
            c.send(Frame::window_update(0, MOST - FIRST));
        },
        IGNORED,
    ),
    case(
        "6.9.1: one octet more",
        |c| {
            c.send(Frame::window_update(0, MOST - FIRST));
            c.send(Frame::window_update(0, 1));
        },
        &[Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.9.1: the largest increment",
        |c| {
            c.send(Frame::window_update(0, MOST));
        },
        &[Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.9.1: the largest window of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, MOST - FIRST));
            c.send(Frame::data(1, []).ending());
        },
        SERVED,
    ),
    case(
        "6.9.1: one octet more, of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, MOST - FIRST));
            c.send(Frame::window_update(1, 1));
        },
        &[Reset(FLOW_CONTROL_ERROR), Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.9.1: the largest increment, of a stream",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, MOST));
        },
        &[Reset(FLOW_CONTROL_ERROR), Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.9.1: more than the largest, of a half-closed stream",
        |c| {
            half_closed(c);
            c.send(Frame::window_update(1, MOST));
            c.send(Frame::window_update(1, MOST));
        },
        &[
            Reset(FLOW_CONTROL_ERROR),
            Away(FLOW_CONTROL_ERROR),
            Answered(200),
        ],
    ),
    case(
        "6.9.2: SETTINGS that lift a window beyond the largest",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, MOST - FIRST));
            c.send(initial(FIRST + 1));
        },
        &[Away(FLOW_CONTROL_ERROR)],
    ),
    case(
        "6.9.2: SETTINGS that lift a window to the largest",
        |c| {
            open(c, 1);
            c.send(Frame::window_update(1, 1000));
            c.send(initial(MOST - 1000));
            c.send(Frame::data(1, []).ending());
        },
        SERVED,
    ),
    case(
        "6.9.2: a window from the beginning",
        |c| {
            c.send(initial(1));
            get(c, 1);
        },
        SERVED,
    ),
    case(
        "6.9.2: a window that comes later",
        |c| {
            half_closed(c);
            c.send(initial(1));
        },
        SERVED,
    ),
    case(
        "6.9.2: SETTINGS leave the connection's window alone",
        |c| {
            c.send(initial(MOST));
            c.send(Frame::window_update(0, MOST - FIRST));
            get(c, 1);
        },
        SERVED,
    ),
];

#[test]
fn windows_have_bounds() {
    check("windows", WINDOWS);
}

fn begun(settings: &[(u16, u32)]) -> (Sluice, Connection) {
    let sluice = Sluice::start(origin(), "", "");
    let mut connection = Connection::new(Role::Client, connect(sluice.address));
    connection.greet(settings);
    (sluice, connection)
}

/// Octets of content that have come when a PING is answered.
fn settled(c: &mut Connection, stream: u32, at_least: usize) -> usize {
    c.read_until(|c| c.message(stream).content.len() >= at_least);
    let before = c.pongs().len();
    c.send(Frame::ping([2; 8]));
    assert!(c.read_until(|c| c.pongs().len() > before));
    c.message(stream).content.len()
}

/// RFC 9113, 6.9.2: a window may become negative, and the sender waits until it is not.
#[test]
fn a_window_may_become_negative() {
    let (_sluice, mut c) = begun(&[(setting::INITIAL_WINDOW_SIZE, 100)]);
    c.send(Frame::headers(1, request_for(250)).ending());
    assert_eq!(settled(&mut c, 1, 100), 100);
    c.settle(&[(setting::INITIAL_WINDOW_SIZE, 10)]);
    c.send(Frame::window_update(1, 90));
    assert_eq!(settled(&mut c, 1, 100), 100, "the window is at 0");
    c.send(Frame::window_update(1, 50));
    assert_eq!(settled(&mut c, 1, 150), 150);
    c.settle(&[(setting::INITIAL_WINDOW_SIZE, 110)]);
    assert_eq!(c.outcome(1, false), Answered(200));
    assert_eq!(c.message(1).content.len(), 250);
}

/// RFC 9113, 6.9.1: the connection's window is for all streams.
#[test]
fn the_window_of_the_connection_is_for_all_streams() {
    let (_sluice, mut c) = begun(&[(setting::INITIAL_WINDOW_SIZE, MOST)]);
    for stream in [1, 3] {
        c.send(Frame::headers(stream, request_for(50_000)).ending());
    }
    let both = |c: &Connection| c.message(1).content.len() + c.message(3).content.len();
    assert!(c.read_until(|c| both(c) == FIRST as usize));
    c.send(Frame::ping([2; 8]));
    assert!(c.read_until(|c| !c.pongs().is_empty()));
    assert_eq!(both(&c), FIRST as usize);
    c.send(Frame::window_update(0, 100_000 - FIRST));
    assert_eq!(c.outcome(1, false), Answered(200));
    assert_eq!(c.outcome(3, false), Answered(200));
    assert!(c.faults().is_empty(), "{:?}", c.faults());
}

/// RFC 9113, 6.9.1: padding takes room in windows, and gives it back.
#[test]
fn padding_counts() {
    let (_sluice, mut c) = begun(&[]);
    open(&mut c, 1);
    let window = c.setting(setting::INITIAL_WINDOW_SIZE).unwrap_or(FIRST);
    let frame = Frame::data(1, vec![b'x'; 700]).padded(255);
    let length = frame.payload.len() as u64;
    let (mut sent, mut content) = (0, 0);
    while sent < u64::from(window) * 2 {
        let room = |c: &Connection| {
            let of_stream = u64::from(window) + c.credit(1);
            of_stream.min(u64::from(FIRST) + c.credit(0))
        };
        assert!(
            c.read_until(|c| sent + length <= room(c)),
            "{sent} octets sent"
        );
        c.send(frame.clone());
        (sent, content) = (sent + length, content + 700);
    }
    c.send(Frame::data(1, []).ending());
    assert_eq!(c.outcome(1, false), Answered(200));
    assert_eq!(c.message(1).content, format!("{content}").as_bytes());
}

/// RFC 9113, 6.9.1: nobody need take more than it has said; this holds who sends it nonetheless.
#[test]
fn more_than_the_window_is_an_error() {
    let mut sluice = Sluice::start(stalling_origin(), "", "");
    let mut c = Connection::new(Role::Client, connect(sluice.address));
    c.greet(&[]);
    open(&mut c, 1);
    let frame = Frame::data(1, vec![b'x'; 16_384]);
    // More than all sockets between here and the origin can hold.
    let all_sent = (0..8192).all(|_| c.send(frame.clone()));
    let outcome = c.outcome(1, false);
    let refused = [Reset(FLOW_CONTROL_ERROR), Away(FLOW_CONTROL_ERROR)];
    assert!(
        refused.contains(&outcome),
        "{outcome:?}, all sent: {all_sent}"
    );
    assert_eq!(sluice.complaint(), None);
}
