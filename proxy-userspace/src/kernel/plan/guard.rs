//! The guard's rules: from the configuration, beside those of operators and policies.

use crate::config::model::{Config, Guard};
use ipnet::{IpNet, Ipv6Net};
use proxy_common::addr::Addr;
use proxy_common::guard::{GUARD_FIXED_BITS, GuardKey, GuardRule, action, cause, owner};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

/// Rules by prefix length in the trie and key.
pub type Rules = BTreeMap<(u32, GuardKey), GuardRule>;

/// The scope that stands for all services.
pub const GLOBAL_SCOPE: u16 = 0;

/// The service id of a rule's scope; [`GLOBAL_SCOPE`] for all services.
pub fn scope_of(key: &GuardKey) -> u16 {
    u32::from_be_bytes(key.scope) as u16
}

/// Key and prefix length in the trie for the sources in `net`.
pub fn key(scope: u16, net: IpNet) -> (u32, GuardKey) {
    let mapped = 128 - u32::from(net.max_prefix_len());
    (
        GUARD_FIXED_BITS + mapped + u32::from(net.prefix_len()),
        GuardKey::new(u32::from(scope), Addr::from(net.trunc().addr()).octets),
    )
}

/// The rules that the map should hold, given the ids that listeners already have, and how many
/// more the listeners without one need: those are added by [`place`].
///
/// Rules that are not the configuration's stay, except in the scope of a listener that is gone.
pub(super) fn wanted(config: &Config, ids: &[Option<u16>], held: &Rules) -> (Rules, usize) {
    let mut rules = Rules::new();
    add_configured(&mut rules, GLOBAL_SCOPE, &config.guard);
    let mut unplaced = 0;
    for (listener, id) in config.listeners.iter().zip(ids) {
        match id {
            Some(id) => add_configured(&mut rules, *id, &listener.guard),
            None => {
                let mut own = Rules::new();
                add_configured(&mut own, GLOBAL_SCOPE, &listener.guard);
                unplaced += own.len();
            }
        }
    }
    let mut scopes: BTreeSet<u16> = ids.iter().flatten().copied().collect();
    scopes.insert(GLOBAL_SCOPE);
    merge(&mut rules, held, &scopes);
    (rules, unplaced)
}

/// Adds the rules of the listeners that had no id, now that they have one.
pub(super) fn place(rules: &mut Rules, config: &Config, before: &[Option<u16>], ids: &[u16]) {
    for ((listener, before), &id) in config.listeners.iter().zip(before).zip(ids) {
        if before.is_none() {
            add_configured(rules, id, &listener.guard);
        }
    }
}

/// Adds the rules that a configuration gives for one scope.
///
/// IPv4 sources are held in their mapped form, so an IPv6 prefix as short as `::/0` would catch
/// them too. A rule without a decision then keeps the families apart.
fn add_configured(rules: &mut Rules, scope: u16, guard: &Guard) {
    // Denials come second, so that they win if the same prefix is in both lists.
    let allowed = guard.allow.iter().map(|net| (net, action::ALLOW));
    let denied = guard.deny.iter().map(|net| (net, action::DENY));
    for (net, action) in allowed.chain(denied) {
        rules.insert(key(scope, *net), configured(action));
    }
    if (guard.allow.iter().chain(&guard.deny)).any(covers_mapped) {
        let every_v4 = key(scope, IpNet::V6(MAPPED));
        rules.entry(every_v4).or_insert(configured(action::NONE));
    }
}

/// The IPv4-mapped addresses (RFC 4291 §2.5.5.2).
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// True for an IPv6 prefix that contains every IPv4-mapped address and more.
pub(super) fn covers_mapped(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.prefix_len() < 96 && net.contains(&MAPPED))
}

const fn configured(action: u8) -> GuardRule {
    GuardRule {
        expires_ns: 0,
        action,
        fallback: action::NONE,
        owner: owner::CONFIG,
        cause: cause::CONFIGURED,
        _pad: [0; 4],
    }
}

/// Lays the rules that are not the configuration's over those that are. Of two rules with the
/// same key the configured one yields, and becomes the other's fallback.
fn merge(rules: &mut Rules, held: &Rules, scopes: &BTreeSet<u16>) {
    let mut hidden = Rules::new();
    for (key, rule) in held {
        if rule.owner != owner::CONFIG && scopes.contains(&scope_of(&key.1)) {
            let configured = rules.insert(*key, *rule);
            hidden.extend(configured.map(|rule| (*key, rule)));
        }
    }
    set_fallbacks(rules, &hidden);
}

/// Sets the fallback of each rule that expires: what holds at that time without it.
///
/// That is the action of the next shorter prefix that lives longer. Where this one expires later
/// in its turn, the fallback is stale until the expired rule is removed and planning runs again.
fn set_fallbacks(rules: &mut Rules, hidden: &Rules) {
    if rules.values().all(|rule| rule.expires_ns == 0) {
        return;
    }
    let mut order: Vec<(GuardKey, u32)> =
        rules.keys().map(|&(length, key)| (key, length)).collect();
    order.sort_unstable();
    let mut fallbacks = Vec::new();
    // The prefixes that contain the current one, from the shortest to the longest.
    let mut around: Vec<(u32, GuardKey)> = Vec::new();
    for (key, length) in order {
        while around.last().is_some_and(|outer| !contains(outer, &key)) {
            around.pop();
        }
        let rule = rules[&(length, key)];
        if rule.expires_ns != 0 {
            let hidden = hidden.get(&(length, key));
            let wider = around.iter().rev().map(|outer| &rules[outer]);
            let lasting = (hidden.into_iter().chain(wider))
                .find(|other| other.expires_ns == 0 || other.expires_ns > rule.expires_ns);
            let fallback = lasting.map_or(action::NONE, |other| other.action);
            fallbacks.push(((length, key), fallback));
        }
        around.push((length, key));
    }
    for (key, fallback) in fallbacks {
        if let Some(rule) = rules.get_mut(&key) {
            rule.fallback = fallback;
        }
    }
}

/// True if `key` lies in the prefix `outer`.
fn contains(outer: &(u32, GuardKey), key: &GuardKey) -> bool {
    let &(length, prefix) = outer;
    let bits = length.saturating_sub(GUARD_FIXED_BITS);
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    prefix.scope == key.scope
        && (u128::from_be_bytes(prefix.addr) ^ u128::from_be_bytes(key.addr)) & mask == 0
}
