//! TLS inside a [`Stream`](super::Stream): records are read, opened, sealed and written where a
//! plain connection reads and writes.
//!
//! ```text
//!  socket ──▶ a worker's octets ──▶ rustls (opens in place) ──▶ the caller's buffer
//!  socket ◀── one vectored write ◀── rustls (seals) ◀── the caller's pieces
//! ```
//!
//! The socket is read into octets that all connections of a thread share, as many as the caller
//! has room for: a connection on which nothing moves holds no buffer for it. What is written in one
//! call becomes records of the largest size, and they leave in one call. Nobody has to flush: a
//! write is ready once the kernel has all of it, as on a plain connection.
//!
//! A connection's end is the other end's `close_notify` (RFC 8446 §6.1). One that ends without is
//! an error of kind `UnexpectedEof`: somebody may have cut it, and content that its end would
//! delimit is not whole.

mod facts;
mod handshake;
mod session;
#[cfg(test)]
mod tests;

pub use facts::TlsFacts;
pub use handshake::{Foreign, HandshakeError};
pub(super) use session::Tls;
