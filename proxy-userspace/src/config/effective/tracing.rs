//! The section `tracing`.

use crate::config::defaults::text;
use crate::config::model::tracing::Tracing;
use serde_json::{Value, json};

pub(super) fn tracing(tracing: &Tracing) -> Value {
    let forms = tracing.propagation.iter().map(|form| form.name());
    json!({
        "endpoint": tracing.endpoint.to_string(),
        "service_name": tracing.service_name,
        "attributes": pairs(&tracing.attributes),
        "headers": pairs(&tracing.headers),
        "flow_every": tracing.flow_every,
        "propagation": forms.collect::<Vec<_>>(),
        "timeout": text(tracing.timeout),
    })
}

fn pairs(pairs: &[(String, String)]) -> Value {
    let pairs = pairs.iter();
    let pairs = pairs.map(|(name, value)| (name.clone(), json!(value)));
    Value::Object(pairs.collect())
}
