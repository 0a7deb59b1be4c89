//! The client's side of an exchange over an HTTP/2 stream.

use crate::http::exchange;
use crate::message::h1::{HeadLimits, RequestKind};
use crate::message::h2::write_response;
use crate::message::{Fields, Method, RequestHead, ResponseHead};
use crate::net::body::{BodyError, Sink};
use crate::net::h2::{Body, Sender};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use std::task::{Context, Poll};

/// A client's stream.
#[derive(Debug)]
pub(super) struct Client {
    body: Body,
    reply: Replier,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Replier {
    respond: SendResponse<Bytes>,
    sender: Sender,
    kind: RequestKind,
    /// The head could not be sent: the stream is gone.
    is_gone: bool,
}

impl Client {
    pub(super) fn new(body: RecvStream, respond: SendResponse<Bytes>, limits: HeadLimits) -> Self {
        let mut client = Self {
            body: Body::new(limits),
            reply: Replier {
                respond,
                sender: Sender::default(),
                kind: RequestKind::Plain,
                is_gone: false,
            },
        };
        client.body.begin(body);
        client
    }

    /// The request was understood.
    pub(super) fn begin(&mut self, head: &RequestHead) {
        self.reply.kind = RequestKind::of(head);
        if head.method == Method::Connect {
            self.body.hold();
        }
    }

    /// Ends the stream before its time, if it has not ended.
    pub(super) fn cut(&mut self) {
        let reply = &mut self.reply;
        match reply.sender.stream() {
            Some(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            None => reply.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

impl exchange::Client for Client {
    type Body = Body;
    type Reply = Replier;

    fn parts(&mut self) -> (&mut Body, &mut Replier) {
        (&mut self.body, &mut self.reply)
    }

    fn tunnel(&mut self) {
        self.body.release();
    }

    fn is_request_done(&self) -> bool {
        self.body.is_done()
    }

    fn octets(&self) -> (u64, u64) {
        (self.body.received(), self.reply.sender.sent())
    }
}

impl exchange::Reply for Replier {
    const IS_TOLD_ALWAYS: bool = true;

    fn send_head(&mut self, head: &ResponseHead, _: bool) -> u64 {
        let response = write_response(head, self.kind);
        if head.is_informational() {
            // Fails if the stream is gone, which the next step finds out.
            let _ = self.respond.send_informational(response);
            return 0;
        }
        let is_empty = head.length.is_empty() || self.kind == RequestKind::Head;
        let has_ended = head.status != 101 && (is_empty || matches!(head.status, 204 | 304));
        match self.respond.send_response(response, has_ended) {
            Ok(stream) => self.sender.begin(stream, has_ended),
            Err(_) => self.is_gone = true,
        }
        0
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_gone {
            return Poll::Ready(());
        }
        let reset = match self.sender.stream() {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| ())
    }
}

impl Sink for Replier {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        self.sender.poll_write(cx, content)
    }

    fn poll_write_shared(
        &mut self,
        cx: &mut Context<'_>,
        content: &Bytes,
    ) -> Poll<Result<usize, BodyError>> {
        self.sender.poll_write_shared(cx, content)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.sender.poll_flush(cx)
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        if self.is_gone {
            return Poll::Ready(Err(BodyError::Stopped));
        }
        self.sender.poll_finish(cx, trailers)
    }
}
