//! The PROXY protocol, versions 1 and 2: who a connection came from before it came to us.
//!
//! Follows the specification of HAProxy's project (`doc/proxy-protocol.txt`). Whoever may send a
//! header *must* send one: whether there is one is never guessed from the octets, or clients could
//! pass themselves off as others. That decision belongs to the listener.
//!
//! Reading is strict where the specification leaves a choice, because the address that is read
//! decides over access: a line is exactly six words with single blanks, numbers have no sign and
//! no leading zero, additional values (TLVs) must fill the header exactly, and a checksum is
//! verified where there is one. An IPv6 address that stands for an IPv4 address is read as the
//! latter, so that a rule for `10.0.0.0/8` also holds for `::ffff:10.0.0.1`.
//!
//! No I/O: [`parse`] is asked again when more octets are there. That costs little, as the longest
//! line has 107 octets and a binary header tells its length.

mod crc;
mod v1;
mod v2;
mod write;

#[cfg(test)]
mod tests;

pub use v2::{Extensions, Tls};
pub use write::{Addition, TlsAddition, write_local, write_v1, write_v2};

use std::net::SocketAddr;

/// Octets of the longest header that is read. Certificates of clients may be in it, so it is more
/// than an MSS; the specification's own upper bound of 64 KiB is more than an unknown peer may
/// make us keep.
pub const MAX_LENGTH: usize = 8192;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Whom the connection is for.
    pub origin: Origin,
    /// Additional values of version 2.
    pub extensions: Extensions<'a>,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The sender itself (a health check): the connection's own addresses hold.
    Local,
    /// Somebody the sender does not tell, or a unix socket: the connection's own addresses hold.
    Unknown,
    /// A client.
    Client {
        /// Where it is.
        client: SocketAddr,
        /// Whom it had addressed.
        server: SocketAddr,
        /// True if it came by UDP.
        is_datagram: bool,
    },
}

/// Octets that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// They begin with neither signature.
    #[error("no PROXY header where one is required")]
    Signature,
    /// A line without an end within 107 octets, or a binary header of more than [`MAX_LENGTH`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// A line that is not as specified.
    #[error("the PROXY line is malformed")]
    Line,
    /// A version or command that there is not.
    #[error("unknown version or command in the PROXY header")]
    Command,
    /// A family or transport that there is not.
    #[error("unknown address family or transport in the PROXY header")]
    Family,
    /// Less room than the addresses need.
    #[error("the PROXY header is too short for its addresses")]
    Addresses,
    /// Additional values that do not fit.
    #[error("malformed additional values in the PROXY header")]
    Extensions,
    /// The checksum says that something was changed.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

impl Fault {
    /// For metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Signature => "proxy_signature",
            Self::TooLong => "proxy_too_long",
            Self::Line => "proxy_line",
            Self::Command => "proxy_command",
            Self::Family => "proxy_family",
            Self::Addresses => "proxy_addresses",
            Self::Extensions => "proxy_extensions",
            Self::Checksum => "proxy_checksum",
        }
    }
}

/// Reads the header that `input` begins with, and the number of octets that it has. `None`: more
/// octets are needed.
///
/// # Errors
///
/// [`Fault`] as soon as no further octets could make it a header. The connection is to be closed.
pub fn parse(input: &[u8]) -> Result<Option<(Header<'_>, usize)>, Fault> {
    match input.first() {
        None => Ok(None),
        Some(b'P') => v1::parse(input),
        Some(_) => v2::parse(input),
    }
}

/// Whether `input` begins with `signature`; `None` as long as it may.
fn begins_with(input: &[u8], signature: &[u8]) -> Result<Option<()>, Fault> {
    let known = input.len().min(signature.len());
    if input[..known] != signature[..known] {
        return Err(Fault::Signature);
    }
    Ok((known == signature.len()).then_some(()))
}
