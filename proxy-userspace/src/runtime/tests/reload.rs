//! Reloads.

use super::*;
use std::sync::atomic::Ordering::Relaxed;

#[tokio::test(start_paused = true)]
async fn a_reload_says_what_changed() {
    let daemon = start(BASE);
    let answer = daemon
        .reload(&BASE.replace("10.0.0.2:80", "10.0.0.9:80"))
        .await
        .expect("valid");
    assert_eq!(answer.generation, 2);
    assert!(
        answer.changes.iter().any(|change| change.contains("b2")),
        "{:?}",
        answer.changes
    );
    assert_eq!(daemon.kernel_state("10.0.0.9"), Some(BackendState::Up));
    assert_eq!(daemon.counters.reloads_succeeded.load(Relaxed), 1);
    let same = daemon.text.lock().clone();
    let answer = daemon.reload(&same).await.expect("valid");
    assert_eq!((answer.generation, answer.edits), (3, 0));
    assert!(answer.changes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_with_faults_leaves_the_old_configuration_in_force() {
    let daemon = start(BASE);
    let before = daemon.world.lock().store.tables.clone();
    let broken = BASE
        .replace("mode: nat", "mode: gnat")
        .replace("port: 80", "port: 0");
    let refusal = daemon.reload(&broken).await.expect_err("two faults");
    assert_eq!(refusal.details.len(), 2, "{refusal}");
    assert_eq!(daemon.world.lock().store.tables, before);
    let config = daemon.view().await.config;
    assert!(!config.last_reload_successful);
    assert!(config.last_reload_error.expect("told").contains("gnat"));
    assert_eq!(daemon.counters.reloads_failed.load(Relaxed), 1);
    daemon.reload(BASE).await.expect("valid again");
    assert!(daemon.view().await.config.last_reload_successful);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_the_kernel_refuses_is_undone() {
    let daemon = start(BASE);
    let before = daemon.world.lock().store.tables.clone();
    daemon.world.lock().store.fail_after(4);
    let more = BASE.replace("10.0.0.2:80", "10.0.0.3:80");
    let refusal = daemon.reload(&more).await.expect_err("refused");
    assert_eq!(refusal.kind, RefusalKind::Internal);
    assert!(
        refusal.message.contains("the previous one is again"),
        "{refusal}"
    );
    let after = daemon.world.lock().store.tables.clone();
    assert_eq!((after.keys, after.backends), (before.keys, before.backends));
    assert_eq!(daemon.view().await.config.generation, 1);
    daemon
        .reload(&more)
        .await
        .expect("the kernel has recovered");
    assert_eq!(daemon.kernel_state("10.0.0.3"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_reload_to_a_missing_interface_goes_back() {
    let daemon = start(BASE);
    let other = BASE
        .replace("[eth0]", "[eth0, eth7]")
        .replace("10.0.0.2:80", "10.0.0.3:80");
    let refusal = daemon.reload(&other).await.expect_err("no such interface");
    assert!(refusal.message.contains("eth7"), "{refusal}");
    assert_eq!(daemon.kernel_state("10.0.0.2"), Some(BackendState::Up));
    assert_eq!(daemon.kernel_state("10.0.0.3"), None);
    assert_eq!(
        daemon.world.lock().attached.as_deref(),
        Some(&["eth0".to_owned()][..])
    );
    assert!(daemon.readiness.ready());
}

#[tokio::test(start_paused = true)]
async fn new_sizes_mean_new_maps_and_a_failure_keeps_the_old_ones() {
    let daemon = start(BASE);
    let larger = BASE.replace("flow_capacity: 1024", "flow_capacity: 2048");
    daemon
        .reload(&larger.replace("[eth0]", "[eth7]"))
        .await
        .expect_err("no such interface");
    assert!(
        daemon.world.lock().staged.is_none(),
        "the old maps are in use again"
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
    let attachments = daemon.world.lock().attachments;
    daemon.reload(&larger).await.expect("fits");
    assert_eq!(
        daemon.world.lock().attachments,
        attachments + 1,
        "attached to put them in force"
    );
    assert_eq!(daemon.kernel_state("10.0.0.1"), Some(BackendState::Up));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_at_run_time_is_kept_with_a_warning() {
    let daemon = start(BASE);
    let text = format!("{BASE}admin: {{socket: /run/other.sock}}\n");
    let answer = daemon.reload(&text).await.expect("valid");
    assert!(
        answer
            .warnings
            .iter()
            .any(|warning| warning.contains("admin.socket"))
    );
}
