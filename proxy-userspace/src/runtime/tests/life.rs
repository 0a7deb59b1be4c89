//! From the start to the stop.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_start_plans_attaches_and_is_ready() {
    let daemon = start(BASE);
    assert_eq!(
        daemon.world.lock().attached.as_deref(),
        Some(&["eth0".to_owned()][..])
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    assert!(daemon.readiness.ready());
    let view = daemon.view().await;
    assert_eq!(view.config.generation, 1);
    assert_eq!(view.interfaces[0].attached, "native");
    let reasons: Vec<&str> = view
        .reasons
        .iter()
        .map(|count| count.reason.as_str())
        .collect();
    assert_eq!(reasons, ["translated"], "reasons never seen are left out");
}

#[tokio::test(start_paused = true)]
async fn a_restart_edits_nothing_that_is_as_it_should_be() {
    let daemon = start(BASE);
    let world = daemon.kill().await;
    let applied = world.lock().store.applied;
    let daemon = start_in(world, BASE, Sick::default());
    assert_eq!(daemon.world.lock().store.applied, applied);
}

#[tokio::test(start_paused = true)]
async fn a_stop_detaches_unless_told_to_keep() {
    let world = start(BASE).stop(true).await;
    assert!(world.lock().attached.is_some());
    let world = start_in(world, BASE, Sick::default()).stop(false).await;
    assert!(world.lock().attached.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stop_delay_is_served_not_ready_and_can_be_cut_short() {
    let delay = Duration::from_secs(10);
    let daemon = start_with(World::new(1024), BASE, Sick::default(), delay);
    let stop = async |daemon: &Daemoned| {
        let request = StopRequest::default();
        daemon
            .handle
            .ask(|reply| Command::Stop(request, reply))
            .await
            .expect("accepted");
    };
    stop(&daemon).await;
    assert!(!daemon.readiness.ready());
    daemon.drain("b2", Some(3.0)).await.expect("still served");
    sleep(Duration::from_secs(9)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert!(daemon.world.lock().attached.is_some());
    sleep(Duration::from_secs(2)).await;
    assert!(daemon.world.lock().attached.is_none());

    let daemon = start_with(World::new(1024), BASE, Sick::default(), delay);
    stop(&daemon).await;
    daemon.hurry.notify_one();
    sleep(Duration::from_millis(1)).await;
    assert!(daemon.world.lock().attached.is_none());
    let again = tokio::time::timeout(Duration::from_millis(1), daemon.hurry.notified());
    assert!(again.await.is_ok(), "who waits next does not wait either");
}
