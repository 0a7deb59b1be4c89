//! Large configurations. How long they take is printed, not judged.

use super::*;
use proxy_common::maps::capacity;
use proxy_common::service::DEFAULT_RING_SIZE;
use std::time::Instant;

/// `count` listeners and services, each with three backends of its own.
fn many(count: u32) -> Config {
    let mut config = config(vec![], vec![]);
    for n in 0..count {
        let [_, _, c, d] = n.to_be_bytes();
        let name = format!("s{n}");
        config
            .listeners
            .push(listener(&name, &format!("192.168.{c}.{d}"), 80, &name));
        let backends: Vec<String> = (1..=3).map(|i| format!("10.{i}.{c}.{d}")).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        config
            .services
            .push(service(&name, Mode::DsrIpip, &backends));
    }
    config
}

#[test]
fn a_thousand_services_are_planned_and_one_of_them_changed() {
    let config = many(1000);
    let mut store = FakeStore::new(capacity::BACKENDS);
    let start = Instant::now();
    let plan = follow_with_few_checks(&mut store, &config);
    println!(
        "1000 services, 3000 backends: {:?}, {} edits",
        start.elapsed(),
        plan.edits.len()
    );

    let mut overlay = Overlay::default();
    overlay.entry("s500", "10.2.1.244").health = Health::Down;
    let start = Instant::now();
    let plan = plan_on(&store, &config, &overlay).unwrap();
    println!("one backend of them down: {:?}", start.elapsed());
    assert_eq!(plan.edits.len(), 4);
}

#[test]
fn one_service_has_4096_backends_in_a_ring_of_default_size() {
    let mut config = many(1);
    config.services[0].ring_size = DEFAULT_RING_SIZE;
    config.services[0].backends = (0..4096u32)
        .map(|n| {
            let [_, _, c, d] = n.to_be_bytes();
            backend(&format!("10.0.{c}.{d}"), 1 + (n % 3) as u16)
        })
        .collect();
    let mut store = FakeStore::new(capacity::BACKENDS);
    let start = Instant::now();
    let plan = follow_with_few_checks(&mut store, &config);
    println!(
        "4096 backends: {:?}, {} edits",
        start.elapsed(),
        plan.edits.len()
    );
    assert_eq!(store.rings[&1].len(), DEFAULT_RING_SIZE as usize);
}
