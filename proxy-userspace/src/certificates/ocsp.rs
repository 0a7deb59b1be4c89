//! What a responder says about a certificate (OCSP, RFC 6960), asked and judged without I/O.
//!
//! An answer is believed if the certificate's issuer has signed it, or somebody whom the issuer
//! has told to (§4.2.2.2), if it is about the certificate, and if it is of this time. What is
//! signed with SHA-1 is not believed.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_cert::der::asn1::{Any, ObjectIdentifier, OctetString};
use x509_cert::der::{Decode as _, Encode as _, Header, Reader as _, SliceReader};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspRequest, OcspResponse, OcspResponseStatus, Request,
    ResponderId, SingleResponse, TbsRequest,
};
use x509_parser::der_parser::asn1_rs::BitString;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::verify::verify_signature;
use x509_parser::x509::AlgorithmIdentifier;

/// How far the clocks of a responder and of this host may differ, in seconds.
const SKEW: i64 = 300;

/// How long an answer without an end is good, in seconds.
const WITHOUT_END: i64 = 3600;

/// SHA-1 (RFC 3279 §2.2.1), by which certificates are named since all responders know it: here it
/// protects nothing.
const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");

/// SHA-256 (RFC 5754 §2.2).
const ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");

/// id-pkix-ocsp-basic (RFC 6960 §4.2.1).
const ID_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");

/// id-ad-ocsp (RFC 5280 §4.2.2.1).
const ID_AD_OCSP: &str = "1.3.6.1.5.5.7.48.1";

/// id-pe-tlsfeature (RFC 7633), by which a certificate wants an answer to be stapled.
const ID_TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// sha1WithRSAEncryption, and what signs with SHA-1 and ECDSA.
const BROKEN: [&str; 3] = ["1.2.840.113549.1.1.5", "1.3.14.3.2.29", "1.2.840.10045.4.1"];

/// A certificate whose status can be asked for.
#[derive(Clone, Debug)]
pub struct OcspSubject {
    /// URL of the responder, `http` only: answers are signed.
    pub responder: String,
    /// The certificate wants an answer to be stapled (RFC 7633): many clients refuse it without.
    pub must_staple: bool,
    certificate: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
}

/// What a responder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OcspAnswer {
    /// The certificate's status.
    pub status: OcspStatus,
    /// Since when this is known, seconds since the epoch.
    pub this_update: i64,
    /// Until when it is good, seconds since the epoch.
    pub next_update: i64,
}

/// The status of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspStatus {
    /// It is not revoked.
    Good,
    /// It is.
    Revoked,
    /// The responder does not know it.
    Unknown,
}

/// An answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspFault {
    /// It is no answer of this kind.
    #[error("the answer is malformed")]
    Malformed,
    /// The responder does not answer the question.
    #[error("the responder says `{0}`")]
    Refused(&'static str),
    /// Nobody has signed it who may.
    #[error("the answer is not signed by the issuer, nor by one that it has told to")]
    Signature,
    /// It says nothing about the certificate.
    #[error("the answer is about another certificate")]
    OtherCertificate,
    /// It is from the future.
    #[error("the answer is not valid yet")]
    Early,
    /// It is too old.
    #[error("the answer has expired")]
    Expired,
}

