//! The key `acme`.

use super::scalar::{FilePath, Path, Percent, Text};
use crate::config::decode::Field;
use crate::config::defaults::{acme as acme_defaults, percent};
use schemars::JsonSchema;
use serde::Deserialize;

/// Certificates that an authority issues by itself (ACME, RFC 8555), for the names that listeners
/// give as `certificates: [{acme: [NAME]}]`. They are kept in `storage` and renewed in time; what
/// is renewed is in force for the next handshake, and no connection notices.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acme {
    /// URL of the authority's directory.
    #[serde(default)]
    #[schemars(extend("default" = acme_defaults::DIRECTORY))]
    pub(crate) directory: Field<Text>,
    /// Addresses for mail that the authority may write to.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) contact: Field<Vec<Field<Text>>>,
    /// `true` says that you agree to the authority's terms of service. Without it nothing is asked
    /// of it.
    pub(crate) terms_agreed: Field<bool>,
    /// How it is shown that the names are ours.
    #[serde(default)]
    #[schemars(extend("default" = "http-01"))]
    pub(crate) challenge: Field<Challenge>,
    /// Kind of the certificates' keys. A new one is made for each certificate.
    #[serde(default)]
    #[schemars(extend("default" = "ecdsa-p256"))]
    pub(crate) key: Field<KeyKind>,
    /// A PEM file with the authorities that are believed about the directory's server, for an
    /// authority of your own. Without it the system's.
    #[serde(default)]
    pub(crate) ca: Field<FilePath>,
    /// An account elsewhere that the one at the authority is bound to (EAB), where it asks for that.
    #[serde(default)]
    pub(crate) external_account: Field<ExternalAccount>,
    /// Profile of the certificates, of those that the authority offers.
    #[serde(default)]
    pub(crate) profile: Field<Text>,
    /// Folder for account and certificates, with their keys: only its owner may enter it. It is
    /// made if it is not there.
    #[serde(default)]
    #[schemars(extend("default" = acme_defaults::STORAGE))]
    pub(crate) storage: Field<Path>,
    /// The share of a certificate's life after which it is renewed, from `10%` to `95%`. The
    /// authority's own word (ARI, RFC 9773) comes first, where it is sooner.
    #[serde(default)]
    #[schemars(extend("default" = percent(acme_defaults::RENEW_AT)))]
    pub(crate) renew_at: Field<Percent>,
    /// What clients get as long as no certificate was issued for a name.
    #[serde(default)]
    #[schemars(extend("default" = "self-signed"))]
    pub(crate) until_issued: Field<UntilIssued>,
}

/// How it is shown that names are ours.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(crate) enum Challenge {
    /// The authority asks by HTTP at port 80 of each name. Listeners of kind `http` without `tls`
    /// answer, before routes and redirects.
    #[serde(rename = "http-01")]
    Http01,
    /// The authority opens TLS at port 443 of each name (RFC 8737). The listeners of the
    /// certificates answer.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(crate) enum KeyKind {
    /// ECDSA with P-256.
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA with P-384.
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// RSA with 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

/// What clients get until there is a certificate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UntilIssued {
    /// One that nobody has signed, which clients refuse unless they are told not to look.
    SelfSigned,
    /// None: the handshake fails.
    Refuse,
}

/// An account elsewhere (RFC 8555 §7.3.4).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExternalAccount {
    /// Its id (`kid`).
    pub(crate) id: Field<Text>,
    /// A file with its key (HMAC) in base64url, as the authority gives it.
    pub(crate) key: Field<FilePath>,
}
