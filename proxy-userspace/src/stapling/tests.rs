use super::*;
use crate::config::model::tls::{CertificateSource, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};

/// A side with one certificate that names a responder at which nobody is.
fn side(folder: &std::path::Path) -> Arc<ServerSide> {
    let named = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let key = KeyPair::generate().expect("a key");
    let mut authority = named("ca.example");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).expect("an authority");
    let issuer = Issuer::new(authority, key);
    let mut leaf = named("a.example");
    // id-ad-ocsp at `http://[::1]:1/`.
    let url = b"http://[::1]:1/";
    let mut one = vec![0x06, 8, 0x2b, 6, 1, 5, 5, 7, 48, 1, 0x86, url.len() as u8];
    one.extend(url);
    let all = [
        &[0x30, one.len() as u8 + 2, 0x30, one.len() as u8][..],
        &one,
    ]
    .concat();
    let access = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], all);
    leaf.custom_extensions.push(access);
    let key = KeyPair::generate().expect("a key");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    let (certificate, private) = (folder.join("a.pem"), folder.join("a.key"));
    std::fs::write(&certificate, leaf.pem() + &root.pem()).expect("writes");
    std::fs::write(&private, key.serialize_pem()).expect("writes");
    let source = CertificateSource::Files {
        certificate,
        key: private,
        ocsp: None,
    };
    let settings = ServerTls::new(vec![source]);
    let side = ServerSide::new(&settings, Vec::new(), None, SystemTime::now());
    Arc::new(side.expect("valid"))
}

fn answer(status: OcspStatus, until: i64) -> Result<(Vec<u8>, OcspAnswer), AskError> {
    let answer = OcspAnswer {
        status,
        this_update: 0,
        next_update: until,
    };
    Ok((vec![1, 2, 3], answer))
}

#[tokio::test]
async fn the_last_good_answer_stays_until_it_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let board: Arc<CertificateBoard> = Arc::default();
    let mut stapler = Stapler::new(Arc::clone(&board));
    stapler.show(vec![side(folder.path())]);
    let fingerprint = stapler.known.keys().next().expect("one").clone();
    let state = || board.staples().remove(&fingerprint).expect("known");
    stapler.end(
        (fingerprint.clone(), answer(OcspStatus::Good, 1000)),
        0,
        0.0,
    );
    assert_eq!(state().stapled_until, Some(1000));
    let failed = || Err(AskError::Status(StatusCode::SERVICE_UNAVAILABLE));
    stapler.end((fingerprint.clone(), failed()), 600, 0.0);
    assert_eq!(state().stapled_until, Some(1000), "the last good one");
    assert!(state().error.expect("told").contains("503"));
    // A responder that has forgotten the certificate has not said that it is bad.
    stapler.end(
        (fingerprint.clone(), answer(OcspStatus::Unknown, 2000)),
        700,
        0.0,
    );
    assert_eq!(
        (state().status, state().stapled_until),
        ("unknown", Some(1000))
    );
    stapler.begin(999);
    assert_eq!(state().stapled_until, Some(1000));
    stapler.begin(1000);
    assert_eq!(state().stapled_until, None);
    // A reload forgets what is not shown any more, and nothing else.
    stapler.end(
        (fingerprint.clone(), answer(OcspStatus::Good, 3000)),
        1000,
        0.0,
    );
    let sides = stapler.sides.clone();
    stapler.show(sides);
    assert_eq!(state().stapled_until, Some(3000));
    stapler.show(Vec::new());
    assert!(board.staples().is_empty());
}

#[tokio::test]
async fn what_is_revoked_is_shown_without_an_answer_and_told_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let board: Arc<CertificateBoard> = Arc::default();
    let mut stapler = Stapler::new(Arc::clone(&board));
    stapler.show(vec![side(folder.path())]);
    let fingerprint = stapler.known.keys().next().expect("one").clone();
    stapler.end(
        (fingerprint.clone(), answer(OcspStatus::Good, 1000)),
        0,
        0.0,
    );
    for now in [500, 600] {
        let revoked = answer(OcspStatus::Revoked, 1000);
        stapler.end((fingerprint.clone(), revoked), now, 0.0);
    }
    assert!(board.is_revoked(&fingerprint));
    assert_eq!(board.staples()[&fingerprint].stapled_until, None);
    assert_eq!(board.take_news().len(), 1);
    stapler.end(
        (fingerprint.clone(), answer(OcspStatus::Good, 2000)),
        700,
        0.0,
    );
    assert!(!board.is_revoked(&fingerprint));
}
