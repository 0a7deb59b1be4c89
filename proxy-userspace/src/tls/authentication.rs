//! Whose certificates are believed.

use crate::certificates::{FileFault, hex, read_revocations, read_roots};
use crate::config::model::tls::ClientAuth;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

/// Judges clients' certificates, and what tells this judge from others.
pub(super) struct Judge {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    pub(super) trust: String,
}

impl Judge {
    pub(super) fn new(
        settings: &ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, FileFault> {
        let roots = read_roots(&settings.ca)?;
        let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for root in &roots.roots {
            digest.update(root.subject_public_key_info.as_ref());
            digest.update(root.subject.as_ref());
        }
        let fault = |reason: String| FileFault {
            path: settings.ca.clone(),
            reason,
        };
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(path) = &settings.crl {
            let lists = read_revocations(path)?;
            lists.iter().for_each(|list| digest.update(list));
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        if !settings.required {
            builder = builder.allow_unauthenticated();
        }
        let inner = builder
            .build()
            .map_err(|error| fault(format!("cannot be used: {error}")))?;
        let verifier = Arc::new(Bounded {
            inner,
            most: settings.depth as usize,
        });
        let digest = hex(digest.finish().as_ref());
        Ok(Self {
            verifier,
            trust: format!("{digest} {} {}", settings.required, settings.depth),
        })
    }
}

/// Takes only so many intermediate certificates.
#[derive(Debug)]
struct Bounded {
    inner: Arc<dyn ClientCertVerifier>,
    most: usize,
}

impl ClientCertVerifier for Bounded {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() > self.most {
            return Err(CertificateError::UnknownIssuer.into());
        }
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
