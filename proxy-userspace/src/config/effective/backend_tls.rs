//! TLS to backends.

use super::map;
use crate::config::model::http::BackendTls;
use serde_json::{Value, json};

/// Of a service.
pub(super) fn tls(tls: &BackendTls) -> Value {
    section(tls, Some(json!(tls.alpn)))
}

/// Of a health check.
pub(super) fn check(tls: &BackendTls) -> Value {
    section(tls, None)
}

fn section(tls: &BackendTls, alpn: Option<Value>) -> Value {
    let identity = tls.identity.as_ref();
    map([
        ("verify", Some(json!(tls.verify))),
        ("ca", tls.ca.as_ref().map(|path| json!(path))),
        (
            "server_name",
            match tls.by_host {
                true => Some(json!("host")),
                false => tls.server_name.as_ref().map(|name| json!(name)),
            },
        ),
        (
            "certificate",
            identity.map(|identity| json!(identity.certificate)),
        ),
        ("key", identity.map(|identity| json!(identity.key))),
        ("min_version", Some(json!(tls.min_version.word()))),
        ("max_version", Some(json!(tls.max_version.word()))),
        ("alpn", alpn),
    ])
}
