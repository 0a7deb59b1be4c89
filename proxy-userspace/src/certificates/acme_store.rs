//! Where what an authority has issued by itself is kept.
//!
//! ```text
//! STORAGE/acme.example-1a2b3c4d/     one folder for each directory's URL
//!   account.json                     the account, with its key
//!   www.example.com.pem              a certificate with its key
//!   www.example.com.json             what is known of its renewal
//!   www.example.com.lock             held by the process that has an order under way
//! ```
//!
//! Certificate and key are in one file, so that there is no moment at which they do not fit. All
//! of it belongs to its owner alone.

use super::files::{make_folder, replace};
use super::pair::PairFault;
use super::{FileFault, Pair, hex, read};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where the certificates of one directory are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeStore(PathBuf);

/// Held by the process that has an order under way for a certificate.
#[derive(Debug)]
pub struct OrderLock(
    #[expect(dead_code, reason = "it is let go of when it is dropped")] Flock<File>,
);

impl AcmeStore {
    /// Of the directory with this URL, in a folder.
    pub fn new(storage: &Path, directory: &str) -> Self {
        let host = directory.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let number = hex(&digest(&SHA256, directory.as_bytes()).as_ref()[..4]);
        Self(storage.join(format!("{}-{number}", file_name(host))))
    }

    /// The file with a certificate and its key; `first` is the first of its names.
    pub fn certificate(&self, first: &str) -> PathBuf {
        self.0.join(format!("{}.pem", file_name(first)))
    }

    /// What is known of a certificate's renewal.
    pub fn memory(&self, first: &str) -> PathBuf {
        self.0.join(format!("{}.json", file_name(first)))
    }

    /// The account.
    pub fn account(&self) -> PathBuf {
        self.0.join("account.json")
    }

    /// Keeps other processes from ordering the same certificate. `None` while one does.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn lock(&self, first: &str) -> io::Result<Option<OrderLock>> {
        make_folder(&self.0)?;
        let mut options = OpenOptions::new();
        let path = self.0.join(format!("{}.lock", file_name(first)));
        let file = options.write(true).create(true).truncate(false).mode(0o600);
        match Flock::lock(file.open(path)?, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(OrderLock(held))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Reads a file, if it is there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(octets) => Ok(Some(octets)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file that its owner alone may read, as a whole or not at all.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        make_folder(&self.0)?;
        replace(path, octets, 0o600)
    }
}

/// Makes the folder in which a file will be.
///
/// # Errors
///
/// Which folder, and what the system says.
pub fn prepare_folder_of(file: &Path) -> Result<(), FileFault> {
    let Some(folder) = file.parent() else {
        return Ok(());
    };
    make_folder(folder).map_err(|error| FileFault::new(folder, format!("cannot be made: {error}")))
}

/// Reads a certificate with its key from one file; `None` if nothing was issued yet.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read_issued(path: &Path, now: SystemTime) -> Result<Option<Pair>, FileFault> {
    if !path.exists() {
        return Ok(None);
    }
    let octets = read(path)?;
    parse_issued(&octets, now)
        .map(Some)
        .map_err(|reason| FileFault::new(path, reason))
}

/// A certificate with its key, from PEM.
///
/// # Errors
///
/// What is wrong, as the rest of a sentence that begins with its name.
pub fn parse_issued(octets: &[u8], now: SystemTime) -> Result<Pair, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(octets).collect();
    let chain = chain.map_err(|error| format!("is not PEM: {error:?}"))?;
    if chain.is_empty() {
        return Err("holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(octets)
        .map_err(|error| format!("holds no private key in PEM: {error:?}"))?;
    Pair::new(chain, &key, "acme", now, Vec::new()).map_err(|fault| match fault {
        PairFault::Certificate(reason) | PairFault::Key(reason) => reason,
        PairFault::Apart => "holds a key that does not fit the certificate".to_owned(),
    })
}

/// Reads the key of an external account (RFC 8555 §7.3.4): base64url, as authorities give it.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read_hmac_key(path: &Path) -> Result<Vec<u8>, FileFault> {
    let octets = read(path)?;
    let text = String::from_utf8_lossy(&octets);
    let text = text.trim().trim_end_matches('=');
    let key = BASE64_URL_SAFE_NO_PAD.decode(text);
    match key {
        Ok(key) if !key.is_empty() => Ok(key),
        _ => Err(FileFault::new(path, "holds no key in base64url")),
    }
}

/// A name as the name of a file. Names were judged before; colons are of addresses.
fn file_name(name: &str) -> String {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let letters = name.chars();
    let text: String = letters.map(|it| if good(it) { it } else { '_' }).collect();
    text.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_their_owners_and_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = folder.path().join("deep/er");
        let store = AcmeStore::new(&storage, "https://acme.example:14000/dir");
        let path = store.certificate("a.example");
        assert!(
            read_issued(&path, SystemTime::now())
                .expect("nothing")
                .is_none()
        );
        store.write(&path, b"one").expect("written");
        store.write(&path, b"two").expect("replaced");
        let mode = |path: &Path| {
            let about = std::fs::metadata(path).expect("there");
            about.permissions().mode() & 0o777
        };
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a folder")), 0o700);
        assert_eq!(mode(&storage), 0o700);
        assert_eq!(
            AcmeStore::read(&path).expect("read").expect("there"),
            b"two"
        );
        let inside = std::fs::read_dir(path.parent().expect("a folder")).expect("a folder");
        assert_eq!(inside.count(), 1, "nothing is left behind");
        let fault = read_issued(&path, SystemTime::now()).expect_err("no certificate");
        assert!(
            fault.to_string().contains("holds no certificate"),
            "{fault}"
        );
    }

    #[test]
    fn directories_and_names_have_places_of_their_own() {
        let at = |directory| AcmeStore::new(Path::new("/s"), directory).certificate("2001:db8::1");
        let one = at("https://acme.example/directory");
        let text = one.display().to_string();
        assert!(text.starts_with("/s/acme.example-"), "{text}");
        assert!(text.ends_with("/2001_db8__1.pem"), "{text}");
        assert_ne!(one, at("https://acme.example/staging"));
        let evil = AcmeStore::new(Path::new("/s"), "https://../x").certificate("../../etc/x");
        assert!(evil.starts_with("/s"), "{evil:?}");
        assert_eq!(evil.components().count(), 4, "{evil:?}");
    }

    #[test]
    fn one_order_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = AcmeStore::new(folder.path(), "https://a/");
        let held = store.lock("a.example").expect("a lock");
        assert!(held.is_some());
        assert!(store.lock("a.example").expect("tried").is_none());
        assert!(store.lock("b.example").expect("another").is_some());
        drop(held);
        assert!(store.lock("a.example").expect("free").is_some());
    }
}
