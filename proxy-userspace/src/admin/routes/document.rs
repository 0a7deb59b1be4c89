//! The OpenAPI document, and what stands in it for a configuration.

use super::endpoints;
use crate::admin::openapi;
use axum::response::{IntoResponse as _, Response};
use http::header;
use schemars::JsonSchema;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// A configuration, or a part of one, in the shape of the configuration file; `sluice schema` prints
/// the schema of that.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "it stands in the document only")]
pub(super) struct Document(Map<String, Value>);

/// Made once: the list of endpoints does not change while the process lives.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let document = openapi::document(&endpoints());
    serde_json::to_string_pretty(&document).unwrap_or_default()
});

/// The document as text.
pub(super) fn text() -> &'static str {
    &TEXT
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text()).into_response()
}
