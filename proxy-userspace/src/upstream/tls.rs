//! TLS to backends: what each handshake needs, and what a failed one means.
//!
//! Compiled from a service's settings when a configuration comes into force: files are read then,
//! so a reload takes changed ones, and one that cannot be used refuses it. All workers share it.
//!
//! Sessions are kept for each backend by itself: a ticket of one server is of no use at another,
//! and offered there would only cost octets.

use crate::balance::l7::BackendState;
use crate::certificates::{FileFault, read_pair, read_roots};
use crate::config::model::http::{BackendTls, TlsName, Upstream};
use crate::net::tls::HandshakeError;
use crate::observe::access_log::End;
use crate::observe::http::ConnectFailure;
use crate::types::tls::TlsVersion;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion, version,
};
use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

/// Servers of which one backend's sessions are kept: it is one. The library takes the number of
/// sessions, of which it keeps eight for a server.
const SESSIONS: usize = 8;

/// TLS to a service cannot be spoken as configured.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileFault),
    /// No certificate of an authority is on this system.
    #[error(
        "this system has no certificates of authorities: install `ca-certificates`, or give `ca`"
    )]
    NoRoots,
    /// The settings do not go together.
    #[error("the settings of TLS do not go together: {0}")]
    Settings(#[from] Error),
}

/// Which protocols are offered by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, and HTTP/1.1 if the service speaks both.
    Http2,
    /// What the service is configured to offer: whatever is passed on is not looked at.
    Stream,
}

/// A service's side of TLS.
#[derive(Debug)]
pub struct ClientSide {
    config: ClientConfig,
    name: TlsName,
    is_http1_spoken: bool,
    alpn: Vec<Vec<u8>>,
    /// What is kept for each backend.
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    backend: Weak<BackendState>,
    offer: Offer,
    config: Arc<ClientConfig>,
}

/// The system's authorities, read once for all services of a configuration.
#[derive(Debug, Default)]
pub struct SystemRoots(OnceCell<Arc<RootCertStore>>);

impl SystemRoots {
    fn roots(&self) -> Result<Arc<RootCertStore>, SideError> {
        let roots = self.0.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        });
        match roots.is_empty() {
            true => Err(SideError::NoRoots),
            false => Ok(Arc::clone(roots)),
        }
    }
}

impl ClientSide {
    /// Reads all files of a service. `None` if it speaks no TLS.
    ///
    /// # Errors
    ///
    /// [`SideError`].
    pub fn new(
        upstream: &Upstream,
        system: &SystemRoots,
        now: SystemTime,
    ) -> Result<Option<Self>, SideError> {
        let Some(settings) = &upstream.tls else {
            return Ok(None);
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings))?;
        let builder = if settings.verify {
            builder.with_root_certificates(match &settings.ca {
                Some(path) => Arc::new(read_roots(path)?),
                None => system.roots()?,
            })
        } else {
            let unverified = Arc::new(Unverified(provider));
            let builder = builder.dangerous();
            builder.with_custom_certificate_verifier(unverified)
        };
        let config = match &settings.identity {
            Some(identity) => {
                let pair = read_pair(&identity.certificate, &identity.key, now)?;
                let resolver = SingleCertAndKey::from(pair.key);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Some(Self {
            config,
            name: upstream.tls_name(),
            is_http1_spoken: upstream.protocol != crate::config::model::http::BackendProtocol::H2,
            alpn: settings
                .alpn
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect(),
            known: Mutex::default(),
        }))
    }

    /// Begins a session with a backend.
    ///
    /// # Errors
    ///
    /// What rustls says; it has none for settings that it has taken.
    pub fn begin(
        &self,
        backend: &Arc<BackendState>,
        offer: Offer,
    ) -> Result<ClientConnection, Error> {
        let name = self.server_name(backend.address())?;
        ClientConnection::new(self.config_for(backend, offer), name)
    }

