//! Facts about this build, fixed at compile time by the build script.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
        }
    }
}
