//! Certificates that are made here and signed by nobody else.

use super::Pair;
use super::pair::PairFault;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long they are valid: they stand in for what is issued within minutes.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate for these names that stands in for one that was not issued yet.
///
/// # Errors
///
/// What the library says; it has nothing to say of names that were judged.
pub fn stand_in(names: &[String], now: SystemTime) -> Result<Pair, String> {
    let mut params = params(names, now)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "sluice: no certificate was issued yet");
    params.distinguished_name = name;
    let (chain, key) = signed(params)?;
    Pair::new(chain, &key, "stand-in", now, Vec::new()).map_err(|fault| match fault {
        PairFault::Certificate(reason) | PairFault::Key(reason) => reason,
        PairFault::Apart => "the key does not fit".to_owned(),
    })
}

/// What a server shows who asks for the challenge TLS-ALPN-01 (RFC 8737 §3): `digest` is that of
/// the key authorization.
///
/// # Errors
///
/// What the library says; it has nothing to say of names that were judged.
pub fn alpn_challenge(
    name: &str,
    digest: &[u8],
    now: SystemTime,
) -> Result<Arc<CertifiedKey>, String> {
    let mut params = params(&[name.to_owned()], now)?;
    let extension = CustomExtension::new_acme_identifier(digest);
    params.custom_extensions.push(extension);
    let (chain, key) = signed(params)?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    let signing = signing.map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}

fn params(names: &[String], now: SystemTime) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(|it| it.to_string())?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + LIFE).into();
    Ok(params)
}

type Signed = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn signed(params: CertificateParams) -> Result<Signed, String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let certificate = params.self_signed(&key).map_err(|it| it.to_string())?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((vec![certificate.der().clone()], private))
}
