//! The reading half of an HTTP/1 connection.

use super::Delimited;
use crate::message::h1::{ChunkDecoder, ChunkStep, HeadLimits};
use crate::message::{Fields, Refusal};
use crate::net::body::{BodyError, Filled, InSocket, Source};
use crate::net::buffer::{Buffers, Input, SMALL};
use crate::net::stream::Stream;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Reads heads' octets and content from a socket.
#[derive(Debug)]
pub struct Reader {
    stream: Rc<Stream>,
    input: Input,
    state: State,
    /// Octets of content at the front of the input.
    ready: usize,
    chunks: Option<Box<ChunkDecoder>>,
    limits: HeadLimits,
    trailers: Fields,
    /// The other end has sent its end.
    ended: bool,
    /// Octets read in all.
    received: u64,
    /// The last read was long: more is waiting, or will be.
    was_long: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No content (or no more of it) is to come.
    Done,
    /// Octets that are still to come, beyond those that are ready.
    Exact(u64),
    Chunked,
    ByClose,
}

impl Reader {
    /// A reader at the beginning of a connection. `limits` bound trailers.
    pub fn new(stream: Rc<Stream>, buffers: Buffers, limits: HeadLimits) -> Self {
        Self {
            stream,
            input: Input::new(buffers),
            state: State::Done,
            ready: 0,
            chunks: None,
            limits,
            trailers: Fields::new(),
            ended: false,
            received: 0,
            was_long: false,
        }
    }

    /// What it reads from.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What was read and is not content: heads, and what follows the message.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        debug_assert_eq!(self.ready, 0, "content is not for heads");
        self.input.filled()
    }

    /// Takes octets of a head away.
    #[inline]
    pub fn consume_head(&mut self, octets: usize) {
        self.input.consume(octets);
    }

    /// True if the other end has sent its end.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Octets that were read and not yet taken.
    pub fn unread(&self) -> u64 {
        self.input.filled().len() as u64
    }

    /// Counts octets that went past this process.
    pub fn note_past(&mut self, octets: u64) {
        self.received += octets;
    }

    /// Octets read in all.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// True if nothing of the message's content is to come.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.ready == 0
    }

    /// Content begins after the head that was consumed.
    pub fn begin(&mut self, delimited: Delimited) {
        self.trailers.clear();
        self.ready = 0;
        self.state = match delimited {
            Delimited::Nothing => State::Done,
            Delimited::Exact(length) => State::Exact(length),
            Delimited::ByClose => State::ByClose,
            Delimited::Chunked => {
                self.chunks.get_or_insert_default().reset();
                State::Chunked
            }
        };
    }

    /// Reads more, whatever it is. 0 is the end, or that there is no room for more. While it waits
    /// and has nothing, it holds no buffer.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.input.room().is_empty() && !self.input.grow() {
            return Poll::Ready(Ok(0));
        }
        let room = self.input.room();
        let Poll::Ready(read) = self.stream.poll_read(cx, room) else {
            self.input.release();
            return Poll::Pending;
        };
        let read = read?;
        self.was_long = read >= SMALL.min(room.len());
        self.input.filled_more(read);
        self.received += read as u64;
        if read == 0 {
            self.ended = true;
            self.input.release();
        }
        Poll::Ready(Ok(read))
    }

    /// Reads and drops whatever comes. Ready with false when nothing will.
    pub fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.ready = 0;
        self.input.consume(self.input.filled().len());
        self.poll_more(cx)
            .map(|read| read.is_ok_and(|read| read > 0))
    }

    /// True if the connection may take another message: all of the last one was read, nothing
    /// follows it, and the other end has said nothing since.
    pub fn is_idle(&self) -> bool {
        self.is_done() && self.input.is_empty() && !self.ended && self.stream.is_quiet()
    }

    /// Finds the next content in what was read.
    fn advance(&mut self) -> Result<Option<Filled>, Refusal> {
        let there = self.input.filled().len();
        match self.state {
            State::Done => return Ok(Some(Filled::End)),
            State::Exact(left) => {
                self.ready = there.min(usize::try_from(left).unwrap_or(usize::MAX));
                self.state = match left - self.ready as u64 {
                    0 => State::Done,
                    left => State::Exact(left),
                };
            }
            State::ByClose => self.ready = there,
            State::Chunked => return self.advance_chunked(),
        }
        Ok((self.ready > 0).then_some(Filled::Content))
    }

    fn advance_chunked(&mut self) -> Result<Option<Filled>, Refusal> {
        let chunks = self.chunks.get_or_insert_default();
        match chunks.next(self.input.filled(), &self.limits)? {
            ChunkStep::Data { skip, len } => {
                self.input.consume(skip);
                self.ready = len;
                Ok(Some(Filled::Content))
            }
            ChunkStep::NeedMore { consumed } => {
                self.input.consume(consumed);
                Ok(None)
            }
            ChunkStep::End { consumed } => {
                self.input.consume(consumed);
                self.state = State::Done;
                self.trailers.clone_from(chunks.trailers());
                Ok(Some(Filled::End))
            }
        }
    }

    /// Long content flows through a large buffer.
    fn fit_buffer(&mut self) {
        let long = match self.state {
            State::Exact(left) => left > SMALL as u64,
            State::Chunked | State::ByClose => self.was_long,
            State::Done => false,
        };
        if long && self.input.is_empty() {
            self.input.grow();
        }
    }
}

impl Source for Reader {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if self.ready > 0 {
            return Poll::Ready(Ok(Filled::Content));
        }
        loop {
            if let Some(filled) = self.advance().map_err(BodyError::Refused)? {
                return Poll::Ready(Ok(filled));
            }
            self.fit_buffer();
            if ready!(self.poll_more(cx))? == 0 {
                if self.state == State::ByClose {
                    self.state = State::Done;
                    return Poll::Ready(Ok(Filled::End));
                }
                return Poll::Ready(Err(BodyError::Truncated));
            }
        }
    }

    #[inline]
    fn in_socket(&self) -> Option<InSocket<'_>> {
        let octets = match self.state {
            State::Exact(octets) => octets,
            // Nobody knows how much is to come, but much was there when it was read before.
            State::ByClose if self.was_long => u64::MAX,
            _ => return None,
        };
        let is_there = self.ready == 0 && self.input.is_empty() && !self.ended;
        (is_there && self.stream.can_splice()).then_some(InSocket {
            stream: &self.stream,
            octets,
        })
    }

    fn taken(&mut self, octets: usize) {
        self.received += octets as u64;
        self.was_long = octets > 0;
        if let State::Exact(left) = self.state {
            self.state = match left.saturating_sub(octets as u64) {
                0 => State::Done,
                left => State::Exact(left),
            };
        }
    }

    #[inline]
    fn content(&self) -> &[u8] {
        &self.input.filled()[..self.ready]
    }

    #[inline]
    fn consume(&mut self, octets: usize) {
        self.input.consume(octets);
        self.ready -= octets;
    }

    fn trailers(&self) -> &Fields {
        &self.trailers
    }
}
