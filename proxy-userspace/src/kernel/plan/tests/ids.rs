//! Ids are recognised by what they stand for.

use super::*;
use proxy_common::maps::capacity;

#[test]
fn a_new_process_finds_the_ids_of_the_old_one_whatever_the_names_and_their_order() {
    let mut two = web();
    two.listeners.push(listener("dns", "192.0.2.2", 53, "dns"));
    two.services
        .push(service("dns", Mode::Nat, &["10.0.1.1", "10.0.1.2"]));
    let (store, before) = fresh(&two);

    two.listeners.reverse();
    two.services.reverse();
    two.listeners[1].name = "renamed".to_owned();
    two.services[1].backends.reverse();
    two.services[1].backends[0].name = "also-renamed".to_owned();
    let after = plan_on(&store, &two, &Overlay::default()).unwrap();

    assert_eq!(after.edits, []);
    let id = |plan: &Plan, name| plan.ids.listener(name).unwrap().id;
    assert_eq!(id(&after, "renamed"), id(&before, "web"));
    assert_eq!(id(&after, "dns"), id(&before, "dns"));
    let renamed: Vec<_> = after.ids.of_backend("web", "also-renamed").collect();
    assert_eq!(
        renamed,
        before.ids.of_backend("web", "10.0.0.3").collect::<Vec<_>>()
    );
}

#[test]
fn ids_lead_back_to_names() {
    let mut both = web();
    both.listeners
        .push(listener("web6", "2001:db8::1", 80, "web"));
    let (_, plan) = fresh(&both);
    let found: Vec<(u16, u16)> = plan.ids.of_backend("web", "10.0.0.2").collect();
    assert_eq!(found, [(1, 2), (2, 5)]);
    let name = plan.ids.backend_of(5).unwrap();
    assert_eq!(
        (name.listener, name.service, name.backend),
        ("web6", "web", "10.0.0.2")
    );
    assert_eq!(plan.ids.listener_of(2).unwrap().name, "web6");
    assert!(plan.ids.backend_of(99).is_none());
    assert_eq!(plan.ids.of_service("web").count(), 2);
}

#[test]
fn only_existing_ids_are_recovered() {
    let (store, plan) = fresh(&web());
    let mut more = web();
    more.services[0].backends.push(backend("10.0.0.4", 1));
    more.listeners.push(listener("new", "192.0.2.7", 80, "web"));
    let found = Ids::recover(&more, &store.state().unwrap());
    assert_eq!(found, plan.ids);
}

#[test]
fn a_listener_that_changes_its_service_keeps_its_id_and_the_backends_in_common() {
    let mut two = web();
    two.services
        .push(service("other", Mode::DsrIpip, &["10.0.0.3", "10.0.0.4"]));
    let (mut store, before) = fresh(&two);
    two.listeners[0].service = "other".to_owned();
    let after = follow_on(&mut store, &two, &Overlay::default());
    let ids = |plan: &Plan| plan.ids.listener("web").unwrap().clone();
    assert_eq!(ids(&after).id, ids(&before).id);
    assert_eq!(ids(&after).backends[0], ids(&before).backends[2]);
    assert_eq!(ids(&after).backends[1].1, 4);
}

#[test]
fn a_freed_id_is_not_given_away_in_the_same_plan_nor_soon_after() {
    let (mut store, _) = fresh(&web());
    let mut other = web();
    for (round, expected) in [(4u8, 4), (5, 5), (6, 6)] {
        other.services[0].backends[0] = backend(&format!("10.0.0.{round}"), 1);
        let plan = follow_on(&mut store, &other, &Overlay::default());
        assert_eq!(plan.ids.listener("web").unwrap().backends[0].1, expected);
    }
    other.listeners[0].vip = "192.0.2.9/32".parse().unwrap();
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(plan.ids.listener("web").unwrap().id, 2);
}

