//! Backends that the configuration no longer has keep their flows, if that is wanted.

use super::*;
use std::collections::BTreeSet;

fn draining(released: &[u16]) -> Overlay {
    let mut overlay = Overlay::default();
    overlay.removed = Removed::Drain {
        released: released.iter().copied().collect(),
    };
    overlay
}

fn smaller() -> Config {
    let mut config = web();
    config.services[0].backends.remove(0);
    config
}

#[test]
fn a_removed_backend_drains_until_it_is_released() {
    let (mut store, _) = fresh(&web());
    let plan = follow_on(&mut store, &smaller(), &draining(&[]));
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nring 1: {2, 3}\nbackend 1: draining\nsettings: at rest"
    );
    let retiring = &plan.ids.listener("web").unwrap().retiring;
    assert_eq!(*retiring, [("10.0.0.1:80".to_owned(), 1)]);
    assert_eq!(plan.ids.backend_of(1).unwrap().backend, "10.0.0.1:80");

    // Another process goes on with it.
    assert_eq!(
        plan_on(&store, &smaller(), &draining(&[])).unwrap().edits,
        []
    );
    let plan = follow_on(&mut store, &smaller(), &draining(&[1]));
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nbackend 1: absent\nsettings: at rest"
    );
    assert!(plan.ids.listener("web").unwrap().retiring.is_empty());
}

#[test]
fn a_backend_that_comes_back_while_it_retires_keeps_its_id() {
    let (mut store, before) = fresh(&web());
    follow_on(&mut store, &smaller(), &draining(&[]));
    let plan = follow_on(&mut store, &web(), &draining(&[1]));
    assert_eq!(plan.ids, before.ids);
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nbackend 1: up\nring 1: {1, 2, 3}\nsettings: at rest"
    );
}

#[test]
fn nothing_retires_without_its_listener_or_in_another_mode_or_when_it_is_down() {
    let (store, _) = fresh(&web());
    let nothing = plan_on(&store, &config(vec![], vec![]), &draining(&[])).unwrap();
    assert!(nothing.state.backends.is_empty());

    let mut other = web();
    other.services[0].mode = Mode::DsrL2;
    let plan = plan_on(&store, &other, &draining(&[])).unwrap();
    assert_eq!(plan.state.backends.len(), 3);

    let mut overlay = draining(&[]);
    overlay.entry("web", "10.0.0.1").health = Health::Down;
    let (mut store, _) = fresh(&web());
    follow_on(&mut store, &web(), &overlay);
    let plan = follow_on(&mut store, &smaller(), &overlay);
    assert_eq!(plan.state.backends.len(), 2);
}

#[test]
fn nothing_retires_where_there_is_no_room() {
    let mut store = FakeStore::new(4);
    follow_on(&mut store, &web(), &Overlay::default());
    let mut other = web();
    other.services[0].backends[0] = backend("10.0.0.9", 1);
    let plan = follow_on(&mut store, &other, &draining(&[]));
    let ids: BTreeSet<u16> = plan.state.backends.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3]));
    assert!(plan.ids.listener("web").unwrap().retiring.is_empty());
}
