//! TLS as a client of backends speaks it: whose certificates are believed, and what is shown.
//!
//! Compiled from a section `tls` when a configuration comes into force; requests, connections that
//! are passed on and health checks then speak by the same. Files are read here and nowhere else,
//! and what was read is told from anything else by its [`digest`](Trust::digest): while it stays
//! the same, sessions and connections go on over a reload.

mod failure;
#[cfg(test)]
mod tests;

pub use failure::{TlsFailure, error_in, told};

use crate::certificates::{FileFault, hex, read_pair, read_roots};
use crate::config::model::http::BackendTls;
use crate::types::tls::TlsVersion;
use aws_lc_rs::digest::{Context, SHA256};
use rustls::client::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};
use std::cell::OnceCell;
use std::sync::Arc;
use std::time::SystemTime;

/// TLS to backends cannot be spoken as configured.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
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

/// The system's authorities, read once for all services of a configuration.
#[derive(Debug, Default)]
pub struct SystemRoots(OnceCell<Arc<RootCertStore>>);

impl SystemRoots {
    fn roots(&self) -> Result<Arc<RootCertStore>, TrustError> {
        let roots = self.0.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        });
        match roots.is_empty() {
            true => Err(TrustError::NoRoots),
            false => Ok(Arc::clone(roots)),
        }
    }
}

/// What handshakes with backends need, but for whom they are with and what is offered.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Offers no application protocol.
    pub config: ClientConfig,
    /// Equal only where settings and the contents of all files are.
    pub digest: String,
}

impl Trust {
    /// Reads all files of a section `tls`.
    ///
    /// # Errors
    ///
    /// [`TrustError`].
    pub fn read(
        settings: &BackendTls,
        system: &SystemRoots,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let mut digest = Context::new(&SHA256);
        digest.update(format!("{settings:?}").as_bytes());
        let provider = Arc::new(provider::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings))?;
        let builder = if settings.verify {
            let roots = match &settings.ca {
                Some(path) => Arc::new(read_roots(path)?),
                None => system.roots()?,
            };
            for root in &roots.roots {
                digest.update(root.subject.as_ref());
                digest.update(root.subject_public_key_info.as_ref());
                digest.update(root.name_constraints.as_deref().unwrap_or_default());
            }
            builder.with_root_certificates(roots)
        } else {
            let unverified = Arc::new(Unverified(provider));
            let builder = builder.dangerous();
            builder.with_custom_certificate_verifier(unverified)
        };
        let config = match &settings.identity {
            Some(identity) => {
                let pair = read_pair(&identity.certificate, &identity.key, now)?;
                // The key is the one that fits.
                pair.key.cert.iter().for_each(|der| digest.update(der));
                let resolver = SingleCertAndKey::from(pair.key);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            config,
            digest: hex(digest.finish().as_ref()),
        })
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
