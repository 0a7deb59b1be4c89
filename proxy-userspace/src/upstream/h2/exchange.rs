//! One request and its response over a link.

use super::link::Claim;
use crate::message::h1::RequestKind;
use crate::message::h2::{read_response, write_request};
use crate::message::{Fields, Length, Name, Refusal, RequestHead, ResponseHead};
use crate::net::body::{BodyError, Filled, Source};
use crate::net::h2::{Body, Sender};
use crate::observe::access_log::Octets;
use crate::upstream::h1::LIMITS;
use crate::upstream::{Answer, AnswerError, Backend};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use sha1::{Digest as _, Sha1};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What a WebSocket server adds to the client's key (RFC 6455 §1.3).
const WEBSOCKET: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A stream.
#[derive(Debug)]
pub struct Exchange {
    request: Sender,
    response: Response,
    is_reused: bool,
}

/// Alias for readers of [`Exchange::new`]: the place that the exchange takes on a link.
pub type Room = Claim;

/// The receiving half.
#[derive(Debug)]
pub struct Response {
    /// `None` before the request was sent, and once the head has come.
    future: Option<ResponseFuture>,
    body: Body,
    kind: RequestKind,
    /// What the request would change to; empty if nothing.
    protocol: Vec<u8>,
    /// The field by which a client of HTTP/1 knows that it speaks with a WebSocket server.
    accept: Option<String>,
    /// Number of the stream.
    stream: u32,
    /// The request could not be sent.
    failed: Option<AnswerError>,
    claim: Room,
}

impl Exchange {
    /// A request that is about to begin. `is_fresh`: its failing is not to be taken for that of a
    /// link that had grown old.
    pub fn new(claim: Room, is_fresh: bool) -> Self {
        Self {
            is_reused: claim.is_reused() && !is_fresh,
            request: Sender::default(),
            response: Response {
                future: None,
                body: Body::new(LIMITS),
                kind: RequestKind::Plain,
                protocol: Vec::new(),
                accept: None,
                stream: 0,
                failed: None,
                claim,
            },
        }
    }
}

/// `Sec-WebSocket-Accept` for a key.
fn accept(key: &[u8]) -> String {
    STANDARD.encode(
        Sha1::new()
            .chain_update(key)
            .chain_update(WEBSOCKET)
            .finalize(),
    )
}

impl Backend for Exchange {
    type Request = Sender;
    type Response = Response;

    fn start(&mut self, head: &RequestHead) {
        let response = &mut self.response;
        response.kind = RequestKind::of(head);
        response.protocol.clone_from(&head.protocol);
        response.accept = head.fields.get(Name::SecWebSocketKey).map(accept);
        let Ok(request) = write_request(head) else {
            response.failed = Some(AnswerError::Refused(Refusal::Target));
            return;
        };
        let is_tunnel = !head.protocol.is_empty();
        let has_ended = head.length.is_empty() && !is_tunnel;
        match response.claim.requests().send_request(request, has_ended) {
            Ok((future, stream)) => {
                response.stream = stream.stream_id().as_u32();
                response.future = Some(future);
                // A tunnel's content comes when the tunnel stands.
                self.request.begin(stream, has_ended || is_tunnel);
            }
            Err(_) => response.failed = Some(AnswerError::Unprocessed),
        }
    }

    fn parts(&mut self) -> (&mut Sender, &mut Response) {
        (&mut self.request, &mut self.response)
    }

    fn tunnel(&mut self) {
        self.request.reopen();
        self.response.body.release();
    }

    fn is_reused(&self) -> bool {
        self.is_reused
    }

    fn octets(&self) -> (u64, Octets) {
        let body = self.response.body.received();
        (self.request.sent(), Octets { head: 0, body })
    }
}

impl Response {
    fn error(&self, error: h2::Error) -> AnswerError {
        if self
            .claim
            .last_stream()
            .is_some_and(|last| last < self.stream)
        {
            return AnswerError::Unprocessed;
        }
        if error.is_library() && (error.is_reset() || error.is_go_away()) {
            return AnswerError::Refused(Refusal::Malformed);
        }
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => AnswerError::Unprocessed,
            None if error.is_io() => AnswerError::Io(into_io(error)),
            None => AnswerError::Closed,
            Some(_) => AnswerError::Io(into_io(error)),
        }
    }
}

fn into_io(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Answer for Response {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), AnswerError>> {
        let Some(future) = &mut self.future else {
            let failed = self.failed.take().unwrap_or(AnswerError::Closed);
            return Poll::Ready(Err(failed));
        };
        match future.poll_informational(cx) {
            Poll::Ready(Some(Ok(response))) => {
                let (parts, ()) = response.into_parts();
                let read = read_response(&parts, false, self.kind, head);
                return Poll::Ready(read.map_err(AnswerError::Refused));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.error(error))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        let (parts, body) = match ready!(Pin::new(future).poll(cx)) {
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(self.error(error))),
        };
        self.future = None;
        let read = read_response(&parts, body.is_end_stream(), self.kind, head);
        read.map_err(AnswerError::Refused)?;
        self.body.begin(body);
        if !self.protocol.is_empty() && head.status / 100 == 2 {
            head.status = 101;
            head.reason.clear();
            head.reason.extend_from_slice(b"Switching Protocols");
            head.length = Length::None;
            head.protocol.clone_from(&self.protocol);
            if let Some(accept) = &self.accept {
                head.fields.set(Name::SecWebSocketAccept, accept.as_bytes());
            }
            self.body.hold();
        }
        Poll::Ready(Ok(()))
    }
}

impl Source for Response {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        self.body.poll_fill(cx)
    }

    fn content(&self) -> &[u8] {
        self.body.content()
    }

    fn shared(&self) -> Option<&Bytes> {
        self.body.shared()
    }

    fn consume(&mut self, octets: usize) {
        self.body.consume(octets);
    }

    fn trailers(&self) -> &Fields {
        self.body.trailers()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_websocket_answer_is_that_of_rfc_6455() {
        let accept = super::accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
