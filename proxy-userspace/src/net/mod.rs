//! Sockets of the proxy paths: listening, reading, writing, waiting.
//!
//! All of it belongs to one worker and stays on its thread; nothing here is shared or locked.
//!
//! ```text
//!  listen ──▶ Stream ──▶ Reader ──▶ content ──▶ Writer ──▶ Stream
//!             (socket)   (input,    (borrowed   (output,
//!                         framing)   octets)     framing)
//! ```
//!
//! A [`Stream`] may have a TLS session inside ([`tls`]).
//!
//! [`body`] is the seam: content comes from a [`body::Source`] and goes to a [`body::Sink`],
//! whatever protocol is on either side. [`h1`] implements both over a socket, [`h2`] over a stream of
//! a connection that a task of its own drives.

pub mod body;
pub mod buffer;
pub mod client_hello;
pub mod clock;
pub mod datagram;
pub mod descriptors;
pub mod detect;
mod direct;
pub mod dns;
pub mod fetch;
pub mod h1;
pub mod h2;
mod link;
pub mod listen;
pub mod pipe;
pub mod proxy_protocol;
pub mod shortcut;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod watch;

pub use body::{BodyError, Filled, Sink, Source};
pub use buffer::{Buffers, Input};
pub use clock::{Clock, Nanos};
pub use pipe::Pipes;
pub use shortcut::Shortcut;
pub use stream::Stream;
pub use timer::{Timer, Timers};
pub use tls::TlsFacts;
pub use watch::Watches;
