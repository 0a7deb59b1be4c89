//! How a connection begins (RFC 9113, section 3).

use crate::case::{Away, Case, Closed, SERVED, case, check, connect, get};
use crate::support::{Sluice, origin};
use proxy_tests::http2::error::{FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR};
use proxy_tests::http2::{Connection, Frame, Outcome, PREFACE, Role};
use std::io::{Read as _, Write as _};

/// A connection error; GOAWAY may be left out.
const NO_PREFACE: &[Outcome] = &[Away(PROTOCOL_ERROR), Closed];

const CASES: &[Case] = &[
    case(
        "3.4: preface and SETTINGS",
        |c| {
            c.greet(&[]);
            get(c, 1);
        },
        SERVED,
    )
    .raw(),
    case(
        "3.4: all that a client has to say, before it hears of the server",
        |c| {
            let settings = Frame::settings(&[]).encode();
            c.send_octets(&[PREFACE, &settings].concat());
            get(c, 1);
        },
        SERVED,
    )
    .raw(),
    case(
        "3.4: a preface octet by octet",
        |c| {
            for octet in PREFACE {
                c.send_octets(&[*octet]);
            }
            c.send(Frame::settings(&[]));
            get(c, 1);
        },
        SERVED,
    )
    .raw(),
    case(
        "3.4: what is no preface",
        |c| {
            c.send_octets(b"INVALID CONNECTION PREFACE\r\n\r\n");
        },
        NO_PREFACE,
    )
    .raw(),
    case(
        "3.4: a preface whose end is another",
        |c| {
            c.send_octets(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX");
            c.send(Frame::settings(&[]));
        },
        NO_PREFACE,
    )
    .raw(),
    case(
        "3.4: a preface of another version",
        |c| {
            c.send_octets(b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n");
            c.send(Frame::settings(&[]));
        },
        NO_PREFACE,
    )
    .raw(),
    case(
        "3.4: half a preface",
        |c| {
            c.send_octets(&PREFACE[..16]);
            c.finish();
        },
        &[Away(PROTOCOL_ERROR), Away(NO_ERROR), Closed],
    )
    .raw(),
    case(
        "3.4: a preface and nothing more",
        |c| {
            c.send_octets(PREFACE);
            c.finish();
        },
        &[Away(PROTOCOL_ERROR), Away(NO_ERROR), Closed],
    )
    .raw(),
    case(
        "3.4: another frame in place of SETTINGS",
        |c| {
            c.send_octets(PREFACE);
            c.send(Frame::ping([0; 8]));
        },
        NO_PREFACE,
    )
    .raw(),
    case(
        "3.4: a request in place of SETTINGS",
        |c| {
            c.send_octets(PREFACE);
            get(c, 1);
        },
        NO_PREFACE,
    )
    .raw(),
    case(
        "3.4: a second preface",
        |c| {
            c.send_octets(PREFACE);
        },
        &[Away(PROTOCOL_ERROR), Away(FRAME_SIZE_ERROR)],
    ),
];

#[test]
fn connections_begin() {
    check("starting", CASES);
}

#[test]
fn the_server_says_settings_first_and_unasked() {
    let sluice = Sluice::start(origin(), "", "");
    let mut connection = Connection::new(Role::Client, connect(sluice.address));
    connection.send_octets(PREFACE);
    // The first frame's type is judged by `Lawful`.
    connection.send(Frame::settings(&[]));
    assert!(connection.step());
    assert!(connection.faults().is_empty(), "{:?}", connection.faults());
}

/// RFC 9113, 3.1 and 3.3: the token `h2c` and its upgrade are obsolete.
#[test]
fn http_1_does_not_become_http_2() {
    let sluice = Sluice::start(origin(), "", "");
    let mut stream = connect(sluice.address);
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
}
