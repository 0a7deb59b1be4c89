//! A connection of which one end is said frame by frame.

use super::frame::{PREFACE, setting};
use super::hpack::Field;
use super::{Frame, Lawful, Role, error, flag, kind};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long a peer may say nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bits of a stream's identifier; the other one is reserved.
const STREAM: u32 = (1 << 31) - 1;

/// What carries octets.
pub trait Transport: Read + Write + Send {
    /// The socket.
    fn socket(&self) -> &TcpStream;
}

impl Transport for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Transport for rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

/// What became of a request or of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The stream was answered with this status, and all of the answer came.
    Answered(u16),
    /// The stream was reset with this error.
    Reset(u32),
    /// The peer went away with this error.
    Away(u32),
    /// The connection ended without a word.
    Closed,
    /// A PING was answered first.
    GoesOn,
    /// Nothing more came.
    Silence,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "answered {status}"),
            Self::Reset(code) => write!(f, "stream error {}", error::name(*code)),
            Self::Away(code) => write!(f, "connection error {}", error::name(*code)),
            Self::Closed => write!(f, "closed without GOAWAY"),
            Self::GoesOn => write!(f, "goes on"),
            Self::Silence => write!(f, "silence"),
        }
    }
}

/// What came on a stream.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Fields of the last head that came before content.
    pub head: Vec<Field>,
    /// Fields behind the content.
    pub trailers: Vec<Field>,
    /// Octets of content.
    pub content: Vec<u8>,
    /// All has come.
    pub is_whole: bool,
    /// It was reset.
    pub reset: Option<u32>,
}

impl Message {
    /// Value of a field of the head; empty if it has none.
    pub fn field(&self, name: &str) -> &[u8] {
        let found = self.head.iter().find(|field| field.0 == name.as_bytes());
        found.map_or(&[], |field| &field.1)
    }

