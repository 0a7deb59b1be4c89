//! What a process takes over from an earlier one: who is condemned, and an operator's rules where no
//! map keeps them.

use super::super::control::Control;
use super::super::guard;
use super::super::plane::Plane;
use super::super::upgrade::State;
use crate::condemn::{Offence, Sentence};
use crate::kernel::plan::guard::{self as rules, GLOBAL_SCOPE};
use proxy_common::guard::{GuardRule, action, cause, owner};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// A rule of an operator, for a successor that has no kernel part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarriedRule {
    source: String,
    allows: bool,
    /// Milliseconds until it ends; `None` for never.
    left_ms: Option<u64>,
}

impl<P: Plane> Control<P> {
    /// Goes on with what an earlier process knew: it has told, or its rules tell.
    pub(in crate::runtime) fn inherit_condemned(&mut self, state: Option<&State>) {
        let now = self.plane.now_ns();
        let most = self.config.condemn.as_ref().map_or(0, |it| it.max_entries);
        if let Some(state) = state {
            self.condemned.inherit(&state.condemned, now, most);
            self.inherit_rules(&state.rules);
        }
        for (length, key, rule) in &self.kernel.guard {
            let is_ours = rule.owner == owner::POLICY && rules::scope_of(key) == GLOBAL_SCOPE;
            if let (true, Some(source)) = (is_ours, guard::net(*length, key)) {
                let sentence = Sentence {
                    offence: Offence::Malformed,
                    times: 1,
                    until: rule.expires_ns,
                };
                self.condemned.adopt(source, sentence, most);
            }
        }
        self.condemn_as_configured();
        self.look_after_condemned();
    }

    /// An operator's rules for all listeners that no map keeps.
    pub(in crate::runtime) fn carried_rules(&self) -> Vec<CarriedRule> {
        if self.has_plane() {
            return Vec::new();
        }
        let now = self.plane.now_ns();
        let rules = self.kernel.guard.iter();
        let operators = rules.filter(|(_, key, rule)| {
            rule.owner == owner::OPERATOR && rules::scope_of(key) == GLOBAL_SCOPE
        });
        let carried = operators.filter_map(|(length, key, rule)| {
            let left = rule.expires_ns.saturating_sub(now);
            Some(CarriedRule {
                source: guard::net(*length, key)?.to_string(),
                allows: rule.action == action::ALLOW,
                left_ms: (rule.expires_ns != 0).then_some(left / 1_000_000),
            })
        });
        carried.collect()
    }

    /// Keeps an operator's rules for all listeners beside what a plan has led to.
    pub(in crate::runtime) fn keep_rules(&mut self, before: Vec<guard::Entry>) {
        for (length, key, rule) in before {
            let is_held = self
                .kernel
                .guard
                .iter()
                .any(|(l, k, _)| (*l, *k) == (length, key));
            let is_ours = rule.owner == owner::OPERATOR && rules::scope_of(&key) == GLOBAL_SCOPE;
            if is_ours && !is_held {
                self.kernel.guard.push((length, key, rule));
            }
        }
    }

    /// Puts such rules in force.
    pub(in crate::runtime) fn inherit_rules(&mut self, carried: &[CarriedRule]) {
        let now = self.plane.now_ns();
        let entries = carried.iter().filter_map(|it| {
            let (length, key) = rules::key(GLOBAL_SCOPE, it.source.parse().ok()?);
            let left = |ms: u64| now.saturating_add(ms.saturating_mul(1_000_000)).max(1);
            let rule = GuardRule {
                expires_ns: it.left_ms.map_or(0, left),
                action: if it.allows {
                    action::ALLOW
                } else {
                    action::DENY
                },
                owner: owner::OPERATOR,
                cause: cause::MANUAL,
                ..GuardRule::default()
            };
            Some((length, key, rule))
        });
        let entries: Vec<_> = entries.collect();
        if !entries.is_empty()
            && let Err(refusal) = self.write_guard(&entries)
        {
            warn!("rules of the earlier process are not in force: {refusal}");
        }
    }
}
