//! The schema, the reference and the parser say the same.

use super::*;
use crate::config::{Code, effective, parse_with, yaml};
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every key of the file.
const EVERY_KEY: &str = r#"
l4:
  interfaces: [eth0, {name: eth1, attach: native}]
  pin_dir: /sys/fs/bpf/sluice
  flow_capacity: 524288
  backend_capacity: 16384
  tunnel: {source_v4: 172.16.0.0/16, source_v6: "0100::/96", gue_port: 6080}
  selection_seed: 0
  route_ttl: 1s
  icmp_per_second: 1000
  sample_every: 0
admin: {socket: /run/sluice/admin.sock, listen: 127.0.0.1:9180}
guard: {allow: [198.51.100.7], deny: [198.51.100.0/24]}
listeners:
  - name: web
    kind: l4
    address: 192.0.2.10
    port: 8080
    protocol: tcp
    service: web
    guard: {allow: [203.0.113.0/24], deny: [203.0.113.9], budget: {per_second: 100, burst: 200}}
services:
  - name: web
    mode: full-nat
    selection: maglev
    ring_size: 65537
    source_addresses: [10.0.0.5]
    timeouts: {syn: 60s, established: 1h, closing: 60s, udp: 60s, affinity: 10m}
    drain_timeout: 30s
    backends: ["10.1.0.1:8080", {name: b2, address: "10.1.0.2:8080", weight: 2}]
    health:
      http: {method: GET, path: /healthz, host: example.org, status: [200, "300-399"], body_contains: ok}
      port: 8081
      target: backend
      interval: 2s
      timeout: 1s
      jitter: 10%
      rise: 2
      fall: 3
      damping: {half_life: 60s, suppress: 3, reuse: 1}
"#;

fn value(text: &str) -> Value {
    yaml::to_value(text)
}

fn validator() -> jsonschema::Validator {
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema())
        .expect("the schema is a schema")
}

fn codes(value: &Value) -> Vec<Code> {
    match parse_with("test", &value.to_string(), &|_| None) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(|fault| fault.code).collect(),
    }
}

#[test]
fn the_documented_reference_is_up_to_date() {
    let path = Path::new(ROOT).join("docs/configuration.md");
    let reference = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &reference).unwrap();
    }
    let documented = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        documented == reference,
        "docs/configuration.md is not what the types say; make it anew by\n    \
         UPDATE_DOCS=1 cargo test -p proxy-userspace --lib config::schema"
    );
}

#[test]
fn every_key_of_the_schema_is_in_the_reference() {
    let reference = reference_markdown();
    let schema = plain();
    let definitions = schema["$defs"].as_object().unwrap().values();
    let mut count = 0;
    for key in definitions
        .chain([&schema])
        .filter_map(|definition| definition["properties"].as_object())
        .flat_map(|properties| properties.keys())
    {
        assert!(reference.contains(&format!("`{key}`")), "{key}");
        count += 1;
    }
    assert!(count > 50, "only {count} keys");
}

#[test]
fn every_example_is_in_the_reference() {
    let reference = reference_markdown();
    for entry in std::fs::read_dir(Path::new(ROOT).join("examples")).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        assert!(reference.contains(&format!("examples/{name}")), "{name}");
    }
}

