//! Who may reach a service at all. The rules are told in `proxy_common::guard`.
//!
//! A trie lookup costs as much as the rest of a known flow's way, so a flow is judged when it is
//! new and whenever `Settings::guard_generation` has changed since; the flow's entry remembers
//! under which generation it passed.

use crate::maps::{GUARD_BUDGETS, GUARD_RULES, guard_key};
use proxy_common::addr::Addr;
use proxy_common::guard::{action, action_at, gcra};
use proxy_common::reason::Reason;
use proxy_common::service::{AffinityKey, Service, service_flags};
use proxy_common::settings::{Settings, settings_flags};

/// Flags of a service that rules may concern.
pub const RULES: u32 = service_flags::GUARDED | service_flags::DEFAULT_DENY;

/// True where no rule can concern the service's packets.
#[inline(always)]
pub fn is_open(settings: &Settings, service: &Service) -> bool {
    settings.flags & settings_flags::GUARD_GLOBAL == 0 && service.flags & RULES == 0
}

/// Judges a source. 0 lets it pass, else the reason's code.
#[inline(never)]
pub fn judge(
    settings: &Settings,
    service: &Service,
    scope: u64,
    client: &Addr,
    now_ns: u64,
) -> u64 {
    if service.flags & service_flags::GUARDED != 0 {
        match decide(scope as u32, client, now_ns) {
            action::ALLOW => return 0,
            action::DENY => return Reason::DropDenied as u64,
            _ => {}
        }
    }
    if settings.flags & settings_flags::GUARD_GLOBAL != 0 {
        match decide(0, client, now_ns) {
            action::DENY => return Reason::DropDenied as u64,
            action::ALLOW if service.flags & service_flags::DEFAULT_DENY == 0 => return 0,
            _ => {}
        }
    }
    if service.flags & service_flags::DEFAULT_DENY != 0 {
        return Reason::DropNotAllowed as u64;
    }
    0
}

#[inline(always)]
fn decide(scope: u32, client: &Addr, now_ns: u64) -> u8 {
    GUARD_RULES
        .get(&guard_key(scope, client).0)
        .map_or(action::NONE, |rule| action_at(rule, now_ns))
}

/// Charges a new flow to its source's budget. False if the source has none left.
#[inline(never)]
pub fn charge(service: &Service, scope: u64, client: &Addr, now_ns: u64) -> bool {
    let key = AffinityKey::new(*client, scope as u16);
    let (interval, burst) = (service.budget_interval_ns, service.budget_burst_ns);
    match GUARD_BUDGETS.get_ptr_mut(key) {
        Some(due) => {
            // SAFETY: an aligned word of a map's value. Two CPUs may charge at once and lose one
            // charge: a budget need not be exact.
            let next = gcra(unsafe { due.read() }, now_ns, interval, burst);
            if let Some(next) = next {
                // SAFETY: as above.
                unsafe { due.write(next) };
            }
            next.is_some()
        }
        None => {
            // A full map forgets the source seen longest ago.
            let _ = GUARD_BUDGETS.insert(key, now_ns + interval, 0);
            true
        }
    }
}
