//! What lives on over a reload, and names that DNS resolves.

use super::*;
use crate::config::model::http::{
    Accelerate, BackendProtocol, BackendTraits, Balance, DnsQuestion, NamedBackend, Resilience,
    Upstream,
};
use crate::config::model::{Backend, Service, Timeouts};
use std::time::Duration;

fn rebuild(old: &Registry, spec: ServiceSpec, now: Nanos) -> Registry {
    let new = Registry::build(Some(old), vec![spec], 7, 99, now);
    new.activate(Some(old), now);
    new
}

fn first(spec: ServiceSpec) -> Registry {
    let registry = Registry::build(None, vec![spec], 7, 0, S);
    registry.activate(None, S);
    registry
}

fn slots(service: &ServiceState) -> Vec<(String, u32)> {
    let backends = service.backends();
    backends
        .iter()
        .map(|b| (b.name().to_owned(), b.slot()))
        .collect()
}

#[test]
fn counts_health_and_drains_survive_and_places_are_given_again() {
    let old = first(spec(BalancePolicy::RoundRobin, &[1; 4]));
    let service = &old.services()[0];
    let backends = service.backends();
    backends[1].latency().observe(5_000_000, S);
    assert!(backends[1].try_begin() && backends[1].try_connect(0));
    service.set_healthy("b2", false, S);
    service.set_draining("b3", true, S);
    service.set_weight("b1", Some(9), S);

    // b0 goes, b1 moves to the front, b2 has another address, b3 stays, b4 is new.
    let mut next = spec(BalancePolicy::LeastRequests, &[1, 1, 1, 1, 1]);
    next.backends[2].address = address(77);
    next.backends.remove(0);
    next.backends[0].limit = 5;
    let new = rebuild(&old, next, 2 * S);
    let kept = new.services()[0].backends();
    assert!(Arc::ptr_eq(&kept[0], &backends[1]));
    assert_eq!((kept[0].in_flight(), kept[0].connections()), (1, 1));
    assert_eq!((kept[0].weight(), kept[0].limit()), (Some(9), 5));
    assert!(kept[0].latency().average(S) > 4e6);
    assert!(!Arc::ptr_eq(&kept[1], &backends[2]));
    assert!(kept[1].is_healthy() && kept[2].is_draining());
    assert_eq!((kept[1].slot(), kept[3].slot()), (4, 5));

    // A request that the old service began is ended there, and counted down for both.
    service.release(&backends[1]);
    assert_eq!(kept[0].in_flight(), 0);
    drop((old, backends));
    let last = rebuild(&new, spec(BalancePolicy::Random, &[1; 6]), 3 * S);
    let slots = slots(&last.services()[0]);
    // The numbers of those that are gone are free.
    assert!(
        slots.contains(&("b0".into(), 0)) && slots.contains(&("b1".into(), 1)),
        "{slots:?}"
    );
}

#[test]
fn a_discarded_registry_has_changed_nothing() {
    let old = first(spec(BalancePolicy::RoundRobin, &[1; 2]));
    let before = slots(&old.services()[0]);
    let mut next = spec(BalancePolicy::RoundRobin, &[1; 3]);
    next.backends[0].limit = 1;
    drop(Registry::build(Some(&old), vec![next], 7, 0, 2 * S));
    assert_eq!(slots(&old.services()[0]), before);
    assert_eq!(old.services()[0].backends()[0].limit(), u32::MAX);
}

#[test]
fn a_new_backend_of_an_old_service_starts_slowly() {
    let mut old = spec(BalancePolicy::RoundRobin, &[1; 2]);
    old.slow_start = 10 * S;
    let mut new = spec(BalancePolicy::RoundRobin, &[1; 3]);
    new.slow_start = 10 * S;
    let new = rebuild(&first(old), new, 5 * S);
    let share = share(&shares(&new.services()[0], 2100), "b2");
    assert!((share - 0.1 / 2.1).abs() < 0.01, "{share}");
    assert_eq!(new.tick(5 * S), Some(5 * S + S / 2));
    assert_eq!(new.tick(15 * S), None);
}

#[test]
fn a_new_backend_that_is_checked_starts_slowly_from_its_first_verdict_on() {
    let mut old = spec(BalancePolicy::RoundRobin, &[1; 2]);
    old.slow_start = 10 * S;
    let mut new = spec(BalancePolicy::RoundRobin, &[1; 3]);
    new.slow_start = 10 * S;
    let new = rebuild(&first(old), new, 5 * S);
    let service = &new.services()[0];
    service.set_unseen("b2", 5 * S);
    service.set_healthy("b2", true, 14 * S);
    let share = share(&shares(service, 2100), "b2");
    assert!((share - 0.1 / 2.1).abs() < 0.01, "{share}");
    assert!(new.tick(23 * S).is_some());
    assert_eq!(new.tick(24 * S), None);
}

#[test]
fn cookies_mean_the_same_after_a_restart_in_another_order() {
    let one = first(spec(BalancePolicy::RoundRobin, &[1; 3]));
    let mut other = spec(BalancePolicy::Random, &[1; 3]);
    other.backends.reverse();
    let other = first(other);
    for backend in one.services()[0].backends() {
        let ask = Ask {
            sticky: Some(backend.sticky()),
            ..ask(3)
        };
        assert_eq!(pick(&other.services()[0], &ask), Ok(backend.name().into()));
    }
}

