use super::*;
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
    let (mut store, _) = fresh(&web());
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.2").health = Health::Down;
    let plan = follow_on(&mut store, &web(), &overlay);
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nring 1: {1, 3}\nbackend 2: down\nsettings: at rest"
    );
}
