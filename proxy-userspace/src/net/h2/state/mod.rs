//! The state of a connection, apart from I/O: what octets that came mean, and which are to go out.
//!
//! [`State::receive`] is shown what was read and says how much of it was understood. What is to be
//! written stands in one [`Output`], frame after frame in the order in which it was handed in:
//! content enters it only as far as the other end's windows have room, so nothing in it waits for
//! anything but the socket.

mod control;
mod late;
mod output;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use output::Output;
pub use stream::Over;
pub(super) use stream::{Coming, Stream, wait};

use super::watch::Watch;
use crate::message::h1::HeadLimits;
use crate::message::h2::frame::{self, ErrorCode, FRAME_SIZE, WINDOW, setting};
use crate::message::h2::hpack::Encoder;
use crate::message::h2::{BlockReader, frame::PREFACE};
use crate::message::{Fields, Refusal, RequestHead, ResponseHead};
use crate::net::buffer::Buffers;
use late::Late;
use slab::Slab;
use std::task::Waker;
use stream::{Closed, Ids};

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The other end makes requests.
    Server,
    /// We do.
    Client,
}

impl Role {
    pub(super) const fn is_server(self) -> bool {
        matches!(self, Self::Server)
    }
}

/// What the other end may do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Streams that it may have open at once; of a server only.
    pub max_streams: u32,
    /// Octets of a stream that may be in flight to us.
    pub stream_window: u32,
    /// The same of all streams together.
    pub connection_window: u32,
    /// Largest frame.
    pub max_frame: u32,
    /// Bounds of heads, and of trailers.
    pub limits: HeadLimits,
}

/// What came of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing that concerns anybody but the streams.
    None,
    /// A request has begun, or one that is to be answered with a refusal. Its head is there until
    /// the next octets are looked at.
    Request(usize, Result<(), Refusal>),
}

/// What the other end has told us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Octets that we may send in a new stream.
    pub(super) window: u32,
    pub(super) max_frame: u32,
    /// Streams that we may have open at once.
    pub(super) max_streams: u32,
    pub(super) has_connect: bool,
    /// Its first SETTINGS have come.
    pub(super) is_settled: bool,
    /// It goes away, and this is the last stream that it began with.
    pub(super) last_stream: Option<u32>,
}

/// Content that is coming.
#[derive(Clone, Copy, Debug)]
struct Data {
    /// The stream that takes it; `None` if it is dropped.
    key: Option<usize>,
    /// Its number: its place may be another's by now.
    id: u32,
    /// Octets that are still to come, of content and of padding.
    left: u32,
    padding: u32,
    is_end: bool,
}

/// A block of fields that goes on in the next frame.
#[derive(Debug)]
struct Block {
    stream: u32,
    is_end: bool,
    /// The stream is said to depend on itself.
    is_malformed: bool,
    octets: Vec<u8>,
    /// Frames that it came in.
    frames: u32,
}

/// How a connection is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is not.
    No,
    /// The other end was told, and may have sent requests that it did not know would be too late.
    Told,
    /// It was told the last stream.
    Final(u32),
}

/// Heads and trailers that are kept for the next messages, and octets of each.
const KEPT: (usize, usize) = (128, 4 << 10);

/// The state of a connection.
#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    settings: Settings,
    pub(super) peer: Peer,
    reader: BlockReader,
    encoder: Encoder,
    pub(super) streams: Slab<Stream>,
    ids: Ids,
    closed: Closed,
    late: Late,
    /// Streams that are open by the protocol.
    open: u32,
    /// The last stream that was begun.
    last_id: u32,
    /// Octets of the preface that are still to come.
    preface_left: usize,
    data: Option<Data>,
    block: Option<Block>,
    /// Octets that the other end may send in all, and those that were taken and not given back.
    window: i64,
    taken: u32,
    /// Octets that we may send in all.
    pub(super) room: i64,
    /// Streams that wait for that, and for the output.
    for_window: Vec<usize>,
    for_output: Vec<usize>,
    pub(super) output: Output,
    pub(super) buffers: Buffers,
    pub(super) watch: Watch,
    pub(super) leaving: Leaving,
    /// The head of the request that has just begun.
    pub(super) request: RequestHead,
    #[expect(
        clippy::vec_box,
        reason = "they come and go one by one, and a box is moved cheaply"
    )]
    spare_heads: Vec<Box<ResponseHead>>,
    #[expect(
        clippy::vec_box,
        reason = "they come and go one by one, and a box is moved cheaply"
    )]
    spare_trailers: Vec<Box<Fields>>,
    /// Who reads and writes.
    pub(super) driver: Option<Waker>,
    /// It was told that there is something to write.
    pub(super) is_told: bool,
    /// No more streams: how those end that would begin.
    pub(super) over: Option<Over>,
}

