//! The streams of a connection.

use super::State;
use crate::message::h1::RequestKind;
use crate::message::h2::frame::ErrorCode;
use crate::message::{Fields, Refusal, ResponseHead};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

/// What a stream's user waits for, as bits.
pub(in crate::net::h2) mod wait {
    /// A head, content, or their end.
    pub(in crate::net::h2) const READ: u8 = 1;
    /// A window that has room.
    pub(in crate::net::h2) const WINDOW: u8 = 2;
    /// Room in the output.
    pub(in crate::net::h2) const ROOM: u8 = 4;
    /// That the stream ends before its time.
    pub(in crate::net::h2) const OVER: u8 = 8;
}

/// Why a stream has ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The other end has reset it.
    Reset(ErrorCode),
    /// The other end has done what it must not.
    Fault(Refusal),
    /// The other end has not begun with it, and will not.
    Unprocessed,
    /// The connection has ended in order.
    Closed,
    /// The connection has failed.
    Failed,
}

/// How far what comes in a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net::h2) enum Coming {
    /// The head of a response, perhaps after informational ones.
    Head,
    /// Content.
    Content,
    /// Nothing more.
    Ended,
}

/// A stream that is open, or that somebody still holds.
#[derive(Debug)]
pub(in crate::net::h2) struct Stream {
    pub(in crate::net::h2) id: u32,
    pub(in crate::net::h2) coming: Coming,
    /// What a response is to.
    pub(in crate::net::h2) kind: RequestKind,
    /// Octets that the other end may send.
    pub(super) window: i64,
    /// Octets that were taken and not given back to the window.
    pub(super) taken: u32,
    /// Octets that have come and were not taken.
    pub(super) held: u32,
    /// Octets of content that must still come, if it is known how many.
    pub(super) left: Option<u64>,
    /// Content that has come and that nobody has fetched.
    pub(in crate::net::h2) content: Vec<u8>,
    /// Heads of responses that nobody has fetched.
    pub(in crate::net::h2) heads: Heads,
    pub(in crate::net::h2) trailers: Option<Box<Fields>>,
    /// Octets that we may send.
    pub(in crate::net::h2) room: i64,
    /// Our end was sent, or lies in the output.
    pub(in crate::net::h2) has_ended: bool,
    /// Where in the output the last frame of ours begins that may carry our end.
    pub(super) last_frame: Option<u64>,
    pub(in crate::net::h2) over: Option<Over>,
    /// We have reset it: what still comes for it was sent before that was known.
    pub(super) was_reset: bool,
    /// It counts among those that are open.
    pub(super) is_open: bool,
    waits: u8,
    waker: Option<Waker>,
}

/// Heads in the order in which they came; nearly always one.
#[derive(Debug, Default)]
pub(in crate::net::h2) struct Heads {
    first: Option<Box<ResponseHead>>,
    others: VecDeque<Box<ResponseHead>>,
}

