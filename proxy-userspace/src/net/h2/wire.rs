//! The socket below an HTTP/2 connection, and who watches it.

use super::frames::{Frame, Frames};
use crate::net::Stream;
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets of sent content for which the other end may give us one WINDOW_UPDATE that is not
/// counted. Honest ones give them for some thousands.
const CONTENT_PER_UPDATE: u32 = 256;

/// What was seen passing by. Counts go on for ever and wrap.
#[derive(Debug, Default)]
pub struct Watch {
    /// Streams that the other end has reset.
    pub resets: Cell<u32>,
    /// Streams that we have reset because of what the other end did.
    pub faults: Cell<u32>,
    /// Those that were malformed, among them.
    pub malformed: Cell<u32>,
    /// Frames of the other end that move nothing: PING, SETTINGS, PRIORITY, empty DATA, unknown
    /// ones, and WINDOW_UPDATE beyond what our content explains.
    pub idle_frames: Cell<u32>,
    /// HEADERS and DATA of the other end.
    pub live_frames: Cell<u32>,
    /// True while a head of the other end is incomplete.
    pub is_head_open: Cell<bool>,
    /// The other end's first SETTINGS have come.
    pub is_settled: Cell<bool>,
    /// The other end has said GOAWAY, and which was the last stream that it began with.
    pub last_stream: Cell<Option<u32>>,
    /// The reason of our GOAWAY, if it was an error.
    pub our_error: Cell<u32>,
    /// WINDOW_UPDATEs that our content explains, in octets.
    credit: Cell<u32>,
}

impl Watch {
    fn received(&self, frame: &Frame) {
        let has_flag = |flag| frame.flags & flag != 0;
        match frame.kind {
            Frame::HEADERS | Frame::CONTINUATION => {
                add(&self.live_frames);
                self.is_head_open.set(!has_flag(Frame::END_HEADERS));
            }
            Frame::DATA if frame.length > 0 || has_flag(Frame::END_STREAM) => {
                add(&self.live_frames);
            }
            Frame::RST_STREAM => add(&self.resets),
            Frame::GOAWAY => {
                let last = frame.first_word() & 0x7fff_ffff;
                let before = self.last_stream.get().unwrap_or(u32::MAX);
                self.last_stream.set(Some(last.min(before)));
            }
            Frame::SETTINGS if !has_flag(Frame::ACK) => {
                self.is_settled.set(true);
                add(&self.idle_frames);
            }
            Frame::SETTINGS => {}
            Frame::PING if has_flag(Frame::ACK) => {}
            Frame::WINDOW_UPDATE => match self.credit.get().checked_sub(CONTENT_PER_UPDATE) {
                Some(left) => self.credit.set(left),
                None => add(&self.idle_frames),
            },
            _ => add(&self.idle_frames),
        }
    }

    fn sent(&self, frame: &Frame) {
        /// The error codes that say that the stream's sender is to blame: PROTOCOL_ERROR,
        /// FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM.
        const FAULTS: [u32; 5] = [1, 3, 5, 6, 7];
        match frame.kind {
            Frame::DATA => {
                let credit = self.credit.get().saturating_add(frame.length);
                self.credit.set(credit);
            }
            Frame::RST_STREAM if FAULTS.contains(&frame.first_word()) => {
                add(&self.faults);
                if frame.first_word() == 1 {
                    add(&self.malformed);
                }
            }
            Frame::GOAWAY if frame.second_word() != 0 => {
                self.our_error.set(frame.second_word());
            }
            _ => {}
        }
    }
}

fn add(count: &Cell<u32>) {
    count.set(count.get().wrapping_add(1));
}

/// The socket below an HTTP/2 connection.
#[derive(Debug)]
pub struct Wire {
    stream: Rc<Stream>,
    /// What was read from the socket before.
    early: Vec<u8>,
    early_taken: usize,
    received: Frames,
    sent: Frames,
    watch: Rc<Watch>,
}

