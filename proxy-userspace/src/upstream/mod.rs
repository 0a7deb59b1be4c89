//! Connections to backends: opened, kept, spoken over.
//!
//! ```text
//!  Upstreams::take ──▶ kept connection ──┐
//!       └──▶ connect ──▶ new one ────────┤──▶ impl Backend ──▶ Upstreams::keep, or closed
//! ```
//!
//! [`Backend`] is what an exchange needs of the backend's side, whatever the protocol: it hands a
//! head and content in, and gets heads and content back. [`h1::Connection`] is one; an HTTP/2
//! stream is another. Both halves are used at the same time, so they are two values.
//!
//! A connection belongs to the worker that opened it. What all workers count together about a
//! backend is [`crate::balance::l7::BackendState`].

pub mod connect;
pub mod h1;
pub mod h2;
pub mod pool;
pub mod tls;

use crate::message::{Refusal, RequestHead, ResponseHead};
use crate::net::body::{Sink, Source};
use crate::net::shortcut::Ending;
use crate::observe::access_log::Octets;
use std::io;
use std::task::{Context, Poll};

/// The backend's side of one exchange.
///
/// The order of calls: [`Backend::start`] once; then, as often as wanted and in any order, the
/// [`Sink`] for the request's content (which also flushes the head; it must be finished even if
/// there is no content) and [`Answer::poll_head`] until it yields a head that is not
/// informational; then the [`Source`] for the response's content. Dropping it at any point cuts
/// the exchange off.
pub trait Backend {
    /// Takes the request's content.
    type Request: Sink;
    /// Gives the response.
    type Response: Answer;

    /// Takes the request's head. It goes out with the first content, or when flushed.
    fn start(&mut self, head: &RequestHead);

    /// Both directions.
    fn parts(&mut self) -> (&mut Self::Request, &mut Self::Response);

    /// Both directions carry octets of another protocol from now on: after 101, or 2xx to CONNECT.
    /// Each ends on its own, by [`Sink::poll_finish`] and [`crate::net::Filled::End`].
    fn tunnel(&mut self);

    /// The backend's side of the tunnel, if octets are as on the connection and the connection is
    /// its alone.
    fn ending(&self) -> Option<Ending<'_>> {
        None
    }

    /// Counts octets that went past this process, to the backend and from it.
    fn note_past(&mut self, _: u64, _: u64) {}

    /// True if the connection had served before: then its failing before any answer may mean only
    /// that the backend had closed it.
    fn is_reused(&self) -> bool;

    /// Octets sent and received since [`Backend::start`]. Of requests that share a connection those
    /// of the content.
    fn octets(&self) -> (u64, Octets);
}

/// The response of a backend.
pub trait Answer: Source {
    /// Waits for the next head: informational ones (1xx but 101) and then the final one.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), AnswerError>>;
}

/// There is no head of a response.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection or stream failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The connection ended before the first octet of a response.
    #[error("the backend closed the connection")]
    Closed,
    /// The connection ended within the head.
    #[error("the response's head ends too early")]
    Truncated,
    /// The head is not as its protocol has it.
    #[error("the response was refused: {}", .0.label())]
    Refused(Refusal),
    /// The backend did not begin with the request and says so (HTTP/2 `REFUSED_STREAM`, or a
    /// stream above the last one of a GOAWAY).
    #[error("the backend did not take the request")]
    Unprocessed,
}
