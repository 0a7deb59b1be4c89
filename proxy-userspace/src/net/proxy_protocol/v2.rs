//! Version 2: binary, with additional values.

use super::{Fault, Header, MAX_LENGTH, Origin, begins_with, crc};
use std::net::{IpAddr, SocketAddr};

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Octets before the addresses.
pub(super) const FIXED: usize = 16;

/// Additional values of a header, valid as a whole. Of a value that is given twice, the first
/// counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a>(&'a [u8]);

/// What the sender tells of TLS between it and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    flags: u8,
    verify: u32,
    values: &'a [u8],
}

/// Types of additional values.
pub(super) mod kind {
    pub(in super::super) const ALPN: u8 = 0x01;
    pub(in super::super) const AUTHORITY: u8 = 0x02;
    pub(in super::super) const CRC32C: u8 = 0x03;
    pub(in super::super) const UNIQUE_ID: u8 = 0x05;
    pub(in super::super) const TLS: u8 = 0x20;
    pub(in super::super) const TLS_VERSION: u8 = 0x21;
    pub(in super::super) const TLS_COMMON_NAME: u8 = 0x22;
    pub(in super::super) const TLS_CIPHER: u8 = 0x23;
    pub(super) const NETNS: u8 = 0x30;
}

/// Octets of the longest unique id.
pub(super) const MAX_UNIQUE_ID: usize = 128;

pub(super) fn parse(input: &[u8]) -> Result<Option<(Header<'_>, usize)>, Fault> {
    if begins_with(input, SIGNATURE)?.is_none() {
        return Ok(None);
    }
    // Each octet is judged as soon as it is there.
    let is_local = match input.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Fault::Command),
    };
    let Some(&family) = input.get(13) else {
        return Ok(None);
    };
    // What a local header says of its family is to be ignored.
    let addresses = match family {
        _ if is_local => Room::Ignored,
        0x00 => Room::Ignored,
        0x11 | 0x12 => Room::V4,
        0x21 | 0x22 => Room::V6,
        0x31 | 0x32 => Room::Unix,
        _ => return Err(Fault::Family),
    };
    let Some(length) = input.get(14..FIXED) else {
        return Ok(None);
    };
    let end = FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if end > MAX_LENGTH {
        return Err(Fault::TooLong);
    }
    if end < FIXED + addresses.octets() {
        return Err(Fault::Addresses);
    }
    let Some(whole) = input.get(..end) else {
        return Ok(None);
    };
    let header = if is_local {
        Header {
            origin: Origin::Local,
            extensions: Extensions::default(),
        }
    } else {
        header(whole, addresses, family & 0xf == 2)?
    };
    Ok(Some((header, end)))
}

/// What the room behind the fixed part begins with.
#[derive(Clone, Copy)]
enum Room {
    Ignored,
    V4,
    V6,
    Unix,
}

impl Room {
    const fn octets(self) -> usize {
        match self {
            Self::Ignored => 0,
            Self::V4 => 2 * 4 + 2 * 2,
            Self::V6 => 2 * 16 + 2 * 2,
            Self::Unix => 2 * 108,
        }
    }
}

fn header(whole: &[u8], room: Room, is_datagram: bool) -> Result<Header<'_>, Fault> {
    let (addresses, values) = whole[FIXED..].split_at(room.octets());
    let client = |client, server| Origin::Client {
        client,
        server,
        is_datagram,
    };
    let origin = match room {
        // Without a family nobody knows where addresses end and values begin.
        Room::Ignored => {
            return Ok(Header {
                origin: Origin::Unknown,
                extensions: Extensions::default(),
            });
        }
        Room::Unix => Origin::Unknown,
        Room::V4 => {
            let (client_at, server_at) = pair::<4>(addresses);
            client(client_at, server_at)
        }
        Room::V6 => {
            let (client_at, server_at) = pair::<16>(addresses);
            client(client_at, server_at)
        }
    };
    check(values)?;
    verify_checksum(whole, values)?;
    Ok(Header {
        origin,
        extensions: Extensions(values),
    })
}

