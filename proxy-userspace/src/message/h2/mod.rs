//! HTTP/2 on the wire: frames, and heads as blocks of fields, read and written without I/O
//! (RFC 9113, RFC 7541).
//!
//! Blocks are read straight into our heads. What makes a message malformed (order and number of
//! pseudo-fields, names in upper case, fields of one connection, a length that does not fit) is
//! found here, and so is what HTTP/2 has no reason to mind and a proxy has: a message that is
//! allowed in HTTP/2 and means something else once it is written as HTTP/1. Therefore every octet
//! class, the host and the length are judged by the same functions as in [`super::h1`]. Nothing
//! reaches a head that `h1` would have refused to read.
//!
//! Deliberate choices:
//!
//! - Values with blanks at their ends are refused in requests (RFC 9113 §8.2.1 calls them
//!   malformed) and trimmed in responses, where nobody is deceived by them.
//! - `:authority` wins, and `Host` must say the same. One of them must be there.
//! - Cookies in several fields become one (RFC 9113 §8.2.3): HTTP/1 servers read one only.
//! - `:scheme` must be `http` or `https`, and is then what the connection is: a client in clear
//!   text may say `https` on behalf of another proxy, but nobody vouches for that.
//! - A tunnel's acceptance is 101 in our types, whatever the version: it is 200 on the wire here.

pub mod frame;
pub mod hpack;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{BlockError, BlockReader};
pub use write::{encode_request, encode_response, encode_trailers};
