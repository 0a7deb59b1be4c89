//! Content that comes in a stream.

use super::Place;
use super::connection::Connection;
use super::state::{Coming, Over, wait};
use crate::message::h2::frame::ErrorCode;
use crate::message::{Fields, Refusal};
use crate::net::body::{BodyError, Filled, Source};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

const NO_TRAILERS: &Fields = &Fields::new();

/// Content that comes in a stream. It is used no longer than the stream's [`Place`] lives.
#[derive(Debug, Default)]
pub struct Body {
    stream: Option<(Rc<Connection>, usize)>,
    /// What was fetched, and what of it was taken.
    chunk: Vec<u8>,
    taken: usize,
    has_ended: bool,
    trailers: Option<Box<Fields>>,
    /// Octets of content that were fetched.
    received: u64,
}

impl Body {
    /// The content of this stream.
    pub fn begin(&mut self, place: &Place) {
        self.stream = Some((Rc::clone(&place.connection), place.key));
    }

    /// Has the content look empty until [`Self::release`]: it belongs to a tunnel that does not
    /// stand yet.
    pub fn hold(&mut self) {
        self.has_ended = true;
    }

    /// The content is that of a tunnel from now on.
    pub fn release(&mut self) {
        self.has_ended = false;
    }

    /// True if all content was taken and no more will come.
    pub fn is_done(&self) -> bool {
        let all_came = || {
            self.stream.as_ref().is_none_or(|(connection, key)| {
                let stream = &connection.state.borrow().streams[*key];
                stream.coming == Coming::Ended && stream.content.is_empty()
            })
        };
        self.taken == self.chunk.len() && (self.has_ended || all_came())
    }

    /// Octets of content that were fetched.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl Source for Body {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if self.taken < self.chunk.len() {
            return Poll::Ready(Ok(Filled::Content));
        }
        let Some((connection, key)) = self.stream.as_ref().filter(|_| !self.has_ended) else {
            return Poll::Ready(Ok(Filled::End));
        };
        let state = &mut *connection.state.borrow_mut();
        if self.chunk.capacity() > 0 {
            state.buffers.put_output(std::mem::take(&mut self.chunk));
            self.taken = 0;
        }
        let stream = &mut state.streams[*key];
        if !stream.content.is_empty() {
            self.chunk = std::mem::take(&mut stream.content);
            self.received += self.chunk.len() as u64;
            return Poll::Ready(Ok(Filled::Content));
        }
        if stream.coming == Coming::Ended {
            self.trailers = stream.trailers.take();
            self.has_ended = true;
            return Poll::Ready(Ok(Filled::End));
        }
        if let Some(over) = stream.over {
            return Poll::Ready(Err(over.into()));
        }
        stream.wait(wait::READ, cx.waker());
        Poll::Pending
    }

    fn content(&self) -> &[u8] {
        &self.chunk[self.taken..]
    }

    fn consume(&mut self, octets: usize) {
        self.taken += octets;
        if let Some((connection, key)) = &self.stream
            && self.taken == self.chunk.len()
        {
            let state = &mut *connection.state.borrow_mut();
            state.consumed(*key, self.taken);
            state.tell();
        }
    }

    fn trailers(&self) -> &Fields {
        self.trailers.as_deref().unwrap_or(NO_TRAILERS)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some((connection, _)) = &self.stream
            && (self.trailers.is_some() || self.chunk.capacity() > 0)
        {
            let state = &mut *connection.state.borrow_mut();
            state.buffers.put_output(std::mem::take(&mut self.chunk));
            state.put_trailers(self.trailers.take());
        }
    }
}

impl From<Over> for BodyError {
    fn from(over: Over) -> Self {
        match over {
            Over::Fault(Refusal::Malformed) => Self::Refused(Refusal::LengthMismatch),
            Over::Fault(refusal) => Self::Refused(refusal),
            Over::Reset(ErrorCode::NO_ERROR | ErrorCode::CANCEL) => Self::Stopped,
            Over::Reset(_) | Over::Unprocessed | Over::Closed | Over::Failed => {
                Self::Io(io::ErrorKind::ConnectionReset.into())
            }
        }
    }
}
