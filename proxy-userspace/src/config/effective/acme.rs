//! The section `acme`.

use super::map;
use crate::config::defaults::percent;
use crate::config::model::acme::Acme;
use serde_json::{Value, json};

pub(super) fn acme(acme: &Acme) -> Value {
    let external = acme.external_account.as_ref();
    map([
        ("directory", Some(json!(acme.directory))),
        ("contact", Some(json!(acme.contact))),
        ("terms_agreed", Some(json!(true))),
        ("challenge", Some(json!(acme.challenge.name()))),
        ("key", Some(json!(acme.key.name()))),
        ("ca", acme.ca.as_ref().map(|path| json!(path))),
        (
            "external_account",
            external.map(|it| json!({"id": it.id, "key": it.key})),
        ),
        ("profile", acme.profile.as_ref().map(|it| json!(it))),
        ("storage", Some(json!(acme.storage))),
        ("renew_at", Some(json!(percent(acme.renew_at)))),
        ("until_issued", Some(json!(acme.until_issued.name()))),
    ])
}
