//! The schema, the reference and the parser say the same.

use super::*;
use crate::config::{Code, effective, parse_with, yaml};
use std::collections::BTreeSet;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every key: in several files, because each of their values is changed in many ways.
const EVERY_KEY: [&str; 5] = [
    EVERY_L4_KEY,
    EVERY_LISTENER_KEY,
    EVERY_SERVICE_KEY,
    EVERY_ROUTE_KEY,
    EVERY_RESILIENCE_KEY,
];

const EVERY_RESILIENCE_KEY: &str = r#"
overload: {lag: 50ms, hold: 1s}
condemn:
  offences: {malformed: 10, flood: 3, handshake: 20, slow: 30, limited: 0, unauthorized: 0}
  within: 1m
  duration: 10m
  max_duration: 1day
  remember: 1day
  spare_above: 50%
  exempt: [127.0.0.0/8, "::1"]
  ipv6_prefix: 64
  max_entries: 10000
  dry_run: false
process: {user: nobody, group: nogroup, capabilities: needed, no_new_privs: true, landlock: true, paths: [/srv]}
listeners:
  - {name: web, kind: http, address: 192.0.2.10, port: 8080, service: app}
routes:
  - {name: all, service: app, priority: high, retries: {attempts: 2}}
services:
  - name: app
    backends: ["10.1.0.1:8080"]
    timeouts: {per_try: 2s, request: 5s}
    retries:
      attempts: 3
      on: [5xx, retriable-status]
      statuses: [429]
      methods: [POST]
      backoff: {base: 25ms, max: 250ms}
      retry_after: 2s
      buffer: 64KiB
      budget: {share: 20%, min: 3}
      announce: true
    hedge: {percentile: 95%, min: 5ms}
    circuit:
      connections: 1
      pending: 2
      requests: 3
      retries: 4
      errors: {share: 50%, window: 10s, min_requests: 20, open: 5s, max_open: 60s, probes: 3}
    concurrency: {max: 200, adaptive: true, min: 8, queue: 5, queue_timeout: 1s}
    fallback: {service: other}
  - name: other
    backends: ["10.1.0.2:8080"]
    hedge: {after: 50ms}
    concurrency: 9
    fallback: {respond: {status: 503, body: later}}
"#;

const EVERY_L4_KEY: &str = r#"
connect: {cgroups: [/system.slice, /user.slice], pin_dir: /sys/fs/bpf/connect}
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
  kernel_log: drops
workers: {count: 4, drain_timeout: 30s, busy_poll: 50us}
admin:
  socket: /run/sluice/admin.sock
  listen: 127.0.0.1:9180
  api: true
  token: {file: /etc/sluice/token}
  certificate: /etc/sluice/admin.pem
  key: /etc/sluice/admin.key
  client_ca: /etc/sluice/admins.pem
  metrics: public
guard: {allow: [198.51.100.7], deny: [198.51.100.0/24]}
tracing:
  endpoint: http://127.0.0.1:4318/v1/traces
  service_name: edge
  attributes: {deployment.environment.name: test}
  headers: {Authorization: Bearer x}
  flow_every: 0
  propagation: [w3c, b3, b3-multi]
  timeout: 10s
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
    at_connect: {on_backend_loss: reset, without_backend: pass}
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

const EVERY_LISTENER_KEY: &str = r#"
acme:
  directory: https://acme.example/directory
  contact: [ops@example.com]
  terms_agreed: true
  challenge: http-01
  key: ecdsa-p384
  ca: /etc/sluice/acme-ca.pem
  external_account: {id: kid-1, key: /etc/sluice/eab.key}
  profile: shortlived
  storage: /srv/acme
  renew_at: 50%
  until_issued: refuse
