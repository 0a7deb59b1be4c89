use super::*;
use crate::config::parse_with;

const BASE: &str = r#"
l4: {interfaces: [eth0], sample_every: 0}
admin: {listen: 127.0.0.1:9180}
guard: {deny: [198.51.100.0/24]}
listeners:
  - {name: web, kind: l4, address: 192.0.2.10, port: 80, service: web}
services:
  - name: web
    backends:
      - {name: b1, address: "10.1.0.1:8080"}
      - {name: b2, address: "10.1.0.2:8080", weight: 2}
    health: {tcp: {}}
"#;

fn config(text: &str) -> Config {
    match parse_with("test", text, &|_| None) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    }
}

/// The changes when `from` in the base file becomes `to`.
fn changes(from: &str, to: &str) -> Vec<String> {
    assert!(BASE.contains(from), "{from}");
    diff(&config(BASE), &config(&BASE.replace(from, to)))
        .iter()
        .map(Change::to_string)
        .collect()
}

#[test]
fn equal_configurations_do_not_differ() {
    assert_eq!(diff(&config(BASE), &config(BASE)), []);
    assert_eq!(
        changes("sample_every: 0", "route_ttl: 1s"),
        [""; 0],
        "a default, written out"
    );
}

#[test]
fn every_kind_of_change_has_a_sentence() {
    for (from, to, expected) in [
        (
            "sample_every: 0",
            "sample_every: 100",
            vec!["l4: sample_every 0 → 100"],
        ),
        ("[eth0]", "[eth0, eth1]", vec!["interface eth1 added"]),
        (
            "[eth0]",
            "[eth1]",
            vec!["interface eth0 removed", "interface eth1 added"],
        ),
        (
            "[eth0]",
            "[{name: eth0, attach: generic}]",
            vec!["interface eth0: attach auto → generic"],
        ),
        (
            "admin: {listen: 127.0.0.1:9180}",
            "admin: {}",
            vec!["admin: listen 127.0.0.1:9180 → (not given)"],
        ),
        (
            "[198.51.100.0/24]",
            "[198.51.100.0/24, 203.0.113.9]",
            vec!["guard: deny [198.51.100.0/24] → [198.51.100.0/24, 203.0.113.9]"],
        ),
        ("port: 80,", "port: 81,", vec!["listener web: port 80 → 81"]),
        (
            "service: web}",
            "service: web, guard: {budget: {per_second: 5}}}",
            vec![
                "listener web: guard.budget.per_second (not given) → 5",
                "listener web: guard.budget.burst (not given) → 5",
            ],
        ),
        (
            "    health:",
            "    timeouts: {udp: 5s}\n    health:",
            vec!["service web: timeouts.udp 1m → 5s"],
        ),
        (
            "weight: 2",
            "weight: 3",
            vec!["service web: backend b2: weight 2 → 3"],
        ),
        (
            "      - {name: b1, address: \"10.1.0.1:8080\"}\n",
            "",
            vec!["service web: backend b1 removed"],
        ),
        (
            "    health:",
            "      - {name: b3, address: 10.1.0.3}\n    health:",
            vec!["service web: backend b3 added"],
        ),
        (
            "{tcp: {}}",
            "{tcp: {}, fall: 5}",
            vec!["service web: health.fall 3 → 5"],
        ),
        (
            "services:\n",
            "services:\n  - {name: new, mode: local}\n",
            vec!["service new added"],
        ),
        (
            "listeners:\n",
            "listeners:\n  - {name: new, kind: l4, address: 192.0.2.11, port: all, service: web}\n",
            vec!["listener new added"],
        ),
    ] {
        assert_eq!(changes(from, to), expected, "{to}");
    }
}

#[test]
fn a_renamed_listener_is_removed_and_added() {
    assert_eq!(
        changes("- {name: web, kind", "- {name: http, kind"),
        ["listener web removed", "listener http added"]
    );
}

#[test]
fn order_alone_is_no_change() {
    let turned = BASE.replace(
        "      - {name: b1, address: \"10.1.0.1:8080\"}\n      - {name: b2, address: \"10.1.0.2:8080\", weight: 2}\n",
        "      - {name: b2, address: \"10.1.0.2:8080\", weight: 2}\n      - {name: b1, address: \"10.1.0.1:8080\"}\n",
    );
    assert_ne!(config(BASE), config(&turned));
    assert_eq!(diff(&config(BASE), &config(&turned)), []);
}

#[test]
fn what_is_made_at_start_needs_a_restart() {
    let restarts = |from: &str, to: &str| {
        let changes = diff(&config(BASE), &config(&BASE.replace(from, to)));
        assert!(!changes.is_empty());
        changes.iter().any(Change::needs_restart)
    };
    assert!(restarts("sample_every: 0", "flow_capacity: 1024"));
    assert!(restarts("sample_every: 0", "backend_capacity: 1024"));
    assert!(restarts("sample_every: 0", "pin_dir: /sys/fs/bpf/other"));
    assert!(restarts("9180", "9181"));
    assert!(!restarts("sample_every: 0", "sample_every: 1"));
    assert!(!restarts("[eth0]", "[eth1]"));
    assert!(!restarts("weight: 2", "weight: 3"));
}
