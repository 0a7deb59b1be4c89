//! What is sent: heads, content, trailers, ends.

use super::{Coming, Over, State, Stream};
use crate::message::h1::RequestKind;
use crate::message::h2::frame::{FrameHead, HEAD, flag, kind, write_headers};
use crate::message::h2::{encode_request, encode_response, encode_trailers};
use crate::message::{Fields, RequestHead, ResponseHead};

/// Octets that may wait to be written before streams have to wait with theirs. More would only be
/// memory that a client who reads slowly can bind.
pub(in crate::net::h2) const HELD: usize = 64 << 10;

impl State {
    /// Begins a request; `None` if the connection takes no more of them.
    pub(in crate::net::h2) fn request(
        &mut self,
        head: &RequestHead,
        has_ended: bool,
    ) -> Option<usize> {
        if !self.is_open() {
            return None;
        }
        let id = match self.last_id {
            0 => 1,
            last => last + 2,
        };
        self.last_id = id;
        let window = self.settings.stream_window;
        let mut stream = Stream::new(id, Coming::Head, window, self.peer.window);
        stream.kind = RequestKind::of(head);
        stream.has_ended = has_ended;
        let key = self.insert(stream);
        let most = self.peer.max_frame;
        let position = self.output.position();
        let (encoder, out) = (&mut self.encoder, self.output.open(&self.buffers));
        write_headers(id, has_ended, most, out, |out| {
            encode_request(head, encoder, out)
        });
        self.note_frame(key, position, has_ended);
        Some(key)
    }

    /// Sends the head of a response.
    pub(in crate::net::h2) fn respond(
        &mut self,
        key: usize,
        head: &ResponseHead,
        to: RequestKind,
        has_ended: bool,
    ) {
        let stream = &self.streams[key];
        if stream.over.is_some() {
            return;
        }
        let id = stream.id;
        let most = self.peer.max_frame;
        let position = self.output.position();
        let (encoder, out) = (&mut self.encoder, self.output.open(&self.buffers));
        write_headers(id, has_ended, most, out, |out| {
            encode_response(head, to, encoder, out)
        });
        self.note_frame(key, position, has_ended);
    }

    fn note_frame(&mut self, key: usize, position: u64, has_ended: bool) {
        let stream = &mut self.streams[key];
        stream.last_frame = Some(position);
        stream.has_ended |= has_ended;
        self.note_done(key);
    }

    /// Octets of content that a stream may send now; 0 if it has to wait for a window.
    pub(in crate::net::h2) fn room(&self, key: usize) -> usize {
        let room = self.streams[key].room.min(self.room);
        usize::try_from(room).unwrap_or(0)
    }

    /// Has the stream wait for a window.
    pub(in crate::net::h2) fn wait_for_window(&mut self, key: usize, waker: &std::task::Waker) {
        let stream = &mut self.streams[key];
        if !stream.waits_for(super::wait::WINDOW) {
            self.for_window.push(key);
        }
        stream.wait(super::wait::WINDOW, waker);
    }

    /// Has the stream wait until there is room in the output.
    pub(in crate::net::h2) fn wait_for_output(&mut self, key: usize, waker: &std::task::Waker) {
        let stream = &mut self.streams[key];
        if !stream.waits_for(super::wait::ROOM) {
            self.for_output.push(key);
        }
        stream.wait(super::wait::ROOM, waker);
    }

    /// Wakes who waits for room in the output, if there is some.
    pub(in crate::net::h2) fn wake_for_output(&mut self) {
        if self.for_output.is_empty() || self.output.len() > HELD / 2 {
            return;
        }
        for key in self.for_output.drain(..) {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.wake(super::wait::ROOM);
            }
        }
    }

    /// The head of a frame with so much content.
    pub(in crate::net::h2) fn data_head(&self, key: usize, octets: usize) -> [u8; HEAD] {
        let head = FrameHead {
            length: octets as u32,
            kind: kind::DATA,
            flags: 0,
            stream: self.streams[key].id,
        };
        head.octets()
    }

    /// Content of a stream was sent.
    pub(in crate::net::h2) fn note_content(&mut self, key: usize, octets: usize) {
        self.room -= octets as i64;
        self.streams[key].room -= octets as i64;
        self.watch.note_sent(octets);
    }

    /// Copies content into the output, as far as `room` goes, and returns how much that was.
    pub(in crate::net::h2) fn copy_content(&mut self, key: usize, content: &[u8]) -> usize {
        let most = self.peer.max_frame.min(HELD as u32) as usize;
        let free = HELD.saturating_sub(self.output.len());
        let content = &content[..content.len().min(self.room(key)).min(free)];
        let grown = self.grow_frame(key, content, most);
        for piece in content[grown..].chunks(most) {
            let head = self.data_head(key, piece.len());
            let position = self.output.position();
            let out = self.output.open(&self.buffers);
            out.extend_from_slice(&head);
            out.extend_from_slice(piece);
            self.streams[key].last_frame = Some(position);
        }
        self.note_content(key, content.len());
        content.len()
    }

    /// Makes the last frame of the output longer, if it is one with content of this stream and has
    /// not left: some programs hang up on who sends many small frames. Returns by how much.
    fn grow_frame(&mut self, key: usize, content: &[u8], most: usize) -> usize {
        let last = self.streams[key].last_frame;
        let Some(frame) = last.and_then(|last| self.output.frame_at(last)) else {
            return 0;
        };
        let there = FrameHead::parse(frame).filter(|head| {
            let is_last = HEAD + head.length as usize == frame.len();
            head.kind == kind::DATA && is_last
        });
        let Some(head) = there else { return 0 };
        let more = content.len().min(most.saturating_sub(head.length as usize));
        let head = FrameHead {
            length: head.length + more as u32,
            ..head
        };
        frame[..HEAD].copy_from_slice(&head.octets());
        let out = self.output.open(&self.buffers);
        out.extend_from_slice(&content[..more]);
        more
    }

    /// Ends a stream on our side: by a mark in its last frame, if that has not left yet.
    pub(in crate::net::h2) fn finish(&mut self, key: usize, trailers: &Fields) {
        let stream = &self.streams[key];
        if stream.has_ended || stream.over.is_some() {
            return;
        }
        let (id, last) = (stream.id, stream.last_frame);
        let position = self.output.position();
        if !trailers.is_empty() {
            let most = self.peer.max_frame;
            let (encoder, out) = (&mut self.encoder, self.output.open(&self.buffers));
            write_headers(id, true, most, out, |out| {
                encode_trailers(trailers, encoder, out)
            });
        } else if !last.is_some_and(|last| self.output.end_stream(last)) {
            let head = FrameHead {
                length: 0,
                kind: kind::DATA,
                flags: flag::END_STREAM,
                stream: id,
            };
            self.output
                .open(&self.buffers)
                .extend_from_slice(&head.octets());
        }
        self.note_frame(key, position, true);
    }

    /// A frame of a stream has left, or a part of it: its end needs another one.
    pub(in crate::net::h2) fn note_left(&mut self, key: usize) {
        self.streams[key].last_frame = None;
    }

    /// True if the message that is coming in a stream is known to be wrong. What comes behind a whole one
    /// says nothing of it.
    pub(in crate::net::h2) fn is_malformed(&self, key: usize) -> bool {
        let stream = &self.streams[key];
        matches!(stream.over, Some(Over::Fault(_))) && stream.coming != Coming::Ended
    }

    /// Why a stream takes nothing more.
    pub(in crate::net::h2) fn over(&self, key: usize) -> Option<Over> {
        self.streams[key].over
    }
}
