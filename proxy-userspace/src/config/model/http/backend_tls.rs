//! TLS to backends.

use super::{DnsQuestion, Upstream};
use crate::types::tls::TlsVersion;
use std::path::PathBuf;

/// TLS to the backends of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// False: every certificate is believed.
    pub verify: bool,
    /// The authorities that are believed, a PEM file; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// Whose certificate a backend must have; `None`: see [`Upstream::tls_name`].
    pub server_name: Option<String>,
    /// It must have one for the host that is asked of it. `server_name` is `None` then.
    pub by_host: bool,
    /// What we show to backends that ask for it.
    pub identity: Option<TlsIdentity>,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// The newest version.
    pub max_version: TlsVersion,
    /// Application protocols that are offered where a listener passes TCP on.
    pub alpn: Vec<String>,
}

/// A certificate and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, and intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Whose certificate a backend must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsName {
    /// One for this name.
    Host(String),
    /// One for its address.
    Address,
}

impl BackendTls {
    /// The files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|own| [&own.certificate, &own.key]);
        self.ca.iter().chain(identity)
    }
}

impl Default for BackendTls {
    /// Verified by the system's authorities.
    fn default() -> Self {
        Self {
            verify: true,
            ca: None,
            server_name: None,
            by_host: false,
            identity: None,
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
            alpn: Vec::new(),
        }
    }
}

impl Upstream {
    /// Whose certificates backends must have: the configured name; else the name by which all of
    /// them are found; else each its address.
    pub fn tls_name(&self) -> TlsName {
        let configured = self.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        let found = || self.names.iter().find_map(|named| host(&named.question));
        match configured.map(String::as_str).or_else(found) {
            Some(name) => TlsName::Host(name.to_owned()),
            None => TlsName::Address,
        }
    }

    /// True if backends have different names by which they are found, or some have none: then
    /// nobody knows which name all their certificates are for.
    pub fn has_several_tls_names(&self) -> bool {
        let mut hosts = self.names.iter().map(|named| host(&named.question));
        let Some(first) = hosts.next() else {
            return false;
        };
        first.is_none() || hosts.any(|host| host != first) || !self.traits.is_empty()
    }
}

fn host(question: &DnsQuestion) -> Option<&str> {
    match question {
        DnsQuestion::Host(host, _) => Some(host),
        DnsQuestion::Service(_) => None,
    }
}
