//! The head of a request.

use super::{Authority, Fields, Length, Method, Version};

/// Scheme of a request's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`.
    #[default]
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// As in a URI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The head of a request, whatever version it came in.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// How the request came: `https` if the client's connection is encrypted.
    pub scheme: Scheme,
    /// Version in which it came.
    pub version: Version,
    /// Host and optional port, as the client gave them (`Host`, `:authority` or the absolute
    /// form), in lower case. Empty only for HTTP/1.0 without `Host`. `fields` has no `Host`.
    authority: Vec<u8>,
    /// Octets of `authority` before the port's colon.
    host_len: usize,
    /// Path and query in origin form, or `*`; empty for CONNECT without a path.
    target: Vec<u8>,
    /// Octets of `target` before the question mark.
    path_len: usize,
    /// The protocol of extended CONNECT (RFC 8441), or of an HTTP/1.1 upgrade; empty if none.
    pub protocol: Vec<u8>,
    /// Length of the content.
    pub length: Length,
    /// True if the client waits for `100 Continue` before it sends its content.
    pub expects_continue: bool,
    /// True if the client accepts trailers (`TE: trailers`).
    pub accepts_trailers: bool,
    /// All fields but `Host` and those of one connection only ([`super::Name::is_hop_by_hop`] and
    /// what `Connection` names), whose meaning is in this type's other members. `Content-Length`,
    /// `Expect` and `Trailer` stay away too.
    pub fields: Fields,
}

impl RequestHead {
    /// Empties the head and keeps its memory.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.scheme = Scheme::Http;
        self.version = Version::Http11;
        self.authority.clear();
        self.host_len = 0;
        self.target.clear();
        self.path_len = 0;
        self.protocol.clear();
        self.length = Length::None;
        self.expects_continue = false;
        self.accepts_trailers = false;
        self.fields.clear();
    }

    /// Host and optional port, in lower case.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The host alone, in lower case; an IPv6 address with its brackets.
    pub fn host(&self) -> &[u8] {
        &self.authority[..self.host_len]
    }

    /// Path and query.
    pub fn target(&self) -> &[u8] {
        &self.target
    }

    /// The path alone.
    pub fn path(&self) -> &[u8] {
        &self.target[..self.path_len]
    }

    /// The query, without its question mark.
    pub fn query(&self) -> Option<&[u8]> {
        self.target.get(self.path_len + 1..)
    }

    /// Sets host and port; the caller has checked them. Letters become lower case.
    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority.clear();
        self.authority.extend_from_slice(authority);
        self.authority.make_ascii_lowercase();
        let after_brackets = self.authority.iter().rposition(|&c| c == b']').unwrap_or(0);
        self.host_len = self.authority[after_brackets..]
            .iter()
            .position(|&c| c == b':')
            .map_or(self.authority.len(), |at| after_brackets + at);
    }

    /// Sets an authority that was read already.
    pub(super) fn set_read_authority(&mut self, octets: &[u8], read: Authority<'_>) {
        self.authority.clear();
        self.authority.extend_from_slice(octets);
        self.authority.make_ascii_lowercase();
        self.host_len = read.host.len();
    }

    /// Sets path and query; the caller has checked them.
    pub fn set_target(&mut self, target: &[u8]) {
        self.target.clear();
        self.target.extend_from_slice(target);
        self.path_len = memchr::memchr(b'?', target).unwrap_or(target.len());
    }

    /// Replaces the path and keeps the query.
    pub fn set_path(&mut self, path: &[u8]) {
        let old = self.path_len;
        self.target.splice(..old, path.iter().copied());
        self.path_len = path.len();
    }
}
