use super::resolve::Resolver;
use super::*;
use crate::certificates::read_pair;
use crate::certificates::testing::write_pair;
use crate::config::model::tls::{CertificateSource, ServerTls, Sessions};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::SignatureScheme;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Writes a certificate and its key.
fn write(folder: &Path, name: &str, names: &[&str], rsa: bool) -> (PathBuf, PathBuf) {
    let kind = if rsa {
        &PKCS_RSA_SHA256
    } else {
        &PKCS_ECDSA_P256_SHA256
    };
    write_pair(folder, name, names, kind)
}

#[test]
fn the_name_decides_then_what_the_client_can_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now();
    let pair = |name: &str, names: &[&str], rsa| {
        let (certificate, key) = write(folder.path(), name, names, rsa);
        read_pair(&certificate, &key, now).expect("a pair")
    };
    let pairs = vec![
        pair("rsa", &["a.test"], true),
        pair("ecdsa", &["a.test"], false),
        pair("wild", &["*.test", "b.test"], false),
        pair("exact", &["c.test"], false),
    ];
    let fingerprints: Vec<_> = pairs.iter().map(|pair| pair.key.clone()).collect();
    let both = [
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ];
    let resolver = Resolver::new(pairs.clone(), false);
    let cases: [(Option<&str>, &[SignatureScheme], usize); 9] = [
        (Some("a.test"), &both, 1),
        (Some("a.test"), &both[..1], 0),
        (Some("a.test"), &both[1..], 1),
        (Some("b.test"), &both, 2),
        (Some("x.test"), &both, 2),
        (Some("c.test"), &both, 3),
        (Some("x.y.test"), &both, 1),
        (None, &both, 1),
        (None, &both[..1], 0),
    ];
    for (name, schemes, expected) in cases {
        let chosen = resolver.choose(name, schemes).expect("one");
        assert!(
            Arc::ptr_eq(&chosen, &fingerprints[expected]),
            "{name:?} {schemes:?}"
        );
    }
    assert!(resolver.covers(Some("x.test"), "b.test"));
    assert!(!resolver.covers(Some("a.test"), "b.test"));
    let strict = Resolver::new(pairs, true);
    assert!(strict.choose(None, &both).is_none());
    assert!(strict.choose(Some("x.y.test"), &both).is_none());
    assert!(strict.choose(Some("a.test"), &both).is_some());
}

#[test]
fn sessions_go_on_over_a_reload_while_the_same_is_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = write(folder.path(), "a", &["a.test"], false);
    let mut settings = ServerTls::new(vec![CertificateSource::Files {
        certificate: certificate.clone(),
        key,
        ocsp: None,
    }]);
    let now = SystemTime::now();
    let side = |settings: &ServerTls, before: Option<&Arc<SessionKeeper>>| {
        ServerSide::new(settings, Vec::new(), before, now)
            .expect("a side")
            .sessions
    };
    let first = side(&settings, None);
    assert!(Arc::ptr_eq(&first, &side(&settings, Some(&first))));
    let carried = first.carried().expect("tickets");
    let inherited = Arc::new(SessionKeeper::inherited(&carried).expect("keys"));
    assert_eq!(inherited.carried(), Some(carried));
    assert!(Arc::ptr_eq(&inherited, &side(&settings, Some(&inherited))));
    settings.client = Some(crate::config::model::tls::ClientAuth {
        ca: certificate,
        required: true,
        crl: None,
        depth: 1,
        xfcc: false,
        x_ssl: false,
    });
    let judged = side(&settings, Some(&first));
    assert!(
        !Arc::ptr_eq(&first, &judged),
        "what was not checked must not be believed"
    );
    assert!(!Arc::ptr_eq(&inherited, &side(&settings, Some(&inherited))));
    assert!(Arc::ptr_eq(&judged, &side(&settings, Some(&judged))));
    let (other, _) = write(folder.path(), "b", &["b.test"], false);
    settings.client.as_mut().expect("set").ca = other;
    assert!(!Arc::ptr_eq(&judged, &side(&settings, Some(&judged))));
    settings.sessions = Sessions {
        cache: 0,
        tickets: false,
        ..Sessions::default()
    };
    assert_eq!(side(&settings, None).carried(), None);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = CertificateSource::Files {
        certificate: "/nowhere/a.pem".into(),
        key: "/nowhere/a.key".into(),
        ocsp: None,
    };
    let error = ServerSide::new(
        &ServerTls::new(vec![missing]),
        Vec::new(),
        None,
        SystemTime::now(),
    );
    let error = error.expect_err("is missing").to_string();
    assert_eq!(error, "`/nowhere/a.pem` does not exist");
}
