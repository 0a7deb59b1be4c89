//! Writing headers, for backends that want one.

use super::v2::{FIXED, MAX_UNIQUE_ID, SIGNATURE, kind};
use super::{MAX_LENGTH, crc};
use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An additional value that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition<'a> {
    /// The host name that the client gave.
    Authority(&'a str),
    /// What tells the connection from all others. More than 128 octets are cut off.
    UniqueId(&'a [u8]),
    /// The protocol that was agreed upon.
    Alpn(&'a [u8]),
    /// TLS between the client and us.
    Tls(TlsAddition<'a>),
    /// Any other.
    Other(u8, &'a [u8]),
}

/// TLS between the client and us, as a backend is told of it (`PP2_TYPE_SSL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsAddition<'a> {
    /// Version, such as `TLSv1.3`.
    pub version: &'a str,
    /// Cipher suite, by OpenSSL's name.
    pub cipher: &'a str,
    /// The client has a certificate, which was verified.
    pub has_certificate: bool,
    /// The session is an earlier one, in which the certificate was shown.
    pub is_resumed: bool,
    /// The common name of the certificate's subject.
    pub common_name: Option<&'a str>,
}

/// Appends a header of version 1. If one of the addresses is IPv6, the other is written as one.
pub fn write_v1(client: SocketAddr, server: SocketAddr, out: &mut Vec<u8>) {
    let ports = (client.port(), server.port());
    let result = match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            let (from, to) = ports;
            write!(out, "PROXY TCP4 {client} {server} {from} {to}\r\n")
        }
        (client, server) => {
            let (client, server, (from, to)) = (mapped(client), mapped(server), ports);
            write!(out, "PROXY TCP6 {client} {server} {from} {to}\r\n")
        }
    };
    debug_assert!(result.is_ok(), "writing to a vector does not fail");
}

/// Appends a header of version 2, with a checksum if `with_checksum`. Additions that would make
/// it longer than [`MAX_LENGTH`] are left out.
pub fn write_v2(
    client: SocketAddr,
    server: SocketAddr,
    is_datagram: bool,
    additions: &[Addition<'_>],
    with_checksum: bool,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let transport = if is_datagram { 2 } else { 1 };
    out.extend_from_slice(SIGNATURE);
    out.push(0x21);
    match (client.ip().to_canonical(), server.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            out.extend_from_slice(&[0x10 | transport, 0, 0]);
            out.extend_from_slice(&client.octets());
            out.extend_from_slice(&server.octets());
        }
        (client, server) => {
            out.extend_from_slice(&[0x20 | transport, 0, 0]);
            out.extend_from_slice(&mapped(client).octets());
            out.extend_from_slice(&mapped(server).octets());
        }
    }
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&server.port().to_be_bytes());
    let checksum = if with_checksum { 3 + 4 } else { 0 };
    for addition in additions {
        let (kind, value) = addition.parts();
        if out.len() - start + 3 + value.len() + checksum <= MAX_LENGTH {
            append(kind, &value, out);
        }
    }
    if with_checksum {
        append(kind::CRC32C, &[0; 4], out);
    }
    let length = (out.len() - start - FIXED) as u16;
    out[start + 14..start + FIXED].copy_from_slice(&length.to_be_bytes());
    if with_checksum {
        let sum = crc::of([&out[start..]]);
        let at = out.len() - 4;
        out[at..].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Appends a header of version 2 for a connection of our own, such as a health check.
pub fn write_local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
}

impl<'a> Addition<'a> {
    fn parts(&self) -> (u8, Cow<'a, [u8]>) {
        let (kind, value) = match *self {
            Self::Authority(name) => (kind::AUTHORITY, name.as_bytes()),
            Self::UniqueId(id) => (kind::UNIQUE_ID, &id[..id.len().min(MAX_UNIQUE_ID)]),
            Self::Alpn(name) => (kind::ALPN, name),
            Self::Tls(tls) => return (kind::TLS, Cow::Owned(tls.value())),
            Self::Other(kind, value) => (kind, value),
        };
        (kind, Cow::Borrowed(value))
    }
}

impl TlsAddition<'_> {
    /// What its flags mean, and that the result of verification is 0 only if a certificate was
    /// verified, is said in the specification's section 2.2.6.
    fn value(&self) -> Vec<u8> {
        let of_certificate = match (self.has_certificate, self.is_resumed) {
            (false, _) => 0,
            (true, true) => client::SESSION,
            (true, false) => client::SESSION | client::CONNECTION,
        };
        let mut value = vec![client::TLS | of_certificate];
        value.extend_from_slice(&u32::from(!self.has_certificate).to_be_bytes());
        append(kind::TLS_VERSION, self.version.as_bytes(), &mut value);
        append(kind::TLS_CIPHER, self.cipher.as_bytes(), &mut value);
        if let Some(name) = self.common_name {
            // Nobody's name is longer (RFC 5280 §A.1 has 64 characters); the rest is left out.
            let name = &name.as_bytes()[..name.len().min(MAX_COMMON_NAME)];
            append(kind::TLS_COMMON_NAME, name, &mut value);
        }
        value
    }
}

/// Octets of a common name at most.
const MAX_COMMON_NAME: usize = 256;

/// What is said of the client.
mod client {
    /// It came by TLS.
    pub(super) const TLS: u8 = 1;
    /// It has shown a certificate in this connection.
    pub(super) const CONNECTION: u8 = 2;
    /// It has shown one in this session.
    pub(super) const SESSION: u8 = 4;
}

/// The value is no longer than [`MAX_LENGTH`].
fn append(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
