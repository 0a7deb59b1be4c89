//! HTTP/2 on sockets: what both ends of the proxy have in common.
//!
//! The `h2` crate has the protocol; a task per connection drives it. Around it stand
//!
//! - [`Wire`]: the socket, as that crate wants it, which also looks at the frames that pass and
//!   notes in [`Watch`] what the crate does not tell: floods, GOAWAY, heads that do not end;
//! - [`Body`]: a stream's received content as a [`Source`](super::Source). Octets are given back
//!   to flow control when they are taken, so a slow taker slows its sender down and nobody else;
//! - [`Sender`]: a stream's sent content as a [`Sink`](super::Sink). It takes what the other end's
//!   window has room for.

mod body;
mod frames;
mod sender;
mod wire;

pub use body::Body;
pub use frames::{Frame, Frames};
pub use sender::Sender;
pub use wire::{Watch, Wire};

/// Octets of a stream that wait to be written at most. More would only be memory that a client
/// who reads slowly can bind.
pub const SEND_BUFFER: usize = 64 << 10;

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
