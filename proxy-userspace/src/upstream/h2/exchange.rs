//! One request and its response over a link.

use super::link::Claim;
use crate::message::h1::RequestKind;
use crate::message::{Fields, Length, Name, RequestHead, ResponseHead};
use crate::net::body::{BodyError, Filled, Source};
use crate::net::h2::{Body, Over, Place, Sender};
use crate::observe::access_log::Octets;
use crate::upstream::{Answer, AnswerError, Backend};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use std::io;
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
    /// `None` before the request was sent, or if it could not be.
    place: Option<Place>,
    body: Body,
    kind: RequestKind,
    /// What the request would change to; empty if nothing.
    protocol: Vec<u8>,
    /// The field by which a client of HTTP/1 knows that it speaks with a WebSocket server.
    accept: Option<String>,
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
                place: None,
                body: Body::default(),
                kind: RequestKind::Plain,
                protocol: Vec::new(),
                accept: None,
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
        let is_tunnel = !head.protocol.is_empty();
        let has_ended = head.length.is_empty() && !is_tunnel;
        response.place = response.claim.link().request(head, has_ended);
        if let Some(place) = &response.place {
            // A tunnel's content comes when the tunnel stands.
            self.request.begin(place, has_ended || is_tunnel);
            response.body.begin(place);
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

impl From<Over> for AnswerError {
    fn from(over: Over) -> Self {
        match over {
            Over::Unprocessed => Self::Unprocessed,
            Over::Fault(refusal) => Self::Refused(refusal),
            Over::Closed => Self::Closed,
            Over::Reset(_) | Over::Failed => Self::Io(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl Answer for Response {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), AnswerError>> {
        let Some(place) = &self.place else {
            return Poll::Ready(Err(AnswerError::Unprocessed));
        };
        ready!(place.poll_head(cx, head))?;
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
