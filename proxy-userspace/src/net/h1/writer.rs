//! The writing half of an HTTP/1 connection.

use super::Delimited;
use crate::message::Fields;
use crate::message::h1;
use crate::net::body::{BodyError, InFile, InSocket, Sink, Spliced};
use crate::net::buffer::Buffers;
use crate::net::pipe::Pipe;
use crate::net::stream::Stream;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Content up to this length is copied behind what waits to be written: one plain write costs less
/// than the pieces of a vectored one.
const COPIED: usize = 4096;

/// Octets that wait to be written at most before content is written with them.
const HELD: usize = 12 << 10;

/// Octets of a file that the kernel is asked to send at once: others are to have their turn.
const OF_FILE: u64 = 1 << 20;

/// Writes heads and content to a socket.
#[derive(Debug)]
pub struct Writer {
    stream: Rc<Stream>,
    buffers: Buffers,
    /// Written out up to `sent`.
    output: Vec<u8>,
    sent: usize,
    delimited: Delimited,
    /// What the kernel has taken from another socket for this one. All of it leaves before anything
    /// else does.
    pipe: Option<Pipe>,
    /// Octets of the chunk whose head is in the output, that are still to come.
    chunk_left: u64,
    ending: bool,
    /// Octets written in all.
    written: u64,
}

impl Writer {
    /// A writer at the beginning of a connection.
    pub fn new(stream: Rc<Stream>, buffers: Buffers) -> Self {
        Self {
            stream,
            buffers,
            output: Vec::new(),
            sent: 0,
            delimited: Delimited::Nothing,
            pipe: None,
            chunk_left: 0,
            ending: false,
            written: 0,
        }
    }

    /// Appends a head, which goes out with what follows it.
    pub fn head(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.output.capacity() == 0 {
            self.output = self.buffers.take_output();
        }
        write(&mut self.output);
    }

    /// Content follows the head that was appended.
    pub fn begin(&mut self, delimited: Delimited) {
        self.delimited = delimited;
        self.chunk_left = 0;
        self.ending = false;
    }

    /// Octets written to the socket in all.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Octets that are still to be written.
    pub fn unwritten(&self) -> u64 {
        self.accepted() - self.written
    }

    /// Counts octets that went past this process.
    pub fn note_past(&mut self, octets: u64) {
        self.written += octets;
    }

    /// Octets handed in so far, written or not.
    pub fn accepted(&self) -> u64 {
        self.written + self.waiting().len() as u64 + self.piped() as u64
    }

    /// True unless all content was handed in and all octets are written.
    pub fn is_under_way(&self) -> bool {
        self.delimited != Delimited::Nothing || !self.waiting().is_empty() || self.piped() > 0
    }

    /// Octets in the pipe.
    #[inline]
    fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::filled)
    }

    /// True if the connection's end is the content's.
    pub fn ends_by_close(&self) -> bool {
        self.delimited == Delimited::ByClose
    }

    #[inline]
    fn waiting(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Takes content that the framing has room for: copied if short, else written at once.
    fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        let waiting = self.output.len() - self.sent;
        if content.len() <= COPIED && waiting + content.len() <= HELD {
            self.head(|output| output.extend_from_slice(content));
            return Poll::Ready(Ok(content.len()));
        }
        loop {
            let waiting = &self.output[self.sent..];
            let written = ready!(self.stream.poll_write(cx, waiting, content))?;
            let of_content = written.saturating_sub(waiting.len());
            self.note_written(written - of_content);
            self.written += of_content as u64;
            if of_content > 0 {
                return Poll::Ready(Ok(of_content));
            }
        }
    }

    /// Sends what waits, which more follows at once.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while self.sent < self.output.len() {
            let waiting = &self.output[self.sent..];
            let written = ready!(self.stream.poll_write_more(cx, waiting))?;
            self.note_written(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Has the kernel send from a file, after all that waits.
    fn poll_file(
        &mut self,
        cx: &mut Context<'_>,
        file: InFile<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        ready!(self.poll_waiting(cx))?;
        let most = file.octets.min(OF_FILE) as usize;
        let sent = ready!(self.stream.poll_send_file(cx, file.file, file.at, most))?;
        if sent == 0 {
            return Poll::Ready(Err(BodyError::Truncated));
        }
        self.written += sent as u64;
        Poll::Ready(Ok(sent))
    }

    /// This many octets of the output were written. With the last one the buffer is given back.
    fn note_written(&mut self, octets: usize) {
        self.written += octets as u64;
        self.sent += octets;
        if self.sent == self.output.len() {
            self.buffers.put_output(std::mem::take(&mut self.output));
            self.sent = 0;
        }
    }
}

/// Content that is handed in.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Octets(&'a [u8]),
    File(InFile<'a>),
}

