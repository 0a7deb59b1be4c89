//! What is in a certificate that was issued, as far as its renewal goes.

use crate::certificates::{CertificateView, Pair};
use crate::config::model::acme::KeyKind;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    /// SHA-256 of it.
    pub(super) fingerprint: String,
    /// What it is for.
    pub(super) names: Vec<String>,
    /// Kind of its key, if it is one that can be asked for.
    pub(super) key: Option<KeyKind>,
    /// First second of its validity.
    pub(super) not_before: i64,
    /// Last second of its validity.
    pub(super) not_after: i64,
}

impl Issued {
    pub(super) fn of(pair: &Pair) -> Self {
        let CertificateView {
            names,
            fingerprint,
            not_before,
            not_after,
            ..
        } = pair.view.clone();
        Self {
            fingerprint,
            names,
            key: pair.key.cert.first().and_then(key_kind),
            not_before,
            not_after,
        }
    }

    /// True if it is for these names and no others.
    pub(super) fn is_for(&self, names: &[String]) -> bool {
        names.len() == self.names.len() && names.iter().all(|name| self.names.contains(name))
    }
}

fn key_kind(certificate: &CertificateDer<'_>) -> Option<KeyKind> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => match point.key_size() {
            256 => Some(KeyKind::EcdsaP256),
            384 => Some(KeyKind::EcdsaP384),
            _ => None,
        },
        PublicKey::RSA(key) => match key.key_size() {
            2048 => Some(KeyKind::Rsa2048),
            3072 => Some(KeyKind::Rsa3072),
            4096 => Some(KeyKind::Rsa4096),
            _ => None,
        },
        _ => None,
    }
}
