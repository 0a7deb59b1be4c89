//! Certificates for tests.

use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use std::path::{Path, PathBuf};

/// Writes a certificate for these names, signed by its own key, and that key, into `NAME.pem` and
/// `NAME.key`.
pub(crate) fn write_pair(
    folder: &Path,
    name: &str,
    names: &[&str],
    kind: &'static SignatureAlgorithm,
) -> (PathBuf, PathBuf) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate_for(kind).expect("a key");
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let paths = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    std::fs::write(&paths.0, certificate.pem()).expect("writes");
    std::fs::write(&paths.1, key.serialize_pem()).expect("writes");
    paths
}
