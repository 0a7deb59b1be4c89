//! Facts about this build, fixed at compile time by the build script.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Abbreviated commit, or `unknown` when built outside a repository.
pub const REVISION: &str = env!("SLUICE_REVISION");
/// Date of that commit (`YYYY-MM-DD`), or `unknown`.
pub const COMMIT_DATE: &str = env!("SLUICE_COMMIT_DATE");
/// The compiler, as `rustc --version` prints it.
pub const RUSTC: &str = env!("SLUICE_RUSTC");
/// The target triple.
pub const TARGET: &str = env!("SLUICE_TARGET");
/// The optimisation profile: `debug` or `release`.
pub const PROFILE: &str = env!("SLUICE_PROFILE");
/// The library that does TLS and the one that does its cryptography, with their versions.
pub const TLS: &str = env!("SLUICE_TLS");
/// Names of the kernel objects and their SHA-256, as in `sluice=0123… sock=4567…`.
const KERNEL_OBJECTS: &str = env!("SLUICE_EBPF_DIGESTS");
/// The line of `sluice --version`.
pub const VERSION_LINE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SLUICE_REVISION"),
    ", ",
    env!("SLUICE_PROFILE"),
    ")"
);

/// The facts as one value, for `sluice version -o json` and the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildInfo {
    /// See [`VERSION`].
    pub version: String,
    /// See [`REVISION`].
    pub revision: String,
    /// See [`COMMIT_DATE`].
    pub commit_date: String,
    /// See [`RUSTC`].
    pub rustc: String,
    /// See [`TARGET`].
    pub target: String,
    /// See [`PROFILE`].
    pub profile: String,
    /// [`proxy_common::ABI_VERSION`]: a data plane of another version is not adopted.
    pub abi_version: u32,
    /// See [`TLS`].
    #[serde(default)]
    pub tls: String,
    /// SHA-256 of the kernel objects within the binary, by name; `missing` where it was built without.
    #[serde(default)]
    pub kernel_objects: BTreeMap<String, String>,
}

impl BuildInfo {
    /// The facts of the running binary.
    pub fn current() -> Self {
        Self {
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
            commit_date: COMMIT_DATE.to_owned(),
            rustc: RUSTC.to_owned(),
            target: TARGET.to_owned(),
            profile: PROFILE.to_owned(),
            abi_version: proxy_common::ABI_VERSION,
            tls: TLS.to_owned(),
            kernel_objects: KERNEL_OBJECTS
                .split(' ')
                .filter_map(|object| object.split_once('='))
                .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_object_is_told_by_the_digest_of_what_is_embedded() {
        use aws_lc_rs::digest::{SHA256, digest};
        let told = BuildInfo::current().kernel_objects;
        let names: Vec<&str> = told.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["connect", "redirect", "sluice", "sluice-log", "sock"]
        );
        let embedded = crate::kernel::object::OBJECT;
        let expected = match embedded.is_empty() {
            true => "missing".to_owned(),
            false => {
                let digest = digest(&SHA256, embedded);
                digest
                    .as_ref()
                    .iter()
                    .map(|octet| format!("{octet:02x}"))
                    .collect()
            }
        };
        assert_eq!(told["sluice"], expected);
    }

    #[test]
    fn the_library_of_tls_is_told_with_its_version() {
        let digits = TLS.matches(|c: char| c.is_ascii_digit()).count();
        assert!(
            TLS.starts_with("rustls ") && TLS.contains("aws-lc-rs ") && digits >= 6,
            "{TLS}"
        );
        assert!(!TLS.contains("unknown"), "{TLS}");
    }
}
