//! What an exchange works with, kept from one to the next.

use super::admit::Trial;
use super::replay::Replay;
use crate::balance::l7::BackendState;
use crate::filter::States;
use crate::message::{RequestHead, ResponseHead, Version};
use crate::net::Nanos;
use crate::observe::access_log::{End, Octets, StickyRequest, StickyResponse};
use crate::observe::http::RetryReason;
use crate::observe::trace::{Flow, Span};
use std::net::IpAddr;
use std::sync::Arc;

/// Heads and notes of one exchange. Reused, so that an exchange allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The request.
    pub request: RequestHead,
    /// The response.
    pub response: ResponseHead,
    /// What is noted for logs and metrics.
    pub facts: Facts,
    /// What the route's filters remember.
    pub states: States,
    /// For values that are put together.
    pub text: Vec<u8>,
    /// What was taken of the request's content.
    pub replay: Replay,
}

/// What is noted about an exchange while it goes on.
#[derive(Debug, Default)]
pub struct Facts {
    /// When the request's first octet came.
    pub began: Nanos,
    /// When its head was complete.
    pub head: Nanos,
    /// When the connection became free for it.
    pub free: Nanos,
    /// Octets of the request's head.
    pub request_head: u64,
    /// Octets of the response's head.
    pub response_head: u64,
    /// Number of this request on its connection, from 1.
    pub number: u64,
    /// The client, behind trusted proxies.
    pub client: Option<IpAddr>,
    /// Number of the route in the snapshot.
    pub route: Option<usize>,
    /// Octets of the path that the route's prefix covers.
    pub prefix_len: usize,
    /// Number of the service in the snapshot.
    pub service: Option<usize>,
    /// Status that was sent; 0 for none.
    pub status: u16,
    /// Backends that were tried.
    pub attempts: Vec<Attempted>,
    /// The wait for a place at a backend.
    pub queued: Option<Nanos>,
    /// The target as the client sent it, if the request holds another; else empty.
    pub target: Vec<u8>,
    /// The first line of a request that was not understood.
    pub first_line: Vec<u8>,
    /// Number of the rule in the route.
    pub rule: usize,
    /// Our part of the trace, where there are traces.
    pub span: Option<Span>,
    /// The client's flow, if that is traced.
    pub flow: Option<Flow>,
    /// Stream of HTTP/2, where the flow is traced; else 0.
    pub stream: u32,
    /// The status of gRPC that the client was given.
    pub grpc_status: Option<u16>,
    /// Why the next attempt is made, if it is not the first.
    pub retry: Option<RetryReason>,
    /// A filter held the request back on purpose.
    pub fault_delayed: bool,
    /// What the client's cookie said of its backend, and what it was told.
    pub sticky: (StickyRequest, StickyResponse),
    /// Requests that waited before this one for the service, and for the backend that this one must
    /// have.
    pub ahead: (u32, u32),
    /// The request is as a backend is to see it.
    pub is_prepared: bool,
    /// The attempt under way, until a breaker was told of it.
    pub trial: Option<Trial>,
    /// When a client that is refused for want of room may come back, in seconds; 0: not known.
    pub retry_after: u64,
}

/// A backend that was tried.
#[derive(Debug)]
pub struct Attempted {
    /// Which.
    pub backend: Arc<BackendState>,
    /// Number of its service in the snapshot.
    pub service: Option<usize>,
    /// When the attempt began.
    pub began: Nanos,
    /// The connection was there already.
    pub reused: bool,
    /// How long it took to open.
    pub connect: Option<Nanos>,
    /// How long the response's head took, from the attempt's begin.
    pub head: Option<Nanos>,
    /// How long all of it took.
    pub total: Nanos,
    /// Its status; 0 for none.
    pub status: u16,
    /// Its status of gRPC, if it gave one.
    pub grpc: Option<u16>,
    /// How it ended.
    pub end: End,
    /// Octets sent to it.
    pub sent: u64,
    /// Octets received from it.
    pub received: Octets,
    /// What it was spoken to in.
    pub version: Version,
    /// Why the attempt was made, if it is not the first.
    pub retry: Option<RetryReason>,
    /// Id of its span; zeros for none.
    pub span: [u8; 8],
}

/// Memory that a set of heads may keep. A client with long heads must not make it grow for ever.
const KEPT: usize = 16 << 10;

impl Scratch {
    /// Empties it for the next exchange. False if it has grown too large to be kept.
    pub fn forget(&mut self) -> bool {
        self.facts.clear();
        self.states.clear();
        self.replay.forget();
        let fields = self.request.fields.capacity() + self.response.fields.capacity();
        fields + self.text.capacity() <= KEPT
    }
}

impl Facts {
    /// Notes the target before it is changed for the first time.
    pub fn keep_target(&mut self, request: &RequestHead) {
        if self.target.is_empty() {
            self.target.extend_from_slice(request.target());
        }
    }

    fn clear(&mut self) {
        let mut attempts = std::mem::take(&mut self.attempts);
        let mut target = std::mem::take(&mut self.target);
        let mut first_line = std::mem::take(&mut self.first_line);
        attempts.clear();
        target.clear();
        first_line.clear();
        *self = Self {
            attempts,
            target,
            first_line,
            ..Self::default()
        };
    }
}