#[test]
fn examples_fit_the_schema() {
    let validator = validator();
    for entry in std::fs::read_dir(Path::new(ROOT).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let value = value(&std::fs::read_to_string(&path).unwrap());
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}

#[test]
fn variables_fit_the_schema_wherever_a_value_is_more_than_text() {
    let validator = validator();
    let mut value = value(EVERY_KEY);
    let mut count = 0;
    for pointer in pointers(&value) {
        let node = value.pointer_mut(&pointer).unwrap();
        if node.is_object() || node.is_array() {
            continue;
        }
        let before = std::mem::replace(node, json!("${SOME_VARIABLE:-x}"));
        // Its pattern is for paths and names of its own, in which variables are legal text.
        assert!(validator.is_valid(&value), "{pointer}");
        *value.pointer_mut(&pointer).unwrap() = before;
        count += 1;
    }
    assert!(count > 40);
}

/// Changes every value of a file that uses every key in every wrong way, and compares what the
/// schema and the parser say.
#[test]
fn the_schema_and_the_parser_agree() {
    let validator = validator();
    let original = value(EVERY_KEY);
    assert!(validator.is_valid(&original));
    assert_eq!(codes(&original), []);
    let wrong = [
        json!({}),
        json!([]),
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(7),
        json!(3.5),
        json!(70_000),
        json!(""),
        json!("x y"),
        json!("7"),
        json!({"unknown": 1}),
        json!([[]]),
    ];
    let mut differences = Vec::new();
    let mut compare = |changed: &Value, what: String| {
        if let Some(difference) = difference(&validator, changed) {
            differences.push(format!("{what}: {difference}"));
        }
    };
    for pointer in pointers(&original) {
        for wrong in &wrong {
            let mut changed = original.clone();
            *changed.pointer_mut(&pointer).unwrap() = wrong.clone();
            compare(&changed, format!("{pointer} = {wrong}"));
        }
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let mut changed = original.clone();
        let Some(map) = changed.pointer_mut(parent).and_then(Value::as_object_mut) else {
            continue;
        };
        let value = map.shift_remove(key).unwrap();
        compare(&changed, format!("{pointer} removed"));
        let map = changed.pointer_mut(parent).unwrap();
        map[format!("{key}x")] = value;
        compare(&changed, format!("{pointer} renamed"));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What the two say differently about a file, if anything.
fn difference(validator: &jsonschema::Validator, value: &Value) -> Option<String> {
    let fits = validator.is_valid(value);
    let codes = codes(value);
    let form = |code: &Code| matches!(code, Code::UnknownKey | Code::WrongType | Code::Syntax);
    if !fits && codes.is_empty() {
        Some("the parser takes what the schema refuses".to_owned())
    } else if fits && codes.iter().any(form) {
        Some(format!(
            "the schema takes what the parser refuses: {codes:?}"
        ))
    } else {
        None
    }
}

/// JSON pointers of every value but the root.
fn pointers(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((pointer, value)) = open.pop() {
        let children: Vec<_> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (format!("{pointer}/{key}"), value))
                .collect(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(index, value)| (format!("{pointer}/{index}"), value))
                .collect(),
            _ => Vec::new(),
        };
        found.extend(children.iter().map(|(pointer, _)| pointer.clone()));
        open.extend(children);
    }
    found
}

#[test]
fn defaults_of_the_schema_are_those_that_hold() {
    let text = "
l4: {interfaces: [{name: eth0}], tunnel: {}}
admin: {}
guard: {}
listeners: [{name: web, kind: l4, address: 192.0.2.10, port: 80, service: web, guard: {}}]
services:
  - name: web
    timeouts: {}
    backends: [{address: 10.1.0.1}]
    health: {http: {}, damping: {}}
";
    let loaded = parse_with("test", text, &|_| None).unwrap();
    let effective = effective(&loaded.config);
    let schema = plain();
    let places = [
        ("/l4", "L4"),
        ("/l4/interfaces/0", "InterfaceKeys"),
        ("/l4/tunnel", "Tunnel"),
        ("/admin", "Admin"),
        ("/guard", "GlobalGuard"),
        ("/listeners/0", "Listener"),
        ("/listeners/0/guard", "ListenerGuard"),
        ("/services/0", "Service"),
        ("/services/0/timeouts", "Timeouts"),
        ("/services/0/backends/0", "BackendKeys"),
        ("/services/0/health", "Health"),
        ("/services/0/health/http", "HttpCheck"),
        ("/services/0/health/damping", "Damping"),
    ];
    let mut count = 0;
    for (pointer, definition) in places {
        let properties = schema["$defs"][definition]["properties"].as_object();
        for (key, property) in properties.unwrap_or_else(|| panic!("{definition}")) {
            let Some(default) = property.get("default") else {
                continue;
            };
            // Only `full-nat` has source addresses.
            let holds = &effective.pointer(pointer).unwrap()[key];
            if key != "source_addresses" {
                assert_eq!(holds, default, "{pointer}/{key}");
            }
            count += 1;
        }
    }
    assert!(count >= 35, "only {count} defaults");
}
