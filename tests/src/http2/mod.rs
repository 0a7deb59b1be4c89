//! HTTP/2 by hand: frames (RFC 9113) and field blocks (RFC 7541) as a test says them, right or
//! wrong, and a connection that holds its peer to the protocol.
//!
//! Nothing here is shared with the engines under test, or with a library that one of them uses: what
//! both ends get wrong in the same way would look right.

mod connection;
mod frame;
pub mod hpack;
mod lawful;

pub use connection::{Connection, Outcome, Transport};
pub use frame::{Frame, PREFACE, error, flag, kind, setting};
pub use lawful::Lawful;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that asks.
    Client,
    /// The one that answers.
    Server,
}
