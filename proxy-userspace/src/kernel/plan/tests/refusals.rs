//! What cannot be carried out is refused, all at once.

use super::*;
use proxy_common::maps::capacity;

fn refusal(config: &Config) -> Vec<String> {
    refusal_on(&FakeStore::new(64), config)
}

fn refusal_on(store: &FakeStore, config: &Config) -> Vec<String> {
    let errors = plan_on(store, config, &Overlay::default()).unwrap_err();
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn every_fault_is_reported_at_once() {
    let mut config = web();
    config
        .listeners
        .push(listener("again", "192.0.2.1", 80, "web"));
    config
        .listeners
        .push(listener("lost", "192.0.2.2", 80, "nowhere"));
    config.listeners.push(listener("wide", "::/0", 80, "web"));
    config.services[0].ring_size = 1000;
    config.services[0].backends.push(backend("10.0.0.1", 5));
    config.services[0].backends[3].name = "twin".to_owned();
    let mut full = service("full", Mode::FullNat, &["10.0.0.9"]);
    full.source_addresses = vec!["192.0.2.1".parse().unwrap()];
    config.services.push(full);
    assert_eq!(
        refusal(&config),
        [
            "service `web`: a ring cannot have 1000 slots: the number must be a prime up to 1000003",
            "backends `10.0.0.1` and `twin` of service `web` are the same server",
            "the full-nat source address 192.0.2.1 belongs to the VIP of listener `web`: \
             use another source address",
            "listeners `web` and `again` have the same address, port and protocol",
            "the full-nat source address 192.0.2.1 belongs to the VIP of listener `again`: \
             use another source address",
            "listener `lost` names the service `nowhere`, which does not exist",
            "the VIP of listener `wide` contains ::ffff:0:0/96, the IPv4-mapped addresses: \
             give a longer prefix, such as 2000::/3",
        ]
    );
}

#[test]
fn a_source_inside_a_prefix_vip_is_refused() {
    let mut config = web();
    config.listeners[0].vip = "192.0.2.0/24".parse().unwrap();
    config.services[0].mode = Mode::FullNat;
    config.services[0].source_addresses = vec!["192.0.2.200".parse().unwrap()];
    assert_eq!(refusal(&config).len(), 1);
}

#[test]
fn more_backends_than_the_map_holds_are_refused() {
    let mut config = web();
    config
        .listeners
        .push(listener("tls", "192.0.2.1", 443, "web"));
    assert_eq!(
        refusal_on(&FakeStore::new(6), &config),
        [
            "6 backends (of each listener) are needed, but there is room for 5: \
          raise `backend_capacity` and start afresh, or join listeners"
        ]
    );
    assert!(plan_on(&FakeStore::new(7), &config, &Overlay::default()).is_ok());
}

#[test]
fn more_listeners_prefixes_rules_and_sources_than_fit_are_refused() {
    let mut config = web();
    for n in 0..capacity::SERVICES {
        let [_, _, c, d] = n.to_be_bytes();
        config.listeners.push(listener(
            &format!("l{n}"),
            &format!("10.{c}.{d}.0/30"),
            80,
            "web",
        ));
    }
    config.services[0].mode = Mode::FullNat;
    config.services[0].source_addresses = (1..=9)
        .map(|n| format!("198.51.100.{n}").parse().unwrap())
        .collect();
    config.guard.deny = (0..=capacity::GUARD_RULES)
        .map(|n| std::net::Ipv4Addr::from(n << 8).into())
        .map(|addr: std::net::IpAddr| addr.into())
        .collect();
    let errors = refusal_on(&FakeStore::new(capacity::BACKENDS), &config);
    let starts = [
        "4097 listeners",
        "8192 prefix VIPs",
        "65537 guard rules",
        "9 full-nat source",
    ];
    for start in starts {
        assert!(
            errors.iter().any(|error| error.starts_with(start)),
            "{start}: {errors:#?}"
        );
    }
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
}

#[test]
fn another_layout_is_refused() {
    let (mut store, _) = fresh(&web());
    store.tables.settings.abi += 1;
    let errors = plan_on(&store, &web(), &Overlay::default()).unwrap_err();
    assert!(
        matches!(errors.0[..], [PlanError::Layout { .. }]),
        "{errors}"
    );
}
