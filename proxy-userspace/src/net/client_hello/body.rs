//! The content of a ClientHello.

use super::Fault;
use std::net::Ipv4Addr;

/// What a client says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Whom it wants: a name of DNS in lower case, without the root's dot. `None` if it says none,
    /// or an address, which RFC 6066 §3 forbids and some clients send.
    pub server_name: Option<Box<str>>,
    /// The protocols that it offers, each behind an octet with its length.
    alpn: Box<[u8]>,
    /// The newest version that it offers, as on the wire (0x0304 is TLS 1.3).
    pub version: u16,
    /// It has an inner hello that is encrypted, or one made up so that those that have do not
    /// stand out.
    pub has_encrypted_hello: bool,
}

impl ClientHello {
    /// The protocols that it offers (ALPN, RFC 7301), the one it likes best first. Octets that
    /// may be anything.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = &self.alpn[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(name)
        })
    }

    /// [`ClientHello::version`] as logs have it: `TLSv1.3`. Empty for one that is not known.
    pub const fn version_name(&self) -> &'static str {
        match self.version {
            0x0300 => "SSLv3",
            0x0301 => "TLSv1",
            0x0302 => "TLSv1.1",
            0x0303 => "TLSv1.2",
            0x0304 => "TLSv1.3",
            _ => "",
        }
    }
}

/// Numbers of extensions (IANA, "TLS ExtensionType Values").
mod extension {
    pub(super) const SERVER_NAME: u16 = 0;
    pub(super) const ALPN: u16 = 16;
    pub(super) const SUPPORTED_VERSIONS: u16 = 43;
    pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// The one kind of server name that there is.
const HOST_NAME: u8 = 0;

/// Reads the message behind its header.
pub(super) fn parse(message: &[u8]) -> Result<ClientHello, Fault> {
    let mut rest = Octets(message);
    let mut hello = ClientHello {
        version: rest.u16().ok_or(Fault::Body)?,
        ..ClientHello::default()
    };
    fixed(&mut rest).ok_or(Fault::Body)?;
    // Clients of TLS 1.0 may have no extensions at all.
    if rest.0.is_empty() {
        return Ok(hello);
    }
    let extensions = rest.list16().filter(|_| rest.0.is_empty());
    let mut extensions = Octets(extensions.ok_or(Fault::Body)?);
    let mut kinds = Vec::with_capacity(32);
    while !extensions.0.is_empty() {
        let kind = extensions.u16().ok_or(Fault::Body)?;
        let content = extensions.list16().ok_or(Fault::Body)?;
        kinds.push(kind);
        match kind {
            extension::SERVER_NAME => {
                hello.server_name = server_name(content).ok_or(Fault::ServerName)?;
            }
            extension::ALPN => hello.alpn = alpn(content).ok_or(Fault::Alpn)?,
            extension::SUPPORTED_VERSIONS => {
                let newest = newest(content).ok_or(Fault::Body)?;
                hello.version = newest.unwrap_or(hello.version);
            }
            extension::ENCRYPTED_CLIENT_HELLO => hello.has_encrypted_hello = true,
            _ => {}
        }
    }
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Fault::Body);
    }
    Ok(hello)
}

/// What stands between the version and the extensions. Nothing of it is of interest here, but it
/// must have its lengths, or nobody knows where the extensions begin.
fn fixed(rest: &mut Octets<'_>) -> Option<()> {
    let _random = rest.take(32)?;
    let _session = rest.list8().filter(|id| id.len() <= 32)?;
    let _ciphers = rest
        .list16()
        .filter(|list| !list.is_empty() && list.len() % 2 == 0)?;
    let _compressions = rest.list8().filter(|list| !list.is_empty())?;
    Some(())
}

/// The name (RFC 6066 §3), which may be one that is none. `None` for what is malformed.
#[expect(clippy::option_option, reason = "the outer one is the fault")]
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let mut content = Octets(content);
    let mut names = Octets(content.list16()?);
    if !content.0.is_empty() || names.0.is_empty() {
        return None;
    }
    let mut host = None;
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.list16().filter(|name| !name.is_empty())?;
        if kind == HOST_NAME && host.replace(name).is_some() {
            return None;
        }
    }
    host.map_or(Some(None), name)
}

/// A name of DNS in one form; an address is none.
#[expect(clippy::option_option, reason = "the outer one is the fault")]
fn name(octets: &[u8]) -> Option<Option<Box<str>>> {
    let text = std::str::from_utf8(octets).ok()?;
    if text.parse::<Ipv4Addr>().is_ok() || text.contains(':') {
        let address = text.trim_start_matches('[').trim_end_matches(']');
        return address.parse::<std::net::IpAddr>().ok().map(|_| None);
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let octets = label.bytes();
        (1..=63).contains(&label.len())
            && octets
                .into_iter()
                .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    is_name.then(|| Some(text.to_ascii_lowercase().into()))
}

/// The list of protocols without its length (RFC 7301 §3.1).
fn alpn(content: &[u8]) -> Option<Box<[u8]>> {
    let mut content = Octets(content);
    let list = content.list16()?;
    if !content.0.is_empty() || list.is_empty() {
        return None;
    }
    let mut rest = Octets(list);
    while !rest.0.is_empty() {
        rest.list8().filter(|name| !name.is_empty())?;
    }
    Some(list.into())
}

/// The newest version that is no GREASE (RFC 8701); nothing if all are.
#[expect(clippy::option_option, reason = "the outer one is the fault")]
fn newest(content: &[u8]) -> Option<Option<u16>> {
    let mut content = Octets(content);
    let list = content.list8()?;
    if !content.0.is_empty() || list.is_empty() || list.len() % 2 != 0 {
        return None;
    }
    let versions = list.chunks_exact(2);
    let versions = versions.map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    Some(versions.filter(|version| *version & 0x0f0f != 0x0a0a).max())
}

/// Octets that are taken from the front.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let octets = self.take(2)?;
        Some(u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// What stands behind its length in one octet.
    fn list8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// What stands behind its length in two octets.
    fn list16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
