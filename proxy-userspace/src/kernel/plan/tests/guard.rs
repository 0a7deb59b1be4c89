//! Guard rules of the configuration beside those of operators and policies.

use super::*;
use crate::kernel::plan::guard::{key, scope_of};
use proxy_common::guard::{GuardKey, GuardRule, action, cause, owner};
use proxy_common::service::service_flags;
use proxy_common::settings::settings_flags;

fn guarded(allow: &[&str], deny: &[&str]) -> Config {
    let mut config = web();
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    config.listeners[0].guard.allow = nets(allow);
    config.listeners[0].guard.deny = nets(deny);
    config
}

/// Puts a rule of an operator into the maps.
fn set(
    store: &mut FakeStore,
    scope: u16,
    net: &str,
    action: u8,
    expires_ns: u64,
) -> (u32, GuardKey) {
    let at = key(scope, net.parse().unwrap());
    let rule = GuardRule {
        expires_ns,
        action,
        fallback: action::NONE,
        owner: owner::OPERATOR,
        cause: cause::MANUAL,
        _pad: [0; 4],
    };
    store.tables.guard.insert(at, rule);
    at
}

/// Scope, prefix length in the trie and action of every rule.
fn rules(plan: &Plan) -> Vec<(u16, u32, u8)> {
    let rules = plan.state.guard.iter();
    rules
        .map(|(length, key, rule)| (scope_of(key), *length, rule.action))
        .collect()
}

fn flags(plan: &Plan) -> u32 {
    plan.state.services[0].1.flags
}

#[test]
fn rules_come_before_the_service_that_needs_them_and_go_after_it() {
    let (mut store, first) = fresh(&web());
    let plan = follow_on(
        &mut store,
        &guarded(&["203.0.113.0/24"], &[]),
        &Overlay::default(),
    );
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nguard 1 /152: 1\nservice 1: 251 slots\nsettings: at rest"
    );
    assert_eq!(
        flags(&plan),
        service_flags::GUARDED | service_flags::DEFAULT_DENY
    );
    let generation = |plan: &Plan| plan.state.settings.guard_generation;
    assert_eq!(generation(&plan), generation(&first) + 1);

    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(
        outline(&plan.edits),
        "settings: busy\nservice 1: 251 slots\nno guard 1 /152\nsettings: at rest"
    );
    assert_eq!(flags(&plan), 0);
    assert_eq!(generation(&plan), generation(&first) + 2);
}

#[test]
fn denials_alone_leave_all_others_in() {
    let (_, plan) = fresh(&guarded(&[], &["203.0.113.0/24", "2001:db8:bad::/48"]));
    assert_eq!(flags(&plan), service_flags::GUARDED);
    assert_eq!(
        rules(&plan),
        [(1, 32 + 48, action::DENY), (1, 32 + 96 + 24, action::DENY)]
    );
}

#[test]
fn global_rules_have_scope_zero_and_a_flag() {
    let mut config = web();
    config.guard.deny = vec!["198.51.100.0/24".parse().unwrap()];
    let (mut store, plan) = fresh(&config);
    assert_eq!(rules(&plan), [(0, 152, action::DENY)]);
    assert_eq!(plan.state.settings.flags, settings_flags::GUARD_GLOBAL);
    assert_eq!(flags(&plan), 0);
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    assert_eq!(plan.state.settings.flags, 0);
}

#[test]
fn an_ipv6_prefix_does_not_catch_ipv4_sources() {
    let (_, plan) = fresh(&guarded(&["::/0"], &[]));
    assert_eq!(
        rules(&plan),
        [(1, 32, action::ALLOW), (1, 32 + 96, action::NONE)]
    );
    // A rule for all of IPv4 is not hidden by that.
    let (_, plan) = fresh(&guarded(&["::/0"], &["0.0.0.0/0"]));
    assert_eq!(
        rules(&plan),
        [(1, 32, action::ALLOW), (1, 32 + 96, action::DENY)]
    );
    let (_, plan) = fresh(&guarded(&["2000::/3"], &[]));
    assert_eq!(rules(&plan), [(1, 35, action::ALLOW)]);
}

