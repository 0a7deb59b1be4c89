//! HTTP/1 with clients: requests one after the other over a connection.
//!
//! ```text
//!  wait (no buffer) ──▶ head ──▶ exchange ──▶ rest of the request ──▶ wait
//!                        │ refused               │ not wanted
//!                        ▼                       ▼
//!                      answer ──────────────▶ linger ──▶ closed
//! ```
//!
//! A connection that is not to be used again is closed in two steps (RFC 9112 §9.6): our end
//! first, then, when the client has ended its own or has had time to, the rest. Closed at once,
//! with octets of the client unread, the kernel would send a reset, which can overtake the answer.

mod client;
mod serve;

pub use client::{Client, Replier};
pub use serve::{Accepted, serve};
