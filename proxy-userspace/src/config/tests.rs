//! Tests of the whole way from text to model and back.

use super::*;
use crate::types::{PortMatch, Protocol};
use model::http::{BackendTraits, HttpListener, StreamListener, default_route};
use model::{AttachMode, Budget, Probe, ProbeTarget, Service};
use proptest::prelude::*;
use proxy_common::service::{Mode, Selection};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const SMALL: &str = "
l4: {interfaces: [eth0]}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web}
services:
  - name: web
    backends: [10.1.0.1:8080, {name: b2, address: 10.1.0.2:8080, weight: 2}]
";

fn good(text: &str) -> Loaded {
    match parse_with("test.yaml", text, &|_| None) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{}", errors.pretty(false)),
    }
}

fn examples() -> impl Iterator<Item = std::path::PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
}

#[test]
fn a_small_file_gets_its_defaults() {
    let loaded = good(SMALL);
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.pretty(false)
    );
    let config = loaded.config;
    assert_eq!(config.data_plane().interfaces[0].attach, AttachMode::Auto);
    assert_eq!(config.data_plane().pin_dir, Path::new("/sys/fs/bpf/sluice"));
    assert_eq!(config.admin.listen, None);
    let listener = &config.listeners[0];
    assert_eq!(listener.vip.to_string(), "192.0.2.10/32");
    assert_eq!(listener.port, PortMatch::One(80));
    assert_eq!(listener.protocol, Protocol::Tcp);
    let service = &config.services[0];
    assert_eq!(
        (service.mode, service.selection),
        (Mode::Nat, Selection::Maglev)
    );
    assert_eq!(service.ring_size, 65_537);
    assert_eq!(service.timeouts.established, Duration::from_secs(3600));
    assert_eq!(service.health, None);
    assert_eq!(service.backends[0].name, "10.1.0.1:8080");
    assert_eq!(service.backends[0].weight, 1);
    assert_eq!(service.backends[1].name, "b2");
    assert_eq!(service.backends[1].weight, 2);
}

#[test]
fn every_key_reaches_the_model() {
    let config = good(
        r#"
l4:
  interfaces: [{name: eth1, attach: generic}]
  tunnel: {source_v4: 172.16.0.0/16, source_v6: "0100::/96", gue_port: 6081}
  selection_seed: 0xffffffffffffffff
  route_ttl: 1500ms
listeners:
  - name: dns
    kind: l4
    address: 192.0.2.0/28
    port: all
    protocol: udp
    service: dns
    guard: {allow: ["2001:db8::/32"], budget: {per_second: 10, burst: 30}}
  - {name: web, kind: l4, address: 192.0.2.20, port: 80, service: dns}
services:
  - name: dns
    mode: dsr-gue
    selection: two-choices
    timeouts: {udp: 1h 30m}
    drain_timeout: 0s
    backends: ["2001:db8:1::1"]
    health:
      http: {method: HEAD, status: [204, "300-399"], host: example.org}
      port: 80
      target: vip
      jitter: 12.5%
      damping: {suppress: 2.5}
"#,
    )
    .config;
    assert_eq!(
        config.data_plane().interfaces[0].attach,
        AttachMode::Generic
    );
    assert_eq!(
        config.data_plane().tunnel_source_v4.unwrap().to_string(),
        "172.16.0.0/16"
    );
    assert_eq!(
        config.data_plane().tunnel_source_v6.unwrap().to_string(),
        "100::/96"
    );
    assert_eq!(
        (
            config.data_plane().gue_port,
            config.data_plane().selection_seed
        ),
        (6081, u64::MAX)
    );
    assert_eq!(config.data_plane().route_ttl, Duration::from_millis(1500));
    let listener = &config.listeners[0];
    assert_eq!(
        (listener.port, listener.protocol),
        (PortMatch::All, Protocol::Udp)
    );
    assert_eq!(
        listener.guard.budget,
        Some(Budget {
            per_second: 10,
            burst: 30
        })
    );
    let service = &config.services[0];
    assert_eq!(service.selection, Selection::TwoChoices);
    assert_eq!(service.timeouts.udp, Duration::from_secs(5400));
    assert_eq!(service.drain_timeout, Duration::ZERO);
    assert_eq!(service.backends[0].port, None);
    let check = service.health.as_ref().unwrap();
    let Probe::Http(http) = &check.probe else {
        panic!("{check:?}")
    };
    assert_eq!(http.method, "HEAD");
    assert_eq!(http.statuses, [(204, 204), (300, 399)]);
    assert_eq!(http.host.as_deref(), Some("example.org"));
    assert_eq!((check.port, check.target), (Some(80), ProbeTarget::Vip));
    assert_eq!((check.jitter, check.damping.suppress), (0.125, 2.5));
}

