//! What the kernel refuses, loses or gets otherwise.

use super::*;
use crate::runtime::control::TICK;
use std::sync::atomic::Ordering::Relaxed;

#[tokio::test(start_paused = true)]
async fn the_daemon_catches_up_with_what_the_kernel_refused() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(5.5)).await.expect("drains");
    sleep(Duration::from_millis(5_400)).await;
    daemon.world.lock().store.fail_after(0);
    sleep(Duration::from_millis(150)).await;
    assert!(!daemon.readiness.ready(), "behind");
    assert_eq!(daemon.counters.kernel_errors().get("update"), Some(&1));
    sleep(2 * TICK).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert!(daemon.readiness.ready());
}

#[tokio::test(start_paused = true)]
async fn maps_that_somebody_else_changed_are_repaired() {
    let daemon = start(BASE);
    daemon.world.lock().store.tables.keys.clear();
    sleep(31 * TICK).await;
    assert!(!daemon.world.lock().store.tables.keys.is_empty());
    assert!(daemon.counters.reconciled.load(Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_comes_back_is_attached_again() {
    let daemon = start(BASE);
    daemon.world.lock().present.clear();
    sleep(2 * TICK).await;
    assert!(!daemon.readiness.ready());
    assert_eq!(daemon.view().await.interfaces[0].attached, "detached");
    daemon.world.lock().present = vec![("eth0".to_owned(), 9)];
    sleep(2 * TICK).await;
    assert!(daemon.readiness.ready());
    assert_eq!(daemon.view().await.interfaces[0].index, 9);
}

#[tokio::test(start_paused = true)]
async fn a_cpu_that_comes_online_gets_a_part_of_the_maps() {
    let daemon = start(BASE);
    let attachments = daemon.world.lock().attachments;
    let generation = daemon.view().await.config.generation;
    daemon.world.lock().cpus = 2;
    sleep(2 * TICK).await;
    {
        let world = daemon.world.lock();
        assert_eq!(world.fitted_cpus, 2);
        assert!(world.staged.is_none(), "the new maps are in force");
        assert!(!world.store.tables.keys.is_empty(), "and filled");
        assert_eq!(world.attachments, attachments + 1, "once");
    }
    assert_eq!(
        daemon.view().await.config.generation,
        generation,
        "no reload"
    );
}

#[tokio::test(start_paused = true)]
async fn maps_that_cannot_be_made_are_not_tried_at_every_tick() {
    let daemon = start(BASE);
    {
        let mut world = daemon.world.lock();
        (world.cpus, world.cannot_grow) = (2, true);
    }
    sleep(20 * TICK).await;
    assert_eq!(daemon.counters.kernel_errors().get("refit"), Some(&1));
    daemon.world.lock().cannot_grow = false;
    sleep(20 * TICK).await;
    assert_eq!(daemon.world.lock().fitted_cpus, 2, "it is tried again");
}
