//! The OpenAPI document (3.1), made from the list of endpoints.
//!
//! Version 3.1 writes schemas as JSON Schema 2020-12, which is what the types' derived schemas are.
//! What callers send and what they get are two views of a type (a field with a default may be left
//! out of the one and is always in the other), so each has a generator of its own.

use crate::admin::api::Refusal;
use crate::admin::endpoint::{Content, Endpoint, Method, SchemaOf};
use crate::observe::build;
use http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Where the document's schemas are.
const SCHEMAS: &str = "/components/schemas";

/// The document.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let operation = schemas.operation(endpoint);
        let path = paths
            .entry(endpoint.path)
            .or_insert_with(|| Value::Object(Map::new()));
        path[endpoint.method.name()] = operation;
    }
    let mut tags: Vec<&str> = Vec::new();
    for endpoint in endpoints {
        if !tags.contains(&endpoint.tag) {
            tags.push(endpoint.tag);
        }
    }
    let tags: Vec<Value> = tags.iter().map(|tag| json!({ "name": tag })).collect();
    let refusal = schemas.given.subschema_for::<Refusal>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "sluice admin API",
            "version": build::VERSION,
            "description": "Reads and changes a running sluice. On the unix socket, file permissions \
                say who may; over TCP, a token or a client certificate. Changes of the configuration \
                take effect whole or not at all.",
            "license": {"name": "MIT or Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "security": [{"bearer": []}, {"basic": []}, {"mutualTLS": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Any user, and the token as the password.",
                },
                "mutualTLS": {"type": "mutualTLS"},
            },
            "responses": {
                "Refusal": {
                    "description": "Why it was not done.",
                    "content": {"application/json": {"schema": refusal}},
                },
            },
            "schemas": schemas.finish(),
        },
    })
}

/// The schemas of all types so far.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
            settings
        };
        Self {
            taken: settings().for_deserialize().into_generator(),
            given: settings().for_serialize().into_generator(),
        }
    }

    fn operation(&mut self, endpoint: &Endpoint) -> Value {
        let mut parameters: Vec<Value> = endpoint
            .path_parameters
            .iter()
            .map(|parameter| {
                json!({
                    "name": parameter.name,
                    "in": "path",
                    "required": true,
                    "description": parameter.about,
                    "schema": (parameter.schema)(&mut self.taken),
                })
            })
            .collect();
        parameters.extend(endpoint.query.into_iter().flat_map(|of| self.query(of)));
        if endpoint.has_condition {
            parameters.push(json!({
                "name": "If-Match",
                "in": "header",
                "required": false,
                "description": "Entity tag of the configuration that the change is based on, or `*`. \
                    Only a dry run may do without.",
                "schema": {"type": "string"},
            }));
        }
        let mut operation = json!({
            "operationId": operation_id(endpoint),
            "tags": [endpoint.tag],
            "summary": endpoint.summary,
            "parameters": parameters,
        });
        if let Some(body) = &endpoint.body {
            operation["requestBody"] = json!({
                "required": true,
                "content": content(body, &mut self.taken),
            });
        }
        operation["responses"] = self.responses(endpoint);
        operation
    }

    /// A query's type is an object; each of its fields is a parameter.
    fn query(&mut self, of: SchemaOf) -> Vec<Value> {
        let schema = of(&mut self.taken);
        let properties = schema.get("properties").and_then(Value::as_object);
        let properties = properties.into_iter().flatten();
        properties
            .map(|(name, schema)| {
                let mut schema = schema.clone();
                let about = schema.get("description").cloned().unwrap_or_default();
                without_null(&mut schema);
                json!({
                    "name": name,
                    "in": "query",
                    "required": false,
                    "description": about,
                    "schema": schema,
                })
            })
            .collect()
    }

    fn responses(&mut self, endpoint: &Endpoint) -> Value {
        let mut responses = Map::new();
        let mut success = json!({ "description": endpoint.summary });
        let content = content(&endpoint.answer, &mut self.given);
        if content
            .as_object()
            .is_some_and(|content| !content.is_empty())
        {
            success["content"] = content;
        }
        responses.insert(endpoint.status.as_str().to_owned(), success);
        let mut refusals = vec![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        refusals.extend(&endpoint.refusals);
        if endpoint.body.is_some() || endpoint.query.is_some() {
            refusals.extend([StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY]);
        }
        if endpoint.method != Method::Get {
            let of_content = [
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                StatusCode::PAYLOAD_TOO_LARGE,
            ];
            refusals.extend(of_content);
        }
        if !endpoint.path_parameters.is_empty() {
            refusals.extend([StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST]);
        }
        refusals.extend([
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
        ]);
        refusals.sort();
        refusals.dedup();
        for status in refusals {
            responses
                .entry(status.as_str())
                .or_insert_with(|| json!({"$ref": "#/components/responses/Refusal"}));
        }
        Value::Object(responses)
    }

    /// All schemas that were referred to. A type that is both taken and given keeps what it must
    /// have when it is given, which is more.
    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.taken.take_definitions(true);
        all.extend(self.given.take_definitions(true));
        all
    }
}

fn content(content: &Content, generator: &mut SchemaGenerator) -> Value {
    let of = |types: &[&str], schema: Value| {
        let entries = types
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "schema": schema })));
        Value::Object(entries.collect())
    };
    match content {
        Content::Nothing => json!({}),
        Content::Json(schema) => of(&["application/json"], schema(generator).to_value()),
        Content::Documents(types, schema) => of(types, schema(generator).to_value()),
        Content::Text(types) => of(types, json!({"type": "string"})),
    }
}

/// `get /api/v1/config/{section}/{name}` is `get_config_section_name`.
fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.trim_start_matches(crate::admin::api::PREFIX);
    let words = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    std::iter::once(endpoint.method.name())
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

/// A parameter that may be left out is not `null` when it is there.
fn without_null(schema: &mut Value) {
    if let Some(types) = schema.get_mut("type").filter(|types| types.is_array()) {
        if let Some(list) = types.as_array_mut() {
            list.retain(|one| one != "null");
        }
        let only = types.as_array().filter(|list| list.len() == 1);
        if let Some(only) = only.map(|list| list[0].clone()) {
            *types = only;
        }
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice["type"] != "null");
    }
    if let Some(map) = schema.as_object_mut() {
        // It is said once, of the parameter.
        map.remove("description");
    }
}
