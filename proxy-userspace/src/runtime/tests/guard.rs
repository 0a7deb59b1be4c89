//! Operators' rules.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_guard_rule_expires_and_known_flows_are_judged_anew() {
    let daemon = start(BASE);
    let generation = || daemon.world.lock().store.tables.settings.guard_generation;
    let rules = || daemon.world.lock().store.tables.guard.len();
    let before = generation();
    daemon
        .guard_add("203.0.113.0/24", Some(10.0))
        .await
        .expect("valid");
    assert_eq!(rules(), 1);
    let added = generation();
    assert_ne!(added, before, "known flows are judged once more");
    sleep(Duration::from_secs(12)).await;
    assert_eq!(rules(), 0);
    assert_ne!(generation(), added);
}

#[tokio::test(start_paused = true)]
async fn operators_rules_outlive_reloads_and_restarts() {
    let daemon = start(BASE);
    daemon
        .guard_add("203.0.113.0/24", None)
        .await
        .expect("valid");
    daemon
        .reload(&BASE.replace("10.0.0.2:80", "10.0.0.3:80"))
        .await
        .expect("valid");
    assert_eq!(daemon.world.lock().store.tables.guard.len(), 1);
    let daemon = start_in(daemon.kill().await, BASE, Sick::default());
    let rules = daemon.handle.ask(Command::GuardList).await.expect("listed");
    assert_eq!(rules[0].source, "203.0.113.0/24");
    let request = GuardRequest {
        source: "203.0.113.0/24".to_owned(),
        listener: None,
        action: GuardAction::Deny,
        expires_in_seconds: None,
    };
    let removed = daemon
        .handle
        .ask(|reply| Command::GuardRemove(request, reply))
        .await;
    assert_eq!(removed.expect("removed").owner, "operator");
    assert!(daemon.world.lock().store.tables.guard.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_removed_operators_rule_gives_way_to_the_configured_one() {
    let text = format!("{BASE}guard: {{deny: [203.0.113.0/24]}}\n");
    let daemon = start(&text);
    let request = |action| GuardRequest {
        source: "203.0.113.0/24".to_owned(),
        listener: None,
        action,
        expires_in_seconds: None,
    };
    let allow = request(GuardAction::Allow);
    daemon
        .handle
        .ask(|reply| Command::GuardAdd(allow, reply))
        .await
        .expect("valid");
    let list = async || daemon.handle.ask(Command::GuardList).await.expect("listed");
    assert_eq!(
        (list().await[0].action.as_str(), list().await.len()),
        ("allow", 1)
    );
    let remove = request(GuardAction::Deny);
    daemon
        .handle
        .ask(|reply| Command::GuardRemove(remove, reply))
        .await
        .expect("removed");
    assert_eq!(
        (
            list().await[0].action.as_str(),
            list().await[0].owner.as_str()
        ),
        ("deny", "config")
    );
}
