//! The key `admin`.

use super::scalar::{Path, SocketAddress};
use crate::config::decode::Field;
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// The admin endpoints (see [API](api.md)).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    /// Unix socket through which `sluice status`, `reload` and others reach the daemon: an
    /// absolute path of at most 107 octets. Its mode is 0660.
    #[serde(default)]
    #[schemars(extend("default" = defaults::ADMIN_SOCKET))]
    pub(crate) socket: Field<Path>,
    /// TCP address, such as `127.0.0.1:9180`, for `/metrics`, `/livez`, `/readyz` and `/healthz`, and
    /// with `api` for all else. Nothing listens on TCP without it.
    #[serde(default)]
    pub(crate) listen: Field<SocketAddress>,
    /// `true` serves the whole API and the page at `listen`, to those who show a token or a client
    /// certificate. At an address that other hosts reach, this takes `certificate` and `key`.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) api: Field<bool>,
    /// The secret that callers of the API send (`Authorization: Bearer …`, or as the password of
    /// `Basic`).
    #[serde(default)]
    pub(crate) token: Field<Token>,
    /// Certificate chain of the endpoint (PEM). Then it speaks TLS only.
    #[serde(default)]
    pub(crate) certificate: Field<Path>,
    /// Private key of `certificate` (PEM).
    #[serde(default)]
    pub(crate) key: Field<Path>,
    /// Certificates (PEM) of those who sign the certificates of callers: whoever has none is
    /// refused. Takes `certificate` and `key`.
    #[serde(default)]
    pub(crate) client_ca: Field<Path>,
    /// Who may read `/metrics`, `/livez`, `/readyz` and `/healthz` at `listen`. Without `api`,
    /// everybody may; with it, `protected` holds if nothing is said.
    #[serde(default)]
    pub(crate) metrics: Field<Metrics>,
}

/// Where the secret is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    /// A file whose content is the secret: at least 16 octets, white space around them does not
    /// count. It is read at each reload.
    pub(crate) file: Field<Path>,
}

/// Who may read metrics and health.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metrics {
    /// Whoever may use the API.
    Protected,
    /// Whoever reaches the address.
    Public,
}
