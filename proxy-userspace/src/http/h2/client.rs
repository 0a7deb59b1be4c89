//! The client's side of an exchange over an HTTP/2 stream.

use crate::http::exchange;
use crate::message::h1::RequestKind;
use crate::message::{Fields, Method, RequestHead, ResponseHead};
use crate::net::body::{BodyError, Sink};
use crate::net::h2::{Body, ErrorCode, Place, Sender};
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
    sender: Sender,
    kind: RequestKind,
    place: Place,
}

impl Client {
    pub(super) fn new(place: Place) -> Self {
        let mut body = Body::default();
        body.begin(&place);
        Self {
            body,
            reply: Replier {
                sender: Sender::default(),
                kind: RequestKind::Plain,
                place,
            },
        }
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
        self.reply.place.cut(ErrorCode::INTERNAL_ERROR);
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
        if head.is_informational() {
            self.place.respond(head, self.kind, false);
            return 0;
        }
        let is_empty = head.length.is_empty() || self.kind == RequestKind::Head;
        let has_ended = head.status != 101 && (is_empty || matches!(head.status, 204 | 304));
        self.place.respond(head, self.kind, has_ended);
        self.sender.begin(&self.place, has_ended);
        0
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.place.poll_over(cx)
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

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.place.flush();
        self.sender.poll_flush(cx)
    }

    fn poll_finish(
        &mut self,
        cx: &mut Context<'_>,
        trailers: &Fields,
    ) -> Poll<Result<(), BodyError>> {
        self.sender.poll_finish(cx, trailers)
    }
}
