//! A configuration that others may read: values that can be secret are taken out.
//!
//! Keys, tokens and passwords are in files that a configuration only names. What is left are fields of
//! HTTP, which can hold credentials, and URLs with a password.

use serde_json::{Map, Value};

/// What stands in a secret's place.
pub const REDACTED: &str = "(redacted)";

/// Keys of maps from names of fields, cookies and parameters to their values.
const NAMED: [&str; 3] = ["headers", "cookies", "query"];

/// Keys of changes to fields, and what in them are maps from names to values.
const CHANGES: [&str; 2] = ["request_headers", "response_headers"];
const CHANGED: [&str; 2] = ["set", "add"];

/// Takes out of a document of the file's shape what can be secret.
pub fn redact(document: &mut Value) {
    match document {
        Value::Object(map) => redact_map(map),
        Value::Array(list) => list.iter_mut().for_each(redact),
        Value::String(text) => redact_url(text),
        _ => {}
    }
}

fn redact_map(map: &mut Map<String, Value>) {
    for (key, value) in map {
        match value {
            Value::Object(values) if NAMED.contains(&key.as_str()) => hide(values),
            Value::Object(changes) if CHANGES.contains(&key.as_str()) => {
                for changed in CHANGED {
                    if let Some(Value::Object(values)) = changes.get_mut(changed) {
                        hide(values);
                    }
                }
            }
            _ => redact(value),
        }
    }
}

fn hide(values: &mut Map<String, Value>) {
    for value in values.values_mut() {
        *value = REDACTED.into();
    }
}

/// Takes user and password out of a URL.
fn redact_url(text: &mut String) {
    let Some(begin) = text.find("://").map(|at| at + 3) else {
        return;
    };
    let authority = &text[begin..];
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    if let Some(at) = authority[..end].rfind('@') {
        text.replace_range(begin..begin + at, REDACTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{effective, parse, schema};
    use std::collections::BTreeSet;

    #[test]
    fn what_can_be_secret_is_taken_out_and_the_rest_stays() {
        let text = r#"
tracing:
  endpoint: http://collector.example:4318/v1/traces
  headers: {Authorization: Bearer s3cret-1}
listeners:
  - {name: web, kind: http, address: 192.0.2.10, port: 8080}
routes:
  - name: all
    match:
      - headers: {X-Key: s3cret-2}
        cookies: {session: {regex: "s3cret-3.*"}}
        query: {token: s3cret-4}
    service: app
    request_headers: {remove: [X-Old], set: {X-Api-Key: s3cret-5}, add: {Cookie: a=s3cret-6}}
    response_headers: {set: {X-Frame: s3cret-7}}
services:
  - {name: app, backends: ["10.1.0.1:8080"]}
"#;
        let loaded = parse("test", text);
        let config = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        let mut document = effective(&config.config);
        let before = document.to_string();
        for secret in 1..=7 {
            assert!(before.contains(&format!("s3cret-{secret}")), "{before}");
        }
        redact(&mut document);
        let after = document.to_string();
        assert!(!after.contains("s3cret"), "{after}");
        assert_eq!(after.matches(REDACTED).count(), 7, "{after}");
        for kept in ["X-Api-Key", "X-Old", "collector.example", "10.1.0.1:8080"] {
            assert!(
                after.to_lowercase().contains(&kept.to_lowercase()),
                "{kept}: {after}"
            );
        }
    }

    #[test]
    fn a_password_in_a_url_is_taken_out() {
        for (url, redacted) in [
            (
                "http://a:b@c.example/d@e",
                "http://(redacted)@c.example/d@e",
            ),
            ("https://c.example/d@e", "https://c.example/d@e"),
            ("mailto:a@c.example", "mailto:a@c.example"),
        ] {
            let mut value = Value::from(url);
            redact(&mut value);
            assert_eq!(value, redacted);
        }
    }

    /// Whoever adds a map from names to text decides here whether its values can be secret.
    #[test]
    fn every_map_of_text_is_judged() {
        let judged = BTreeSet::from([
            "add",
            "attributes",
            "cookies",
            "headers",
            "labels",
            "query",
            "set",
            "subset",
        ]);
        let mut found = BTreeSet::new();
        let schema = schema();
        let definitions = schema["$defs"].as_object().expect("definitions").values();
        for definition in definitions.chain([&schema]) {
            let properties = definition["properties"].as_object().into_iter().flatten();
            found.extend(
                properties
                    .filter(|(_, it)| is_map(it))
                    .map(|(key, _)| key.as_str()),
            );
        }
        assert_eq!(found, judged);
    }

    /// True for a map from names that the user chooses to something else than numbers.
    fn is_map(property: &Value) -> bool {
        let values = &property["additionalProperties"];
        values.is_object() && !values.to_string().contains("\"integer\"")
    }
}
