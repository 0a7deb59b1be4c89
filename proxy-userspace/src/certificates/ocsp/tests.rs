use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SigningKey as _, date_time_ymd,
};
use x509_cert::Certificate;
use x509_cert::der::DateTime;
use x509_cert::der::asn1::{BitString as DerBitString, GeneralizedTime, Null};
use x509_ocsp::{AsResponseBytes as _, OcspGeneralizedTime, ResponseData, RevokedInfo};

/// 2023-11-14.
const NOW: i64 = 1_700_000_000;

/// ecdsa-with-SHA256.
const ECDSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// An authority, and what it has issued.
struct World {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
}

/// The extension that names a responder.
fn names_responder(url: &str) -> CustomExtension {
    // AuthorityInfoAccessSyntax: one AccessDescription of id-ad-ocsp and a URI.
    let method = [&[0x06, 8][..], &[0x2b, 6, 1, 5, 5, 7, 48, 1]].concat();
    let location = [&[0x86, url.len() as u8][..], url.as_bytes()].concat();
    let content = [method, location].concat();
    let one = [&[0x30, content.len() as u8][..], &content].concat();
    let all = [&[0x30, one.len() as u8][..], &one].concat();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], all)
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

impl World {
    fn new(edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut authority = params("CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = authority.self_signed(&key).expect("an authority");
        let issuer = Issuer::new(authority, key);
        let mut leaf = params("a.example");
        leaf.custom_extensions
            .push(names_responder("http://ocsp.example/x"));
        edit(&mut leaf);
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
        Self {
            authority: made.der().clone(),
            chain: vec![leaf.der().clone(), made.der().clone()],
            issuer,
        }
    }

    fn subject(&self) -> OcspSubject {
        let subject = OcspSubject::of(&self.chain);
        subject.expect("can be asked").expect("names a responder")
    }

    /// An answer about the certificate.
    fn single(&self, from: i64, to: Option<i64>) -> SingleResponse {
        let req_cert = self.subject().id(&SHA1_FOR_LEGACY_USE_ONLY, ID_SHA1);
        SingleResponse {
            cert_id: req_cert.expect("an id"),
            cert_status: CertStatus::good(),
            this_update: time(from),
            next_update: to.map(time),
            single_extensions: None,
        }
    }

    /// Signs as the authority does.
    fn sign(&self, answer: SingleResponse) -> Vec<u8> {
        signed(answer, &self.authority, self.issuer.key(), Vec::new())
    }

    /// Somebody whom the authority has told to answer, or not.
    fn delegate(
        &self,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = params("responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        edit(&mut params);
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        (made.der().clone(), key)
    }
}

fn time(seconds: i64) -> OcspGeneralizedTime {
    let since = std::time::Duration::from_secs(seconds.unsigned_abs());
    let time = DateTime::from_unix_duration(since).expect("a time");
    OcspGeneralizedTime(GeneralizedTime::from_date_time(time))
}

/// A response that this signer has signed.
fn signed(
    answer: SingleResponse,
    signer: &CertificateDer<'_>,
    key: &KeyPair,
    certs: Vec<CertificateDer<'_>>,
) -> Vec<u8> {
    let signer = Certificate::from_der(signer).expect("a certificate");
    let data = ResponseData {
        version: Default::default(),
        responder_id: ResponderId::ByName(signer.tbs_certificate.subject),
        produced_at: answer.this_update,
        responses: vec![answer],
        response_extensions: None,
    };
    let octets = data.to_der().expect("encodes");
    let signature = key.sign(&octets).expect("signs");
    let certs = certs.iter();
    let certs: Vec<_> = certs
        .map(|it| Certificate::from_der(it).expect("a certificate"))
        .collect();
    let basic = BasicOcspResponse {
        tbs_response_data: data,
        signature_algorithm: AlgorithmIdentifierOwned {
            oid: ECDSA,
            parameters: None,
        },
        signature: DerBitString::from_bytes(&signature).expect("bits"),
        certs: (!certs.is_empty()).then_some(certs),
    };
    let response = OcspResponse {
        response_status: OcspResponseStatus::Successful,
        response_bytes: Some(basic.to_response_bytes().expect("encodes")),
    };
    response.to_der().expect("encodes")
}

#[test]
fn a_certificate_says_whom_to_ask() {
    let world = World::new(|_| ());
    let subject = world.subject();
    assert_eq!(subject.responder, "http://ocsp.example/x");
    assert!(!subject.must_staple);
    let request = OcspRequest::from_der(&subject.request().expect("a request"));
    let request = request.expect("reads");
    assert_eq!(request.tbs_request.request_list.len(), 1);
    let silent = World::new(|params| params.custom_extensions.clear());
    assert!(OcspSubject::of(&silent.chain).expect("fine").is_none());
    let sealed = World::new(|params| {
        params.custom_extensions = vec![names_responder("https://ocsp.example/")];
    });
    assert!(OcspSubject::of(&sealed.chain).expect("fine").is_none());
    let reason = OcspSubject::of(&world.chain[..1]).expect_err("no issuer");
    assert!(reason.contains("issuer's certificate"), "{reason}");
    assert!(OcspSubject::of(&[]).expect("fine").is_none());
    let eager = World::new(|params| {
        let feature = vec![0x30, 3, 2, 1, 5];
        let oid = [1, 3, 6, 1, 5, 5, 7, 1, 24];
        let feature = CustomExtension::from_oid_content(&oid, feature);
        params.custom_extensions.push(feature);
    });
    assert!(eager.subject().must_staple);
}

#[test]
fn what_the_issuer_says_is_believed_while_it_is_of_this_time() {
    let world = World::new(|_| ());
    let judge = |from, to| {
        world
            .subject()
            .judge(&world.sign(world.single(from, to)), NOW)
    };
    let good = judge(NOW - 10, Some(NOW + 10)).expect("good");
    assert_eq!(
        good,
        OcspAnswer {
            status: OcspStatus::Good,
            this_update: NOW - 10,
            next_update: NOW + 10,
        }
    );
    assert_eq!(judge(NOW - 10, Some(NOW)), Err(OcspFault::Expired));
    assert_eq!(judge(NOW + SKEW + 1, None), Err(OcspFault::Early));
    assert!(judge(NOW + SKEW, None).is_ok(), "clocks differ");
    let open = judge(NOW - 10, None).expect("good");
    assert_eq!(open.next_update, NOW - 10 + WITHOUT_END);
    assert_eq!(judge(NOW - WITHOUT_END, None), Err(OcspFault::Expired));
}

#[test]
fn the_status_is_told() {
    let world = World::new(|_| ());
    for (status, expected) in [
        (
            CertStatus::Revoked(RevokedInfo {
                revocation_time: time(NOW - 100),
                revocation_reason: None,
            }),
            OcspStatus::Revoked,
        ),
        (CertStatus::Unknown(Null), OcspStatus::Unknown),
    ] {
        let mut single = world.single(NOW - 10, Some(NOW + 10));
        single.cert_status = status;
        let answer = world.subject().judge(&world.sign(single), NOW);
        assert_eq!(answer.expect("an answer").status, expected);
    }
}

#[test]
fn others_answer_only_if_the_issuer_has_told_them_to() {
    let world = World::new(|_| ());
    let single = || world.single(NOW - 10, Some(NOW + 10));
    let by = |(certificate, key): (CertificateDer<'static>, KeyPair)| {
        let answer = signed(single(), &certificate, &key, vec![certificate.clone()]);
        world.subject().judge(&answer, NOW).map(|it| it.status)
    };
    assert_eq!(by(world.delegate(|_| ())), Ok(OcspStatus::Good));
    let refused = Err(OcspFault::Signature);
    let no_usage = world.delegate(|params| params.extended_key_usages.clear());
    assert_eq!(by(no_usage), refused);
    let expired = world.delegate(|params| params.not_after = date_time_ymd(2021, 1, 1));
    assert_eq!(by(expired), refused);
    let stranger = World::new(|_| ());
    assert_eq!(by(stranger.delegate(|_| ())), refused);
    // Another authority of the same name.
    assert_eq!(
        world.subject().judge(&stranger.sign(single()), NOW),
        Err(OcspFault::Signature)
    );
}

#[test]
fn answers_about_others_and_broken_ones_are_refused() {
    let world = World::new(|_| ());
    let mut other = world.single(NOW - 10, Some(NOW + 10));
    other.cert_id.serial_number = SerialNumber::from(7_u32);
    assert_eq!(
        world.subject().judge(&world.sign(other), NOW),
        Err(OcspFault::OtherCertificate)
    );
    let good = world.sign(world.single(NOW - 10, Some(NOW + 10)));
    for length in 0..good.len() {
        let judged = world.subject().judge(&good[..length], NOW);
        assert_eq!(judged, Err(OcspFault::Malformed), "{length}");
    }
    // Whatever bit is turned: it is refused, or was not signed.
    let mut refused = 0;
    for at in 0..good.len() {
        let mut broken = good.clone();
        broken[at] ^= 0x10;
        refused += usize::from(world.subject().judge(&broken, NOW).is_err());
    }
    assert!(refused + 8 > good.len(), "{refused} of {}", good.len());
    let busy = OcspResponse::try_later().to_der().expect("encodes");
    assert_eq!(
        world.subject().judge(&busy, NOW),
        Err(OcspFault::Refused("try later"))
    );
}
