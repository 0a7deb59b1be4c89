//! Content that is sent in a stream.

use super::SEND_BUFFER;
use crate::message::Fields;
use crate::message::h2::write_trailers;
use crate::net::body::{BodyError, Sink};
use bytes::Bytes;
use h2::{Reason, SendStream};
use std::io;
use std::task::{Context, Poll, ready};

/// Content that is sent in a stream. The last piece is held back until more is known, so that the
/// stream's end goes out with it and not in a frame of its own.
#[derive(Debug, Default)]
pub struct Sender {
    stream: Option<SendStream<Bytes>>,
    held: Bytes,
    /// The end was sent, with the head or with the content.
    has_ended: bool,
    /// Octets of content taken.
    sent: u64,
}

impl Sender {
    /// Content of this stream follows; `has_ended`: the head was its end.
    pub fn begin(&mut self, stream: SendStream<Bytes>, has_ended: bool) {
        self.stream = Some(stream);
        self.has_ended = has_ended;
    }

    /// Takes content after all: that of a tunnel which now stands.
    pub fn reopen(&mut self) {
        self.has_ended = false;
    }

    /// The stream, once its head was sent.
    pub fn stream(&mut self) -> Option<&mut SendStream<Bytes>> {
        self.stream.as_mut()
    }

    /// True if the stream's end was sent.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Octets of content taken.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits for room, and tells for how many of `wanted` octets there is some.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, BodyError>> {
        self.send_held(false)?;
        let stream = self.stream.as_mut().filter(|_| !self.has_ended);
        let stream = stream.ok_or(BodyError::Truncated)?;
        let wanted = wanted.min(SEND_BUFFER);
        stream.reserve_capacity(wanted);
        loop {
            let room = stream.capacity().min(wanted);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(BodyError::Stopped)),
            }
        }
    }

    fn hold(&mut self, piece: Bytes) -> Poll<Result<usize, BodyError>> {
        let taken = piece.len();
        self.held = piece;
        self.sent += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn send_held(&mut self, is_last: bool) -> Result<(), BodyError> {
        if self.held.is_empty() && !is_last {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let stream = self.stream.as_mut().ok_or(BodyError::Truncated)?;
        self.has_ended |= is_last;
        stream.send_data(held, is_last).map_err(failed)
    }
}

impl Sink for Sender {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        let room = ready!(self.poll_room(cx, content.len()))?;
        self.hold(Bytes::copy_from_slice(&content[..room]))
    }

    fn poll_write_shared(
        &mut self,
        cx: &mut Context<'_>,
        content: &Bytes,
    ) -> Poll<Result<usize, BodyError>> {
        let room = ready!(self.poll_room(cx, content.len()))?;
        self.hold(content.slice(..room))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        // The connection's task writes as soon as there is something to write.
        Poll::Ready(self.send_held(false))
    }

    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        if self.has_ended {
            return Poll::Ready(Ok(()));
        }
        if trailers.is_empty() {
            return Poll::Ready(self.send_held(true));
        }
        self.send_held(false)?;
        self.has_ended = true;
        let stream = self.stream.as_mut().ok_or(BodyError::Truncated)?;
        Poll::Ready(
            stream
                .send_trailers(write_trailers(trailers))
                .map_err(failed),
        )
    }
}

fn failed(error: h2::Error) -> BodyError {
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => BodyError::Stopped,
        _ => BodyError::Io(io::Error::new(io::ErrorKind::ConnectionReset, error)),
    }
}
