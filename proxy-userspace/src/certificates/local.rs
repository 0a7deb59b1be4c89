//! An authority of this user's own, for certificates of `localhost` and the like.
//!
//! It is made when it is first needed and kept, so that whoever trusts it once need not do so
//! again. Its key may be read by its owner only. What it issues is made anew for each start and is
//! not kept.

use super::Pair;
use super::pair::PairFault;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long the authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// How long what it issues is: browsers take no more than 398 days.
const LIFE: Duration = Duration::from_secs(397 * 24 * 3600);

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(3600);

/// The local authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// There is no place for it.
    #[error("the local authority has no place: set STATE_DIRECTORY, XDG_DATA_HOME or HOME")]
    NoFolder,
    /// A file cannot be read or written.
    #[error("the local authority's `{}` cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It cannot issue.
    #[error("the local authority cannot issue a certificate: {0}")]
    Issue(String),
}

/// The local authority.
#[derive(Debug)]
pub struct LocalAuthority {
    /// Its certificate, for those who should trust it.
    pub certificate: PathBuf,
    pem: String,
    key: KeyPair,
}

/// The authority in a folder; it is made if it is not there. Without a folder it is in
/// `$STATE_DIRECTORY` (of systemd), `$XDG_DATA_HOME/sluice` or `~/.local/share/sluice`.
///
/// # Errors
///
/// [`LocalError`].
pub fn local_authority(folder: Option<&Path>) -> Result<LocalAuthority, LocalError> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => usual_folder(|name| std::env::var_os(name).map(PathBuf::from))
            .ok_or(LocalError::NoFolder)?,
    };
    let failed = |path: &Path, source| LocalError::File {
        path: path.to_owned(),
        source,
    };
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    super::files::make_folder(&folder).map_err(|error| failed(&folder, error))?;
    if !key.exists() || !certificate.exists() {
        make(&certificate, &key)?;
    }
    let text = std::fs::read_to_string(&key).map_err(|error| failed(&key, error))?;
    let pem = std::fs::read_to_string(&certificate).map_err(|error| failed(&certificate, error))?;
    let bad = |error: rcgen::Error| {
        failed(
            &key,
            io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        )
    };
    Ok(LocalAuthority {
        key: KeyPair::from_pem(&text).map_err(bad)?,
        certificate,
        pem,
    })
}

/// Where the authority is kept.
fn usual_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|path| path.is_absolute());
    set("STATE_DIRECTORY")
        .or_else(|| Some(set("XDG_DATA_HOME")?.join("sluice")))
        .or_else(|| Some(set("HOME")?.join(".local/share/sluice")))
}

fn make(certificate: &Path, key: &Path) -> Result<(), LocalError> {
    let issue = |error: rcgen::Error| LocalError::Issue(error.to_string());
    let mut params = CertificateParams::new(Vec::new()).map_err(issue)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "sluice local CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    let pair = KeyPair::generate().map_err(issue)?;
    let made = params.self_signed(&pair).map_err(issue)?;
    replace(key, &pair.serialize_pem(), 0o600)?;
    replace(certificate, &made.pem(), 0o644)
}

/// Writes a file as a whole, or not at all.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), LocalError> {
    super::files::replace(path, text.as_bytes(), mode).map_err(|source| LocalError::File {
        path: path.to_owned(),
        source,
    })
}

impl LocalAuthority {
    /// Issues a certificate for these names and addresses.
    ///
    /// # Errors
    ///
    /// [`LocalError::Issue`].
    pub fn issue(&self, names: &[String]) -> Result<Pair, LocalError> {
        let issue = |error: rcgen::Error| LocalError::Issue(error.to_string());
        let mut params = CertificateParams::new(names.to_vec()).map_err(issue)?;
        let first = names.first().map_or("localhost", String::as_str);
        params.distinguished_name.push(DnType::CommonName, first);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LIFE).into();
        let key = KeyPair::generate().map_err(issue)?;
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).map_err(issue)?;
        let certificate = params.signed_by(&key, &issuer).map_err(issue)?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Pair::new(chain, &private, "local", now, Vec::new()).map_err(|fault| {
            LocalError::Issue(match fault {
                PairFault::Certificate(reason) | PairFault::Key(reason) => reason,
                PairFault::Apart => "the key does not fit".to_owned(),
            })
        })
    }
}
