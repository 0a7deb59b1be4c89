//! Names of what TLS agrees on: IANA's, rustls' and OpenSSL's.

use rustls::{CipherSuite, NamedGroup};

/// A version of TLS that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// RFC 5246.
    V12,
    /// RFC 8446.
    V13,
}

impl TlsVersion {
    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }

    /// The name in logs, as OpenSSL has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V12 => "TLSv1.2",
            Self::V13 => "TLSv1.3",
        }
    }
}

/// Cipher suites that are spoken here: the suite, its version, IANA's name, and OpenSSL's.
const SUITES: [(CipherSuite, TlsVersion, &str, &str); 9] = {
    use CipherSuite as C;
    use TlsVersion::{V12, V13};
    [
        (
            C::TLS13_AES_256_GCM_SHA384,
            V13,
            "TLS_AES_256_GCM_SHA384",
            "TLS_AES_256_GCM_SHA384",
        ),
        (
            C::TLS13_AES_128_GCM_SHA256,
            V13,
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_128_GCM_SHA256",
        ),
        (
            C::TLS13_CHACHA20_POLY1305_SHA256,
            V13,
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (
            C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            V12,
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            V12,
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            V12,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        (
            C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            V12,
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            V12,
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            V12,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ]
};

/// Groups for key exchange that are spoken here, and their names: IANA's first.
const GROUPS: [(NamedGroup, &[&str]); 7] = [
    (NamedGroup::X25519MLKEM768, &["X25519MLKEM768"]),
    (
        NamedGroup::secp256r1MLKEM768,
        &["SecP256r1MLKEM768", "secp256r1MLKEM768"],
    ),
    (NamedGroup::X25519, &["x25519", "X25519"]),
    (NamedGroup::secp256r1, &["secp256r1", "prime256v1", "P-256"]),
    (NamedGroup::secp384r1, &["secp384r1", "P-384"]),
    (NamedGroup::MLKEM768, &["MLKEM768"]),
    (NamedGroup::MLKEM1024, &["MLKEM1024"]),
];

/// The suite of this name, by IANA, rustls or OpenSSL.
pub fn suite(name: &str) -> Option<(CipherSuite, TlsVersion)> {
    let name = name
        .strip_prefix("TLS13_")
        .map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"));
    let found = SUITES.iter().find(|(_, _, iana, openssl)| {
        iana.eq_ignore_ascii_case(&name) || openssl.eq_ignore_ascii_case(&name)
    });
    found.map(|(suite, version, ..)| (*suite, *version))
}

/// OpenSSL's name of a suite, as nginx and others log it.
pub fn suite_name(suite: CipherSuite) -> &'static str {
    let found = SUITES.iter().find(|(known, ..)| *known == suite);
    found.map_or("unknown", |(.., openssl)| openssl)
}

/// OpenSSL's names of all suites that are spoken here.
pub fn suite_names() -> impl Iterator<Item = &'static str> {
    SUITES.iter().map(|(.., openssl)| *openssl)
}

/// The group of this name.
pub fn group(name: &str) -> Option<NamedGroup> {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let found = GROUPS
        .iter()
        .find(|(_, names)| names.iter().any(|known| is(known)));
    found.map(|(group, _)| *group)
}

/// IANA's name of a group.
pub fn group_name(group: NamedGroup) -> &'static str {
    let found = GROUPS.iter().find(|(known, _)| *known == group);
    found.map_or("unknown", |(_, names)| names[0])
}

/// Names of all groups that are spoken here.
pub fn group_names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|(_, names)| names[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_and_group_that_is_built_in_has_its_names() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        assert_eq!(provider.cipher_suites.len(), SUITES.len());
        for known in &provider.cipher_suites {
            let name = suite_name(known.suite());
            assert_eq!(suite(name).map(|(suite, _)| suite), Some(known.suite()));
            let of_rustls = format!("{:?}", known.suite());
            assert_eq!(
                suite(&of_rustls).map(|(suite, _)| suite),
                Some(known.suite())
            );
        }
        for known in rustls::crypto::aws_lc_rs::ALL_KX_GROUPS {
            assert_eq!(group(group_name(known.name())), Some(known.name()));
        }
        assert_eq!(group("P-256"), Some(NamedGroup::secp256r1));
        assert_eq!(suite("RC4-MD5"), None);
    }
}
