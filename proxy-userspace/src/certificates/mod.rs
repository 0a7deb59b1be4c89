//! Certificates and keys from files: what is in them, whether it fits, and what is wrong with it.
//!
//! Reading is apart from use: a configuration is judged by the same functions by which a listener
//! gets its certificates, so whatever `sluice validate` accepts can be served.

mod acme_store;
mod files;
mod local;
mod made;
mod ocsp;
mod pair;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod view;

pub use acme_store::{
    AcmeStore, OrderLock, parse_issued, prepare_folder_of, read_hmac_key, read_issued,
};
pub use local::{LocalError, local_authority};
pub use made::{alpn_challenge, stand_in};
pub use ocsp::{OcspAnswer, OcspFault, OcspStatus, OcspSubject};
pub use pair::{Pair, read_ocsp, read_pair};
pub use trust::{read_revocations, read_roots};
pub use view::{CertificateView, common_name, distinguished_name, fingerprint, hex};

use std::io;
use std::path::{Path, PathBuf};

/// Longest file that is read, in octets.
const MAX_OCTETS: u64 = 4 << 20;

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {reason}", path.display())]
pub struct FileFault {
    /// The file.
    pub path: PathBuf,
    /// Why, as the rest of a sentence that begins with its name.
    pub reason: String,
}

impl FileFault {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileFault> {
    let fault = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        FileFault::new(path, reason)
    };
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(fault)?;
    io::Read::read_to_end(&mut io::Read::take(file, MAX_OCTETS), &mut octets).map_err(fault)?;
    Ok(octets)
}
