//! HTTP/2 on sockets: what both ends of the proxy have in common.
//!
//! ```text
//!            ┌───────── Connection ─────────┐
//!  socket ◀──┤ Driver    State    Output    ├──▶ Body, Sender, Place (of each stream)
//!            └──────────────────────────────┘
//! ```
//!
//! All of a connection's state stands in one place and on one thread: there are no locks, no
//! channels and no queues between streams. One task, which has the [`Driver`], reads and writes;
//! whoever serves a stream calls the state directly. What has come for a stream is there when its
//! task wakes, head, content and end together; what it sends stands in the connection's output when
//! the call returns. The driver is told once that there is something to write, and writes what all
//! streams that were ready have put there in one system call.
//!
//! - [`Body`] is a stream's received content as a [`Source`](super::Source). Octets are given back
//!   to flow control when they are taken, so a slow taker slows its sender down and nobody else;
//! - [`Sender`] is a stream's sent content as a [`Sink`](super::Sink). It takes what the other end's
//!   windows have room for. Long content goes from where it is into the socket, without a copy;
//! - [`Place`] is the stream itself: whoever drops it before its end resets it.

mod body;
mod connection;
mod sender;
mod state;
#[cfg(test)]
mod tests;
mod watch;

pub use crate::message::h2::frame::{ErrorCode, PREFACE};
pub use body::Body;
pub use connection::{Connection, Driver, Ended, Place, Step};
pub use sender::Sender;
pub use state::{Over, Role, Settings};
pub use watch::Watch;
