//! Certificates of a test's own: an authority, what it issues, and what it revokes.
//!
//! All of them are made when they are needed, so none is ever out of date, and every test has an
//! authority that nobody else trusts.

pub use rcgen::ExtendedKeyUsagePurpose;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What an authority has issued: the certificate (with what the authority has put behind it) and
/// its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, and intermediate ones behind it.
    pub certificate: String,
    /// The key, in PKCS#8.
    pub key: String,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// ECDSA with P-256.
    Ecdsa,
    /// RSA with 2048 bits.
    Rsa,
}

/// A certificate to be issued.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Names of hosts, or addresses.
    pub names: &'a [&'a str],
    /// The common name; none if empty.
    pub common_name: &'a str,
    /// Kind of its key.
    pub key: Key,
    /// Its number.
    pub serial: u64,
    /// It was valid once.
    pub expired: bool,
    /// What its key may be used for; of no matter for an authority.
    pub usage: &'a [ExtendedKeyUsagePurpose],
    /// It is an authority itself.
    pub authority: bool,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            names: &[],
            common_name: "",
            key: Key::Ecdsa,
            serial: 0x1234_5678,
            expired: false,
            usage: &[
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            authority: false,
        }
    }
}

impl Request<'_> {
    fn params(&self) -> CertificateParams {
        let names: Vec<String> = self.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !self.common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, self.common_name);
        }
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = match self.expired {
            true => date_time_ymd(2021, 1, 1),
            false => date_time_ymd(2090, 1, 1),
        };
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usage.to_vec();
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.extended_key_usages.clear();
        }
        params
    }
}

impl Key {
    fn generate(self) -> KeyPair {
        match self {
            Self::Ecdsa => KeyPair::generate(),
            Self::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        }
        .expect("a key")
    }
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Self {
        let request = Request {
            common_name: name,
            authority: true,
            ..Request::default()
        };
        let key = Key::Ecdsa.generate();
        Self(CertifiedIssuer::self_signed(request.params(), key).expect("an authority"))
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its key as PEM, in PKCS#8.
    pub fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// Its certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Issues a certificate for these names, with an ECDSA key.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_as(&Request {
            names,
            ..Request::default()
        })
    }

    /// Issues a certificate for a client.
    pub fn issue_to(&self, common_name: &str) -> Issued {
        self.issue_as(&Request {
            common_name,
            ..Request::default()
        })
    }

    /// Issues what is asked for.
    pub fn issue_as(&self, request: &Request<'_>) -> Issued {
        let key = request.key.generate();
        let certificate = request.params().signed_by(&key, &self.0);
        Issued {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }

    /// An authority below this one, which issues in its name: its own certificate is not trusted
    /// by itself.
    pub fn intermediate(&self, name: &str) -> Self {
        let request = Request {
            common_name: name,
            authority: true,
            ..Request::default()
        };
        let key = Key::Ecdsa.generate();
        Self(CertifiedIssuer::signed_by(request.params(), key, &self.0).expect("an authority"))
    }

    /// The list of what it has revoked, as PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2022, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update: date_time_ymd(2022, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.0)
        .and_then(|list| list.pem())
        .expect("a list")
    }
}

impl Issued {
    /// Writes both into a folder, as `NAME.pem` and `NAME.key`, and gives their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (
            folder.join(format!("{name}.pem")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&paths.0, &self.certificate).expect("writes");
        write_secret(&paths.1, &self.key);
        paths
    }

    /// The certificates, in the form that rustls takes.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .expect("certificates")
    }

    /// The key, in the form that rustls takes.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let _ = std::fs::remove_file(path);
    let file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("writes");
}