#[test]
fn backend_ids_are_reused_when_there_is_nothing_else() {
    // Three of four usable ids are taken, and three others are wanted.
    let mut store = FakeStore::new(5);
    follow_on(&mut store, &web(), &Overlay::default());
    let mut other = web();
    other.services[0] = service("web", Mode::DsrIpip, &["10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let plan = follow_on(&mut store, &other, &Overlay::default());
    let edits = outline(&plan.edits);
    let ids: Vec<u16> = plan
        .ids
        .listener("web")
        .unwrap()
        .backends
        .iter()
        .map(|b| b.1)
        .collect();
    assert_eq!(ids, [4, 1, 2]);
    let cleared = edits.find("backend 1: absent").unwrap();
    assert!(cleared < edits.find("backend 1: up").unwrap(), "{edits}");
}

#[test]
fn in_two_stages_the_backends_that_stay_serve_throughout() {
    let mut store = FakeStore::new(5);
    let mut four = web();
    four.services[0].backends.push(backend("10.0.0.4", 1));
    follow_on(&mut store, &four, &Overlay::default());
    let mut other = four.clone();
    other.services[0].backends[0] = backend("10.0.0.9", 1);
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         ring 1: {2, 3, 4}\n\
         backend 1: absent\n\
         settings: busy\n\
         backend 1: up\n\
         ring 1: {1, 2, 3, 4}\n\
         settings: at rest"
    );
}

#[test]
fn service_ids_are_reused_after_their_flows_are_forgotten_when_there_is_nothing_else() {
    let many = |from: u32| {
        let listeners = (from..from + capacity::SERVICES - 1).map(|n| {
            let [_, _, c, d] = n.to_be_bytes();
            listener(&format!("l{n}"), &format!("10.9.{c}.{d}"), 80, "web")
        });
        config(listeners.collect(), vec![service("web", Mode::Local, &[])])
    };
    let mut store = FakeStore::new(16);
    follow_with_few_checks(&mut store, &many(0));
    let plan = follow_with_few_checks(&mut store, &many(1));
    let id = plan.ids.listener("l4095").unwrap().id;
    assert_eq!(id, 1);
    assert_eq!(store.purged, [id]);
    let edits = outline(&plan.edits);
    let purge = edits.find("purge 1\n").unwrap();
    assert!(purge < edits.find("service 1: 0 slots").unwrap(), "{edits}");
}

#[test]
fn an_entry_that_an_interrupted_plan_left_without_key_is_taken_up() {
    let (mut store, before) = fresh(&web());
    store.tables.keys.clear();
    store.tables.settings.generation |= 1;
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(plan.ids, before.ids);
    assert!(store.purged.is_empty());
}

#[test]
fn adopting_changes_nothing_before_the_first_health_check() {
    use crate::config::model::{CheckTls, Damping, HealthCheck, Probe, ProbeTarget};
    use std::time::Duration;
    let mut checked = web();
    checked.services[0].health = Some(HealthCheck {
        probe: Probe::Tcp,
        target: ProbeTarget::Backend,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        jitter: 0.0,
        rise: 1,
        fall: 1,
        damping: Damping {
            half_life: Duration::from_secs(1),
            suppress: 3.0,
            reuse: 1.0,
        },
        tls: CheckTls::Service,
        server_name: None,
    });
    checked
        .listeners
        .push(listener("plain", "192.0.2.3", 80, "plain"));
    checked
        .services
        .push(service("plain", Mode::Nat, &["10.0.1.1", "10.0.1.2"]));
    let mut store = FakeStore::new(64);
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.1").health = Health::Down;
    overlay.entry("web", "10.0.0.2").drain = Drain::Draining;
    overlay.entry("plain", "10.0.1.2").drain = Drain::Expired;
    follow_on(&mut store, &checked, &overlay);

    let adopted = Overlay::adopt(&checked, &store.state().unwrap());
    assert_eq!(adopted, overlay);
    assert_eq!(plan_on(&store, &checked, &adopted).unwrap().edits, []);
}

#[test]
fn the_overlay_forgets_what_is_not_configured() {
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.1").weight = Some(3);
    let kept = overlay.clone();
    overlay.entry("web", "10.0.0.77").weight = Some(3);
    overlay.entry("gone", "10.0.0.1").weight = Some(3);
    overlay.retain_configured(&web());
    assert_eq!(overlay, kept);
}