impl State {
    /// A connection that begins: what is first to be said lies in the output.
    pub(super) fn new(role: Role, settings: Settings, buffers: Buffers) -> Self {
        let mut state = Self {
            role,
            settings,
            peer: Peer {
                window: WINDOW,
                max_frame: FRAME_SIZE,
                max_streams: u32::MAX,
                has_connect: false,
                is_settled: false,
                last_stream: None,
            },
            reader: BlockReader::default(),
            encoder: Encoder::default(),
            streams: Slab::new(),
            ids: Ids::default(),
            closed: Closed::default(),
            late: Late::default(),
            open: 0,
            last_id: 0,
            preface_left: match role {
                Role::Server => PREFACE.len(),
                Role::Client => 0,
            },
            data: None,
            block: None,
            window: i64::from(WINDOW),
            taken: 0,
            room: i64::from(WINDOW),
            for_window: Vec::new(),
            for_output: Vec::new(),
            output: Output::default(),
            buffers,
            watch: Watch::default(),
            leaving: Leaving::No,
            request: RequestHead::default(),
            spare_heads: Vec::new(),
            spare_trailers: Vec::new(),
            driver: None,
            is_told: false,
            over: None,
        };
        state.greet();
        state
    }

    fn greet(&mut self) {
        let settings = self.settings;
        let common = [
            (setting::INITIAL_WINDOW_SIZE, settings.stream_window),
            (setting::MAX_FRAME_SIZE, settings.max_frame),
            (setting::MAX_HEADER_LIST_SIZE, settings.limits.head_bytes),
        ];
        let own = match self.role {
            Role::Server => [
                (setting::MAX_CONCURRENT_STREAMS, settings.max_streams),
                (setting::ENABLE_CONNECT_PROTOCOL, 1),
            ]
            .to_vec(),
            Role::Client => [(setting::ENABLE_PUSH, 0)].to_vec(),
        };
        let out = self.output.open(&self.buffers);
        if self.role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        frame::write_settings(&[&common[..], &own].concat(), out);
        let more = settings.connection_window.saturating_sub(WINDOW);
        if more > 0 {
            self.window += i64::from(more);
            self.write_window_update(0, more);
        }
    }

    /// True if streams may be begun.
    pub(super) fn is_open(&self) -> bool {
        self.over.is_none() && self.peer.last_stream.is_none() && self.last_id < frame::MOST - 2
    }

    /// True while what has begun to come is incomplete, and must be complete in time.
    pub(super) fn is_head_open(&self) -> bool {
        self.block.is_some() || self.preface_left > 0
    }

    /// Tells who writes that there is something to write, once.
    pub(super) fn tell(&mut self) {
        if !self.is_told && !self.output.is_empty() {
            self.is_told = true;
            if let Some(driver) = &self.driver {
                driver.wake_by_ref();
            }
        }
    }

    /// The connection has ended: all streams have.
    pub(super) fn lose(&mut self, over: Over) {
        self.over.get_or_insert(over);
        for (_, stream) in &mut self.streams {
            if !stream.is_done() {
                stream.end(over);
            }
        }
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.note_done(key);
        }
    }

    /// Says that the connection ends with an error, and ends all streams.
    pub(super) fn fail(&mut self, code: ErrorCode) {
        self.write_go_away(self.last_id_of_peer(), code);
        self.lose(match code {
            ErrorCode::NO_ERROR => Over::Closed,
            _ => Over::Fault(Refusal::Malformed),
        });
    }

    /// The last stream that the other end has begun.
    fn last_id_of_peer(&self) -> u32 {
        match self.role {
            Role::Server => self.last_id,
            Role::Client => 0,
        }
    }

    /// Resets a stream, unless it has ended.
    pub(super) fn cut(&mut self, key: usize, code: ErrorCode) {
        let stream = &self.streams[key];
        if !stream.is_done() {
            let id = stream.id;
            self.write_reset(id, code);
            self.end_cut(key);
            self.note_done(key);
        }
    }

    fn take_head(&mut self) -> Box<ResponseHead> {
        self.spare_heads.pop().unwrap_or_default()
    }

    pub(super) fn put_head(&mut self, head: Box<ResponseHead>) {
        if self.spare_heads.len() < KEPT.0 && head.fields.capacity() <= KEPT.1 {
            self.spare_heads.push(head);
        }
    }

    fn take_trailers(&mut self) -> Box<Fields> {
        self.spare_trailers.pop().unwrap_or_default()
    }

    pub(super) fn put_trailers(&mut self, trailers: Option<Box<Fields>>) {
        if let Some(trailers) = trailers
            && self.spare_trailers.len() < KEPT.0
            && trailers.capacity() <= KEPT.1
        {
            self.spare_trailers.push(trailers);
        }
    }

    /// Gives the next head of a response, in exchange for another.
    pub(super) fn fetch_head(&mut self, key: usize, head: &mut ResponseHead) -> bool {
        let Some(mut fetched) = self.streams[key].heads.pop() else {
            return false;
        };
        std::mem::swap(&mut *fetched, head);
        self.put_head(fetched);
        true
    }
}
