//! What a case is, and how it is judged.

use crate::support::{Sluice, origin};
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Outcome, Role, Transport, error, setting};
use std::net::{SocketAddr, TcpStream};

pub(crate) use proxy_tests::http2::Outcome::{Answered, Away, Closed, GoesOn, Reset};

/// A case: what a client sends, and what may come of it.
pub(crate) struct Case {
    /// The section that says so, and what is sent.
    pub(crate) about: &'static str,
    /// Sends it, over a connection that has begun, unless [`Self::raw`].
    act: fn(&mut Connection),
    /// Of these, one must come of [`Self::stream`] or of the connection. [`GoesOn`] stands for what
    /// is not to be noticed: a PING behind it is answered.
    allowed: &'static [Outcome],
    stream: u32,
    /// The connection has not begun.
    raw: bool,
    /// No request can follow.
    last: bool,
}

pub(crate) const fn case(
    about: &'static str,
    act: fn(&mut Connection),
    allowed: &'static [Outcome],
) -> Case {
    Case {
        about,
        act,
        allowed,
        stream: 1,
        raw: false,
        last: false,
    }
}

impl Case {
    /// Another stream than the first is what it is about.
    pub(crate) const fn on(mut self, stream: u32) -> Self {
        self.stream = stream;
        self
    }

    /// It sends the preface by itself.
    pub(crate) const fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    /// The connection serves no request afterwards, though it has met no error.
    pub(crate) const fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// The stream whose outcome counts. Where only the connection may end it is none: a request that was
    /// whole may be answered before what follows it has come.
    fn judged(&self) -> u32 {
        let of_connection = |outcome: &Outcome| matches!(outcome, Away(_) | Closed);
        match self.allowed.iter().all(of_connection) {
            true => 0,
            false => self.stream,
        }
    }

    /// Runs it.
    fn run(&self, transport: impl Transport + 'static) -> Result<(), String> {
        let mut connection = Connection::new(Role::Client, transport);
        if !self.raw {
            connection.greet(&[]);
        }
        (self.act)(&mut connection);
        let goes_on = self.allowed.contains(&GoesOn);
        if goes_on {
            connection.send(Frame::ping(*b"sentinel"));
        }
        let outcome = connection.outcome(self.judged(), goes_on);
        if !self.allowed.contains(&outcome) {
            return Err(format!("{outcome:?}, but allowed is {:?}", self.allowed));
        }
        let faults = |connection: &Connection| match connection.faults() {
            [] => Ok(()),
            faults => Err(format!("{outcome:?}, and the peer sent {faults:?}")),
        };
        faults(&connection)?;
        match outcome {
            Away(_) if connection.is_ended() => Ok(()),
            Away(_) => Err("GOAWAY, but the connection stays open".to_owned()),
            Closed => Ok(()),
            _ if self.last => Ok(()),
            _ => {
                // What was about one stream, or about nothing, touches no other.
                connection.send(Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]));
                let stream = connection.next_stream().max(self.stream + 2);
                get(&mut connection, stream);
                match connection.outcome(stream, false) {
                    Answered(200) => faults(&connection),
                    later => Err(format!("{outcome:?}, but a later request: {later:?}")),
                }
            }
        }
    }
}

/// The field block of a request.
pub(crate) fn request(method: &str) -> Block {
    Block::of(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/"),
    ])
}

/// Sends a request without content.
pub(crate) fn get(connection: &mut Connection, stream: u32) {
    connection.send(Frame::headers(stream, request("GET")).ending());
}

/// Sends the head of a request whose content is to come.
pub(crate) fn open(connection: &mut Connection, stream: u32) {
    connection.send(Frame::headers(stream, request("POST")));
}

/// Sends a request and waits for the answer.
pub(crate) fn served(connection: &mut Connection, stream: u32) {
    get(connection, stream);
    connection.outcome(stream, false);
    connection.forget(stream);
}

/// Sends a request and waits for the head of the answer, which cannot go on for want of a window:
/// the stream stays half-closed.
pub(crate) fn half_closed(connection: &mut Connection) {
    connection.settle(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
    get(connection, 1);
    connection.read_until(|c| c.message(1).status() != 0);
}

/// A malformed message (RFC 9113, 8.1.1): a stream error of this type, which may be made one of the
/// connection (5.4), or an answer that says so.
pub(crate) const MALFORMED: &[Outcome] = &[
    Reset(error::PROTOCOL_ERROR),
    Away(error::PROTOCOL_ERROR),
    Answered(400),
];

/// A connection error of the general type.
pub(crate) const PROTOCOL: &[Outcome] = &[Away(error::PROTOCOL_ERROR)];

/// A connection error about a frame's length.
pub(crate) const FRAME_SIZE: &[Outcome] = &[Away(error::FRAME_SIZE_ERROR)];

/// A connection error about a field block.
pub(crate) const COMPRESSION: &[Outcome] = &[Away(error::COMPRESSION_ERROR)];

/// The request is served.
pub(crate) const SERVED: &[Outcome] = &[Answered(200)];

/// Nothing is to be noticed.
pub(crate) const IGNORED: &[Outcome] = &[GoesOn];

/// Runs cases against the proxy in clear text, or against `SLUICE_H2_TARGET`.
pub(crate) fn check(chapter: &str, cases: &[Case]) {
    if let Some(target) = std::env::var_os("SLUICE_H2_TARGET") {
        let address = target.to_str().and_then(|text| text.parse().ok());
        let address: SocketAddr = address.expect("an address in SLUICE_H2_TARGET");
        run_all(chapter, cases, || connect(address), || None);
        return;
    }
    let mut sluice = Sluice::start(origin(), "", "");
    let address = sluice.address;
    run_all(chapter, cases, || connect(address), || sluice.complaint());
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).expect("connects")
}

/// Runs cases over connections that `connect` opens, and fails with all that is wrong.
pub(crate) fn run_all<T: Transport + 'static>(
    chapter: &str,
    cases: &[Case],
    connect: impl Fn() -> T,
    mut complaint: impl FnMut() -> Option<String>,
) {
    let mut wrong = Vec::new();
    for case in cases {
        let mut outcome = case.run(connect());
        if let Some(complaint) = complaint() {
            outcome = Err(complaint);
        }
        if let Err(what) = outcome {
            wrong.push(format!("{}: {what}", case.about));
        }
    }
    let (all, failed) = (cases.len(), wrong.len());
    println!("{chapter}: {} of {all} cases", all - failed);
    assert!(
        wrong.is_empty(),
        "{failed} of {all} cases of {chapter}:\n  {}",
        wrong.join("\n  ")
    );
}