    fn server_name(&self, address: SocketAddr) -> Result<ServerName<'static>, Error> {
        match &self.name {
            TlsName::Address => Ok(ServerName::from(address.ip().to_canonical())),
            TlsName::Host(name) => ServerName::try_from(name.clone())
                .map_err(|_| Error::General("not a server name".to_owned())),
        }
    }

    fn config_for(&self, backend: &Arc<BackendState>, offer: Offer) -> Arc<ClientConfig> {
        let mut known = self.known.lock();
        let found = known.iter().find(|known| {
            known.offer == offer && std::ptr::eq(known.backend.as_ptr(), Arc::as_ptr(backend))
        });
        if let Some(found) = found {
            return Arc::clone(&found.config);
        }
        // Backends that DNS has named come and go.
        known.retain(|known| known.backend.strong_count() > 0);
        let mut config = self.config.clone();
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        config.alpn_protocols = match offer {
            Offer::Http1 => vec![h1],
            Offer::Http2 if self.is_http1_spoken => vec![h2, h1],
            Offer::Http2 => vec![h2],
            Offer::Stream => self.alpn.clone(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        known.push(Known {
            backend: Arc::downgrade(backend),
            offer,
            config: Arc::clone(&config),
        });
        config
    }
}

fn versions(settings: &BackendTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::V13, &version::TLS13),
        (TlsVersion::V12, &version::TLS12),
    ];
    let spoken = settings.min_version..=settings.max_version;
    let all = all.into_iter().filter(|(of, _)| spoken.contains(of));
    all.map(|(_, version)| version).collect()
}

/// Why there is no session with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// No authority that is believed has issued its certificate.
    UnknownAuthority,
    /// Its certificate is out of date, or not yet good.
    Expired,
    /// Its certificate is for other names.
    WrongName,
    /// Its certificate is not good for another reason.
    Certificate,
    /// It has refused us by an alert: it wants a certificate of ours, or another version.
    Alert,
    /// It speaks no TLS, breaks the protocol, or has closed the connection.
    Failed,
}

impl TlsFailure {
    /// What a handshake that failed means; `None` if it took too long.
    pub fn of(error: &HandshakeError) -> Option<Self> {
        match error {
            HandshakeError::TimedOut => None,
            HandshakeError::Tls(error) => Some(Self::of_tls(error)),
            HandshakeError::Io(_) | HandshakeError::Closed | HandshakeError::NotTls(_) => {
                Some(Self::Failed)
            }
        }
    }

    fn of_tls(error: &Error) -> Self {
        use CertificateError as C;
        match error {
            Error::AlertReceived(_) => Self::Alert,
            Error::InvalidCertificate(error) => match error {
                // An authority of the same name, but of another key, is another one.
                C::UnknownIssuer | C::BadSignature => Self::UnknownAuthority,
                C::Expired
                | C::ExpiredContext { .. }
                | C::NotValidYet
                | C::NotValidYetContext { .. } => Self::Expired,
                C::NotValidForName | C::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::Certificate,
            },
            _ => Self::Failed,
        }
    }

    /// What a connection that failed after its handshake means: of TLS 1.3, a client learns only
    /// then that its certificate was refused. `None` if it is not about TLS.
    pub fn of_io(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(Self::of_tls(error))
    }

    /// As what an attempt is logged and counted.
    pub const fn end(self) -> End {
        match self {
            Self::UnknownAuthority => End::TlsUnknownAuthority,
            Self::Expired => End::TlsExpired,
            Self::WrongName => End::TlsWrongName,
            Self::Certificate => End::TlsCertificate,
            Self::Alert => End::TlsAlert,
            Self::Failed => End::TlsFailed,
        }
    }

    /// As what a connection is counted that was not opened.
    pub const fn reason(self) -> ConnectFailure {
        match self {
            Self::UnknownAuthority => ConnectFailure::TlsUnknownAuthority,
            Self::Expired => ConnectFailure::TlsExpired,
            Self::WrongName => ConnectFailure::TlsWrongName,
            Self::Certificate => ConnectFailure::TlsCertificate,
            Self::Alert => ConnectFailure::TlsAlert,
            Self::Failed => ConnectFailure::TlsFailed,
        }
    }
}

/// Believes every certificate: `verify: false`. That the server has the key to it is checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
