//! Each file tests one promise of planning; this one the order of edits.

mod entries;
mod guard;
mod ids;
mod random;
mod refusals;
mod retire;
mod size;
mod snat;

use super::*;
use crate::kernel::fake::FakeStore;
use crate::kernel::store::MapStore;
use crate::kernel::testing::*;
use proxy_common::service::Mode;

fn web() -> Config {
    config(
        vec![listener("web", "192.0.2.1", 80, "web")],
        vec![service(
            "web",
            Mode::DsrIpip,
            &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        )],
    )
}

/// Lays facts over one backend of `web` and gives the outline of the plan that follows.
fn outline_with(change: impl FnOnce(&mut BackendOverlay)) -> String {
    let (mut store, _) = fresh(&web());
    let mut overlay = Overlay::default();
    change(overlay.entry("web", "10.0.0.2"));
    outline(&follow_on(&mut store, &web(), &overlay).edits)
}

#[test]
fn a_fresh_data_plane_is_filled_before_it_is_addressed() {
    let (_, plan) = fresh(&web());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         filter\n\
         backend 1: up\n\
         backend 2: up\n\
         backend 3: up\n\
         ring 1: {1, 2, 3}\n\
         service 1: 251 slots\n\
         key 192.0.2.1:0: echo#0\n\
         key 192.0.2.1:80: balance#1\n\
         settings: at rest"
    );
}

#[test]
fn an_unchanged_configuration_yields_no_edit() {
    let (store, _) = fresh(&web());
    let plan = plan_on(&store, &web(), &Overlay::default()).unwrap();
    assert_eq!(plan.edits, []);
}

#[test]
fn a_backend_that_fails_leaves_the_ring_before_it_is_down() {
    assert_eq!(
        outline_with(|facts| facts.health = Health::Down),
        "settings: busy\nring 1: {1, 3}\nbackend 2: down\nsettings: at rest"
    );
}

#[test]
fn a_backend_that_recovers_is_up_before_it_enters_the_ring() {
    let (mut store, _) = fresh(&web());
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.2").health = Health::Down;
    follow_on(&mut store, &web(), &overlay);
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nbackend 2: up\nring 1: {1, 2, 3}\nsettings: at rest"
    );
}

#[test]
fn a_draining_backend_leaves_the_ring_and_keeps_its_flows() {
    assert_eq!(
        outline_with(|facts| facts.drain = Drain::Draining),
        "settings: busy\nring 1: {1, 3}\nbackend 2: draining\nsettings: at rest"
    );
}

#[test]
fn a_drain_that_expires_touches_only_the_backend() {
    let (mut store, _) = fresh(&web());
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.2").drain = Drain::Draining;
    follow_on(&mut store, &web(), &overlay);
    overlay.entry("web", "10.0.0.2").drain = Drain::Expired;
    let plan = follow_on(&mut store, &web(), &overlay);
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nbackend 2: down\nsettings: at rest"
    );
}

#[test]
fn a_backend_that_fails_while_it_drains_is_down() {
    let facts = BackendOverlay {
        health: Health::Down,
        drain: Drain::Draining,
        ..BackendOverlay::default()
    };
    assert_eq!(facts.state().name(), "down");
}

#[test]
fn an_ejected_backend_leaves_the_ring_and_keeps_its_flows() {
    assert_eq!(
        outline_with(|facts| facts.ejected = true),
        "settings: busy\nring 1: {1, 3}\nbackend 2: draining\nsettings: at rest"
    );
    let facts = BackendOverlay {
        health: Health::Down,
        ejected: true,
        ..BackendOverlay::default()
    };
    assert_eq!(facts.state().name(), "down");
}