/// Two addresses of `N` octets and their ports.
fn pair<const N: usize>(octets: &[u8]) -> (SocketAddr, SocketAddr)
where
    IpAddr: From<[u8; N]>,
{
    let at = |place: usize| {
        let mut address = [0; N];
        address.copy_from_slice(&octets[place * N..][..N]);
        let port = &octets[2 * N + 2 * place..][..2];
        let port = u16::from_be_bytes([port[0], port[1]]);
        SocketAddr::new(IpAddr::from(address).to_canonical(), port)
    };
    (at(0), at(1))
}

/// The values of a list that is valid as a whole, or of its valid beginning.
#[derive(Clone)]
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.0.split_first_chunk::<3>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        self.0 = rest;
        Some((kind, value))
    }
}

/// Whether values fill their room, and those that we know have their lengths.
fn check(values: &[u8]) -> Result<(), Fault> {
    let mut list = Values(values);
    for (kind, value) in list.by_ref() {
        let fits = match kind {
            kind::CRC32C => value.len() == 4,
            kind::UNIQUE_ID => value.len() <= MAX_UNIQUE_ID,
            kind::AUTHORITY => std::str::from_utf8(value).is_ok(),
            kind::TLS => {
                let mut inner = Values(value.get(5..).ok_or(Fault::Extensions)?);
                inner.by_ref().for_each(drop);
                inner.0.is_empty()
            }
            _ => true,
        };
        if !fits {
            return Err(Fault::Extensions);
        }
    }
    if list.0.is_empty() {
        Ok(())
    } else {
        Err(Fault::Extensions)
    }
}

/// Verifies the checksum, if there is one: over the whole header, with zeros in its own place.
fn verify_checksum(whole: &[u8], values: &[u8]) -> Result<(), Fault> {
    let mut list = Values(values);
    while let Some((kind, value)) = list.next() {
        if kind != kind::CRC32C {
            continue;
        }
        let after = list.0.len();
        let at = whole.len() - after - value.len();
        let sum = crc::of([&whole[..at], &[0; 4], &whole[whole.len() - after..]]);
        if value != sum.to_be_bytes() {
            return Err(Fault::Checksum);
        }
    }
    Ok(())
}

impl<'a> Extensions<'a> {
    /// The host name that the client gave, as a rule the SNI.
    pub fn authority(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value(kind::AUTHORITY)?).ok()
    }

    /// What tells the connection from all others; opaque, at most 128 octets.
    pub fn unique_id(&self) -> Option<&'a [u8]> {
        self.value(kind::UNIQUE_ID)
    }

    /// The protocol that was agreed upon.
    pub fn alpn(&self) -> Option<&'a [u8]> {
        self.value(kind::ALPN)
    }

    /// Name of the network namespace.
    pub fn netns(&self) -> Option<&'a [u8]> {
        self.value(kind::NETNS)
    }

    /// TLS between the sender and the client.
    pub fn tls(&self) -> Option<Tls<'a>> {
        let (&[flags, a, b, c, d], values) = self.value(kind::TLS)?.split_first_chunk::<5>()?;
        Some(Tls {
            flags,
            verify: u32::from_be_bytes([a, b, c, d]),
            values,
        })
    }

    /// The first value of a type.
    pub fn value(&self, kind: u8) -> Option<&'a [u8]> {
        first(self.0, kind)
    }
}

impl<'a> Tls<'a> {
    /// True if the client came by TLS.
    pub fn is_used(&self) -> bool {
        self.flags & 1 != 0
    }

    /// True if the client has shown a certificate, in this connection or an earlier one of the
    /// session, and it was verified.
    pub fn is_client_verified(&self) -> bool {
        self.flags & 6 != 0 && self.verify == 0
    }

    /// True if the client has shown a certificate in this connection, and not only in an earlier
    /// one of its session.
    pub fn is_in_connection(&self) -> bool {
        self.flags & 2 != 0
    }

    /// Version, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&'a [u8]> {
        first(self.values, kind::TLS_VERSION)
    }

    /// Cipher suite.
    pub fn cipher(&self) -> Option<&'a [u8]> {
        first(self.values, kind::TLS_CIPHER)
    }

    /// Common name of the client's certificate.
    pub fn common_name(&self) -> Option<&'a [u8]> {
        first(self.values, kind::TLS_COMMON_NAME)
    }
}

fn first(values: &[u8], kind: u8) -> Option<&[u8]> {
    let mut values = Values(values);
    values.find(|(k, _)| *k == kind).map(|(_, value)| value)
}
