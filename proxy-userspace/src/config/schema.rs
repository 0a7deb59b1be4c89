//! The JSON Schema and the reference of the file, made from the types that are decoded.

use super::fault::Code;
use super::file::File;
use proxy_common::maps::capacity;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Name of the schema for values that come from the environment.
const VARIABLE: &str = "Variable";

/// The JSON Schema (draft 2020-12) of a configuration file, for editors and other tools.
///
/// It knows the form of the file; what values mean together is known only to
/// [`super::parse`]. Wherever a value is more than plain text, `${VAR}` is allowed as well.
pub fn schema() -> Value {
    let mut schema = plain();
    allow_variables(&mut schema);
    let definitions = schema
        .as_object_mut()
        .and_then(|root| root.get_mut("$defs"))
        .and_then(Value::as_object_mut);
    if let Some(definitions) = definitions {
        definitions.insert(
            VARIABLE.to_owned(),
            json!({
                "description": "A value that comes from an environment variable.",
                "type": "string",
                "pattern": "\\$\\{.+\\}",
            }),
        );
    }
    schema
}

/// The schema of the types alone.
fn plain() -> Value {
    schemars::schema_for!(File).to_value()
}

/// Lets every value that is not plain text or a collection be a variable.
fn allow_variables(schema: &mut Value) {
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    walk(schema, &definitions);
}

fn walk(schema: &mut Value, definitions: &Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for container in ["properties", "$defs"] {
        let Some(Value::Object(children)) = map.get_mut(container) else {
            continue;
        };
        for child in children.values_mut() {
            walk(child, definitions);
            if container == "properties" {
                or_variable(child, definitions);
            }
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(inner) {
            walk(inner, definitions);
            or_variable(inner, definitions);
        }
    }
}

fn or_variable(schema: &mut Value, definitions: &Value) {
    if !is_special(schema, definitions) {
        return;
    }
    let Some(mut inner) = schema.as_object().cloned() else {
        return;
    };
    let mut outer = Map::new();
    for key in ["description", "default"] {
        if let Some(annotation) = inner.shift_remove(key) {
            outer.insert(key.to_owned(), annotation);
        }
    }
    let variable = json!({ "$ref": format!("#/$defs/{VARIABLE}") });
    outer.insert("anyOf".to_owned(), json!([inner, variable]));
    *schema = Value::Object(outer);
}

/// True for what a scalar can be, but not every text.
fn is_special(schema: &Value, definitions: &Value) -> bool {
    if let Some(target) = referred(schema, definitions) {
        return is_special(target, definitions);
    }
    let alternatives = ["anyOf", "oneOf"]
        .iter()
        .filter_map(|key| schema[key].as_array())
        .flatten();
    match schema["type"].as_str() {
        Some("object" | "array") => false,
        Some("string") => ["pattern", "enum", "const", "anyOf", "oneOf"]
            .iter()
            .any(|key| schema.get(key).is_some()),
        Some(_) => true,
        None => {
            schema.get("const").is_some()
                || schema.get("enum").is_some()
                || alternatives
                    .into_iter()
                    .any(|schema| is_special(schema, definitions))
        }
    }
}

/// What a schema refers to.
fn referred<'s>(schema: &Value, definitions: &'s Value) -> Option<&'s Value> {
    let name = schema["$ref"].as_str()?.strip_prefix("#/$defs/")?;
    definitions.get(name)
}

/// The reference of the configuration file in Markdown: `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let schema = plain();
    let mut writer = Writer {
        definitions: schema["$defs"].clone(),
        sections: Vec::new(),
    };
    writer.section("", &schema);
    let mut out = String::from(INTRODUCTION);
    out.push_str("\n```yaml\n");
    out.push_str(include_str!("../../../examples/http.yaml"));
    out.push_str("```\n\nMore are in `examples/`:\n\n");
    for (name, text) in EXAMPLES {
        // A write to a string cannot fail.
        let _ = writeln!(
            out,
            "- [`examples/{name}`](../examples/{name}): {}",
            purpose(text)
        );
    }
    out.push_str(FORM);
    out.push_str("\n## Keys\n\n");
    out.push_str(
        "`[]` stands for each element of a list, `NAME` for each name in a map of names. Keys in \
         **bold** must be given.\n",
    );
    for section in &writer.sections {
        out.push_str(section);
    }
    out.push_str("\n## Values\n\n| Value | Form |\n|---|---|\n");
    for (title, form) in writer.values() {
        let _ = writeln!(out, "| {title} | {form} |");
    }
    out.push_str(&limits());
    out.push_str(FAULTS);
    for code in Code::ALL {
        let _ = writeln!(out, "| `{}` | {} |", code.name(), code.meaning());
    }
    out
}

