//! The key `tls` of a service.

use super::scalar::{FilePath, Text, Version};
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// TLS to the backends; `{}` with the usual settings. Files are read again on reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendTls {
    /// `false` believes every certificate: whoever is between us and the backend can read and
    /// change everything.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) verify: Field<bool>,
    /// A PEM file with the certificates of the authorities that are believed, and no others.
    /// Without it those of the system.
    #[serde(default)]
    pub(crate) ca: Field<FilePath>,
    /// Whose certificate a backend must have, and what it is told in SNI: a name, or `host` for the
    /// host that it is asked for (after `rewrite`; of TLS that is passed on inside of TLS, the name
    /// that the client asked for). Without it the name by which backends are found (`dns`), else a
    /// backend's address, of which it is told nothing. Connections of different names are never
    /// mixed.
    #[serde(default)]
    pub(crate) server_name: Field<Text>,
    /// A PEM file with the certificate that is shown to backends which ask for one, and the
    /// intermediate ones behind it. Needs `key`.
    #[serde(default)]
    pub(crate) certificate: Field<FilePath>,
    /// A PEM file with its key.
    #[serde(default)]
    pub(crate) key: Field<FilePath>,
    /// The oldest version that is spoken.
    #[serde(default)]
    #[schemars(extend("default" = "1.2"))]
    pub(crate) min_version: Field<Version>,
    /// The newest version that is spoken.
    #[serde(default)]
    #[schemars(extend("default" = "1.3"))]
    pub(crate) max_version: Field<Version>,
    /// Application protocols (ALPN) that are offered where a listener passes TCP on. What HTTP
    /// offers is told by `protocol`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) alpn: Field<Vec<Field<Text>>>,
}