listeners:
  - name: site
    kind: http
    address: "::"
    port: 8080
    service: app
    proxy_protocol_from: [192.0.2.0/24]
    steer: {addresses: ["2001:db8::/32"], ports: [80, 8000-8999], on_failure: open}
    limits: {fields: 100, head: 32KiB, target: 8KiB, body: 10MiB, connections: 0, requests_per_connection: 1000}
    timeouts: {head: 10s, body_idle: 30s, body_rate: 240, idle: 60s, write: 60s, linger: 2s}
    http2:
      only: false
      enabled: true
      max_streams: 128
      stream_window: 256KiB
      connection_window: 1MiB
      max_frame: 16KiB
      max_resets: 500
      max_control_frames: 1000
      abuse_window: 10s
    forwarded:
      trusted: [10.0.0.0/8]
      x_forwarded: true
      x_real_ip: true
      forwarded: false
      via: sluice
      request_id: true
    access_log: {to: /var/log/sluice/access.log, format: "$remote_addr $status", share: 50%}
    trace_share: 0%
    security_headers: basic
    tls:
      certificates:
        - {certificate: /etc/sluice/a.pem, key: /etc/sluice/a.key, ocsp: /etc/sluice/a.ocsp}
        - {local: [localhost]}
        - {acme: [www.example.com]}
      min_version: 1.2
      max_version: 1.3
      ciphers: [TLS_AES_128_GCM_SHA256, ECDHE-RSA-AES128-GCM-SHA256]
      groups: [x25519]
      server_preference: true
      sessions: {cache: 100, tickets: false, ticket_lifetime: 1h}
      client: {ca: /etc/sluice/ca.pem, mode: optional, crl: /etc/sluice/crl.pem, depth: 1, headers: [xfcc, x-ssl]}
      stapling: false
      strict_sni: true
      handshake_timeout: 5s
      max_handshakes: 100
  - {name: http, kind: http, address: "::", port: 8081, https_redirect: 8443}
  - name: mesh
    kind: http
    address: "::"
    port: 15001
    service: app
    mesh:
      cgroups: [/shop.slice]
      destinations: {only: ["2001:db8::/32"], except: ["2001:db8:1::/48"]}
      ports: {only: [80, 8000-8999], except: [8080]}
      users: {only: [1000], except: [0]}
      reach: "2001:db8::1"
      on_failure: open
      unmatched: refuse
      detect: 250ms
      opaque: [25, 3306-3307]
      names: [{hosts: [db.example], alpn: [h2], service: app}]
  - name: arrives
    kind: http
    address: "::"
    port: 15006
    service: app
    mesh:
      cgroups: [/shop.slice]
      direction: inbound
      sources: {only: ["2001:db8::/32"], except: ["2001:db8:1::/48"]}
  - name: plain
    kind: tcp
    address: 0.0.0.0
    port: 5432
    service: app
    access_log: stdout
    splice: auto
  - {name: dns, kind: udp, address: 0.0.0.0, port: 53, service: app, responses: 1}
  - name: tls
    kind: tls-passthrough
    address: 0.0.0.0
    port: 443
    names: [{hosts: [www.example.com, "*.example.com"], alpn: [h2], service: app}]
services: [{name: app, backends: ["10.1.0.1:80"]}]
"#;

