//! HTTP messages as values: heads, fields, lengths. No I/O and no protocol version's framing.
//!
//! Every HTTP version is read into these types and written from them, so that routing, filters and
//! logs know one form only (RFC 9110's "semantics"). They are made for reuse: a head is cleared
//! and filled again for each request of a connection, and then allocates nothing. The octets of a
//! head's parts stand one after the other in one buffer; a field is a line in it.
//!
//! What must **not** be in these types: anything a refusal would have to be made of later. A head
//! that a parser hands out is valid: names are tokens, values hold no CR, LF or NUL and no outer
//! blanks, `authority` is one valid host, and `length` is the one meaning of the message's framing.

mod authority;
mod fields;
pub mod h1;
pub mod h2;
mod method;
mod name;
mod refusal;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use authority::Authority;
pub use fields::{FieldRef, Fields};
pub use method::Method;
pub use name::Name;
pub use refusal::{Refusal, RefusedBy};
pub use request::{RequestHead, Scheme};
pub use response::ResponseHead;

/// The protocol version in which a message came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As in a start line and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }

    /// As in `Via` (RFC 9110 §7.6.3).
    pub const fn via(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
        }
    }
}

/// How long a message's content is, as its framing says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// There is no content.
    #[default]
    None,
    /// This many octets, perhaps 0.
    Exact(u64),
    /// Known at its end only: chunked, an HTTP/2 stream, or until the connection closes.
    Unknown,
}

impl Length {
    /// True if not one octet of content can follow.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Exact(0))
    }
}
