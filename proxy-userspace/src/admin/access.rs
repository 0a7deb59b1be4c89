//! Who may use the API over TCP: those who show the token, or a client certificate.
//!
//! What is read from files is read again at each reload, so that tokens and certificates are rotated
//! like everything else: a file that cannot be used leaves the old one in force.

use crate::admin::caller::Caller;
use crate::config::model::{AdminApi, AdminTls};
use crate::observe::view::CertificateView;
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, server};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Octets of a token at least: a guess must be hopeless.
const MIN_TOKEN: usize = 16;

/// The access rules in force.
pub type SharedAccess = Arc<ArcSwap<Access>>;

/// Access rules, with what they need.
#[derive(Debug)]
pub struct Access {
    token: Option<Secret>,
    tls: Option<Arc<ServerConfig>>,
    asks_certificate: bool,
    public_metrics: bool,
    certificates: Vec<CertificateView>,
}

/// A digest of the token: comparing digests takes the same time whatever the guess, and its length
/// does not show.
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The files that access rules need cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The token is too short to be one.
    #[error("the token in {} has {length} octets, and takes at least {MIN_TOKEN}", path.display())]
    Short {
        /// Its file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A file holds no such thing.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key cannot be used, or not together.
    #[error("{} cannot be used", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The signers of clients' certificates cannot be used.
    #[error("{} cannot be used", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: server::VerifierBuilderError,
    },
}

/// The caller has not shown that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "show the token (Authorization: Bearer …), or a client certificate, as the endpoint asks for"
)]
pub struct Unauthenticated;

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`AccessError`], with the file.
    pub fn load(api: &AdminApi) -> Result<Self, AccessError> {
        let mut certificates = Vec::new();
        Ok(Self {
            token: api.token_file.as_deref().map(token).transpose()?,
            tls: match &api.tls {
                Some(files) => Some(Arc::new(tls(files, &mut certificates)?)),
                None => None,
            },
            asks_certificate: (api.tls.as_ref()).is_some_and(|files| files.client_ca.is_some()),
            public_metrics: api.public_metrics,
            certificates,
        })
    }

    /// How the endpoint speaks TLS, if it does.
    pub const fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.tls.as_ref()
    }

    /// True if metrics and health are for everybody.
    pub const fn has_public_metrics(&self) -> bool {
        self.public_metrics
    }

    /// The certificates that the endpoint shows.
    pub fn certificates(&self) -> &[CertificateView] {
        &self.certificates
    }

    /// Judges a request. What is asked for must all be shown; somebody asks for something, which
    /// validation sees to.
    ///
    /// # Errors
    ///
    /// [`Unauthenticated`].
    pub fn check(&self, caller: &Caller, headers: &HeaderMap) -> Result<(), Unauthenticated> {
        let has_certificate = !self.asks_certificate || caller.has_certificate();
        let has_token = match &self.token {
            None => self.asks_certificate,
            Some(token) => given(headers).is_some_and(|given| token.is(&given)),
        };
        if has_certificate && has_token {
            Ok(())
        } else {
            Err(Unauthenticated)
        }
    }
}

impl Secret {
    fn of(octets: &[u8]) -> Self {
        let mut secret = [0; 32];
        secret.copy_from_slice(digest(&SHA256, octets).as_ref());
        Self(secret)
    }

    fn is(&self, guess: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(guess).0).into()
    }
}

/// What a request shows: a bearer token (RFC 6750), or the password of Basic (RFC 7617), which is
/// what browsers ask people for.
fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest).ok()?;
    let colon = decoded.iter().position(|&octet| octet == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    fs::read(path).map_err(|source| AccessError::Read {
        path: path.to_owned(),
        source,
    })
}

fn token(path: &Path) -> Result<Secret, AccessError> {
    let text = read(path)?;
    let text = text.trim_ascii();
    if text.len() < MIN_TOKEN {
        return Err(AccessError::Short {
            path: path.to_owned(),
            length: text.len(),
        });
    }
    Ok(Secret::of(text))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.and_then(|found| match found.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(found),
    });
    found.map_err(|source| AccessError::Pem {
        path: path.to_owned(),
        what: "certificate",
        source,
    })
}

fn tls(files: &AdminTls, seen: &mut Vec<CertificateView>) -> Result<ServerConfig, AccessError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| AccessError::Tls { path, source }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable(&files.certificate))?;
    let certificates = chain(&files.certificate)?;
    if let Some(leaf) = certificates.first() {
        let source = files.certificate.display().to_string();
        seen.extend(super::certificate::view(leaf, "admin", &source));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?);
    let key = key.map_err(|source| AccessError::Pem {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in chain(path)? {
                roots.add(certificate).map_err(unusable(path))?;
            }
            // Whoever shows none still gets an answer, which says what is missing.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(verifier.map_err(|source| AccessError::Verifier {
                path: path.clone(),
                source,
            })?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(unusable(&files.certificate))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct horse battery";

    fn access(token: Option<&str>, asks_certificate: bool) -> Access {
        Access {
            token: token.map(|token| Secret::of(token.as_bytes())),
            tls: None,
            asks_certificate,
            public_metrics: false,
            certificates: Vec::new(),
        }
    }

    fn check(access: &Access, caller: &Caller, authorization: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().expect("a value"));
        }
        access.check(caller, &headers).is_ok()
    }

    #[test]
    fn the_token_opens_and_nothing_like_it() {
        let access = access(Some(TOKEN), false);
        let check = |values: &[&str]| check(&access, &Caller::Unknown, values);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(check(&[&format!("Bearer {TOKEN}")]));
        assert!(check(&[&format!("bearer  {TOKEN}")]));
        assert!(check(&[&basic(&format!("anybody:{TOKEN}"))]));
        for wrong in [
            TOKEN.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {TOKEN}!"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Digest {TOKEN}"),
            basic(TOKEN),
            basic(&format!("{TOKEN}:")),
            "Basic ?".to_owned(),
        ] {
            assert!(!check(&[&wrong]), "{wrong}");
        }
        assert!(!check(&[]));
        let twice = format!("Bearer {TOKEN}");
        assert!(!check(&[&twice, &twice]));
    }

    #[test]
    fn what_is_asked_for_must_all_be_shown() {
        let address = "192.0.2.1:1".parse().expect("an address");
        let known = Caller::Certificate {
            subject: "CN=admin".to_owned(),
            address,
        };
        let stranger = Caller::Address(address);
        let bearer = format!("Bearer {TOKEN}");
        let by_certificate = access(None, true);
        assert!(check(&by_certificate, &known, &[]));
        assert!(!check(&by_certificate, &stranger, &[&bearer]));
        let by_both = access(Some(TOKEN), true);
        assert!(check(&by_both, &known, &[&bearer]));
        assert!(!check(&by_both, &known, &[]));
        assert!(!check(&by_both, &stranger, &[&bearer]));
        // Validation does not let this be, and it opens nothing.
        assert!(!check(&access(None, false), &known, &[&bearer]));
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        assert!(matches!(token(&path), Err(AccessError::Read { .. })));
        fs::write(&path, "  short \n").expect("writes");
        assert!(matches!(
            token(&path),
            Err(AccessError::Short { length: 5, .. })
        ));
        fs::write(&path, format!("\n {TOKEN} \n")).expect("writes");
        assert!(token(&path).expect("long enough").is(TOKEN.as_bytes()));
    }
}
