//! Authorities that are believed, and what they have revoked.

use super::pair::read_chain;
use super::{FileFault, read};
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;

/// Reads the certificates of authorities from a PEM file.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read_roots(path: &Path) -> Result<RootCertStore, FileFault> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in read_chain(path)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            FileFault::new(
                path,
                format!(
                    "holds a certificate (number {}) that is no authority's: {error}",
                    at + 1
                ),
            )
        })?;
    }
    Ok(roots)
}

/// Reads lists of revoked certificates from a PEM file.
///
/// # Errors
///
/// Why the file cannot be used.
pub fn read_revocations(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileFault> {
    let octets = read(path)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&octets).collect();
    let lists = lists.map_err(|error| FileFault::new(path, format!("is not PEM: {error:?}")))?;
    if lists.is_empty() {
        return Err(FileFault::new(
            path,
            "holds no list of revoked certificates (`-----BEGIN X509 CRL-----`)",
        ));
    }
    for list in &lists {
        x509_parser::parse_x509_crl(list)
            .map_err(|_| FileFault::new(path, "holds a list that is not valid"))?;
    }
    Ok(lists)
}