const EVERY_SERVICE_KEY: &str = r#"
listeners: [{name: app, kind: http, address: 0.0.0.0, port: 80, service: app}, {name: other, kind: udp, address: 0.0.0.0, port: 80, service: other}]
services:
  - name: app
    protocol: auto
    balance: {policy: maglev, hash_on: {field: x-user}, panic_threshold: 50%, slow_start: 30s}
    sticky_cookie: {name: b, max_age: 1h, path: /, secure: true, http_only: true, same_site: lax}
    connections: {max: 100, queue: 10, queue_timeout: 1s, max_idle: 10, keepalive: 30s, max_streams: 100}
    send_proxy: v2
    subset: {version: 1}
    zone: a
    tls: {verify: true, ca: /etc/ca.pem, server_name: app.internal, certificate: /etc/c.pem, key: /etc/c.key, min_version: 1.2, max_version: 1.3, alpn: [x]}
    timeouts: {connect: 5s, response: 60s, idle: 5m}
    backends:
      - {address: "10.1.0.1:80", tier: 0, labels: {version: 1}, zone: a, max_connections: 10}
      - {dns: "app.internal:8080", backup: true, labels: {version: "1"}}
      - {srv: _http._tcp.example.com}
    outlier:
      consecutive_5xx: 3
      consecutive_gateway_errors: 4
      consecutive_connect_failures: 0
      success_rate: {stdev_factor: 2, min_hosts: 3, min_requests: 10}
      failure_percentage: {threshold: 50%, min_hosts: 3, min_requests: 10}
      latency: {factor: 4, intervals: 2, min_hosts: 3, min_requests: 10}
      network: {loss: 10%, rtt: 100ms, zero_windows: 30%, deviations: 4, intervals: 2, min_hosts: 3, min_segments: 10}
      enforce:
        consecutive_5xx: 50%
        consecutive_gateway_errors: 50%
        consecutive_connect_failures: 50%
        success_rate: 0%
        failure_percentage: 1%
        latency: 2%
        network: 3%
      interval: 5s
      base_ejection_time: 10s
      max_ejection_time: 1m
      jitter: 20%
      max_ejected: 10%
    accelerate: auto
    steer_by_latency: {above: 2, below: 1.5, step: 5%, floor: 50%, min_requests: 5, network: false}
    health: {grpc: {service: shop.Cart, authority: cart.internal}, server_name: cart.internal, tls: {verify: true}}
  - name: other
    balance: {policy: ring, hash_on: source}
    sticky_cookie: b
    outlier: "off"
    backends: [10.1.0.1:80]
"#;

const EVERY_ROUTE_KEY: &str = r#"
listeners: [{name: site, kind: http, address: "::", port: 80}]
routes:
  - name: all
    listeners: [site]
    hosts: [www.example.com, "*.example.com"]
    match:
      - /prefix
      - path: {exact: /a}
        method: GET
        headers: {X-A: text, X-B: {exact: b}, X-C: {present: true}}
        query: {q: {prefix: p}}
        cookies: {c: {regex: "[a-z]+"}}
        sources: [192.0.2.0/24]
        workloads: [/shop.slice]
      - path: {regex: "/r/.*"}
      - path: {prefix: /p}
      - path: /q
    split: {services: {app: 9, other: 1}, sticky: {cookie: c}}
    rewrite: {path: {regex: "^/r", replacement: /s}, host: app.internal}
    request_headers: {remove: [X-R], set: {X-S: s}, add: {X-T: 1}}
    response_headers: {set: {X-U: u}}
    security_headers: "off"
    compression: {codings: [brotli], types: [text/html], min_size: 1KiB, level: fast}
    mirror: {service: other, share: 1%, max_body: 64KiB}
    fault: {delay: {time: 1s, share: 1%}, abort: {status: 503, share: 1%}}
    timeout: 30s
  - name: single
    match: [/single]
    service: app
    rewrite: {path: /whole}
  - name: elsewhere
    match: [/elsewhere]
    redirect: {status: 308, scheme: https, host: example.org, port: 8443, path: {prefix: /}, keep_query: false}
  - name: fixed
    match: [/fixed]
    respond: {status: 404, body: gone, content_type: text/plain}
  - name: short
    match: [/short]
    respond: 403
  - name: files
    match: [/files]
    files:
      root: /srv/www
      index: [index.html]
      list: true
      strip_prefix: /files
      precompressed: [brotli, gzip]
      cache_control: max-age=60
      fallback: index.html
  - name: folder
    match: [/folder]
    files: /srv/www
services: [{name: app, backends: ["10.1.0.1:80"]}, {name: other, backends: ["10.1.0.1:80"]}]
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
        if !name.ends_with(".yaml") {
            continue;
        }
        assert!(reference.contains(&format!("examples/{name}")), "{name}");
    }
}