    /// The status; 0 while there is none.
    pub fn status(&self) -> u16 {
        let text = std::str::from_utf8(self.field(":status"));
        text.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// A connection to a peer. It acknowledges SETTINGS and PING by itself.
pub struct Connection {
    transport: Box<dyn Transport>,
    role: Role,
    input: Vec<u8>,
    lawful: Lawful,
    messages: HashMap<u32, Message>,
    settings: HashMap<u16, u32>,
    settings_acknowledged: u32,
    pongs: Vec<Vec<u8>>,
    credit: HashMap<u32, u64>,
    away: Option<u32>,
    highest: u32,
    end: Option<Outcome>,
}

impl Connection {
    /// Our end of a connection.
    ///
    /// # Panics
    ///
    /// The socket takes no options.
    pub fn new(role: Role, transport: impl Transport + 'static) -> Self {
        let socket = transport.socket();
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        let peer = match role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        Self {
            transport: Box::new(transport),
            role,
            input: Vec::new(),
            lawful: Lawful::new(peer),
            messages: HashMap::new(),
            settings: HashMap::new(),
            settings_acknowledged: 0,
            pongs: Vec::new(),
            credit: HashMap::new(),
            away: None,
            highest: 0,
            end: None,
        }
    }

    /// Begins HTTP/2 with these settings, and waits until the peer has them.
    pub fn greet(&mut self, settings: &[(u16, u32)]) {
        match self.role {
            Role::Client => {
                self.send_octets(PREFACE);
            }
            Role::Server => {
                self.take(PREFACE.len());
            }
        }
        self.settle(settings);
    }

    /// Sends settings, and waits until the peer has them.
    pub fn settle(&mut self, settings: &[(u16, u32)]) {
        let before = self.settings_acknowledged;
        self.send(Frame::settings(settings));
        self.read_until(|c| c.settings_acknowledged > before);
    }

    /// Sends octets; a peer that is gone is for a later step to notice.
    pub fn send_octets(&mut self, octets: &[u8]) -> bool {
        let written = self.transport.write_all(octets);
        written.and_then(|()| self.transport.flush()).is_ok()
    }

    /// Sends a frame; false if the peer does not take it.
    pub fn send(&mut self, frame: Frame) -> bool {
        let octets = frame.encode();
        self.note(frame);
        self.send_octets(&octets)
    }

    /// Takes a frame for sent that was sent octet by octet.
    pub fn note(&mut self, mut frame: Frame) {
        frame.stream &= STREAM;
        if self.role == Role::Client && frame.kind == kind::HEADERS {
            self.highest = self.highest.max(frame.stream);
        }
        self.lawful.sent(&frame);
    }

    /// Forgets what came on a stream, so that what comes later can be told from it.
    pub fn forget(&mut self, stream: u32) {
        self.messages.remove(&stream);
    }

    /// Octets for which WINDOW_UPDATE came; those of the connection at 0.
    pub fn credit(&self, stream: u32) -> u64 {
        self.credit.get(&stream).copied().unwrap_or(0)
    }

    /// No more will be sent.
    pub fn finish(&self) {
        let _ = self.transport.socket().shutdown(Shutdown::Write);
    }

    /// Ends the connection, in both directions.
    pub fn close(&self) {
        let _ = self.transport.socket().shutdown(Shutdown::Both);
    }

    /// A stream that a client has not used yet.
    pub fn next_stream(&self) -> u32 {
        (self.highest + 1) | 1
    }

    /// What came on a stream.
    pub fn message(&self, stream: u32) -> Message {
        self.messages.get(&stream).cloned().unwrap_or_default()
    }

    /// A setting of the peer.
    pub fn setting(&self, id: u16) -> Option<u32> {
        self.settings.get(&id).copied()
    }

    /// The error with which the peer said that it goes away.
    pub fn away(&self) -> Option<u32> {
        self.away
    }

    /// What the peer must not have sent.
    pub fn faults(&self) -> &[String] {
        self.lawful.faults()
    }

    /// Octets as they come, in place of frames; `None` if the connection ends before.
    pub fn take(&mut self, octets: usize) -> Option<Vec<u8>> {
        while self.input.len() < octets {
            if !self.read_more() {
                return None;
            }
        }
        Some(self.input.drain(..octets).collect())
    }

    /// Reads until something is so; false if the connection ends before, or nothing comes.
    pub fn read_until(&mut self, is_so: impl Fn(&Self) -> bool) -> bool {
        while !is_so(self) {
            if !self.step() {
                return false;
            }
        }
        true
    }

    /// Waits until a request has come on a stream, with all of its content if `whole`; returns the
    /// stream.
    pub fn request(&mut self, whole: bool) -> Option<u32> {
        let find = |c: &Self| {
            let mut streams: Vec<&u32> = c.messages.keys().collect();
            streams.sort();
            let is_it = |s: &&&u32| c.messages[s].is_whole || !whole;
            streams
                .into_iter()
                .filter(|s| **s > c.highest)
                .find(|s| is_it(&s))
                .copied()
        };
        self.read_until(|c| find(c).is_some());
        let stream = find(self)?;
        self.highest = stream;
        Some(stream)
    }

    /// What becomes of a stream; with `or_pong`, a PING's answer will do.
    pub fn outcome(&mut self, stream: u32, or_pong: bool) -> Outcome {
        loop {
            let message = self.message(stream);
            if let Some(code) = self.away.filter(|code| *code != error::NO_ERROR) {
                return Outcome::Away(code);
            }
            if message.is_whole {
                return Outcome::Answered(message.status());
            }
            if let Some(code) = message.reset {
                return Outcome::Reset(code);
            }
            if or_pong && !self.pongs.is_empty() {
                return Outcome::GoesOn;
            }
            if !self.step() {
                let away = self.away.map(Outcome::Away);
                return away.or(self.end).unwrap_or(Outcome::Closed);
            }
        }
    }

    /// True if the peer ends the connection, whatever it sends before.
    pub fn is_ended(&mut self) -> bool {
        self.read_until(|_| false);
        self.end == Some(Outcome::Closed)
    }

    /// Takes in a frame; false at the end.
    pub fn step(&mut self) -> bool {
        loop {
            if let Some(frame) = Frame::take(&mut self.input) {
                self.came(&frame);
                return true;
            }
            if !self.read_more() {
                return false;
            }
        }
    }

    fn read_more(&mut self) -> bool {
        let mut octets = [0; 16_384];
        match self.transport.read(&mut octets) {
            Ok(read @ 1..) => {
                self.input.extend(&octets[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.end = Some(Outcome::Silence);
                false
            }
            Ok(0) | Err(_) => {
                self.end = Some(Outcome::Closed);
                false
            }
        }
    }

    fn came(&mut self, frame: &Frame) {
        if let Some((fields, ends)) = self.lawful.came(frame) {
            let message = self.messages.entry(frame.stream).or_default();
            if message.head.is_empty() || (message.status() < 200 && self.role == Role::Client) {
                message.head = fields;
            } else {
                message.trailers = fields;
            }
            message.is_whole |= ends;
        }
        match frame.kind {
            kind::DATA => {
                let message = self.messages.entry(frame.stream).or_default();
                message.content.extend(frame.content().unwrap_or_default());
                message.is_whole |= frame.ends_stream();
            }
            kind::RST_STREAM => {
                self.messages.entry(frame.stream).or_default().reset = frame.error();
            }
            kind::GOAWAY => self.away = frame.error(),
            kind::PING if frame.has(flag::ACK) => self.pongs.push(frame.payload.clone()),
            kind::PING => {
                self.send(Frame::new(kind::PING, flag::ACK, 0, &frame.payload[..]));
            }
            kind::WINDOW_UPDATE => {
                *self.credit.entry(frame.stream).or_default() += u64::from(frame.word(0));
            }
            kind::SETTINGS if frame.has(flag::ACK) => self.settings_acknowledged += 1,
            kind::SETTINGS => {
                self.settings.extend(frame.settings_in());
                self.send(Frame::settings_ack());
            }
            _ => {}
        }
    }

    /// Octets of answers to PING that came.
    pub fn pongs(&self) -> &[Vec<u8>] {
        &self.pongs
    }

    /// How many SETTINGS the peer has acknowledged.
    pub fn settings_acknowledged(&self) -> u32 {
        self.settings_acknowledged
    }

    /// The last stream that the peer's GOAWAY names.
    pub fn last_of_goaway(&self) -> Option<u32> {
        self.lawful.last_of_goaway()
    }

    /// How many streams the peer allows at once; `None` if it sets no bound.
    pub fn max_streams(&self) -> Option<u32> {
        self.setting(setting::MAX_CONCURRENT_STREAMS)
    }
}