/// The first sentence of an example, in which it says what it shows.
fn purpose(example: &str) -> String {
    let comment: Vec<_> = example
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .collect();
    let comment = comment.join(" ");
    match comment.find(". ") {
        Some(end) => comment[..=end].to_owned(),
        None => comment,
    }
}

/// What the data plane's maps can hold.
fn limits() -> String {
    format!(
        "\n## Limits\n\n\
         {} listeners, about {} of them with a prefix; {} services; {} backends at most, by default {} \
         (`l4.backend_capacity`), each counted once for each listener of its service; {} source \
         addresses of `full-nat`; {} guard rules.\n",
        capacity::SERVICES - 1,
        capacity::SERVICE_PREFIXES / 2,
        capacity::SERVICES - 1,
        capacity::MAX_BACKENDS - 1,
        capacity::BACKENDS - 1,
        capacity::SNAT_ADDRS,
        capacity::GUARD_RULES,
    )
}

/// Writes one section for each map of the file.
struct Writer {
    definitions: Value,
    sections: Vec<String>,
}

impl Writer {
    /// The section of the map at `path`, and those of the maps inside it.
    fn section(&mut self, path: &str, schema: &Value) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let title = if path.is_empty() {
            "The whole file"
        } else {
            path
        };
        let mut text = if path.is_empty() {
            format!("\n### {title}\n\n")
        } else {
            format!("\n### `{title}`\n\n{}\n\n", cell(&schema["description"]))
        };
        if properties.is_empty() {
            text.push_str("This map has no keys: write `{}`.\n");
            self.sections.push(text);
            return;
        }
        text.push_str("| Key | Value | Default | Meaning |\n|---|---|---|---|\n");
        let mut words = String::new();
        for (key, property) in properties {
            let name = if required.contains(&key.as_str()) {
                format!("**`{key}`**")
            } else {
                format!("`{key}`")
            };
            let default = match property.get("default") {
                Some(value) => format!("`{}`", plain_text(value)),
                None => "–".to_owned(),
            };
            let target = self.resolve(property);
            let meaning = property
                .get("description")
                .unwrap_or(&target["description"]);
            let _ = writeln!(
                text,
                "| {name} | {} | {default} | {} |",
                self.value(property),
                cell(meaning)
            );
            words.push_str(&self.words(key, &target));
        }
        text.push_str(&words);
        self.sections.push(text);
        for (key, property) in properties.clone() {
            self.inside(&join(path, &key), &property);
        }
    }

    /// The sections of what a value consists of.
    fn inside(&mut self, path: &str, schema: &Value) {
        let schema = self.resolve(schema);
        if schema["type"] == "array" {
            self.inside(&format!("{path}[]"), &schema["items"]);
            return;
        }
        let values = &schema["additionalProperties"];
        if values.is_object() {
            self.inside(&format!("{path}.NAME"), values);
        } else if schema.get("properties").is_some() || schema["type"] == "object" {
            self.section(path, &schema);
        }
        for alternative in schema["anyOf"].as_array().into_iter().flatten() {
            let alternative = self.resolve(alternative);
            if alternative["type"] == "object" {
                self.section(path, &alternative);
            }
        }
    }

    /// What a value may be, in a few words.
    fn value(&self, schema: &Value) -> String {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema["oneOf"].as_array() {
            let words: Vec<_> = alternatives
                .iter()
                .filter_map(|alternative| alternative["const"].as_str())
                .map(|word| format!("`{word}`"))
                .collect();
            return words.join(", ");
        }
        if let Some(title) = schema["title"].as_str() {
            return title.to_owned();
        }
        match schema["type"].as_str() {
            Some("array") => format!("list of: {}", self.value(&schema["items"])),
            Some("object") if schema["additionalProperties"].is_object() => {
                format!(
                    "map of names to: {}",
                    self.value(&schema["additionalProperties"])
                )
            }
            Some("object") => "map".to_owned(),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("integer" | "number") => number(&schema),
            Some("string") => "text".to_owned(),
            _ => {
                let forms = schema["anyOf"].as_array().into_iter().flatten();
                let forms: Vec<_> = forms.map(|form| self.value(form)).collect();
                forms.join(", or ")
            }
        }
    }

    /// What each kind of value is, by its title.
    fn values(&self) -> BTreeMap<String, String> {
        let definitions = self.definitions.as_object().into_iter().flatten();
        definitions
            .filter_map(|(_, schema)| {
                let title = schema["title"].as_str()?;
                Some((title.to_owned(), cell(&schema["description"])))
            })
            .collect()
    }

    /// The meaning of each word of an enumeration.
    fn words(&self, key: &str, schema: &Value) -> String {
        let mut text = String::new();
        for alternative in schema["oneOf"].as_array().into_iter().flatten() {
            if let Some(word) = alternative["const"].as_str() {
                let _ = writeln!(
                    text,
                    "- `{key}: {word}` – {}",
                    cell(&alternative["description"])
                );
            }
        }
        if text.is_empty() {
            text
        } else {
            format!("\n{text}")
        }
    }

    /// What a schema refers to, or itself.
    fn resolve(&self, schema: &Value) -> Value {
        match referred(schema, &self.definitions) {
            Some(target) => target.clone(),
            None => schema.clone(),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn number(schema: &Value) -> String {
    let kind = if schema["type"] == "integer" {
        "whole number"
    } else {
        "number"
    };
    let least = &schema["minimum"];
    let above = &schema["exclusiveMinimum"];
    match (&schema["maximum"], least, above) {
        (Value::Null, Value::Null, Value::Null) => kind.to_owned(),
        (Value::Null, Value::Null, above) => format!("{kind} above {above}"),
        (Value::Null, least, _) => format!("{kind}, at least {least}"),
        (most, Value::Null, _) => format!("{kind}, at most {most}"),
        (most, least, _) => format!("{kind}, {least} to {most}"),
    }
}

/// Text for a cell of a table.
fn cell(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

macro_rules! examples {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../examples/", $name)))),*]
    };
}

/// The examples, but for the one that the reference begins with.
const EXAMPLES: [(&str, &str); 25] = examples![
    "canary.yaml",
    "resilience.yaml",
    "websocket.yaml",
    "grpc.yaml",
    "static.yaml",
    "tls.yaml",
    "acme.yaml",
    "mtls.yaml",
    "tcp.yaml",
    "tls-passthrough.yaml",
    "tls-reencrypt.yaml",
    "tls-tcp.yaml",
    "tls-mtls.yaml",
    "udp.yaml",
    "steer.yaml",
    "connect.yaml",
    "mesh.yaml",
    "l4.yaml",
    "l4-nat.yaml",
    "l4-full-nat.yaml",
    "l4-dsr-l2.yaml",
    "l4-dsr-ipip.yaml",
    "l4-dsr-gue.yaml",
    "l4-local.yaml",
    "l4-udp.yaml",
];

const INTRODUCTION: &str = "\
<!-- Made by `config::reference_markdown` from the types that read the file. To make it anew:
     UPDATE_DOCS=1 cargo test -p proxy-userspace --lib config::schema -->

# Configuration

A configuration says which **listeners** (addresses that clients use) there are, which **service**
answers at each, and which **backends** (servers) a service has. At listeners that speak HTTP,
**routes** choose what happens to each request; listeners of kind `l4` are served in the kernel, all
others by the proxy. `sluice validate -c FILE` tells
every fault of a file at once; `sluice schema` prints a JSON Schema for editors. A small one:
";

const FORM: &str = "
## Form

- The file is YAML 1.2, one document. Unknown keys are errors, with a suggestion. Tags are refused;
  anchors, aliases and merge keys (`<<`) work.
- An IPv6 address in brackets (`\"[2001:db8::1]:80\"`) must be in quotes, because `[` begins a list.
- Environment variables are filled in within values: `${VAR}` must be set, `${VAR:-default}` has a
  default for when it is unset or empty, `${VAR:?message}` fails with the message. `$${` is a literal
  `${`. Within `[…]` and `{…}` put such a value in double quotes; a number remains a number.
- Lists of maps may be written over several lines or as `{key: value}`; both are the same.
";

const FAULTS: &str = "
## Faults

Every fault has its place (file, line, column, key path), the text that is there, what was expected,
and the fix. Warnings let the configuration be used, unless `--strict` is given. `--format json` gives
the same as data, with a stable word for the kind of fault:

| Word | Meaning |
|---|---|
";

#[cfg(test)]
mod tests;
