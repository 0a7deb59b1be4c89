//! One request and its response: from a head that was read to the last octet that was sent.
//!
//! ```text
//!             ┌─────────────── request ───────────────▶
//!   Client ───┤ Body (Source)                   Request (Sink) ├─── Backend
//!             │ Reply (Sink)                 Response (Answer) │
//!             ◀─────────────── response ──────────────┘
//! ```
//!
//! **The seam.** An exchange knows no protocol. On the client's side it works with a [`Client`],
//! on the backend's with an [`upstream::Backend`](crate::upstream::Backend); both are small traits
//! and all combinations are compiled apart, so nothing is called through a pointer. What a new
//! protocol has to bring:
//!
//! - heads as [`RequestHead`](crate::message::RequestHead) and
//!   [`ResponseHead`](crate::message::ResponseHead), valid and without framing;
//! - content as [`Source`]s that lend octets and [`Sink`]s that take some of them. A sink may hold
//!   back until it is flushed, and is always finished, with trailers that may be empty;
//! - informational heads: [`Reply::send_head`] gets them before the final one, and
//!   [`Answer::poll_head`](crate::upstream::Answer::poll_head) gives them;
//! - tunnels: after [`Client::tunnel`] and `Backend::tunnel` content is octets of another
//!   protocol, and each direction ends on its own;
//! - cutting off: an exchange that fails after the response's head went out returns
//!   [`Outcome::Cut`], and the client's side makes that visible (a reset stream, a closed
//!   connection). Dropping the backend's side cuts that off.
//!
//! **Both directions at once.** One future moves the request's content and the response at the
//! same time, in the client connection's (or stream's) own task. Nothing is spawned, sent through
//! a channel, or allocated per request.
//!
//! **Failing and answering are apart.** Everything below returns a [`Failure`]; [`respond`] turns
//! it into an answer, if one can still be given.

mod account;
mod admit;
mod blame;
mod choose;
mod converse;
mod course;
pub mod deadline;
mod drive;
mod failure;
mod forward;
mod frames;
mod grpc;
mod hedge;
mod hops;
mod memory;
mod mesh;
mod mirror;
mod pump;
mod reach;
mod replay;
pub mod respond;
mod run;
mod scratch;
mod trace;

pub use failure::{Failure, Retry};
pub use run::{Around, Outcome, refuse, run};
pub use scratch::{Facts, Scratch};

use crate::message::ResponseHead;
use crate::net::body::{Sink, Source};
use crate::net::shortcut::Ending;
use std::task::{Context, Poll};

/// The client's side of one exchange.
pub trait Client {
    /// Gives the request's content.
    type Body: Source;
    /// Takes the response.
    type Reply: Reply;

    /// Both directions.
    fn parts(&mut self) -> (&mut Self::Body, &mut Self::Reply);

    /// Both directions carry octets of another protocol from now on; the head that says so was
    /// handed to [`Reply::send_head`].
    fn tunnel(&mut self);

    /// The client's side of the tunnel, if octets are as on the connection and the connection is
    /// its alone.
    fn ending(&self) -> Option<Ending<'_>> {
        None
    }

    /// Counts octets that went past this process, from the client and to it.
    fn note_past(&mut self, _: u64, _: u64) {}

    /// True if all of the request's content was taken.
    fn is_request_done(&self) -> bool;

    /// Octets received and sent since the exchange began, as far as they can be told apart: of
    /// requests that share a connection those of the frames.
    fn octets(&self) -> (u64, u64);
}

/// Takes a response.
pub trait Reply: Sink {
    /// True if [`Reply::poll_gone`] can tell while the request's content is being read.
    const IS_TOLD_ALWAYS: bool = false;

    /// Takes a head: informational ones, then the final one. It goes out with the first content, or
    /// when flushed. Clients that do not know informational heads are not sent any.
    ///
    /// `last`: what the client may still send is not wanted, so a connection of one request after
    /// the other ends with this response. Returns the head's length on the wire in octets, as far
    /// as that is known.
    fn send_head(&mut self, head: &ResponseHead, last: bool) -> u64;

    /// Ready once the client is known to be gone: its connection failed, or it has reset the
    /// stream. A client that has only ended its sending still waits for its answer.
    ///
    /// Unless [`Reply::IS_TOLD_ALWAYS`], not called while the request's content is being read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
