//! A certificate with its key.

use super::view::CertificateView;
use super::{FileFault, read};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A certificate that can be shown, and the key to it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Both, in the form that rustls takes.
    pub key: Arc<CertifiedKey>,
    /// What is in the certificate.
    pub view: CertificateView,
    /// What is probably not meant, each as a sentence.
    pub warnings: Vec<String>,
    /// Nobody gets it: a handshake that would, fails.
    pub is_withheld: bool,
}

/// Reads a certificate, with intermediate ones behind it, and its key from PEM files.
///
/// # Errors
///
/// What is wrong with which of the files.
pub fn read_pair(certificate: &Path, key: &Path, now: SystemTime) -> Result<Pair, FileFault> {
    let chain = read_chain(certificate)?;
    let mut warnings = Vec::new();
    let octets = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&octets)
        .map_err(|error| FileFault::new(key, no_key(&error, &octets)))?;
    if let Ok(about) = std::fs::metadata(key)
        && about.permissions().mode() & 0o077 != 0
    {
        warnings.push(format!(
            "the key `{}` may be read by others than its owner (mode {:03o})",
            key.display(),
            about.permissions().mode() & 0o777
        ));
    }
    let source = certificate.display().to_string();
    Pair::new(chain, &private, &source, now, warnings).map_err(|fault| match fault {
        PairFault::Certificate(reason) => FileFault::new(certificate, reason),
        PairFault::Key(reason) => FileFault::new(key, reason),
        PairFault::Apart => FileFault::new(
            key,
            format!(
                "does not fit the certificate in `{}`: it is the key of another one",
                certificate.display()
            ),
        ),
    })
}

/// Why a certificate and a key are no pair.
pub(super) enum PairFault {
    Certificate(String),
    Key(String),
    Apart,
}

impl Pair {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        private: &PrivateKeyDer<'_>,
        source: &str,
        now: SystemTime,
        mut warnings: Vec<String>,
    ) -> Result<Self, PairFault> {
        let view = CertificateView::of(&chain[0], source).map_err(PairFault::Certificate)?;
        let signing = any_supported_type(private).map_err(|_| {
            PairFault::Key("holds a key of a kind that is not supported".to_owned())
        })?;
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(PairFault::Apart),
            Err(error) => return Err(PairFault::Certificate(format!("is not valid: {error}"))),
        }
        warnings.extend(view.out_of_date(now));
        Ok(Self {
            key: Arc::new(key),
            view,
            warnings,
            is_withheld: false,
        })
    }

    /// The same with an OCSP response to be stapled.
    pub fn with_ocsp(mut self, response: Option<Vec<u8>>) -> Self {
        if response.is_some() {
            let mut key = (*self.key).clone();
            key.ocsp = response;
            self.key = Arc::new(key);
        }
        self
    }
}

/// Reads certificates, at least one.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let octets = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    let chain = chain.map_err(|error| FileFault::new(path, format!("is not PEM: {error:?}")))?;
    if chain.is_empty() {
        let what = match looks_like_der(&octets) {
            true => "is DER, and must be PEM: convert it with `openssl x509 -inform der`",
            false => "holds no certificate: no `-----BEGIN CERTIFICATE-----` is in it",
        };
        return Err(FileFault::new(path, what));
    }
    Ok(chain)
}

/// Reads an OCSP response, in DER as `openssl ocsp -respout` writes it.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read_ocsp(path: &Path) -> Result<Vec<u8>, FileFault> {
    // OCSPResponse (RFC 6960 §4.2.1): a sequence of a status, and of the response if that is 0.
    use x509_parser::der_parser::der::parse_der;
    let octets = read(path)?;
    let parsed = parse_der(&octets).ok().map(|(_, response)| response);
    let parts = parsed
        .as_ref()
        .and_then(|response| response.as_sequence().ok());
    match parts.map(|parts| {
        (
            parts.first().and_then(|status| status.as_u32().ok()),
            parts.len(),
        )
    }) {
        Some((Some(0), 2)) => Ok(octets),
        Some((Some(status), _)) => Err(FileFault::new(
            path,
            format!("is a failure of the responder (status {status})"),
        )),
        _ => Err(FileFault::new(path, "is not an OCSP response in DER")),
    }
}

fn no_key(error: &PemError, octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    if text.contains("ENCRYPTED") {
        return "holds a key that is encrypted: take the passphrase away with `openssl pkey`"
            .to_owned();
    }
    match error {
        PemError::NoItemsFound if looks_like_der(octets) => {
            "is DER, and must be PEM: convert it with `openssl pkey -inform der`".to_owned()
        }
        PemError::NoItemsFound => "holds no private key in PEM".to_owned(),
        error => format!("is not PEM: {error:?}"),
    }
}

/// DER of certificates and keys begins with a long sequence.
fn looks_like_der(octets: &[u8]) -> bool {
    matches!(octets, [0x30, 0x81..=0x83, ..])
}