impl Wire {
    /// A client's connection, of which `early` was read already.
    pub fn of_client(stream: Rc<Stream>, early: Vec<u8>, watch: Rc<Watch>) -> Self {
        Self {
            stream,
            early,
            early_taken: 0,
            received: Frames::new(super::PREFACE.len()),
            sent: Frames::new(0),
            watch,
        }
    }

    /// A connection to a backend.
    pub fn to_backend(stream: Rc<Stream>, watch: Rc<Watch>) -> Self {
        Self {
            stream,
            early: Vec::new(),
            early_taken: 0,
            received: Frames::new(0),
            sent: Frames::new(super::PREFACE.len()),
            watch,
        }
    }

    /// Watches the first `octets` of what is written from these pieces.
    fn wrote(&mut self, pieces: &[IoSlice<'_>], mut octets: usize) {
        for piece in pieces {
            let written = &piece[..piece.len().min(octets)];
            self.sent.take(written, |frame| self.watch.sent(frame));
            octets -= written.len();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let waiting = &this.early[this.early_taken..];
        if waiting.is_empty() {
            ready!(this.stream.poll_read_buf(cx, buffer))?;
        } else {
            let taken = waiting.len().min(buffer.remaining());
            buffer.put_slice(&waiting[..taken]);
            this.early_taken += taken;
            if this.early_taken == this.early.len() {
                (this.early, this.early_taken) = (Vec::new(), 0);
            }
        }
        let watch = &this.watch;
        this.received
            .take(&buffer.filled()[before..], |frame| watch.received(frame));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.stream.poll_write(cx, octets, &[]))?;
        this.wrote(&[IoSlice::new(octets)], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(this.stream.poll_write_pieces(cx, pieces))?;
        this.wrote(pieces, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // One that is closed or reset already has seen its end.
        let _ = ready!(self.stream.poll_shutdown(cx));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u32) -> Frame {
        Frame {
            kind,
            flags,
            stream: 1,
            length,
            first: [0, 0, 0, 1, 0, 0, 0, 2],
        }
    }

    #[test]
    fn what_moves_nothing_is_counted_and_what_answers_us_is_not() {
        let watch = Watch::default();
        for idle in [
            frame(Frame::PING, 0, 8),
            frame(Frame::SETTINGS, 0, 0),
            frame(Frame::PRIORITY, 0, 5),
            frame(Frame::DATA, 0, 0),
            frame(0xbb, 0, 0),
            frame(Frame::WINDOW_UPDATE, 0, 4),
        ] {
            watch.received(&idle);
        }
        assert_eq!(watch.idle_frames.get(), 6);
        for answer in [
            frame(Frame::PING, Frame::ACK, 8),
            frame(Frame::SETTINGS, Frame::ACK, 0),
            frame(Frame::DATA, Frame::END_STREAM, 0),
            frame(Frame::HEADERS, 0, 1),
            frame(Frame::CONTINUATION, Frame::END_HEADERS, 1),
        ] {
            watch.received(&answer);
        }
        assert_eq!(watch.idle_frames.get(), 6);
        assert_eq!(watch.live_frames.get(), 3);
        assert!(!watch.is_head_open.get());
    }

    #[test]
    fn window_updates_are_free_as_far_as_content_explains_them() {
        let watch = Watch::default();
        watch.sent(&frame(Frame::DATA, 0, 2 * CONTENT_PER_UPDATE));
        for _ in 0..3 {
            watch.received(&frame(Frame::WINDOW_UPDATE, 0, 4));
        }
        assert_eq!(watch.idle_frames.get(), 1);
    }

    #[test]
    fn only_faults_of_the_other_end_are_counted_as_such() {
        let watch = Watch::default();
        let mut reset = frame(Frame::RST_STREAM, 0, 4);
        watch.sent(&reset);
        reset.first[3] = 8;
        watch.sent(&reset);
        assert_eq!((watch.faults.get(), watch.malformed.get()), (1, 1));
        watch.sent(&frame(Frame::GOAWAY, 0, 8));
        assert_eq!(watch.our_error.get(), 2);
        watch.received(&frame(Frame::GOAWAY, 0, 8));
        assert_eq!(watch.last_stream.get(), Some(1));
    }
}
