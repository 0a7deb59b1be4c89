//! The guard: who may reach a service at all, judged before anything else.
//!
//! A rule is a source prefix in a scope (one service, or all). Per scope the longest prefix that
//! matches decides. The service's scope is asked first; only where it has no rule for the source
//! does the global scope decide. A rule may expire: the kernel then uses `fallback`, the action
//! of the next shorter live prefix, which the writer of the rule fills in, because a longest-match
//! trie cannot be asked for its second longest match.

use core::mem::size_of;

/// Data of the key of the `guard_rules` LPM trie: 32 bits of scope, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuardKey {
    /// Service id in network byte order; 0 is the global scope.
    pub scope: [u8; 4],
    /// Source prefix, mapped form for IPv4.
    pub addr: [u8; 16],
    /// Zero; never matched. The trie keeps the value right behind the key, and the value holds a
    /// 64-bit number, so the key must be a multiple of eight octets long.
    pub _pad: [u8; 4],
}

const _: () = assert!(size_of::<GuardKey>() == 4 + 16 + 4);

impl GuardKey {
    /// The key of a source prefix's address in a scope (a service id; 0 is global).
    #[inline(always)]
    pub const fn new(scope: u32, addr: [u8; 16]) -> Self {
        Self {
            scope: scope.to_be_bytes(),
            addr,
            _pad: [0; 4],
        }
    }
}

/// Bits before the address in a [`GuardKey`].
pub const GUARD_FIXED_BITS: u32 = 32;

/// What a rule does. The codes are stored in maps.
pub mod action {
    /// No decision; only as a fallback.
    pub const NONE: u8 = 0;
    /// Let new flows pass.
    pub const ALLOW: u8 = 1;
    /// Drop.
    pub const DENY: u8 = 2;
}

/// Who wrote a rule. Only its owner (or an operator) removes it.
pub mod owner {
    /// The configuration file.
    pub const CONFIG: u8 = 1;
    /// An operator, by command line or admin API.
    pub const OPERATOR: u8 = 2;
    /// A policy of the L7 side.
    pub const POLICY: u8 = 3;
}

/// Why a rule was written; shown to operators and used as a metric label.
pub mod cause {
    /// Configured.
    pub const CONFIGURED: u8 = 1;
    /// Asked for by an operator.
    pub const MANUAL: u8 = 2;
    /// A rate limit was exceeded repeatedly.
    pub const RATE_LIMIT: u8 = 3;
    /// Repeated authentication failures.
    pub const AUTH_FAILURES: u8 = 4;
    /// Protocol abuse.
    pub const PROTOCOL_ABUSE: u8 = 5;
}

/// Value of `guard_rules`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardRule {
    /// Monotonic nanoseconds after which `fallback` holds; 0 never expires.
    pub expires_ns: u64,
    /// One of [`action`].
    pub action: u8,
    /// One of [`action`]: what holds after the expiry.
    pub fallback: u8,
    /// One of [`owner`].
    pub owner: u8,
    /// One of [`cause`].
    pub cause: u8,
    /// Zero.
    pub _pad: [u8; 4],
}

const _: () = assert!(size_of::<GuardRule>() == 8 + 4 + 4);

/// The action that holds at `now_ns`.
#[inline(always)]
pub const fn action_at(rule: &GuardRule, now_ns: u64) -> u8 {
    if rule.expires_ns != 0 && now_ns >= rule.expires_ns {
        rule.fallback
    } else {
        rule.action
    }
}

/// Generic cell rate algorithm (ITU-T I.371): may an event at `now_ns` pass?
///
/// `due_ns` is the theoretical arrival time kept for the source. Returns its new value, or `None`
/// when the event exceeds the rate; then nothing is stored.
#[inline(always)]
pub const fn gcra(due_ns: u64, now_ns: u64, interval_ns: u64, burst_ns: u64) -> Option<u64> {
    let start = if due_ns > now_ns { due_ns } else { now_ns };
    if start - now_ns > burst_ns {
        None
    } else {
        Some(start + interval_ns)
    }
}

crate::map_value!(GuardKey, GuardRule);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_rule_gives_way_to_its_fallback() {
        let rule = GuardRule {
            expires_ns: 100,
            action: action::DENY,
            fallback: action::ALLOW,
            ..GuardRule::default()
        };
        assert_eq!(action_at(&rule, 99), action::DENY);
        assert_eq!(action_at(&rule, 100), action::ALLOW);
        assert_eq!(
            action_at(
                &GuardRule {
                    expires_ns: 0,
                    ..rule
                },
                u64::MAX
            ),
            action::DENY
        );
    }

    #[test]
    fn gcra_lets_the_burst_through_and_then_the_rate() {
        // 10 per second, 3 at once.
        let (interval, burst) = (100, 200);
        let mut due = 0;
        for now in [1_000, 1_000, 1_000] {
            due = gcra(due, now, interval, burst).expect("within the burst");
        }
        assert_eq!(gcra(due, 1_000, interval, burst), None);
        assert_eq!(gcra(due, 1_099, interval, burst), None);
        assert!(gcra(due, 1_100, interval, burst).is_some());
    }
}