impl Heads {
    pub(super) fn push(&mut self, head: Box<ResponseHead>) {
        match &self.first {
            None => self.first = Some(head),
            Some(_) => self.others.push_back(head),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Box<ResponseHead>> {
        let first = self.first.take();
        self.first = self.others.pop_front();
        first
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }
}

impl Stream {
    pub(super) fn new(id: u32, coming: Coming, window: u32, room: u32) -> Self {
        Self {
            id,
            coming,
            kind: RequestKind::Plain,
            window: i64::from(window),
            taken: 0,
            held: 0,
            left: None,
            content: Vec::new(),
            heads: Heads::default(),
            trailers: None,
            room: i64::from(room),
            has_ended: false,
            last_frame: None,
            over: None,
            was_reset: false,
            is_open: true,
            waits: 0,
            waker: None,
        }
    }

    /// The user is to be woken when one of these is there.
    pub(in crate::net::h2) fn wait(&mut self, what: u8, waker: &Waker) {
        self.waits |= what;
        match &self.waker {
            Some(known) if known.will_wake(waker) => {}
            _ => self.waker = Some(waker.clone()),
        }
    }

    /// True if the user waits for one of these.
    pub(super) fn waits_for(&self, what: u8) -> bool {
        self.waits & what != 0
    }

    /// Wakes the user if it waits for one of these.
    pub(super) fn wake(&mut self, what: u8) {
        if self.waits & what != 0 {
            self.waits = 0;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Ends it before its time, for who uses it. What came first stands.
    pub(super) fn end(&mut self, over: Over) {
        self.over.get_or_insert(over);
        self.wake(u8::MAX);
    }

    /// True if both ends have ended.
    pub(super) fn is_done(&self) -> bool {
        self.over.is_some() || (self.has_ended && self.coming == Coming::Ended)
    }
}

/// Hashes numbers of streams, which grow one by one: they need no mixing but of their low bit, which
/// is the same for all.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.write_u32(octet.into());
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Where streams stand, by their numbers.
pub(super) type Ids = HashMap<u32, usize, BuildHasherDefault<IdHasher>>;

/// Streams of which is remembered how they were closed.
const REMEMBERED: usize = 128;

/// Marks the number of a stream that was closed by us, which the other end may not know yet.
const BY_US: u32 = 1 << 31;

/// The streams that were closed last.
#[derive(Debug)]
pub(super) struct Closed {
    ids: [u32; REMEMBERED],
    next: usize,
}

impl Default for Closed {
    fn default() -> Self {
        Self {
            ids: [0; REMEMBERED],
            next: 0,
        }
    }
}

impl Closed {
    pub(super) fn note(&mut self, id: u32, is_by_us: bool) {
        self.ids[self.next] = id | if is_by_us { BY_US } else { 0 };
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Of a stream that is gone, and that we have reset since.
    pub(super) fn note_reset(&mut self, id: u32) {
        match self.ids.iter_mut().find(|known| **known & !BY_US == id) {
            Some(known) => *known |= BY_US,
            None => self.note(id, true),
        }
    }

    /// The other end has reset a stream that is gone: it knows that nothing may follow, also if we
    /// have reset it before (RFC 9113 §5.1).
    pub(super) fn note_reset_by_peer(&mut self, id: u32) {
        if let Some(known) = self.ids.iter_mut().find(|known| **known == id | BY_US) {
            *known = id;
        }
    }

    /// True if it was closed by us, false if in turn or by the other end; `None` if that is not
    /// known.
    pub(super) fn is_by_us(&self, id: u32) -> Option<bool> {
        let found = self.ids.iter().find(|known| **known & !BY_US == id);
        found.map(|known| known & BY_US != 0)
    }
}

impl State {
    /// Where a stream stands.
    #[inline]
    pub(super) fn key(&self, id: u32) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    pub(super) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = self.streams.insert(stream);
        self.ids.insert(id, key);
        self.open += 1;
        key
    }

    /// Counts a stream as closed, if it is.
    pub(super) fn note_done(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        if stream.is_open && stream.is_done() {
            stream.is_open = false;
            self.open -= 1;
        }
    }

    /// Forgets a stream that nobody uses any more. One that is still open is reset.
    pub(in crate::net::h2) fn release(&mut self, key: usize) {
        let stream = &self.streams[key];
        let (id, is_whole) = (stream.id, stream.has_ended && self.role.is_server());
        let is_cut = !stream.is_done();
        if is_cut {
            // The other end may stop sending what is not wanted (RFC 9113 §8.1).
            let code = match is_whole {
                true => ErrorCode::NO_ERROR,
                false => ErrorCode::CANCEL,
            };
            self.write_reset(id, code);
            self.end_cut(key);
        }
        self.note_done(key);
        let mut stream = self.streams.remove(key);
        self.closed.note(id, stream.was_reset);
        self.ids.remove(&id);
        self.buffers.put_output(std::mem::take(&mut stream.content));
        self.put_trailers(stream.trailers.take());
        while let Some(head) = stream.heads.pop() {
            self.put_head(head);
        }
        // Content that nobody will take.
        self.give_back(stream.held);
    }
}