#[test]
fn latency_takes_a_part_of_a_weight_and_moves_nobody_when_it_is_switched_on() {
    let (mut store, _) = fresh(&web());
    let mut weighted = web();
    weighted.services[0].upstream.steer_by_latency =
        Some(crate::config::model::outlier::WeightsByLatency {
            above: 2.0,
            below: 1.5,
            step: 0.1,
            floor: 0.3,
            min_requests: 1,
            network: true,
        });
    let overlay = Overlay::default();
    let on = follow_on(&mut store, &weighted, &overlay);
    let weights = |plan: &Plan| -> Vec<u16> {
        plan.state
            .backends
            .iter()
            .map(|(_, entry)| entry.weight)
            .collect()
    };
    assert_eq!(weights(&on), [100, 100, 100]);
    let ring = |scale: u16| {
        let member = |(last, weight)| crate::balance::maglev::Member {
            addr: proxy_common::addr::Addr::v4([10, 0, 0, last]),
            port: 80,
            weight: weight * scale,
        };
        let members = [(1, 1), (2, 2), (3, 5)].map(member);
        crate::balance::maglev::ring(&members, 4099).unwrap()
    };
    assert_eq!(ring(100), ring(1));
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.2").reduced = 40;
    let slower = follow_on(&mut store, &weighted, &overlay);
    assert_eq!(weights(&slower), [100, 60, 100]);
    // No weight grows too large.
    for backend in &mut weighted.services[0].backends {
        backend.weight = 40_000;
    }
    let heavy = follow_on(&mut store, &weighted, &overlay);
    assert_eq!(weights(&heavy), [40_000, 24_000, 40_000]);
}

#[test]
fn weight_zero_takes_no_new_flows_and_keeps_the_old_ones() {
    assert_eq!(
        outline_with(|facts| facts.weight = Some(0)),
        "settings: busy\nring 1: {1, 3}\nbackend 2: up\nsettings: at rest"
    );
}

#[test]
fn a_changed_weight_touches_only_the_backend_and_the_ring() {
    assert_eq!(
        outline_with(|facts| facts.weight = Some(7)),
        "settings: busy\nbackend 2: up\nring 1: {1, 2, 3}\nsettings: at rest"
    );
}

#[test]
fn without_any_backend_the_service_counts_on_no_slot_before_the_ring_is_cleared() {
    let (mut store, _) = fresh(&web());
    let mut overlay = Overlay::default();
    for name in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        overlay.entry("web", name).health = Health::Down;
    }
    let plan = follow_on(&mut store, &web(), &overlay);
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         service 1: 0 slots\n\
         ring 1: {}\n\
         backend 1: down\n\
         backend 2: down\n\
         backend 3: down\n\
         settings: at rest"
    );
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         backend 1: up\n\
         backend 2: up\n\
         backend 3: up\n\
         ring 1: {1, 2, 3}\n\
         service 1: 251 slots\n\
         settings: at rest"
    );
}

#[test]
fn a_service_may_start_without_backends() {
    let empty = config(
        vec![listener("web", "192.0.2.1", 80, "web")],
        vec![service("web", Mode::Nat, &[])],
    );
    let (_, plan) = fresh(&empty);
    assert!(outline(&plan.edits).contains("service 1: 0 slots\nkey"));
}

#[test]
fn a_ring_never_has_fewer_slots_than_its_service_counts_on() {
    let (mut store, _) = fresh(&web());
    let mut other = web();
    for (size, edits) in [
        (509, "ring 1: {1, 2, 3}\nservice 1: 509 slots"),
        (127, "service 1: 127 slots\nring 1: {1, 2, 3}"),
    ] {
        other.services[0].ring_size = size;
        let plan = follow_on(&mut store, &other, &Overlay::default());
        assert_eq!(
            outline(&plan.edits),
            format!("settings: busy\n{edits}\nsettings: at rest")
        );
    }
}

#[test]
fn a_removed_listener_is_unlinked_then_released() {
    let (mut store, _) = fresh(&web());
    let plan = follow_on(&mut store, &config(vec![], vec![]), &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         no key 192.0.2.1:0\n\
         no key 192.0.2.1:80\n\
         settings: busy\n\
         service 1: 0 slots\n\
         no ring 1\n\
         backend 1: absent\n\
         backend 2: absent\n\
         backend 3: absent\n\
         purge 1\n\
         service 1: empty\n\
         filter\n\
         settings: at rest"
    );
    let flush = &plan.edits[3];
    assert!(
        matches!(flush, MapEdit::Settings(s) if s.generation == 5),
        "{flush:?}"
    );
}

#[test]
fn a_removed_backend_leaves_the_ring_before_its_entry_is_cleared() {
    let (mut store, _) = fresh(&web());
    let mut smaller = web();
    smaller.services[0].backends.remove(0);
    let plan = follow_on(&mut store, &smaller, &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nring 1: {2, 3}\nbackend 1: absent\nsettings: at rest"
    );
}

