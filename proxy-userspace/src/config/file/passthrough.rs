//! Server names of listeners that pass TLS on: the key `names`.

use super::scalar::{Host, Name, Text};
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// Connections for one service. Of all that match, the one with the longest host serves: an exact
/// one before a wildcard, both before none. Among those with the same host, the client's order of
/// protocols decides, then the one without `alpn`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    /// Server names (SNI), any of which matches: `www.example.com`, or `"*.example.com"` for all
    /// names below one. Without it every name matches, and clients that name nobody.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) hosts: Field<Vec<Field<Host>>>,
    /// Application protocols (ALPN) such as `h2` and `http/1.1`, any of which the client must
    /// offer. Without it every client matches.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) alpn: Field<Vec<Field<Text>>>,
    /// Name of the service that gets these connections.
    pub(crate) service: Field<Name>,
}
