use super::*;
use crate::certificates::testing::write_pair;
use rcgen::PKCS_ECDSA_P256_SHA256;
use std::path::{Path, PathBuf};

fn write(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    write_pair(folder, name, &["a.test"], &PKCS_ECDSA_P256_SHA256)
}

#[test]
fn the_digest_tells_settings_and_contents_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, _) = write(folder.path(), "ca");
    let (certificate, key) = write(folder.path(), "own");
    let settings = BackendTls {
        ca: Some(ca),
        identity: Some(crate::config::model::http::TlsIdentity { certificate, key }),
        ..BackendTls::default()
    };
    let digest = |settings: &BackendTls| {
        let trust = Trust::read(settings, &SystemRoots::default(), SystemTime::now());
        trust.expect("is read").digest
    };
    let first = digest(&settings);
    assert_eq!(first, digest(&settings));
    let unverified = BackendTls {
        verify: false,
        ..settings.clone()
    };
    assert_ne!(first, digest(&unverified));
    write(folder.path(), "own");
    let renewed = digest(&settings);
    assert_ne!(first, renewed, "another certificate of ours");
    write(folder.path(), "ca");
    assert_ne!(renewed, digest(&settings), "another authority");
}

#[test]
fn failures_are_told_in_words_without_what_the_server_has_sent() {
    let wrong = rustls::CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("a.test").expect("a name"),
        presented: vec!["\u{1b}[31mevil".to_owned()],
    };
    let cases = [
        (
            Error::InvalidCertificate(wrong),
            "the certificate is not for `a.test`",
        ),
        (
            Error::InvalidCertificate(rustls::CertificateError::Expired),
            "the certificate has expired",
        ),
        (
            Error::InvalidCertificate(rustls::CertificateError::NotValidYet),
            "the certificate is not valid yet",
        ),
        (
            Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
            "no authority that is believed has issued the certificate",
        ),
        (
            Error::AlertReceived(rustls::AlertDescription::CertificateRequired),
            "the server refuses us: it wants a certificate of ours",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(told(&error, "a.test"), expected);
    }
}
