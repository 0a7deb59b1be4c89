//! HTTP/2 to a backend: many requests at once over a connection.
//!
//! ```text
//!  Links::find ──▶ Claim on a link with room ─────┐
//!       └──▶ Links::open ──▶ Opening ──▶ … ───────┴──▶ Exchange (impl Backend)
//!                               └─ task: connect, then drive the connection to its end
//! ```
//!
//! A [`Link`] is a connection of this worker; a task of its own drives it. Requests fill one link
//! before the next, up to `max_streams` or what the backend allows, so that links are few and
//! those that load no longer needs become idle and are closed.
//!
//! **Opening.** Requests that find no room while a connection is being opened wait for that one,
//! as many as it will have room for: a hundred requests that come at once open one connection. It
//! is opened by no request's task, so none of them can take it along when its client leaves. Nothing
//! is asked before the backend's SETTINGS are there: they say how many requests it takes, and that
//! it is no HTTP/1 server, which would answer the preface with an error.
//!
//! **A link's end.** After GOAWAY it gets no new requests; those that the backend did not begin
//! with, and streams that it refused, are said to be [`Unprocessed`](super::AnswerError), which
//! is safe to try again. A link on which a request waits and nothing comes is asked for a sign of
//! life, once per silence: servers take more for abuse.

mod exchange;
mod link;
mod links;

pub use exchange::{Exchange, Response, Room};
pub use link::{Claim, Link, OpenError, Opening};
pub use links::{Known, Links, Open};
