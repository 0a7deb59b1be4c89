//! Content that comes in a stream.

use crate::message::h1::HeadLimits;
use crate::message::h2::read_trailers;
use crate::message::{Fields, Refusal};
use crate::net::body::{BodyError, Filled, Source};
use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream};
use std::io;
use std::task::{Context, Poll, ready};

/// Content that comes in a stream.
#[derive(Debug)]
pub struct Body {
    stream: Option<RecvStream>,
    /// What has come and was not taken.
    chunk: Bytes,
    has_ended: bool,
    limits: HeadLimits,
    trailers: Fields,
    /// Octets of content that have come.
    received: u64,
}

impl Body {
    /// No content as yet. `limits` bound the trailers.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            stream: None,
            chunk: Bytes::new(),
            has_ended: true,
            limits,
            trailers: Fields::new(),
            received: 0,
        }
    }

    /// The content of this stream.
    pub fn begin(&mut self, stream: RecvStream) {
        self.has_ended = stream.is_end_stream();
        self.stream = Some(stream);
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
        let all_came = |stream: &RecvStream| stream.is_end_stream();
        self.chunk.is_empty() && (self.has_ended || self.stream.as_ref().is_some_and(all_came))
    }

    /// Octets of content that have come.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl Source for Body {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        if !self.chunk.is_empty() {
            return Poll::Ready(Ok(Filled::Content));
        }
        let Some(stream) = self.stream.as_mut().filter(|_| !self.has_ended) else {
            return Poll::Ready(Ok(Filled::End));
        };
        while let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data.map_err(error)?;
            if !data.is_empty() {
                self.received += data.len() as u64;
                self.chunk = data;
                return Poll::Ready(Ok(Filled::Content));
            }
        }
        if let Some(trailers) = ready!(stream.poll_trailers(cx)).map_err(error)? {
            let read = read_trailers(&trailers, &self.limits, &mut self.trailers);
            read.map_err(BodyError::Refused)?;
        }
        self.has_ended = true;
        Poll::Ready(Ok(Filled::End))
    }

    fn content(&self) -> &[u8] {
        &self.chunk
    }

    fn shared(&self) -> Option<&Bytes> {
        Some(&self.chunk)
    }

    fn consume(&mut self, octets: usize) {
        self.chunk.advance(octets);
        if let Some(stream) = &mut self.stream {
            // Fails only if more is given back than came.
            let _ = stream.flow_control().release_capacity(octets);
        }
    }

    fn trailers(&self) -> &Fields {
        &self.trailers
    }
}

/// Why there is no more.
fn error(error: h2::Error) -> BodyError {
    if error.is_library() && error.is_reset() {
        // What `h2` finds out about content is that its length is not what was announced.
        return BodyError::Refused(Refusal::LengthMismatch);
    }
    match error.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL) => BodyError::Stopped,
        _ => BodyError::Io(into_io(error)),
    }
}

/// As an error of the connection.
fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
