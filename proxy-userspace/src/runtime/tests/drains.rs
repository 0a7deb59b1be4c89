//! Drains.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline() {
    let daemon = start(BASE);
    daemon.world.lock().live = 3;
    let answer = daemon.drain("b2", Some(10.0)).await.expect("drains");
    assert_eq!((answer.state.as_str(), answer.live_flows), ("draining", 3));
    assert_eq!(answer.drain_remaining_seconds, Some(10.0));
    sleep(Duration::from_millis(9_990)).await;
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_millis(20)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    assert_eq!(daemon.backend("b2").await.why, "drain deadline passed");
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_undrained_backend_is_not_taken_down_by_the_old_deadline() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(10.0)).await.expect("drains");
    assert_eq!(daemon.undrain("b2").await.expect("undrains").state, "up");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_timeout_takes_the_services() {
    let daemon = start(BASE);
    let answer = daemon.drain("b2", None).await.expect("drains");
    assert_eq!(answer.drain_remaining_seconds, Some(30.0));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_refused_with_a_suggestion() {
    let daemon = start(BASE);
    let refusal = daemon
        .drain("b22", None)
        .await
        .expect_err("no such backend");
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    assert!(refusal.message.contains("did you mean `b2`?"), "{refusal}");
    for timeout in [-1.0, f64::NAN, 1e300] {
        let refusal = daemon
            .drain("b2", Some(timeout))
            .await
            .expect_err("no such time");
        assert_eq!(refusal.kind, RefusalKind::Invalid);
    }
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_drain_survives_the_daemon_and_gets_its_time_again() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(10.0)).await.expect("drains");
    sleep(Duration::from_secs(9)).await;
    let world = daemon.kill().await;
    let daemon = start_in(world, BASE, Sick::default());
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(29)).await;
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
}

#[tokio::test(start_paused = true)]
async fn a_backend_removed_by_a_reload_drains() {
    let daemon = start(BASE);
    let fewer = BASE.replace(", {name: b2, address: '10.0.0.2:80'}", "");
    daemon.reload(&fewer).await.expect("valid");
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    let view = daemon.backend("10.0.0.2:80").await;
    assert_eq!(view.why, "removed from the configuration");
    assert!(view.drain_remaining_seconds.is_some_and(|left| left > 29.0));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), None);
    assert_eq!(daemon.view().await.services[0].backends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_outlives_a_reload() {
    let daemon = start(BASE);
    daemon.drain("b2", Some(20.0)).await.expect("drains");
    daemon
        .reload(&BASE.replace("10.0.0.1:80', weight", "x"))
        .await
        .expect("valid");
    assert_eq!(
        daemon.kernel_state("10.0.0.2"),
        Some(BackendState::Draining)
    );
    sleep(Duration::from_secs(21)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
}