impl OcspSubject {
    /// What is asked about the first certificate of a chain. `None` if it names no responder.
    ///
    /// # Errors
    ///
    /// Why its responder cannot be asked.
    pub fn of(chain: &[CertificateDer<'static>]) -> Result<Option<Self>, &'static str> {
        let Some(certificate) = chain.first() else {
            return Ok(None);
        };
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Ok(None);
        };
        let Some(responder) = responder(&parsed) else {
            return Ok(None);
        };
        let issuer = chain[1..].iter().find(|other| {
            X509Certificate::from_der(other)
                .is_ok_and(|(_, other)| other.subject().as_raw() == parsed.issuer().as_raw())
        });
        let issuer = issuer.ok_or("its issuer's certificate is not behind it in the file")?;
        Ok(Some(Self {
            responder,
            must_staple: must_staple(&parsed),
            certificate: certificate.clone(),
            issuer: issuer.clone(),
        }))
    }

    /// SHA-256 of the certificate, which names it.
    pub fn fingerprint(&self) -> String {
        super::fingerprint(&self.certificate)
    }

    /// The question, in DER.
    ///
    /// # Errors
    ///
    /// [`OcspFault::Malformed`] if the certificates cannot be read, which they could before.
    pub fn request(&self) -> Result<Vec<u8>, OcspFault> {
        let malformed = |_| OcspFault::Malformed;
        let req_cert = self.id(&SHA1_FOR_LEGACY_USE_ONLY, ID_SHA1)?;
        let request = OcspRequest {
            tbs_request: TbsRequest {
                request_list: vec![Request {
                    req_cert,
                    single_request_extensions: None,
                }],
                ..TbsRequest::default()
            },
            optional_signature: None,
        };
        request.to_der().map_err(malformed)
    }

    /// How a responder names the certificate (RFC 6960 §4.1.1).
    fn id(&self, hash: &'static Algorithm, oid: ObjectIdentifier) -> Result<CertId, OcspFault> {
        let parse = |it| X509Certificate::from_der(it).map_err(|_| OcspFault::Malformed);
        let (_, certificate) = parse(&*self.certificate)?;
        let (_, issuer) = parse(&*self.issuer)?;
        let octets = |octets: &[u8]| {
            let hashed = digest(hash, octets);
            OctetString::new(hashed.as_ref()).map_err(|_| OcspFault::Malformed)
        };
        let serial = certificate.raw_serial();
        let length = u8::try_from(serial.len()).map_err(|_| OcspFault::Malformed)?;
        let serial = [&[2, length], serial].concat();
        Ok(CertId {
            hash_algorithm: AlgorithmIdentifierOwned {
                oid,
                parameters: Some(Any::null()),
            },
            issuer_name_hash: octets(issuer.subject().as_raw())?,
            issuer_key_hash: octets(&issuer.public_key().subject_public_key.data)?,
            serial_number: SerialNumber::from_der(&serial).map_err(|_| OcspFault::Malformed)?,
        })
    }

    /// Judges an answer. `now`: seconds since the epoch.
    ///
    /// # Errors
    ///
    /// [`OcspFault`].
    pub fn judge(&self, answer: &[u8], now: i64) -> Result<OcspAnswer, OcspFault> {
        let answer = OcspResponse::from_der(answer).map_err(|_| OcspFault::Malformed)?;
        refusal(answer.response_status)?;
        let content = answer.response_bytes.ok_or(OcspFault::Malformed)?;
        if content.response_type != ID_BASIC {
            return Err(OcspFault::Malformed);
        }
        let octets = content.response.as_bytes();
        let basic = BasicOcspResponse::from_der(octets).map_err(|_| OcspFault::Malformed)?;
        let signed = signed_part(octets).ok_or(OcspFault::Malformed)?;
        self.check_signature(&basic, signed, now)?;
        self.read(&basic.tbs_response_data.responses, now)
    }

    fn read(&self, answers: &[SingleResponse], now: i64) -> Result<OcspAnswer, OcspFault> {
        let ours = [
            self.id(&SHA1_FOR_LEGACY_USE_ONLY, ID_SHA1)?,
            self.id(&SHA256, ID_SHA256)?,
        ];
        let is_ours = |named: &CertId| {
            ours.iter().any(|ours| {
                // Parameters of the algorithm are null, or not there.
                named.hash_algorithm.oid == ours.hash_algorithm.oid
                    && named.issuer_name_hash == ours.issuer_name_hash
                    && named.issuer_key_hash == ours.issuer_key_hash
                    && named.serial_number == ours.serial_number
            })
        };
        let mut answers = answers.iter();
        let found = answers.find(|answer| is_ours(&answer.cert_id));
        let found = found.ok_or(OcspFault::OtherCertificate)?;
        let seconds = |time: &x509_ocsp::OcspGeneralizedTime| {
            i64::try_from(time.0.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
        };
        let this_update = seconds(&found.this_update);
        let without_end = this_update.saturating_add(WITHOUT_END);
        let next_update = found.next_update.as_ref().map_or(without_end, seconds);
        if this_update > now.saturating_add(SKEW) {
            return Err(OcspFault::Early);
        }
        if next_update <= now {
            return Err(OcspFault::Expired);
        }
        Ok(OcspAnswer {
            status: match found.cert_status {
                CertStatus::Good(_) => OcspStatus::Good,
                CertStatus::Revoked(_) => OcspStatus::Revoked,
                CertStatus::Unknown(_) => OcspStatus::Unknown,
            },
            this_update,
            next_update,
        })
    }

    /// Checks that the issuer has signed, or somebody for it.
    fn check_signature(
        &self,
        basic: &BasicOcspResponse,
        signed: &[u8],
        now: i64,
    ) -> Result<(), OcspFault> {
        let (_, issuer) =
            X509Certificate::from_der(&self.issuer).map_err(|_| OcspFault::Malformed)?;
        if is_signed_by(&issuer, basic, signed) {
            return Ok(());
        }
        for delegate in basic.certs.iter().flatten() {
            let octets = delegate.to_der().map_err(|_| OcspFault::Malformed)?;
            let Ok((_, delegate)) = X509Certificate::from_der(&octets) else {
                continue;
            };
            if may_answer_for(&delegate, &issuer, now) && is_signed_by(&delegate, basic, signed) {
                return Ok(());
            }
        }
        Err(OcspFault::Signature)
    }
}

fn refusal(status: OcspResponseStatus) -> Result<(), OcspFault> {
    Err(OcspFault::Refused(match status {
        OcspResponseStatus::Successful => return Ok(()),
        OcspResponseStatus::MalformedRequest => "malformed request",
        OcspResponseStatus::InternalError => "internal error",
        OcspResponseStatus::TryLater => "try later",
        OcspResponseStatus::SigRequired => "signature required",
        OcspResponseStatus::Unauthorized => "unauthorized",
    }))
}

/// What of a basic response is signed: its first part, as it was written.
fn signed_part(basic: &[u8]) -> Option<&[u8]> {
    let mut reader = SliceReader::new(basic).ok()?;
    Header::decode(&mut reader).ok()?;
    reader.tlv_bytes().ok()
}

fn is_signed_by(signer: &X509Certificate<'_>, basic: &BasicOcspResponse, signed: &[u8]) -> bool {
    let is_named = match &basic.tbs_response_data.responder_id {
        ResponderId::ByName(name) => {
            let octets = name.to_der();
            octets.is_ok_and(|name| name == signer.subject().as_raw())
        }
        ResponderId::ByKey(hash) => {
            let key = &signer.public_key().subject_public_key.data;
            digest(&SHA1_FOR_LEGACY_USE_ONLY, key).as_ref() == hash.as_bytes()
        }
    };
    let oid = basic.signature_algorithm.oid.to_string();
    if !is_named || BROKEN.contains(&oid.as_str()) {
        return false;
    }
    let Ok(algorithm) = basic.signature_algorithm.to_der() else {
        return false;
    };
    let Ok((_, algorithm)) = AlgorithmIdentifier::from_der(&algorithm) else {
        return false;
    };
    let signature = BitString::new(0, basic.signature.raw_bytes());
    verify_signature(signer.public_key(), &algorithm, &signature, signed).is_ok()
}

/// True if the issuer has told this one to answer for it (RFC 6960 §4.2.2.2).
fn may_answer_for(delegate: &X509Certificate<'_>, issuer: &X509Certificate<'_>, now: i64) -> bool {
    let usage = delegate.extended_key_usage().ok().flatten();
    let validity = delegate.validity();
    usage.is_some_and(|usage| usage.value.ocsp_signing)
        && delegate.issuer().as_raw() == issuer.subject().as_raw()
        && (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
        && delegate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// The responder that a certificate names (RFC 5280 §4.2.2.1).
fn responder(certificate: &X509Certificate<'_>) -> Option<String> {
    let found = certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() else {
            return None;
        };
        let mut all = access.accessdescs.iter();
        all.find_map(|one| match &one.access_location {
            GeneralName::URI(uri) if one.access_method.to_id_string() == ID_AD_OCSP => Some(*uri),
            _ => None,
        })
    })?;
    found.starts_with("http://").then(|| found.to_owned())
}

/// True if a certificate has status_request (5) among its features (RFC 7633 §4).
fn must_staple(certificate: &X509Certificate<'_>) -> bool {
    let mut all = certificate.extensions().iter();
    let found = all.find(|it| it.oid.to_id_string() == ID_TLS_FEATURE);
    // SEQUENCE OF INTEGER, and all that are known are small.
    found.is_some_and(|it| it.value.windows(3).any(|part| part == [2, 1, 5]))
}

impl OcspStatus {
    /// As it is logged and counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests;