#[test]
fn a_changed_mode_gets_new_backend_ids() {
    let (mut store, _) = fresh(&web());
    let mut other = web();
    other.services[0].mode = Mode::DsrGue;
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\n\
         backend 4: up\n\
         backend 5: up\n\
         backend 6: up\n\
         service 1: 251 slots\n\
         ring 1: {4, 5, 6}\n\
         backend 1: absent\n\
         backend 2: absent\n\
         backend 3: absent\n\
         settings: at rest"
    );
}

#[test]
fn a_service_that_becomes_local_stops_balancing_first_and_the_other_way_round() {
    let (mut store, _) = fresh(&web());
    let mut local = web();
    local.services[0] = service("web", Mode::Local, &[]);
    let plan = follow_on(&mut store, &local, &Overlay::default());
    let edits = outline(&plan.edits);
    assert!(
        edits.starts_with("settings: busy\nservice 1: 0 slots\nring 1: {}"),
        "{edits}"
    );
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    let edits = outline(&plan.edits);
    assert!(
        edits.ends_with("ring 1: {1, 2, 3}\nservice 1: 251 slots\nsettings: at rest"),
        "{edits}"
    );
}

#[test]
fn changed_settings_alone_are_one_edit() {
    let (mut store, first) = fresh(&web());
    let mut other = web();
    other.data_plane_mut().sample_every = 1000;
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(outline(&plan.edits), "settings: at rest");
    assert_eq!(plan.state.settings.sample_every, 1000);
    assert_eq!(
        plan.state.settings.generation,
        first.state.settings.generation + 2
    );
}

#[test]
fn the_filter_admits_a_new_vip_before_its_key_and_forgets_an_old_one_at_the_end() {
    let (mut store, _) = fresh(&web());
    let mut other = web();
    other.listeners[0].vip = "192.0.2.9/32".parse().unwrap();
    let plan = follow_on(&mut store, &other, &Overlay::default());
    let kinds: Vec<String> = plan.edits.iter().map(brief).collect();
    assert_eq!(kinds[1], "filter");
    assert_eq!(kinds[kinds.len() - 2], "filter");
}

#[test]
fn an_interrupted_plan_makes_the_next_one_send_what_cannot_be_read_back() {
    let (mut store, _) = fresh(&web());
    store.tables.settings.generation |= 1;
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nfilter\nring 1: {1, 2, 3}\nsettings: at rest"
    );
    assert_eq!(
        plan_on(&store, &web(), &Overlay::default()).unwrap().edits,
        []
    );
}

#[test]
fn a_ring_without_entry_that_an_interrupted_plan_left_is_cleared() {
    let mut store = FakeStore::new(64);
    let plan = plan_on(&store, &web(), &Overlay::default()).unwrap();
    let ring = plan
        .edits
        .iter()
        .position(|edit| matches!(edit, MapEdit::Ring(..)))
        .unwrap();
    crate::kernel::apply::apply(&mut store, &plan.edits[..=ring]).unwrap();
    let plan = follow_on(&mut store, &config(vec![], vec![]), &Overlay::default());
    assert!(outline(&plan.edits).contains("no ring 1\nbackend 1: absent"));
    assert!(store.rings.is_empty());
}

#[test]
fn what_is_not_the_plans_is_kept() {
    use proxy_common::settings::settings_flags::CAPTURE;
    let (mut store, _) = fresh(&web());
    store.tables.settings.flags |= CAPTURE;
    store.tables.settings.capture_octets = 96;
    assert_eq!(
        plan_on(&store, &web(), &Overlay::default()).unwrap().edits,
        []
    );
    let mut other = web();
    other.data_plane_mut().sample_every = 5;
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(plan.state.settings.capture_octets, 96);
    assert_ne!(plan.state.settings.flags & CAPTURE, 0);
}

#[test]
fn sizes_and_secrets_of_a_running_table_outlive_the_process_that_drew_them() {
    let (store, _) = fresh(&web());
    let kernel = store.state().unwrap();
    let plan = plan(&Inputs {
        config: &web(),
        overlay: &Overlay::default(),
        kernel: &kernel,
        host: &Host {
            cpus: 64,
            sets_per_cpu: 1,
            secrets: [9; 5],
            ..Host::default()
        },
    });
    assert_eq!(plan.unwrap().edits, []);
    assert_eq!(kernel.settings.secrets, host().secrets);
}
