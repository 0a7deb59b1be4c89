//! Certificates that an authority issues by itself.

use crate::config::defaults::acme as defaults;
use std::path::PathBuf;

/// Certificates by ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// URL of the authority's directory.
    pub directory: String,
    /// URLs that the authority may write to.
    pub contact: Vec<String>,
    /// How it is shown that names are ours.
    pub challenge: Challenge,
    /// Kind of the certificates' keys.
    pub key: KeyKind,
    /// The authorities that are believed about the directory's server, a PEM file; `None` for the
    /// system's.
    pub ca: Option<PathBuf>,
    /// What the account is bound to.
    pub external_account: Option<ExternalAccount>,
    /// Profile of the certificates.
    pub profile: Option<String>,
    /// Folder for account, certificates and keys.
    pub storage: PathBuf,
    /// Share of a certificate's life after which it is renewed.
    pub renew_at: f64,
    /// What clients get until there is a certificate.
    pub until_issued: UntilIssued,
}

/// How it is shown that names are ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Challenge {
    /// By HTTP at port 80 (RFC 8555 §8.3).
    #[default]
    Http01,
    /// In a TLS handshake at port 443 (RFC 8737).
    TlsAlpn01,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA with P-256.
    #[default]
    EcdsaP256,
    /// ECDSA with P-384.
    EcdsaP384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

/// What clients get until there is a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UntilIssued {
    /// A certificate that nobody has signed.
    #[default]
    SelfSigned,
    /// A failed handshake.
    Refuse,
}

/// An account elsewhere (RFC 8555 §7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Its id.
    pub id: String,
    /// A file with its key in base64url.
    pub key: PathBuf,
}

/// A certificate that a listener has issued by ACME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeCertificate {
    /// Names and addresses; the first names the certificate.
    pub names: Vec<String>,
    /// The file with the certificate and its key, once it was issued.
    pub file: PathBuf,
    /// What clients get before.
    pub until_issued: UntilIssued,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory: defaults::DIRECTORY.to_owned(),
            contact: Vec::new(),
            challenge: Challenge::default(),
            key: KeyKind::default(),
            ca: None,
            external_account: None,
            profile: None,
            storage: defaults::STORAGE.into(),
            renew_at: defaults::RENEW_AT,
            until_issued: UntilIssued::default(),
        }
    }
}

impl Challenge {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

impl KeyKind {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl UntilIssued {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfSigned => "self-signed",
            Self::Refuse => "refuse",
        }
    }
}
