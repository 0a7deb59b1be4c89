//! HTTP/1 on the wire: heads, chunks and trailers, read and written without I/O (RFC 9112).
//!
//! Two readers that disagree about where a message ends are all that request smuggling needs.
//! Therefore nothing here is lenient: what the grammar does not allow is refused with a reason, and
//! what it allows in several ways (where a sender may and a recipient must not mind) is written on
//! in one. In particular no octet of a start line, field line or chunk head is passed on as it
//! came: a message is read into a head and written anew. **A connection on which a message was
//! refused must be closed**, whatever the reason: where the next message would begin is not known.
//!
//! Readers resume. A caller appends to its buffer whatever comes and calls again; lines that were
//! read are not looked at again, and of an unfinished line only the new octets. What a reader says
//! depends on the octets alone, never on the pieces in which they came.
//!
//! Deliberate choices where the RFC leaves one:
//!
//! - Several `Content-Length` are refused in a request even if they are equal (no honest client
//!   sends them), and taken as one in a response if they are equal (origins do that).
//! - `chunked` is the only transfer coding; before or after it there may be no other.
//! - In absolute form the target's authority wins, and `Host` must say the same.
//! - A field that `Connection` names is removed only if the proxy gives that name no meaning: a
//!   client must not make `Authorization` or `X-Forwarded-For` disappear.
//! - CONNECT has no content, and an upgrade with content is none.
//! - Up to two empty lines before a request line are skipped (RFC 9112 §2.2 asks for one).

mod chunked;
mod connection;
mod cursor;
mod framing;
pub(super) mod octets;
mod request;
mod response;
#[cfg(test)]
mod tests;
pub(super) mod trailers;
mod write;

pub use chunked::{ChunkDecoder, ChunkStep};
pub use request::{RequestMeta, RequestParser, parse_request};
pub use response::{ResponseMeta, ResponseParser, parse_response};
pub use write::{
    RequestOptions, ResponseOptions, write_chunk_end, write_chunk_head, write_last_chunk,
    write_request, write_response,
};

use super::{Method, RequestHead};

/// Bounds of a head, and of trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Fields, whatever becomes of them.
    pub fields: u32,
    /// Octets from the first to the empty line's end.
    pub head_bytes: u32,
    /// Octets of a request's target.
    pub target_bytes: u32,
}

/// How a request's content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no content.
    None,
    /// This many octets follow.
    Exact(u64),
    /// Chunks follow: see [`ChunkDecoder`].
    Chunked,
}

/// How a response's content is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is no content; the next response may follow.
    None,
    /// This many octets follow.
    Exact(u64),
    /// Chunks follow: see [`ChunkDecoder`].
    Chunked,
    /// All that comes until the connection is closed.
    UntilClose,
    /// The connection is no longer HTTP/1: 101, or 2xx to CONNECT.
    Tunnel,
}

/// What a response is the answer to, as far as its framing depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestKind {
    /// None of the others.
    #[default]
    Plain,
    /// HEAD: no content follows, whatever the fields say.
    Head,
    /// CONNECT: 2xx begins a tunnel.
    Connect,
    /// A request with `Upgrade`: 101 begins a tunnel, and is refused otherwise.
    Upgrade,
}

impl RequestKind {
    /// Of a request as [`write_request`] sends it.
    pub fn of(head: &RequestHead) -> Self {
        match head.method {
            Method::Head => Self::Head,
            _ if !head.protocol.is_empty() => Self::Upgrade,
            Method::Connect => Self::Connect,
            _ => Self::Plain,
        }
    }
}