/// The keys of the proxy paths, each with a value that is not its default.
const PROXIES: &str = r#"
workers: {count: 3, drain_timeout: 5s, busy_poll: 50us}
tracing: {endpoint: "http://[::1]:4318", service_name: edge, attributes: {host.name: "${NONE:-a}"}, headers: {X-Key: k}, flow_every: 1000, propagation: [b3-multi, b3], timeout: 3s}
overload: {lag: 20ms, hold: 0s}
condemn: {offences: {malformed: 1, flood: 2, handshake: 0, slow: 4, limited: 5, unauthorized: 6}, within: 10s, duration: 1m, max_duration: 1h, remember: 2h, spare_above: 70%, exempt: [192.0.2.0/24], ipv6_prefix: 56, max_entries: 9, dry_run: true}
acme: {directory: "https://acme.example:14000/dir", contact: [ops@example.com], terms_agreed: true, challenge: http-01, key: rsa-2048, ca: /ca.pem, external_account: {id: kid, key: /eab.key}, profile: short, storage: /srv/acme, renew_at: 50%, until_issued: refuse}
listeners:
  - name: web
    kind: http
    address: "::"
    port: 8080
    service: app
    proxy_protocol_from: [192.0.2.0/24]
    limits: {fields: 7, head: 4KiB, target: 1KiB, body: 10MiB, connections: 9, requests_per_connection: 11}
    timeouts: {head: 1s, body_idle: 2s, body_rate: 0, idle: 3s, write: 4s, linger: 0s}
    http2: {only: true, max_streams: 1, stream_window: 64KiB, connection_window: 128KiB, max_frame: 32KiB, max_resets: 2, max_control_frames: 3, abuse_window: 1m}
    forwarded: {trusted: [10.0.0.0/8], x_forwarded: false, x_real_ip: true, forwarded: true, via: edge, request_id: true}
    access_log: {to: /var/log/a.log, format: haproxy, share: 50%}
    trace_share: 1%
    security_headers: strict
    compression: {codings: [gzip], types: [text/*, Application/JSON], min_size: 2KiB, level: best}
    tls:
      certificates: [{certificate: /a.pem, key: /a.key, ocsp: /a.ocsp}, {local: [LocalHost, "127.0.0.1"]}, {acme: [Www.Example.com, "192.0.2.1"]}]
      min_version: 1.3
      max_version: "1.3"
      ciphers: [TLS13_AES_128_GCM_SHA256, ecdhe-rsa-aes128-gcm-sha256]
      groups: [P-256, X25519MLKEM768]
      server_preference: true
      sessions: {cache: 0, tickets: false, ticket_lifetime: 1h}
      client: {ca: /ca.pem, mode: optional, crl: /crl.pem, depth: 0, headers: [x-ssl]}
      stapling: false
      strict_sni: true
      handshake_timeout: 3s
      max_handshakes: 7
  - {name: other, kind: http, address: 0.0.0.0, port: 8081, access_log: stdout, https_redirect: true}
  - {name: db, kind: tcp, address: 0.0.0.0, port: 5432, service: app, limits: {connections: 5}, timeouts: {idle: 7s}, tls: {certificates: [{certificate: /etc/a.pem, key: /etc/a.key}], alpn: [postgresql, x], client: {ca: /etc/ca.pem, mode: optional}}}
  - {name: dns, kind: udp, address: 0.0.0.0, port: 53, service: next, responses: 2}
  - name: tls
    kind: tls-passthrough
    address: 0.0.0.0
    port: 443
    names: [{hosts: [WWW.Example.com, "*.example.com"], alpn: [h2, http/1.1], service: next}, {alpn: [x], service: app}]
    timeouts: {head: 1s, idle: 2s}
routes:
  - name: all
    listeners: [web]
    hosts: [WWW.Example.com, "*.example.com"]
    match:
      - /prefix
      - path: {exact: /a}
        method: PUT
        headers: {X-A: 1, x-b: {prefix: b}, x-c: {regex: c+}, x-d: {present: true}, x-e: {present: false}}
        query: {q: v}
        cookies: {c: {exact: "${NONE:-d}"}}
        sources: ["2001:db8::/32"]
    split: {services: {app: 9, next: 1}, sticky: {field: X-User}}
    rewrite: {path: {regex: "^/a", replacement: "/$0"}, host: app.internal:81}
    request_headers: {remove: [X-R], set: {X-S: s}, add: {X-T: true}}
    response_headers: {add: {X-U: u}}
    security_headers: basic
    compression: {codings: []}
    mirror: {service: next, share: 2%, max_body: 1KiB}
    fault: {delay: {time: 1s, share: 3%}, abort: {status: 503, share: 4%}}
    timeout: 8s
    retries: {attempts: 1, on: [], buffer: 0B}
    priority: low
  - {name: moved, match: [/m], redirect: {status: 308, scheme: https, host: h.example, port: 8443, path: {prefix: /n}, keep_query: false}}
  - {name: gone, match: [/g], respond: {status: 410, body: gone, content_type: text/html}}
  - {name: files, match: [/f], files: {root: /srv, index: [], list: true, strip_prefix: /f, precompressed: [gzip], cache_control: no-cache, fallback: 404.html}}
services:
  - name: app
    protocol: h2
    balance: {policy: ring, hash_on: {query: q}, panic_threshold: 50%, slow_start: 9s}
    sticky_cookie: {name: s, max_age: 1h, path: /a, secure: true, http_only: false, same_site: strict}
    connections: {max: 1, queue: 2, queue_timeout: 3s, max_idle: 4, keepalive: 0s, max_streams: 5}
    send_proxy: v1
    subset: {version: 2}
    zone: here
    outlier: {consecutive_5xx: 3, consecutive_gateway_errors: 0, consecutive_connect_failures: 4, success_rate: {stdev_factor: 2.5, min_hosts: 6, min_requests: 7}, failure_percentage: {threshold: 60%, min_hosts: 8, min_requests: 9}, latency: {factor: 4, intervals: 2, min_hosts: 5, min_requests: 6}, network: {loss: 7%, rtt: 8ms, zero_windows: 9%, deviations: 1.5, intervals: 3, min_hosts: 4, min_segments: 10}, enforce: {consecutive_5xx: 1%, consecutive_gateway_errors: 2%, consecutive_connect_failures: 3%, success_rate: 4%, failure_percentage: 5%, latency: 6%, network: 8%}, interval: 11s, base_ejection_time: 12s, max_ejection_time: 13s, jitter: 14%, max_ejected: 15%}
    timeouts: {connect: 1s, response: 2s, idle: 3s, per_try: 4s, request: 5s}
    retries:
      attempts: 4
      on: [5xx, gateway-error, connect-failure, reset, refused-stream, retriable-4xx, retriable-status, cancelled, deadline-exceeded, resource-exhausted, internal, unavailable]
      statuses: [429, 425]
      methods: [POST, PURGE]
      backoff: {base: 1ms, max: 2s}
      retry_after: 0s
      buffer: 1MiB
      budget: {share: 12.5%, min: 0}
      announce: true
    circuit: {connections: 1, pending: 2, requests: 3, retries: 4, errors: {share: 5%, window: 6s, min_requests: 7, open: 8s, max_open: 9s, probes: 10}}
    concurrency: {max: 11, adaptive: true, min: 2, queue: 3, queue_timeout: 4s}
    fallback: {service: spare}
    backends:
      - {dns: "App.internal:80", backup: true, weight: 3, labels: {version: 2}}
      - "127.0.0.1:80"
      - {srv: _http._tcp.example.com, zone: there}
      - {address: "[::1]:80", tier: 2, labels: {version: 2}, max_connections: 0}
  - {name: next, backends: ["10.1.0.9:80"], tls: {ca: /etc/ca.pem, server_name: Next.internal, certificate: /etc/c.pem, key: /etc/c.key, min_version: 1.3, alpn: [x]}, concurrency: 12, hedge: {after: 1s}, fallback: {respond: 200}, health: {tcp: {}, server_name: check.internal}}
  - {name: spare, outlier: "off", backends: ["10.1.0.8:80"], hedge: {percentile: 99%, min: 1ms}, tls: {server_name: host}, health: {http: {}, tls: {ca: /etc/checks.pem, server_name: spare.internal}}}
"#;

#[test]
fn interfaces_may_be_left_away_where_no_packets_are_balanced() {
    let listener = "{name: web, kind: http, address: 127.0.0.1, port: 80, service: app}";
    let app = "{name: app, backends: ['10.1.0.1:80']}";
    for section in ["{pin_dir: /sys/fs/bpf/x}", "{interfaces: []}"] {
        let text = format!("l4: {section}\nlisteners: [{listener}]\nservices: [{app}]\n");
        let loaded = good(&text);
        let warnings = loaded.warnings.pretty(false);
        assert!(loaded.warnings.is_empty(), "{warnings}");
        assert!(!loaded.config.balances_packets());
        assert!(loaded.config.l4.is_some());
        let text = effective_yaml(&loaded.config);
        assert_eq!(good(&text).config, loaded.config, "{text}");
    }
}

#[test]
fn every_key_of_the_proxies_reaches_the_model() {
    let loaded = good(PROXIES);
    let warnings = loaded.warnings.pretty(false);
    assert!(loaded.warnings.is_empty(), "{warnings}");
    let config = loaded.config;
    assert_eq!(config.l4, None);
    insta::assert_debug_snapshot!((
        &config.workers,
        &config.tracing,
        &config.acme,
        &config.http_listeners,
        &config.stream_listeners,
        &config.routes
    ));
    insta::assert_debug_snapshot!(
        config
            .services
            .iter()
            .map(|service| (&service.backends, &service.upstream))
            .collect::<Vec<_>>()
    );
    let text = effective_yaml(&config);
    assert_eq!(good(&text).config, config, "{text}");
    assert_eq!(effective_yaml(&good(&text).config), text);
}

#[test]
fn what_tls_cannot_mean_is_refused() {
    let site = "{name: site, kind: http, address: '::', port: 443, service: app, tls: TLS}";
    let services = "services: [{name: app, backends: ['10.1.0.1:80']}]";
    let pair = "certificates: [{certificate: /a, key: /b}]";
    for (tls, fault) in [
        ("{}", "certificates"),
        ("{certificates: []}", "there is no certificate"),
        ("{certificates: [{certificate: /a}]}", "`key`"),
        (
            "{certificates: [{certificate: a, key: /b}]}",
            "an absolute path",
        ),
        (
            "{certificates: [{local: [a], key: /b}]}",
            "makes its certificate by itself",
        ),
        (
            "{certificates: [{local: [a b]}]}",
            "is not a name of a host",
        ),
        ("{certificates: [{local: []}]}", "there is no name"),
        ("{PAIR, min_version: 1.1}", "`1.2` or `1.3`"),
        (
            "{PAIR, min_version: 1.3, max_version: 1.2}",
            "no version is spoken",
        ),
        (
            "{PAIR, ciphers: [ECDHE-RSA-AES128-GCM-SHA265]}",
            "did you mean `ECDHE-RSA-AES128-GCM-SHA256`",
        ),
        (
            "{PAIR, ciphers: [TLS_AES_128_GCM_SHA256]}",
            "no cipher suite of TLS 1.2",
        ),
        ("{PAIR, groups: [x448]}", "is not a group"),
        ("{PAIR, sessions: {ticket_lifetime: 8days}}", "out of range"),
        ("{PAIR, client: {}}", "`ca`"),
        ("{PAIR, client: {ca: /c, depth: 11}}", "out of range"),
        ("{PAIR}, https_redirect: true", "speaks HTTPS itself"),
    ] {
        let site = site.replace("TLS", tls).replace("PAIR", pair);
        let text = format!("listeners: [{site}]\n{services}\n");
        let errors = parse_with("test", &text, &|_| None).expect_err(tls);
        let text = errors.pretty(false);
        assert!(text.contains(fault), "{tls}: {text}");
    }
    let redirect = site.replace("tls: TLS", "https_redirect: 8443");
    let text = format!("listeners: [{redirect}]\n{services}\n");
    let errors = parse_with("test", &text, &|_| None).expect_err("never asked");
    assert!(errors.pretty(false).contains("the service is never asked"));
}

#[test]
fn files_of_certificates_are_judged_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.yaml");
    let pem = folder.path().join("a.pem");
    std::fs::write(&pem, "hello").unwrap();
    let text = format!(
        "listeners:\n  - name: site\n    kind: http\n    address: '::'\n    port: 443\n    \
         service: app\n    tls:\n      certificates: [{{certificate: {0}, key: {0}}}]\n      \
         client: {{ca: /nowhere/ca.pem}}\n\
         services: [{{name: app, backends: ['10.1.0.1:80']}}]\n",
        pem.display()
    );
    std::fs::write(&path, &text).unwrap();
    let errors = load(&path).unwrap_err();
    let lines: Vec<_> = errors
        .iter()
        .map(|fault| (fault.line, fault.message.clone()))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].0 == 8 && lines[0].1.contains("holds no certificate"),
        "{lines:?}"
    );
    assert!(
        lines[1].0 == 9 && lines[1].1.contains("ca.pem` does not exist"),
        "{lines:?}"
    );
    good(&text);
}

#[test]
fn what_is_built_in_code_is_what_a_small_file_says() {
    let config = good(
        "
listeners:
  - {name: web, kind: http, address: 0.0.0.0, port: 8080, service: app}
  - {name: db, kind: tcp, address: 0.0.0.0, port: 5432, service: app}
services:
  - {name: app, backends: ['127.0.0.1:9000']}
",
    )
    .config;
    let mut service = Service::new("app");
    let backend = "127.0.0.1:9000".parse().unwrap();
    service.push_backend(backend, 1, BackendTraits::default());
    let expected = Config {
        http_listeners: vec![HttpListener::new("web", "0.0.0.0:8080".parse().unwrap())],
        stream_listeners: vec![StreamListener::new(
            "db",
            Protocol::Tcp,
            "0.0.0.0:5432".parse().unwrap(),
            "app",
        )],
        routes: vec![default_route("web", "app")],
        services: vec![service],
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn a_service_of_the_kernel_and_of_a_proxy_shows_all_its_keys() {
    let text = format!("{SMALL}    balance: random\n").replace(
        "services:",
        "  - {name: site, kind: http, address: 127.0.0.1, port: 80, service: web}\nservices:",
    );
    let loaded = good(&text);
    let warnings = loaded.warnings.pretty(false);
    assert!(loaded.warnings.is_empty(), "{warnings}");
    let shown = effective(&loaded.config);
    let service = &shown["services"][0];
    assert_eq!(service["mode"], "nat");
    assert_eq!(service["balance"]["policy"], "random");
    assert_eq!(service["timeouts"]["syn"], "1m");
    assert_eq!(service["timeouts"]["connect"], "5s");
}

#[test]
fn every_example_loads_without_warnings_and_says_what_it_shows() {
    let mut modes = Vec::new();
    for path in examples() {
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = good(&text);
        let warnings = loaded.warnings.pretty(false);
        assert!(loaded.warnings.is_empty(), "{warnings}");
        assert!(text.starts_with("# "), "{}", path.display());
        modes.extend(loaded.config.services.iter().map(|service| service.mode));
    }
    for mode in Mode::ALL {
        assert!(modes.contains(&mode), "no example of {}", mode.name());
    }
}

#[test]
fn the_effective_file_means_the_same() {
    for path in examples() {
        let config = good(&std::fs::read_to_string(&path).unwrap()).config;
        let text = effective_yaml(&config);
        assert_eq!(good(&text).config, config, "{}\n{text}", path.display());
    }
}

#[test]
fn variables_make_numbers_names_and_parts_of_values() {
    let text = r#"
l4: {interfaces: ["${IFACE:-eth0}"]}
listeners:
  - {name: web, kind: l4, address: "${VIP:?the VIP}", port: "${PORT}", service: web}
services:
  - name: web
    backends:
      - {address: "${NET}.1:80", weight: "${WEIGHT}"}
    health: {http: {body_contains: "$${HOME}"}}
"#;
    let set = HashMap::from([
        ("VIP", "192.0.2.10"),
        ("PORT", "8080"),
        ("NET", "10.1.0"),
        ("WEIGHT", "7"),
    ]);
    let loaded = parse_with("test", text, &|name| {
        set.get(name).map(|value| (*value).to_owned())
    });
    let config = loaded.unwrap().config;
    assert_eq!(config.data_plane().interfaces[0].name, "eth0");
    assert_eq!(config.listeners[0].port, PortMatch::One(8080));
    assert_eq!(config.services[0].backends[0].name, "10.1.0.1:80");
    assert_eq!(config.services[0].backends[0].weight, 7);
    let Some(Probe::Http(http)) = config.services[0].health.as_ref().map(|check| &check.probe)
    else {
        panic!("an HTTP check");
    };
    assert_eq!(http.body_contains.as_deref(), Some("${HOME}"));
    assert_eq!(good(&effective_yaml(&config)).config, config);
}

#[test]
fn a_drawing_shows_place_expectation_and_fix() {
    let text = SMALL.trim_start().replace(
        "interfaces: [eth0]",
        "interfaces: [eth0], sample_every: often, tunel: {}",
    );
    let errors = parse_with("sluice.yaml", &text, &|_| None).unwrap_err();
    insta::assert_snapshot!(errors.pretty(false), @r"
    wrong-type

      × l4.sample_every: `often` is not a number
       ╭─[sluice.yaml:1:40]
     1 │ l4: {interfaces: [eth0], sample_every: often, tunel: {}}
       ·                                        ──┬──
       ·                                          ╰── expected a whole number from 0 to 4294967295
     2 │ listeners:
       ╰────

    unknown-key

      × l4.tunel: there is no key `tunel` here
       ╭─[sluice.yaml:1:47]
     1 │ l4: {interfaces: [eth0], sample_every: often, tunel: {}}
       ·                                               ──┬──
       ·                                                 ╰── here
     2 │ listeners:
       ╰────
      help: expected one of `interfaces`, `pin_dir`, `flow_capacity`, `backend_capacity`, `tunnel`, `selection_seed`, `route_ttl`, `icmp_per_second`, `sample_every` or `kernel_log`
            did you mean `tunnel`?
    ");
    assert_eq!(errors.faults().summary(), "2 errors");
}

#[test]
fn variables_cannot_bring_in_structure() {
    let text = SMALL.replace("192.0.2.10", "\"${VIP}\"");
    let errors =
        parse_with("test", &text, &|_| Some("192.0.2.10, port: 22".to_owned())).unwrap_err();
    assert_eq!(errors.iter().count(), 1);
    assert_eq!(errors.iter().next().unwrap().code, Code::InvalidValue);
}

#[test]
fn standard_forms_of_text_load() {
    good(&SMALL.replace('\n', "\r\n"));
    good(&format!("\u{feff}{SMALL}"));
    good(&format!("%YAML 1.2\n---{SMALL}...\n"));
    let json = effective(&good(SMALL).config).to_string();
    assert_eq!(good(&json).config, good(SMALL).config);
}

#[test]
fn a_file_that_is_not_text_is_unreadable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0xff, 0xfe, 0x00]).unwrap();
    let errors = load(file.path()).unwrap_err();
    assert_eq!(errors.iter().next().unwrap().code, Code::Unreadable);
    assert_eq!(
        load(Path::new("/"))
            .unwrap_err()
            .iter()
            .next()
            .unwrap()
            .code,
        Code::Unreadable
    );
}

/// A file with this many services of this many backends.
fn large(services: u32, backends: u32) -> String {
    let mut listeners = String::new();
    let mut list = String::new();
    for service in 0..services {
        let vip = std::net::Ipv4Addr::from(0xcb00_0000 + service);
        writeln!(
            listeners,
            "  - {{name: l{service}, kind: l4, address: {vip}, port: 80, service: s{service}}}"
        )
        .unwrap();
        writeln!(
            list,
            "  - name: s{service}\n    ring_size: 1000003\n    backends:"
        )
        .unwrap();
        for backend in 0..backends {
            let address = std::net::Ipv4Addr::from(0x0a00_0001 + service * backends + backend);
            writeln!(
                list,
                "      - {{name: b{backend}, address: \"{address}:8080\"}}"
            )
            .unwrap();
        }
    }
    format!(
        "l4: {{interfaces: [eth0], backend_capacity: 65536}}\nlisteners:\n{listeners}services:\n{list}"
    )
}

#[test]
fn large_files_load_in_time_that_nobody_notices() {
    for (services, backends) in [(1000, 16), (1, 4096), (4095, 4)] {
        let text = large(services, backends);
        let start = Instant::now();
        let config = good(&text).config;
        let took = start.elapsed();
        assert_eq!(config.services.len(), services as usize);
        assert_eq!(config.services[0].backends.len(), backends as usize);
        // Some 0.1 s optimised, 1 s not; a square of anything would take minutes.
        assert!(
            took < Duration::from_secs(20),
            "{services} × {backends} took {took:?}"
        );
    }
}

#[test]
fn large_bad_files_are_judged_in_full() {
    let text = large(1000, 4)
        .replace("port: 80,", "port: 0,")
        .replace(":8080", ":0");
    let errors = parse_with("test", &text, &|_| None).unwrap_err();
    assert_eq!(errors.iter().count(), 5000);
    let drawn = errors.pretty(false);
    assert!(drawn.contains("and 4900 more"), "{}", drawn.len());
}

#[test]
fn more_than_the_data_plane_holds_is_refused() {
    let errors = parse_with("test", &large(4096, 1), &|_| None).unwrap_err();
    let text = errors.to_string();
    assert!(
        text.contains("there are 4096 listeners; expected at most 4095"),
        "{text}"
    );
    assert!(
        text.contains("there are 4096 services; expected at most 4095"),
        "{text}"
    );
    let text = large(2, 40_000);
    let text = parse_with("test", &text, &|_| None)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("there are 80000 backends (once for each listener); expected at most 65535"),
        "{text}"
    );
}

proptest! {
    /// Whatever the text, there is an answer, and every fault lies in the text.
    #[test]
    fn no_text_makes_it_panic(
        cut in 0..2000usize,
        length in 0..40usize,
        insert in r#"[ \n\t\[\]{}:,&*!|>'"%@`$a0é#?-]{0,12}"#,
    ) {
        let mut text: String = include_str!("../../../examples/l4-udp.yaml").to_owned();
        let floor = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let start = floor(&text, cut);
        let end = floor(&text, start + length).max(start);
        text.replace_range(start..end, &insert);
        if let Err(errors) = parse_with("test", &text, &|_| None) {
            prop_assert!(errors.iter().any(|fault| fault.severity == Severity::Error));
            for fault in &errors {
                prop_assert!(text.get(fault.offset..fault.offset + fault.length).is_some(), "{fault}");
            }
            prop_assert!(!errors.pretty(false).is_empty());
        }
    }
}
