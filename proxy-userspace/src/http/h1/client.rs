//! The client's side of an exchange over HTTP/1.

use crate::http::exchange;
use crate::message::h1::{RequestKind, ResponseOptions, write_response};
use crate::message::{Fields, Length, RequestHead, ResponseHead, Version};
use crate::net::body::{BodyError, InFile, InSocket, Sink, Spliced};
use crate::net::h1::{Delimited, Reader, Writer};
use crate::net::shortcut::Ending;
use crate::net::{Buffers, Stream};
use std::rc::Rc;
use std::task::{Context, Poll};

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    pub(super) reader: Reader,
    pub(super) reply: Replier,
    /// Octets received before the request under way, and sent.
    pub(super) before: (u64, u64),
    /// The client has said that it sends no request after the one under way.
    pub(super) is_last: bool,
}

/// The writing half.
#[derive(Debug)]
pub struct Replier {
    stream: Rc<Stream>,
    pub(super) writer: Writer,
    kind: RequestKind,
    version: Version,
    /// The connection stays open after the response, as far as is known.
    keep_alive: bool,
    /// The client has ended its sending, or sends its next request already: there is no news to
    /// be had from reading.
    is_blind: bool,
}

impl Client {
    pub(super) fn new(
        stream: Stream,
        buffers: &Buffers,
        limits: crate::message::h1::HeadLimits,
    ) -> Self {
        let stream = Rc::new(stream);
        Self {
            reader: Reader::new(Rc::clone(&stream), buffers.clone(), limits),
            reply: Replier {
                writer: Writer::new(Rc::clone(&stream), buffers.clone()),
                stream,
                kind: RequestKind::Plain,
                version: Version::Http11,
                keep_alive: false,
                is_blind: false,
            },
            before: (0, 0),
            is_last: false,
        }
    }

    /// The socket, and what was read from it.
    pub(super) fn into_raw(self) -> (Rc<Stream>, Vec<u8>) {
        (self.reply.stream, self.reader.octets().to_vec())
    }

    /// The next response is to this request.
    pub(super) fn begin(&mut self, head: &RequestHead, keep_alive: bool) {
        let reply = &mut self.reply;
        reply.kind = RequestKind::of(head);
        reply.version = head.version;
        reply.keep_alive = keep_alive;
        reply.is_blind = self.reader.is_ended();
    }

    /// The next response is to a request that was not understood, and the last.
    pub(super) fn begin_refusal(&mut self) {
        self.reply.kind = RequestKind::Plain;
        self.reply.version = Version::Http11;
        self.reply.keep_alive = false;
    }

    /// True if the connection stays open after the response that was sent.
    pub(super) fn is_kept(&self) -> bool {
        self.reply.keep_alive
    }

    /// True if the client can send nothing that a closed socket would answer with a reset: such a
    /// reset can overtake the response (RFC 9112 §9.6).
    pub(super) fn is_silent(&self) -> bool {
        let is_over = self.reader.is_ended() && self.reader.is_done();
        self.is_last && (self.reader.is_idle() || (is_over && self.reader.octets().is_empty()))
    }

    /// True if a connection that just ends would be taken for the end of the content.
    pub(super) fn ends_by_close(&self) -> bool {
        self.reply.writer.ends_by_close()
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.reply.stream
    }
}

impl exchange::Client for Client {
    type Body = Reader;
    type Reply = Replier;

    fn parts(&mut self) -> (&mut Reader, &mut Replier) {
        (&mut self.reader, &mut self.reply)
    }

    fn tunnel(&mut self) {
        self.reader.begin(Delimited::ByClose);
        self.reply.writer.begin(Delimited::ByClose);
        self.reply.keep_alive = false;
    }

    fn ending(&self) -> Option<Ending<'_>> {
        Some(Ending {
            stream: self.stream(),
            unread: self.reader.unread(),
            unwritten: self.reply.writer.unwritten(),
        })
    }

    fn note_past(&mut self, from: u64, to: u64) {
        self.reader.note_past(from);
        self.reply.writer.note_past(to);
    }

    fn is_request_done(&self) -> bool {
        self.reader.is_done()
    }

    fn octets(&self) -> (u64, u64) {
        (
            self.reader.received().saturating_sub(self.before.0),
            self.reply.writer.written().saturating_sub(self.before.1),
        )
    }
}

impl exchange::Reply for Replier {
    fn send_head(&mut self, head: &ResponseHead, last: bool) -> u64 {
        if head.is_informational() {
            if self.version >= Version::Http11 {
                return self.write_head(head);
            }
            return 0;
        }
        if head.length == Length::Unknown && self.version == Version::Http10 {
            self.keep_alive = false;
        }
        self.keep_alive &= !last;
        let octets = self.write_head(head);
        let no_content = self.kind == RequestKind::Head || matches!(head.status, 101 | 204 | 304);
        self.writer.begin(match head.length {
            _ if no_content => Delimited::Nothing,
            Length::Unknown if self.version == Version::Http10 => Delimited::ByClose,
            length => Delimited::of(length),
        });
        octets
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_blind || self.stream.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        match self.stream.peek() {
            Ok(_) => {
                self.is_blind = true;
                Poll::Pending
            }
            // Asking has cleared what the reactor knew: it tells again.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                match self.stream.poll_readable(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(_) => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            }
            Err(_) => Poll::Ready(()),
        }
    }
}

impl Replier {
    fn write_head(&mut self, head: &ResponseHead) -> u64 {
        let options = ResponseOptions {
            to: self.kind,
            version: self.version,
            keep_alive: self.keep_alive,
        };
        let before = self.writer.accepted();
        self.writer
            .head(|output| write_response(head, &options, output));
        self.writer.accepted() - before
    }
}

impl Sink for Replier {
    #[inline]
    fn takes_files(&self) -> bool {
        self.writer.takes_files()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        self.writer.poll_write(cx, content)
    }

    fn poll_write_file(
        &mut self,
        cx: &mut Context<'_>,
        file: InFile<'_>,
    ) -> Poll<Result<usize, BodyError>> {
        self.writer.poll_write_file(cx, file)
    }

    fn takes_sockets(&self) -> bool {
        self.writer.takes_sockets()
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: InSocket<'_>,
    ) -> Poll<Result<Spliced, BodyError>> {
        self.writer.poll_splice(cx, from)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        self.writer.poll_drain(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.writer.poll_flush(cx)
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        self.writer.poll_finish(cx, trailers)
    }
}