fn named(weight: u16) -> NamedSpec {
    NamedSpec {
        named: NamedBackend {
            question: DnsQuestion::Host("db".into(), 80),
            weight,
            traits: BackendTraits::default(),
        },
        limit: u32::MAX,
    }
}

fn resolved(rank: u8, index: usize, weight: u16) -> Resolved {
    Resolved {
        rank,
        address: address(index),
        weight,
    }
}

#[test]
fn names_add_members_and_take_them_away() {
    let mut spec = spec(BalancePolicy::RoundRobin, &[1]);
    spec.names = vec![named(2), named(1)];
    spec.names[1].named.question = DnsQuestion::Service("_db".into());
    let registry = first(spec.clone());
    let service = &registry.services()[0];
    assert!(service.set_resolved(0, &[resolved(0, 8, 1), resolved(0, 9, 1)], S));
    assert!(!service.set_resolved(0, &[resolved(0, 9, 1), resolved(0, 8, 1)], S));
    let all = shares(service, 5000);
    assert!((share(&all, "b0") - 0.2).abs() < 1e-6, "{all:?}");
    assert!((share(&all, "10.0.0.8:80") - 0.4).abs() < 1e-6, "{all:?}");
    // Another name adds one more, and a tier that is not needed; what is there already is not
    // added twice.
    let more = [
        resolved(0, 10, 3),
        resolved(1, 11, 1),
        resolved(0, 8, 1),
        resolved(0, 0, 1),
    ];
    assert!(service.set_resolved(1, &more, S));
    let all = shares(service, 8000);
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(
        (share(&all, "10.0.0.10:80") - 3.0 / 8.0).abs() < 1e-6,
        "{all:?}"
    );

    // After a reload what was found is still there, and is the same.
    let new = rebuild(&registry, spec, 2 * S);
    let names = |service: &ServiceState| {
        let mut names = slots(service);
        names.sort();
        names
    };
    assert_eq!(names(&new.services()[0]), names(service));

    assert!(service.set_resolved(0, &[], S));
    assert!(
        !service.set_resolved(7, &more, S),
        "there is no such question"
    );
    assert_eq!(shares(service, 100).len(), 2);
}

#[test]
fn the_model_is_read_with_subset_limits_and_defaults() {
    let backend = |name: &str, port| Backend {
        name: name.into(),
        address: [10, 0, 0, 1].into(),
        port,
        weight: 3,
    };
    let blue = vec![("color".to_owned(), "blue".to_owned())];
    let traits = |tier, max_connections, labels: &[(String, String)]| BackendTraits {
        tier,
        labels: labels.to_vec(),
        zone: Some("a".into()),
        max_connections,
    };
    let service = Service {
        name: "shop".into(),
        mode: proxy_common::service::Mode::Local,
        selection: proxy_common::service::Selection::Maglev,
        ring_size: 4099,
        source_addresses: vec![],
        timeouts: Timeouts {
            syn: Duration::ZERO,
            established: Duration::ZERO,
            closing: Duration::ZERO,
            udp: Duration::ZERO,
            affinity: Duration::ZERO,
        },
        drain_timeout: Duration::ZERO,
        backends: vec![
            backend("a", Some(1)),
            backend("b", Some(2)),
            backend("c", None),
            backend("d", Some(4)),
        ],
        health: None,
        at_connect: None,
        upstream: Upstream::default(),
    };
    let mut upstream = Upstream {
        accelerate: Accelerate::Off,
        protocol: BackendProtocol::H1,
        tls: None,
        balance: Balance {
            policy: BalancePolicy::Random,
            panic_threshold: 0.25,
            slow_start: Duration::from_secs(2),
        },
        sticky_cookie: None,
        max_connections: 10,
        max_streams: 100,
        queue: 5,
        queue_timeout: Duration::from_secs(3),
        connect_timeout: Duration::ZERO,
        response_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        keepalive: Duration::ZERO,
        max_idle: 0,
        send_proxy: None,
        names: vec![named(1).named],
        traits: vec![
            traits(0, None, &blue),
            traits(1, Some(2), &blue),
            traits(0, None, &blue),
            traits(0, None, &[]),
        ],
        subset: blue,
        outlier: None,
        steer_by_latency: None,
        zone: Some("a".into()),
        resilience: Resilience::default(),
    };
    let spec = ServiceSpec::new(&service, &upstream);
    let names: Vec<(&str, u8, u32)> = spec
        .backends
        .iter()
        .map(|b| (b.name.as_str(), b.tier, b.limit))
        .collect();
    assert_eq!(names, [("a", 0, 10), ("b", 1, 2)]);
    assert_eq!(
        (spec.slow_start, spec.queue_timeout, spec.queue),
        (2 * S, 3 * S, 5)
    );
    assert!(spec.names.is_empty(), "the named one has no such label");

    upstream.protocol = BackendProtocol::H2;
    upstream.max_connections = 0;
    upstream.subset.clear();
    let spec = ServiceSpec::new(&service, &upstream);
    let limits: Vec<u32> = spec.backends.iter().map(|b| b.limit).collect();
    assert_eq!(limits, [u32::MAX, 200, u32::MAX]);
    assert_eq!(spec.names.len(), 1);
}
