//! What still comes on streams that we have reset.
//!
//! A client may have sent it before it knew, so it is dropped without a word. But what was wrong when it
//! was sent is wrong all the same, and by what is kept of such a stream it is told so, as it would have
//! been had the stream lived: else it would depend on who was faster whether a client learns of its fault.
//! It is told so once: from then on nothing is kept, and all that comes is dropped.
//!
//! An answer before the whole request has come ends in such a reset (RFC 9113 §8.1).

use super::stream::Stream;
use super::{Coming, Over, State};
use crate::message::h2::BlockError;
use crate::message::h2::frame::{ErrorCode, FrameHead, MOST, flag};
use std::collections::VecDeque;

/// Streams of which something is kept. Of more, all that comes is dropped.
const KEPT: usize = 32;

/// What is kept of a stream.
#[derive(Clone, Copy, Debug)]
struct Rest {
    id: u32,
    /// The client has ended it.
    has_ended: bool,
    /// Octets of content that must still come, if it is known how many.
    left: Option<u64>,
    /// Octets that the client may send.
    window: i64,
    /// Octets that it has said we may send.
    room: i64,
}

/// The streams that we have reset last.
#[derive(Debug, Default)]
pub(super) struct Late(VecDeque<Rest>);

impl Late {
    fn keep(&mut self, stream: &Stream) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Rest {
            id: stream.id,
            has_ended: stream.coming == Coming::Ended,
            left: stream.left,
            window: stream.window,
            room: stream.room,
        });
    }

    /// Nothing more is to be said about a stream.
    pub(super) fn forget(&mut self, id: u32) {
        self.0.retain(|rest| rest.id != id);
    }

    /// The client lets us send more, or less, on each stream.
    pub(super) fn widen(&mut self, more: i64) {
        for rest in &mut self.0 {
            rest.room += more;
        }
    }

    fn rest(&mut self, id: u32) -> Option<&mut Rest> {
        self.0.iter_mut().rev().find(|rest| rest.id == id)
    }
}

impl Rest {
    /// A frame of so many octets has come, so many of which are content.
    fn content(&mut self, head: FrameHead, content: u32) -> Result<(), ErrorCode> {
        if self.has_ended {
            return Err(ErrorCode::STREAM_CLOSED);
        }
        self.window -= i64::from(head.length);
        if self.window < 0 {
            return Err(ErrorCode::FLOW_CONTROL_ERROR);
        }
        if let Some(left) = self.left {
            let left = left.checked_sub(content.into());
            self.left = Some(left.ok_or(ErrorCode::PROTOCOL_ERROR)?);
        }
        match head.has(flag::END_STREAM) {
            true => self.end(),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), ErrorCode> {
        self.has_ended = true;
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(ErrorCode::PROTOCOL_ERROR),
        }
    }

    fn update(&mut self, more: u32) -> Result<(), ErrorCode> {
        self.room += i64::from(more);
        match more {
            0 => Err(ErrorCode::PROTOCOL_ERROR),
            _ if self.room > i64::from(MOST) => Err(ErrorCode::FLOW_CONTROL_ERROR),
            _ => Ok(()),
        }
    }
}

impl State {
    /// Ends a stream that was reset, and not for something that the other end did.
    pub(super) fn end_cut(&mut self, key: usize) {
        let stream = &mut self.streams[key];
        stream.end(Over::Closed);
        if self.role.is_server() {
            self.late.keep(stream);
        }
    }

    /// Content has come on a stream that we have reset.
    pub(super) fn late_content(&mut self, head: FrameHead, content: u32) {
        let judged = self.late.rest(head.stream);
        let judged = judged.map_or(Ok(()), |rest| rest.content(head, content));
        self.blame(head.stream, judged);
    }

    /// More may be sent on such a stream, says its client.
    pub(super) fn late_update(&mut self, id: u32, more: u32) {
        let judged = self.late.rest(id);
        let judged = judged.map_or(Ok(()), |rest| rest.update(more));
        self.blame(id, judged);
    }

    /// A block of fields has come on such a stream: trailers, for its head was there.
    ///
    /// # Errors
    ///
    /// The connection has to end with this code.
    pub(super) fn late_block(
        &mut self,
        id: u32,
        is_end: bool,
        is_malformed: bool,
        block: &[u8],
    ) -> Result<(), ErrorCode> {
        let judged = match self.late.rest(id) {
            Some(rest) if rest.has_ended => Err(ErrorCode::STREAM_CLOSED),
            Some(rest) if is_end && !is_malformed => rest.end(),
            Some(_) => Err(ErrorCode::PROTOCOL_ERROR),
            None => {
                self.skip(block, false)?;
                return Ok(());
            }
        };
        // Read to the end in any case: later ones refer to what it says.
        let mut fields = self.take_trailers();
        let read = self
            .reader
            .trailers(block, &self.settings.limits, &mut fields);
        self.put_trailers(Some(fields));
        let read = match read {
            Ok(()) => Ok(()),
            Err(BlockError::Compression) => return Err(ErrorCode::COMPRESSION_ERROR),
            Err(BlockError::Refused(_) | BlockError::Malformed) => Err(ErrorCode::PROTOCOL_ERROR),
        };
        self.blame(id, judged.and(read));
        Ok(())
    }

    fn blame(&mut self, id: u32, judged: Result<(), ErrorCode>) {
        if let Err(code) = judged {
            self.late.forget(id);
            self.reset(id, code);
        }
    }
}
