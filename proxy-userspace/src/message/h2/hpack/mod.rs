//! Header compression of HTTP/2 (RFC 7541).
//!
//! A [`Decoder`] hands fields out as they stand in its block or its tables, for a reader to copy
//! where they belong; an [`Encoder`] writes them from there. Nothing is allocated per field, and
//! names that the proxy knows are looked up once, when their octets are seen for the first time.

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{DecodeError, Decoder, Field};
pub use encode::Encoder;

use crate::message::Name;

/// Octets of a dynamic table at most, as the standard counts them: what the other end may assume
/// without being told (RFC 9113 §6.5.2).
pub const TABLE_SIZE: usize = 4096;

/// What a field's name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// `:authority`.
    Authority,
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:protocol` (RFC 8441 §4).
    Protocol,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// Another name that begins with a colon.
    UnknownPseudo,
    /// A field of the message.
    Field(Name),
}

impl FieldName {
    /// The meaning of a name that is spelled so.
    pub fn of(spelled: &[u8]) -> Self {
        if spelled.first() != Some(&b':') {
            return Self::Field(Name::of(spelled));
        }
        match spelled {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => Self::UnknownPseudo,
        }
    }
}
