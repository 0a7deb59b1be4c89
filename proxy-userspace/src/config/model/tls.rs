//! TLS at a listener.

use super::acme::AcmeCertificate;
use crate::config::defaults::tls as defaults;
use crate::types::tls::TlsVersion;
use rustls::{CipherSuite, NamedGroup};
use std::path::PathBuf;
use std::time::Duration;

/// TLS at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificates, never none; clients that ask for no name that any is for get the first.
    pub certificates: Vec<CertificateSource>,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// The newest version.
    pub max_version: TlsVersion,
    /// Cipher suites, the preferred one first; empty for the usual ones.
    pub ciphers: Vec<CipherSuite>,
    /// Groups for key exchange, the preferred one first; empty for the usual ones.
    pub groups: Vec<NamedGroup>,
    /// True: our order of cipher suites decides, else the client's.
    pub server_preference: bool,
    /// How sessions are resumed.
    pub sessions: Sessions,
    /// Certificates of clients, if they are asked for.
    pub client: Option<ClientAuth>,
    /// True: the status of certificates is asked of the responders that they name (OCSP), and
    /// stapled.
    pub stapling: bool,
    /// True: clients that ask for a name that no certificate is for are refused, and so are
    /// requests for a host that the connection's certificate is not for (421).
    pub strict_sni: bool,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Handshakes of a worker at once.
    pub max_handshakes: u32,
    /// Application protocols (ALPN, RFC 7301), the preferred one first, where TCP is passed on.
    /// What HTTP offers is told by [`super::http::Http2`].
    pub alpn: Vec<String>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// PEM files.
    Files {
        /// The certificate, and intermediate ones behind it.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// An OCSP response in DER that is stapled.
        ocsp: Option<PathBuf>,
    },
    /// The local authority issues one for these names.
    Local(Vec<String>),
    /// An authority issues one by ACME.
    Acme(AcmeCertificate),
}

/// How sessions are resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// Sessions that are kept here, for clients without tickets; 0 for none.
    pub cache: u32,
    /// True: clients keep their sessions, sealed by keys that we change.
    pub tickets: bool,
    /// How long a ticket is good; its key is changed as often.
    pub ticket_lifetime: Duration,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities that are believed, a PEM file.
    pub ca: PathBuf,
    /// True: clients without a certificate are refused.
    pub required: bool,
    /// What they have revoked, a PEM file.
    pub crl: Option<PathBuf>,
    /// Certificates between a client's own and the authority's, at most.
    pub depth: u32,
    /// Tells backends by `X-Forwarded-Client-Cert`, as Envoy does.
    pub xfcc: bool,
    /// Tells backends by `X-SSL-Client-*`.
    pub x_ssl: bool,
}

impl ServerTls {
    /// TLS with these certificates and every default.
    pub fn new(certificates: Vec<CertificateSource>) -> Self {
        Self {
            certificates,
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
            ciphers: Vec::new(),
            groups: Vec::new(),
            server_preference: false,
            sessions: Sessions::default(),
            client: None,
            stapling: true,
            strict_sni: false,
            handshake_timeout: defaults::HANDSHAKE_TIMEOUT,
            max_handshakes: defaults::MAX_HANDSHAKES,
            alpn: Vec::new(),
        }
    }

    /// The files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.certificates.iter().flat_map(|source| match source {
            CertificateSource::Files {
                certificate,
                key,
                ocsp,
            } => [Some(certificate), Some(key), ocsp.as_ref()],
            CertificateSource::Local(_) => [None; 3],
            // Another process may have renewed it.
            CertificateSource::Acme(wanted) => [Some(&wanted.file), None, None],
        });
        let client = self.client.iter();
        let client = client.flat_map(|client| [Some(&client.ca), client.crl.as_ref()]);
        pairs.chain(client).flatten()
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            cache: defaults::SESSION_CACHE,
            tickets: true,
            ticket_lifetime: defaults::TICKET_LIFETIME,
        }
    }
}
