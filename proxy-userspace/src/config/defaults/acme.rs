//! Defaults of the section `acme`.

/// The directory: Let's Encrypt.
pub(crate) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Where account, certificates and keys are kept.
pub(crate) const STORAGE: &str = "/var/lib/sluice/acme";

/// Share of a certificate's life after which it is renewed: 60 of 90 days, as authorities advise.
pub(crate) const RENEW_AT: f64 = 0.67;

/// Shares that can be asked for: sooner would use up what authorities allow, later leaves no time
/// for a second attempt.
pub(crate) const RENEW_SHARES: std::ops::RangeInclusive<f64> = 0.1..=0.95;
