//! HTTP/1.1 to a backend.

use super::pool::Place;
use super::tls::KeptSeal;
use super::{Answer, AnswerError, Backend};
use crate::balance::l7::BackendState;
use crate::message::h1::{
    HeadLimits, RequestKind, RequestOptions, ResponseFraming, ResponseParser, write_request,
};
use crate::message::{Fields, RequestHead, ResponseHead};
use crate::net::body::{BodyError, Filled, InSocket, Source};
use crate::net::h1::{Delimited, Reader, Writer};
use crate::net::shortcut::Ending;
use crate::net::{Buffers, Nanos, Stream};
use crate::observe::access_log::Octets;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What a backend may send. Wider than what clients may: backends are ours, their cookies are many.
pub const LIMITS: HeadLimits = HeadLimits {
    fields: 256,
    head_bytes: 64 << 10,
    target_bytes: 0,
};

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection {
    request: Writer,
    response: Response,
    /// Requests begun.
    served: u32,
    /// Octets sent and received before the request under way.
    before: (u64, u64),
    /// When it was put into the pool.
    pub(super) kept_since: Nanos,
    place: Place,
    /// What it is sealed by.
    pub(super) seal: KeptSeal,
}

/// The reading half.
#[derive(Debug)]
pub struct Response {
    reader: Reader,
    parser: ResponseParser,
    kind: RequestKind,
    /// The backend keeps the connection after this response.
    keep_alive: bool,
    /// The final head has come.
    has_head: bool,
    /// Octets of the heads that have come.
    heads: u64,
}

impl Connection {
    /// A connection that has just been opened.
    pub fn new(stream: Stream, place: Place, seal: KeptSeal, buffers: &Buffers) -> Self {
        let stream = Rc::new(stream);
        Self {
            request: Writer::new(Rc::clone(&stream), buffers.clone()),
            response: Response {
                reader: Reader::new(stream, buffers.clone(), LIMITS),
                parser: ResponseParser::default(),
                kind: RequestKind::Plain,
                keep_alive: true,
                has_head: false,
                heads: 0,
            },
            served: 0,
            before: (0, 0),
            kept_since: 0,
            place,
            seal,
        }
    }

    /// Whose connection it is.
    pub fn backend(&self) -> &Arc<BackendState> {
        self.place.backend()
    }

    /// Writes what comes before the first request: a PROXY header.
    pub fn preamble(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.request.head(write);
    }

    /// True if both messages are complete and the backend keeps the connection.
    pub fn is_reusable(&self) -> bool {
        let response = &self.response;
        response.keep_alive
            && response.has_head
            && !self.request.is_under_way()
            && response.reader.is_idle()
    }

    /// True if the backend has neither closed the connection nor spoken out of turn since it was
    /// kept, as far as the kernel has said.
    pub fn is_quiet(&self) -> bool {
        self.response.reader.is_idle()
    }

    /// Before a kept connection is closed: says the end of its TLS session, if it has one.
    pub fn say_end(&self) {
        self.response.reader.stream().say_end();
    }
}

impl Backend for Connection {
    type Request = Writer;
    type Response = Response;

    fn start(&mut self, head: &RequestHead) {
        self.served += 1;
        self.before = (self.request.accepted(), self.response.reader.received());
        let response = &mut self.response;
        response.kind = RequestKind::of(head);
        response.keep_alive = false;
        response.has_head = false;
        response.heads = 0;
        self.request
            .head(|output| write_request(head, &RequestOptions { close: false }, output));
        self.request.begin(Delimited::of(head.length));
    }

    fn parts(&mut self) -> (&mut Writer, &mut Response) {
        (&mut self.request, &mut self.response)
    }

    fn tunnel(&mut self) {
        self.request.begin(Delimited::ByClose);
    }

    fn ending(&self) -> Option<Ending<'_>> {
        Some(Ending {
            stream: self.response.reader.stream(),
            unread: self.response.reader.unread(),
            unwritten: self.request.unwritten(),
        })
    }

    fn note_past(&mut self, to: u64, from: u64) {
        self.request.note_past(to);
        self.response.reader.note_past(from);
    }

    fn is_reused(&self) -> bool {
        self.served > 1
    }

    fn octets(&self) -> (u64, Octets) {
        let received = self.response.reader.received() - self.before.1;
        let head = self.response.heads.min(received);
        let received = Octets {
            head,
            body: received - head,
        };
        (
            self.request.written().saturating_sub(self.before.0),
            received,
        )
    }
}

impl Answer for Response {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), AnswerError>> {
        loop {
            let octets = self.reader.octets();
            if !octets.is_empty() {
                let parsed = self.parser.parse(octets, &LIMITS, self.kind, head);
                if let Some(meta) = parsed.map_err(AnswerError::Refused)? {
                    self.reader.consume_head(meta.consumed);
                    self.heads += meta.consumed as u64;
                    if !head.is_informational() {
                        self.has_head = true;
                        self.keep_alive =
                            meta.keep_alive && meta.framing != ResponseFraming::Tunnel;
                        self.reader.begin(meta.framing.into());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
            if ready!(self.reader.poll_more(cx)).map_err(AnswerError::Io)? == 0 {
                let error = match self.reader.octets() {
                    [] => AnswerError::Closed,
                    _ => AnswerError::Truncated,
                };
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl Source for Response {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        self.reader.poll_fill(cx)
    }

    fn content(&self) -> &[u8] {
        self.reader.content()
    }

    fn in_socket(&self) -> Option<InSocket<'_>> {
        self.reader.in_socket()
    }

    fn taken(&mut self, octets: usize) {
        self.reader.taken(octets);
    }

    fn consume(&mut self, octets: usize) {
        self.reader.consume(octets);
    }

    fn trailers(&self) -> &Fields {
        self.reader.trailers()
    }
}
