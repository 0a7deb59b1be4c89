//! Content on its way: where it comes from and where it goes, whatever the protocol.
//!
//! Octets are borrowed, never handed over: a [`Source`] shows what it has, a [`Sink`] takes as
//! much of it as it can, and the source forgets that much. Nobody copies for the other's sake, and
//! back-pressure is simply that nothing is consumed.
//!
//! A sink may hold back what it took until it is flushed, so that a head, some content and the end
//! go out in one write. Whoever moves content flushes before it waits.

use super::stream::Stream;
use crate::message::{Fields, Refusal};
use std::fs::File;
use std::io;
use std::task::{Context, Poll};

/// What a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Content: see [`Source::content`].
    Content,
    /// Nothing more, and nothing is missing.
    End,
}

/// Content that lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct InFile<'a> {
    /// The file.
    pub file: &'a File,
    /// Where in the file it begins.
    pub at: u64,
    /// How much of it there is, in octets; not 0.
    pub octets: u64,
}

/// Content that has not been read from its socket.
#[derive(Clone, Copy, Debug)]
pub struct InSocket<'a> {
    /// The socket, of a connection that is not encrypted.
    pub stream: &'a Stream,
    /// How much of what comes is content, in octets; not 0.
    pub octets: u64,
}

/// What [`Sink::poll_splice`] has done.
#[derive(Debug)]
pub enum Spliced {
    /// So many octets have left the source, and will leave the sink.
    Octets(usize),
    /// The source has nothing at the moment, and tells when it has.
    Nothing,
    /// The source has ended.
    End,
    /// The source has failed.
    Failed(io::Error),
    /// The kernel cannot do it: the octets have to be read.
    Cannot,
}

/// Content could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The connection or stream ended before the content did.
    #[error("the content ends too early")]
    Truncated,
    /// The content is not as its protocol has it.
    #[error("the content was refused: {}", .0.label())]
    Refused(Refusal),
    /// The other end does not want the rest (a stream was reset with `NO_ERROR` or `CANCEL`).
    #[error("the other end wants no more")]
    Stopped,
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where content comes from.
pub trait Source {
    /// Waits until there is content, or no more of it. While there is content it is ready at once
    /// and reads nothing.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>>;

    /// The content that is there, at least one octet after [`Filled::Content`].
    fn content(&self) -> &[u8];

    /// The content, if it lies in a file and is long enough for the kernel to move it. Asked
    /// before [`Source::poll_fill`], and only for sinks that take files.
    fn in_file(&self) -> Option<InFile<'_>> {
        None
    }

    /// The content, if it is still in the socket, all of it. Asked before [`Source::poll_fill`], and
    /// only for sinks that take sockets.
    fn in_socket(&self) -> Option<InSocket<'_>> {
        None
    }

    /// This many octets of what was [in the socket](Self::in_socket) were taken from there; 0 if
    /// there were none.
    fn taken(&mut self, _octets: usize) {}

    /// Takes this many octets away.
    fn consume(&mut self, octets: usize);

    /// The trailers, after [`Filled::End`]; empty if there are none.
    fn trailers(&self) -> &Fields;
}

/// Where content goes.
pub trait Sink {
    /// True if [`Sink::poll_write_file`] may be called.
    fn takes_files(&self) -> bool {
        false
    }

    /// Takes some of `content`, at least one octet, and returns how many. If it is not ready, the
    /// next call must offer the same octets, or those and more.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>>;

    /// As [`Sink::poll_write`], for content in a file, which the kernel moves.
    ///
    /// # Errors
    ///
    /// [`BodyError::Truncated`] if the file has become shorter; others are the sink's.
    fn poll_write_file(
        &mut self,
        _: &mut Context<'_>,
        _: InFile<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        Poll::Ready(Err(BodyError::Stopped))
    }

    /// True if [`Sink::poll_splice`] may be called: the kernel can move the next content.
    fn takes_sockets(&self) -> bool {
        false
    }

    /// Has the kernel take content from a socket, after all that was taken before has left by
    /// [`Sink::poll_drain`]. Pending: the sink is not ready.
    ///
    /// # Errors
    ///
    /// The sink's. Those of the source are [`Spliced::Failed`].
    fn poll_splice(
        &mut self,
        _: &mut Context<'_>,
        _: InSocket<'_>,
    ) -> Poll<Result<Spliced, BodyError>> {
        Poll::Ready(Ok(Spliced::Cannot))
    }

    /// Sends some of what [`Sink::poll_splice`] took; false if nothing of it was left.
    fn poll_drain(&mut self, _: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        Poll::Ready(Ok(false))
    }

    /// Sends what was held back.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;

    /// Ends the content and flushes. Once ready it must not be called again.
    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>>;
}
