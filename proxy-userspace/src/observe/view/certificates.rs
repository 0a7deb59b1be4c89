//! Certificates that clients are shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A certificate that is shown to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateView {
    /// Who shows it: the name of a listener, or `admin`.
    pub used_by: String,
    /// Its subject.
    pub subject: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Since when it is valid, seconds since the epoch.
    pub not_before_seconds: i64,
    /// Until when it is valid, seconds since the epoch.
    pub not_after_seconds: i64,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// Where it came from: a file, `acme`, or how it was made.
    pub source: String,
    /// When another one is ordered, seconds since the epoch (`acme` only); 0 for as soon as
    /// possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_order_seconds: Option<i64>,
    /// Why the last order failed, unless one has succeeded since (`acme` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_error: Option<String>,
    /// What its responder says, if it names one that is asked (OCSP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<OcspView>,
}

/// What the responder of a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OcspView {
    /// `good`, `revoked` or `unknown`, by the last answer; empty before the first.
    pub status: String,
    /// Until when the stapled answer is good, seconds since the epoch; absent while none is stapled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stapled_until_seconds: Option<i64>,
    /// Why the last question got no good answer, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
