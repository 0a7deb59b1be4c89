//! The keys `connect` and `services[].at_connect`.

use super::map;
use crate::config::model::connect::{AtConnect, Connect};
use serde_json::{Value, json};

pub(super) fn connect(connect: &Connect) -> Value {
    map([
        ("cgroups", Some(json!(connect.cgroups))),
        ("pin_dir", connect.pin_dir.as_ref().map(|path| json!(path))),
    ])
}

pub(super) fn at_connect(at: &AtConnect) -> Value {
    json!({
        "on_backend_loss": at.on_backend_loss.name(),
        "without_backend": at.without_backend.name(),
    })
}
