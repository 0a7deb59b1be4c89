//! Health checks: what they change, and how they reach their backends.

use super::*;
use crate::runtime::control::TICK;
use proxy_common::backend::probe_mark;

#[tokio::test(start_paused = true)]
async fn a_drained_backend_stays_down_over_a_restart_although_it_is_healthy() {
    let daemon = start(&checked(BASE));
    sleep(Duration::from_secs(1)).await;
    daemon.drain("b2", Some(5.0)).await.expect("drains");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    let world = daemon.kill().await;
    let daemon = start_in(world, &checked(BASE), Sick::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Down));
    daemon.undrain("b2").await.expect("undrains");
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_sick_backend_goes_down_and_comes_back() {
    let daemon = start(&checked(BASE));
    assert!(!daemon.readiness.ready(), "not before the first probes");
    sleep(Duration::from_millis(500)).await;
    assert!(daemon.readiness.ready());
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    daemon
        .sick
        .0
        .lock()
        .push("10.0.0.1".parse().expect("an address"));
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Down));
    let view = daemon.backend("b1").await;
    assert_eq!(view.why, "health: refused: refused");
    let health = view.health.expect("checked");
    assert_eq!((health.verdict.as_str(), health.transitions), ("down", 2));
    daemon.sick.0.lock().clear();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_adopted_backend_serves_on_before_its_first_probe() {
    let daemon = start(&checked(BASE));
    sleep(Duration::from_secs(1)).await;
    let world = daemon.kill().await;
    let daemon = start_in(world, &checked(BASE), Sick::default());
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    assert!(daemon.readiness.ready());
}

/// [`BASE`] with tunnels, and checks of the backends at `target`.
fn checked_through(target: &str) -> String {
    let text = BASE
        .replace(
            "{interfaces",
            "{tunnel: {source_v4: 10.0.0.254}, interfaces",
        )
        .replace("mode: nat", "mode: dsr-ipip")
        .replace("10.0.0.1:80", "10.0.0.1")
        .replace("10.0.0.2:80", "10.0.0.2");
    format!("{text}    health: {{tcp: {{}}, target: {target}}}\n")
}

#[tokio::test(start_paused = true)]
async fn probes_to_a_vip_carry_their_backends_id() {
    let daemon = start(&checked_through("vip"));
    sleep(Duration::from_secs(1)).await;
    let ids: Vec<u16> = daemon.view().await.services[0]
        .backends
        .iter()
        .map(|backend| backend.ids[0])
        .collect();
    let targets = daemon.sick.1.lock().clone();
    assert!(!targets.is_empty());
    for target in targets {
        assert_eq!(target.address.to_string(), "192.0.2.10:80");
        let mark = target.mark.expect("marked");
        assert!(ids.iter().any(|id| probe_mark(*id) == mark), "{mark:#x}");
    }
}

#[tokio::test(start_paused = true)]
async fn probes_are_aimed_only_while_a_check_targets_a_vip() {
    let daemon = start(&checked_through("backend"));
    assert_eq!(daemon.world.lock().aimed, None);
    let through_vip = checked_through("vip");
    daemon.reload(&through_vip).await.expect("reloaded");
    let on_eth0 = Some(vec!["eth0".to_owned()]);
    assert_eq!(daemon.world.lock().aimed, on_eth0);
    // Somebody removes it.
    daemon.world.lock().aimed = None;
    sleep(TICK * 31).await;
    assert_eq!(daemon.world.lock().aimed, on_eth0);
    let direct = checked_through("backend");
    daemon.reload(&direct).await.expect("reloaded");
    assert_eq!(daemon.world.lock().aimed, None);
}

#[tokio::test(start_paused = true)]
async fn a_reload_whose_probes_cannot_be_aimed_is_refused() {
    let daemon = start(&checked_through("backend"));
    daemon.world.lock().cannot_aim = true;
    let refusal = daemon.reload(&checked_through("vip")).await.unwrap_err();
    assert!(refusal.message.contains("aim health probes"), "{refusal:?}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}
