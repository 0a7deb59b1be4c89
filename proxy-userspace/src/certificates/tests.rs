use super::*;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

/// A certificate and its key as PEM.
fn issued(edit: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let names = vec![
        "A.example".to_owned(),
        "*.b.example".to_owned(),
        "10.1.2.3".to_owned(),
    ];
    let mut params = CertificateParams::new(names).expect("names");
    edit(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, octets: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, octets).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("sets");
        path
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

#[test]
fn a_pair_tells_what_is_in_it() {
    let files = Files::new();
    let (certificate, key) = issued(|params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Müller, Söhne");
    });
    let (certificate, key) = (files.file("c", certificate), files.file("k", key));
    let pair = read_pair(&certificate, &key, now()).expect("a pair");
    assert!(pair.warnings.is_empty(), "{:?}", pair.warnings);
    let view = pair.view;
    assert_eq!(view.names, ["a.example", "*.b.example", "10.1.2.3"]);
    assert!(
        view.subject.contains(r"O=M\C3\BCller\, S\C3\B6hne"),
        "{}",
        view.subject
    );
    assert_eq!(view.fingerprint.len(), 64);
    for (host, covered) in [
        ("a.example", true),
        ("x.b.example", true),
        ("b.example", false),
        ("x.y.b.example", false),
        ("x.a.example", false),
    ] {
        assert_eq!(view.covers(host), covered, "{host}");
    }
}

#[test]
fn every_fault_of_a_file_names_the_file_and_the_reason() {
    let files = Files::new();
    let (certificate, key) = issued(|_| ());
    let (_, other) = issued(|_| ());
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let good = (
        files.file("good.pem", &certificate),
        files.file("good.key", key),
    );
    let absent = files.0.path().join("absent");
    let cases = [
        (absent.clone(), good.1.clone(), "absent", "does not exist"),
        (good.0.clone(), absent, "absent", "does not exist"),
        (
            files.file("text", "hello"),
            good.1.clone(),
            "text",
            "holds no certificate",
        ),
        (
            files.file("der", [0x30, 0x82, 1, 2]),
            good.1.clone(),
            "der",
            "is DER",
        ),
        (
            files.file("cut", &certificate[..200]),
            good.1.clone(),
            "cut",
            "is not PEM",
        ),
        (
            good.0.clone(),
            files.file("other", other),
            "other",
            "does not fit the certificate",
        ),
        (
            good.0.clone(),
            good.0.clone(),
            "good.pem",
            "holds no private key",
        ),
        (
            good.0.clone(),
            files.file("locked", encrypted),
            "locked",
            "is encrypted",
        ),
        (
            good.1.clone(),
            good.1.clone(),
            "good.key",
            "holds no certificate",
        ),
        (
            files.0.path().to_owned(),
            good.1.clone(),
            "",
            "cannot be read",
        ),
    ];
    for (certificate, key, name, reason) in cases {
        let fault = read_pair(&certificate, &key, now()).expect_err(reason);
        assert!(fault.path.ends_with(name) || name.is_empty(), "{fault}");
        assert!(fault.to_string().contains(reason), "{fault}");
    }
}

#[test]
fn what_is_out_of_date_or_open_to_all_is_warned_of() {
    let files = Files::new();
    let (expired, key) = issued(|params| params.not_after = date_time_ymd(2020, 2, 3));
    let (expired, key) = (files.file("c", expired), files.file("k", key));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("sets");
    let warnings = read_pair(&expired, &key, now()).expect("a pair").warnings;
    assert!(warnings[0].contains("mode 644"), "{warnings:?}");
    assert!(
        warnings[1].contains("expired at 2020-02-03"),
        "{warnings:?}"
    );
    let (future, key) = issued(|params| params.not_before = date_time_ymd(2080, 1, 1));
    let (future, key) = (files.file("c", future), files.file("k", key));
    let warnings = read_pair(&future, &key, now()).expect("a pair").warnings;
    assert!(warnings[0].contains("valid only from 2080"), "{warnings:?}");
}

#[test]
fn authorities_and_lists_are_told_from_other_files() {
    let files = Files::new();
    let (certificate, key) = issued(|_| ());
    let certificate = files.file("c", certificate);
    assert_eq!(read_roots(&certificate).expect("one").len(), 1);
    let key = files.file("k", key);
    read_roots(&key).expect_err("no certificate");
    let fault = read_revocations(&certificate).expect_err("no list");
    assert!(fault.reason.contains("holds no list"), "{fault}");
    let fault = read_ocsp(&certificate).expect_err("no response");
    assert!(fault.reason.contains("not an OCSP response"), "{fault}");
}

#[test]
fn the_local_authority_is_made_once_and_its_key_is_its_owners() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("deep/er");
    let first = local_authority(Some(&place)).expect("made");
    let key = std::fs::metadata(place.join("ca.key")).expect("there");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&first.certificate).expect("there");
    let again = local_authority(Some(&place)).expect("kept");
    assert_eq!(std::fs::read(&again.certificate).expect("there"), before);
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = again.issue(&names).expect("issued");
    assert_eq!(pair.view.names, ["localhost", "127.0.0.1"]);
    assert!(pair.view.issuer.contains("sluice local CA"));
    std::fs::write(place.join("ca.key"), "nothing").expect("writes");
    let error = local_authority(Some(&place)).expect_err("broken");
    assert!(error.to_string().contains("ca.key"), "{error}");
}