impl Piece<'_> {
    fn len(self) -> u64 {
        match self {
            Self::Octets(octets) => octets.len() as u64,
            Self::File(file) => file.octets,
        }
    }

    /// Its first octets, not more than it has.
    fn first(self, octets: u64) -> Self {
        match self {
            Self::Octets(all) => Self::Octets(&all[..octets as usize]),
            Self::File(file) => Self::File(InFile { octets, ..file }),
        }
    }
}

impl Writer {
    #[inline]
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        piece: Piece<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        match piece {
            Piece::Octets(octets) => self.poll_content(cx, octets),
            Piece::File(file) => self.poll_file(cx, file),
        }
    }

    /// Takes content as far as the framing has room for it, and frames it.
    #[inline]
    fn poll_framed(
        &mut self,
        cx: &mut Context<'_>,
        piece: Piece<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        match self.delimited {
            Delimited::ByClose => self.poll_piece(cx, piece),
            Delimited::Nothing => Poll::Ready(Err(BodyError::Truncated)),
            Delimited::Exact(left) => {
                let taken = ready!(self.poll_piece(cx, piece.first(piece.len().min(left))))?;
                self.delimited = match left - taken as u64 {
                    0 => Delimited::Nothing,
                    left => Delimited::Exact(left),
                };
                Poll::Ready(Ok(taken))
            }
            Delimited::Chunked => {
                if self.chunk_left == 0 {
                    self.chunk_left = piece.len();
                    self.head(|output| h1::write_chunk_head(piece.len(), output));
                }
                let of_chunk = piece.first(piece.len().min(self.chunk_left));
                let taken = ready!(self.poll_piece(cx, of_chunk))?;
                self.chunk_left -= taken as u64;
                if self.chunk_left == 0 {
                    self.head(h1::write_chunk_end);
                }
                Poll::Ready(Ok(taken))
            }
        }
    }
}

impl Sink for Writer {
    /// What leaves in records has to be read first.
    #[inline]
    fn takes_files(&self) -> bool {
        self.stream.is_plain()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        self.poll_framed(cx, Piece::Octets(content))
    }

    fn poll_write_file(
        &mut self,
        cx: &mut Context<'_>,
        file: InFile<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        self.poll_framed(cx, Piece::File(file))
    }

    fn takes_sockets(&self) -> bool {
        // Chunks would each need a head, whose length has to be known before.
        let is_bare = matches!(self.delimited, Delimited::Exact(_) | Delimited::ByClose);
        is_bare && self.stream.can_splice()
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: InSocket<'_>,
    ) -> Poll<Result<Spliced, BodyError>> {
        debug_assert_eq!(self.piped(), 0, "it was to be drained first");
        ready!(self.poll_waiting(cx))?;
        let left = match self.delimited {
            Delimited::Exact(left) => left,
            Delimited::ByClose => u64::MAX,
            _ => return Poll::Ready(Ok(Spliced::Cannot)),
        };
        if self.pipe.is_none() {
            self.pipe = self.buffers.pipes().take();
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(Spliced::Cannot));
        };
        let most = usize::try_from(from.octets.min(left)).unwrap_or(usize::MAX);
        let spliced = match pipe.poll_fill(cx, from.stream, most) {
            Poll::Pending => Spliced::Nothing,
            Poll::Ready(Ok(0)) => Spliced::End,
            Poll::Ready(Ok(octets)) => {
                if self.delimited != Delimited::ByClose {
                    self.delimited = match left - octets as u64 {
                        0 => Delimited::Nothing,
                        left => Delimited::Exact(left),
                    };
                }
                return Poll::Ready(Ok(Spliced::Octets(octets)));
            }
            Poll::Ready(Err(error)) => Spliced::Failed(error),
        };
        self.pipe = None;
        Poll::Ready(Ok(spliced))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) else {
            return Poll::Ready(Ok(false));
        };
        self.written += ready!(pipe.poll_drain(cx, &self.stream))? as u64;
        Poll::Ready(Ok(true))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while ready!(self.poll_drain(cx))? {}
        while self.sent < self.output.len() {
            let written = ready!(self.stream.poll_write(cx, &self.output[self.sent..], &[]))?;
            self.note_written(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        if !self.ending {
            match self.delimited {
                Delimited::Chunked if self.chunk_left == 0 => {
                    self.head(|output| h1::write_last_chunk(trailers, output));
                }
                // Less came than was announced: the caller has to cut the connection.
                Delimited::Chunked | Delimited::Exact(_) => {
                    return Poll::Ready(Err(BodyError::Truncated));
                }
                Delimited::Nothing | Delimited::ByClose => {}
            }
            self.ending = true;
        }
        ready!(self.poll_flush(cx))?;
        if self.delimited == Delimited::ByClose {
            // One that is closed or reset already has seen its end.
            let _ = ready!(self.stream.poll_shutdown(cx));
        }
        self.ending = false;
        self.delimited = Delimited::Nothing;
        self.pipe = None;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.buffers.put_output(std::mem::take(&mut self.output));
    }
}
