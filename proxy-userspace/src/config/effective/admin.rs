//! The section `admin`.

use super::map;
use crate::config::model::Admin;
use serde_json::{Value, json};

pub(super) fn admin(admin: &Admin) -> Value {
    let api = admin.api.as_ref();
    let tls = api.and_then(|api| api.tls.as_ref());
    let token = api.and_then(|api| api.token_file.as_ref());
    map([
        ("socket", Some(json!(admin.socket))),
        (
            "listen",
            admin.listen.map(|listen| listen.to_string().into()),
        ),
        ("api", Some(api.is_some().into())),
        ("token", token.map(|file| json!({ "file": file }))),
        ("certificate", tls.map(|tls| json!(tls.certificate))),
        ("key", tls.map(|tls| json!(tls.key))),
        (
            "client_ca",
            tls.and_then(|tls| tls.client_ca.as_ref().map(|file| json!(file))),
        ),
        (
            "metrics",
            api.map(|api| {
                json!(if api.public_metrics {
                    "public"
                } else {
                    "protected"
                })
            }),
        ),
    ])
}
