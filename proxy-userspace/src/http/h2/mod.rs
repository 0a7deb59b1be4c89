//! HTTP/2 with clients: many requests at once over a connection.
//!
//! ```text
//!  preface ──▶ connection task ──▶ stream task ──▶ exchange
//!              (reads and writes,  (one for each request
//!               judges floods)      at once, and kept)
//! ```
//!
//! A connection in clear text begins with the preface (RFC 9113 §3.3, prior knowledge), for which
//! [`super::h1`] looks before it reads a first request. The connection task reads and writes
//! frames and knows nothing of requests; the stream tasks work on the connection's state directly
//! ([`crate::net::h2`]).
//!
//! **Floods.** What costs us more than it costs the client is counted in windows of time
//! ([`guard`]) and ends the connection with ENHANCE_YOUR_CALM: streams that are reset, by the
//! client or because of it, and frames that move nothing. The state itself bounds what it must
//! keep: CONTINUATION frames, decoded heads, content, streams that are gone and still served.
//!
//! **Its end.** On drain, or when its listener is gone, a client is told to open no more streams
//! (GOAWAY, RFC 9113 §6.8), those that are open go on, and the connection ends with the last.

mod client;
mod guard;
mod serve;
mod stream;

pub use serve::{Begun, serve};
pub(super) use stream::Hands;