#[test]
fn a_change_of_backends_alone_does_not_judge_flows_anew() {
    let config = guarded(&["203.0.113.0/24"], &[]);
    let (mut store, before) = fresh(&config);
    let mut overlay = Overlay::default();
    overlay.entry("web", "10.0.0.1").health = Health::Down;
    let after = follow_on(&mut store, &config, &overlay);
    assert_eq!(
        after.state.settings.guard_generation,
        before.state.settings.guard_generation
    );
}

#[test]
fn operators_rules_outlive_a_reload() {
    let (mut store, _) = fresh(&guarded(&[], &["203.0.113.0/24"]));
    let global = set(&mut store, 0, "198.51.100.1/32", action::DENY, 0);
    let scoped = set(&mut store, 1, "198.51.100.2/32", action::DENY, 0);
    let plan = follow_on(&mut store, &web(), &Overlay::default());
    let left: Vec<_> = plan
        .state
        .guard
        .iter()
        .map(|(length, key, _)| (*length, *key))
        .collect();
    assert_eq!(left, [global, scoped]);
    assert_eq!(flags(&plan), service_flags::GUARDED);
    assert_eq!(plan.state.settings.flags, settings_flags::GUARD_GLOBAL);
}

#[test]
fn operators_rules_of_a_listener_go_with_it() {
    let (mut store, _) = fresh(&web());
    set(&mut store, 1, "198.51.100.2/32", action::DENY, 0);
    let mut other = web();
    other.listeners[0].vip = "192.0.2.9/32".parse().unwrap();
    let plan = follow_on(&mut store, &other, &Overlay::default());
    assert_eq!(plan.state.guard, []);
}

#[test]
fn a_configured_rule_yields_to_an_operators_and_comes_back_after_it() {
    let config = guarded(&["203.0.113.0/24"], &[]);
    let (mut store, _) = fresh(&config);
    let at = set(&mut store, 1, "203.0.113.0/24", action::DENY, 500);
    let plan = follow_on(&mut store, &config, &Overlay::default());
    let rule = plan.state.guard[0].2;
    assert_eq!(
        (rule.owner, rule.action, rule.fallback),
        (owner::OPERATOR, action::DENY, action::ALLOW)
    );
    store.tables.guard.remove(&at);
    let plan = follow_on(&mut store, &config, &Overlay::default());
    assert_eq!(plan.state.guard[0].2.owner, owner::CONFIG);
}

#[test]
fn an_expiring_rule_falls_back_to_the_next_shorter_prefix_that_outlives_it() {
    let config = guarded(&["203.0.0.0/16"], &["203.0.113.0/24"]);
    let (mut store, _) = fresh(&config);
    let inner = set(&mut store, 1, "203.0.113.7/32", action::ALLOW, 900);
    let middle = set(&mut store, 1, "203.0.113.0/28", action::ALLOW, 800);
    let outer = set(&mut store, 1, "203.0.113.0/25", action::ALLOW, 1000);
    let alone = set(&mut store, 1, "198.51.100.0/24", action::DENY, 800);
    let other_scope = set(&mut store, 0, "203.0.113.7/32", action::ALLOW, 900);
    let plan = follow_on(&mut store, &config, &Overlay::default());
    let fallback = |at: (u32, GuardKey)| {
        let rule = plan
            .state
            .guard
            .iter()
            .find(|(length, key, _)| (*length, *key) == at);
        rule.unwrap().2.fallback
    };
    // At 900 the /28 has expired, the /25 has not.
    assert_eq!(fallback(inner), action::ALLOW);
    assert_eq!(fallback(middle), action::ALLOW);
    assert_eq!(fallback(outer), action::DENY);
    assert_eq!(fallback(alone), action::NONE);
    assert_eq!(fallback(other_scope), action::NONE);

    // The fallbacks follow the configuration.
    let plan = follow_on(
        &mut store,
        &guarded(&["203.0.0.0/16"], &[]),
        &Overlay::default(),
    );
    let rule = plan
        .state
        .guard
        .iter()
        .find(|(length, key, _)| (*length, *key) == outer);
    assert_eq!(rule.unwrap().2.fallback, action::ALLOW);
}
