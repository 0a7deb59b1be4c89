//! Tests of the whole way from text to model.

use super::*;

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

#[test]
fn a_small_file_gets_its_defaults() {
    let loaded = good(SMALL);
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.pretty(false)
    );
    let config = loaded.config;
    assert_eq!(config.services[0].backends[0].name, "10.1.0.1:8080");
    assert_eq!(config.services[0].backends[1].weight, 2);
    assert_eq!(config.services[0].ring_size, 65_537);
    assert_eq!(config.listeners[0].vip.to_string(), "192.0.2.10/32");
}