#[test]
fn examples_fit_the_schema() {
    let validator = validator();
    for entry in std::fs::read_dir(Path::new(ROOT).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
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
    let mut count = 0;
    for text in EVERY_KEY {
        let mut value = value(text);
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
    }
    assert!(count > 150, "only {count} values");
}

/// Every key of the schema is in one of the files.
#[test]
fn every_key_is_tried() {
    let mut missing = BTreeSet::new();
    let schema = plain();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for properties in definitions.chain([&schema]).map(|it| &it["properties"]) {
        missing.extend(properties.as_object().into_iter().flat_map(|it| it.keys()));
    }
    for text in EVERY_KEY {
        let value = value(text);
        for pointer in pointers(&value) {
            missing.retain(|key| Some(key.as_str()) != pointer.rsplit('/').next());
        }
    }
    // One health check has either, and the other is tried below.
    assert_eq!(
        missing.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        ["tcp"]
    );
}

/// Changes every value of a file that uses every key in every wrong way, and compares what the
/// schema and the parser say.
#[test]
fn the_schema_and_the_parser_agree() {
    let validator = validator();
    let differences: Vec<_> = EVERY_KEY
        .iter()
        .flat_map(|text| differences(&validator, text))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What the two say differently about changed values of this file.
fn differences(validator: &jsonschema::Validator, text: &str) -> Vec<String> {
    let original = value(text);
    let faults: Vec<_> = validator
        .iter_errors(&original)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
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
        json!({"unknown": {"unknown": 1}}),
        json!([[]]),
    ];
    let mut differences = Vec::new();
    let mut compare = |changed: &Value, what: String| {
        if let Some(difference) = difference(validator, changed) {
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
    differences
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
    let text = r#"
l4: {interfaces: [{name: eth0}], tunnel: {}}
admin: {}
acme: {terms_agreed: true}
guard: {}
workers: {}
tracing: {endpoint: "http://127.0.0.1:4318"}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web, guard: {}}
  - {name: site, kind: http, address: "::", port: 80, limits: {}, timeouts: {}, http2: {}, forwarded: {}, access_log: {to: stdout}, compression: {}, tls: {certificates: [{local: [a]}], sessions: {}, client: {ca: /a}}}
  - {name: tls, kind: tls-passthrough, address: "::", port: 443, names: [{hosts: [a.example], service: app}, {alpn: [h2], service: app}]}
  - {name: mesh, kind: http, address: "::", port: 15001, mesh: {cgroups: [/a], destinations: {}, ports: {}, users: {}}}
  - {name: arrives, kind: http, address: "::", port: 15006, mesh: {cgroups: [/a], direction: inbound, sources: {}}}
routes:
  - name: all
    service: app
    request_headers: {remove: [x-a]}
    mirror: {service: app}
    fault: {delay: {time: 1s}, abort: {status: 503}}
  - {name: files, match: [/files], files: {root: /srv}}
  - {name: redirect, match: [/redirect], redirect: {scheme: https}}
  - {name: respond, match: [/respond], respond: {status: 404}}
services:
  - name: app
    balance: {}
    tls: {}
    sticky_cookie: {name: b}
    connections: {}
    timeouts: {}
    outlier: {success_rate: {}, failure_percentage: {}, latency: {}, network: {}, enforce: {}}
    steer_by_latency: {}
    backends: [{address: "10.1.0.1:80"}]
  - name: web
    timeouts: {}
    backends: [{address: 10.1.0.1}]
    health: {http: {}, damping: {}}
"#;
    let loaded = parse_with("test", text, &|_| None).unwrap();
    let effective = effective(&loaded.config);
    let schema = plain();
    let places = [
        ("/l4", "L4"),
        ("/l4/interfaces/0", "InterfaceKeys"),
        ("/l4/tunnel", "Tunnel"),
        ("/acme", "Acme"),
        ("/admin", "Admin"),
        ("/guard", "GlobalGuard"),
        ("/workers", "Workers"),
        ("/tracing", "Tracing"),
        ("/listeners/0", "Listener"),
        ("/listeners/0/guard", "ListenerGuard"),
        ("/listeners/1", "Listener"),
        ("/listeners/1/limits", "Limits"),
        ("/listeners/1/timeouts", "Timeouts"),
        ("/listeners/1/http2", "Http2"),
        ("/listeners/1/forwarded", "Forwarded"),
        ("/listeners/1/access_log", "AccessLogKeys"),
        ("/listeners/1/compression", "Compression"),
        ("/listeners/1/tls", "Tls"),
        ("/listeners/1/tls/sessions", "Sessions"),
        ("/listeners/1/tls/client", "ClientAuth"),
        ("/listeners/2/mesh", "Mesh"),
        ("/listeners/2/mesh/destinations", "Destinations"),
        ("/listeners/2/mesh/ports", "Ports"),
        ("/listeners/2/mesh/users", "Users"),
        ("/listeners/3/mesh/sources", "Sources"),
        ("/routes/0/request_headers", "Edits"),
        ("/routes/0/mirror", "Mirror"),
        ("/routes/0/fault/delay", "Delay"),
        ("/routes/0/fault/abort", "Abort"),
        ("/routes/1/files", "FilesKeys"),
        ("/routes/2/redirect", "Redirect"),
        ("/routes/3/respond", "RespondKeys"),
        ("/services/0", "Service"),
        ("/services/0/backends/0", "BackendKeys"),
        ("/services/0/balance", "BalanceKeys"),
        ("/services/0/sticky_cookie", "StickyCookieKeys"),
        ("/services/0/connections", "Connections"),
        ("/services/0/timeouts", "ServiceTimeouts"),
        ("/services/0/outlier", "OutlierKeys"),
        ("/services/0/outlier/success_rate", "SuccessRate"),
        (
            "/services/0/outlier/failure_percentage",
            "FailurePercentage",
        ),
        ("/services/0/outlier/latency", "OutlierLatency"),
        ("/services/0/outlier/network", "OutlierNetwork"),
        ("/services/0/outlier/enforce", "Enforce"),
        ("/services/0/steer_by_latency", "WeightsByLatency"),
        ("/services/1", "Service"),
        ("/services/1/timeouts", "ServiceTimeouts"),
        ("/services/1/backends/0", "BackendKeys"),
        ("/services/1/health", "Health"),
        ("/services/1/health/http", "HttpCheck"),
        ("/services/1/health/damping", "Damping"),
    ];
    let (mut all, mut held) = (BTreeSet::new(), BTreeSet::new());
    for (pointer, definition) in places {
        let properties = schema["$defs"][definition]["properties"].as_object();
        for (key, property) in properties.unwrap_or_else(|| panic!("{definition}")) {
            let Some(default) = property.get("default") else {
                continue;
            };
            // A key that means nothing in its place is not shown.
            let holds = effective.pointer(&format!("{pointer}/{key}"));
            // Without one edit there are no edits to show.
            let holds = holds.filter(|_| (definition, key.as_str()) != ("Edits", "remove"));
            if let Some(holds) = holds {
                assert_eq!(holds, default, "{pointer}/{key}");
                held.insert((definition, key.clone()));
            }
            all.insert((definition, key.clone()));
        }
    }
    // Only `full-nat` has source addresses, only `tcp` protocols of TLS; labels and names are not
    // shown where there are none.
    let not_shown: Vec<_> = all.difference(&held).map(|(_, key)| key.as_str()).collect();
    let expected = ["labels", "remove", "names", "source_addresses", "alpn"];
    assert_eq!(not_shown, expected);
    assert!(held.len() >= 80, "only {} defaults", held.len());
}
