use super::*;
use crate::config::model::Guard;
use crate::kernel::fake::FakeStore;
use crate::kernel::testing::*;
use proxy_common::service::Mode;

/// Two configurations that share some of everything.
fn old_and_new() -> (Config, Config) {
    let mut old = config(
        vec![
            listener("web", "192.0.2.1", 80, "web"),
            listener("gone", "192.0.2.2", 80, "gone"),
            listener("net", "203.0.113.0/24", 0, "web"),
        ],
        vec![
            service("web", Mode::Nat, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            service("gone", Mode::FullNat, &["10.0.1.1", "10.0.1.2"]),
        ],
    );
    old.services[1].source_addresses = vec!["198.51.100.1".parse().unwrap()];
    old.listeners[1].guard.allow = vec!["10.0.0.0/8".parse().unwrap()];

    let mut new = config(
        vec![
            listener("web", "192.0.2.1", 80, "web"),
            listener("came", "192.0.2.3", 443, "came"),
        ],
        vec![
            service(
                "web",
                Mode::Nat,
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"],
            ),
            service("came", Mode::FullNat, &["10.0.2.1"]),
        ],
    );
    new.services[0].ring_size = 127;
    new.services[1].source_addresses = vec![
        "198.51.100.2".parse().unwrap(),
        "198.51.100.3".parse().unwrap(),
    ];
    new.listeners[0].guard = Guard {
        deny: vec!["10.9.0.0/16".parse().unwrap()],
        ..Guard::default()
    };
    (old, new)
}

fn target<'a>(config: &'a Config, overlay: &'a Overlay, host: &'a Host) -> Target<'a> {
    Target {
        config,
        overlay,
        host,
    }
}

/// Fails at every possible edit, checks what is then served, and goes on towards each side.
fn check_every_failure(room: u32) {
    let (old, new) = old_and_new();
    let mut before = FakeStore::new(room);
    try_follow(&mut before, &old).unwrap();
    let mut after = before.clone();
    let total = try_follow(&mut after, &new).unwrap().edits.len();
    assert!(total > 30, "{total}");
    for fails_at in 0..total {
        let mut store = before.clone();
        store.fail_after(fails_at);
        let error = try_follow(&mut store, &new).unwrap_err();
        assert!(matches!(&error, FollowError::Apply(e) if e.done == fails_at && e.total == total));
        store
            .check_invariants()
            .unwrap_or_else(|what| panic!("after {fails_at}: {what}"));
        assert!(store.tables.settings.generation % 2 == u32::from(fails_at > 0) || room < 12);

        for (side, other) in [(&new, &old), (&old, &new)] {
            let mut store = store.clone();
            // Even the way on may be interrupted once more.
            store.fail_after(fails_at / 2);
            let _ = try_follow(&mut store, other);
            store.check_invariants().unwrap();
            store.fail_after = None;
            follow_on(&mut store, side, &Overlay::default());
            let mut fresh = FakeStore::new(room);
            follow_on(&mut fresh, side, &Overlay::default());
            assert_eq!(
                image(&store.state().unwrap()),
                image(&fresh.state().unwrap()),
                "after {fails_at}"
            );
        }
    }
}

#[test]
fn from_every_failure_a_new_plan_leads_on_and_back() {
    check_every_failure(64);
}

#[test]
fn from_every_failure_of_a_plan_in_two_stages_too() {
    check_every_failure(10);
}

#[test]
fn the_ids_that_serve_outlive_a_failure() {
    let (old, new) = old_and_new();
    let mut before = FakeStore::new(64);
    let first = try_follow(&mut before, &old).unwrap();
    let total = try_follow(&mut before.clone(), &new).unwrap().edits.len();
    for fails_at in 0..total {
        let mut store = before.clone();
        store.fail_after(fails_at);
        let _ = try_follow(&mut store, &new);
        let plan = try_follow(&mut store, &new).unwrap();
        assert_eq!(
            plan.ids.listener("web").unwrap().id,
            first.ids.listener("web").unwrap().id
        );
        for backend in ["10.0.0.2", "10.0.0.3"] {
            let id = |ids: &crate::kernel::plan::Ids| {
                let backends = &ids.listener("web").unwrap().backends;
                backends.iter().find(|(name, _)| name == backend).unwrap().1
            };
            assert_eq!(id(&plan.ids), id(&first.ids));
        }
    }
}

#[test]
fn a_failed_replacement_goes_back() {
    let (old, new) = old_and_new();
    let (overlay, host) = (Overlay::default(), host());
    let mut store = FakeStore::new(64);
    try_follow(&mut store, &old).unwrap();
    let before = image(&store.state().unwrap());
    store.fail_after(12);
    let error = replace(
        &mut store,
        &target(&old, &overlay, &host),
        &target(&new, &overlay, &host),
    );
    let error = error.unwrap_err();
    assert!(matches!(error, ReplaceError::WentBack { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().starts_with("12 of "), "{cause}");
    store.check_invariants().unwrap();
    assert_eq!(image(&store.state().unwrap()), before);
}

#[test]
fn a_refused_replacement_changes_nothing() {
    let (old, mut new) = old_and_new();
    let (overlay, host) = (Overlay::default(), host());
    let mut store = FakeStore::new(64);
    try_follow(&mut store, &old).unwrap();
    let before = store.state().unwrap();
    new.listeners[0].service = "nowhere".to_owned();
    let error = replace(
        &mut store,
        &target(&old, &overlay, &host),
        &target(&new, &overlay, &host),
    );
    assert!(matches!(
        error,
        Err(ReplaceError::Refused(FollowError::Plan(_)))
    ));
    assert_eq!(store.state().unwrap(), before);
}

#[test]
fn a_failure_names_how_far_it_came_and_what_failed() {
    let (old, _) = old_and_new();
    let mut store = FakeStore::new(64);
    store.fail_after(3);
    let error = try_follow(&mut store, &old).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(error.to_string().starts_with("3 of "), "{error}");
    assert!(
        source.to_string().starts_with("cannot update map"),
        "{source}"
    );
}
