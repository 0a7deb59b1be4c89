//! Counters. Each is an array element of this CPU: one lookup that the JIT inlines, one addition.

use crate::atomic;
use crate::maps::{BACKEND_STATS, LIVE_FLOWS, REASONS, SERVICE_STATS};
use crate::verdict::Verdict;
use proxy_common::reason::{REASON_SLOTS, Reason};
use proxy_common::stats::{BackendStats, ServiceStats};

/// Counts a packet's verdict by its reason.
#[inline(always)]
pub fn count(verdict: Verdict) {
    count_code(verdict.reason);
}

/// Counts one packet for a reason that needs no verdict.
#[inline(always)]
pub fn count_reason(reason: Reason) {
    count_code(reason as u16);
}

#[inline(always)]
fn count_code(reason: u16) {
    if let Some(slot) = REASONS.get_ptr_mut(u32::from(reason) & (REASON_SLOTS - 1)) {
        // SAFETY: the element belongs to this CPU.
        unsafe { *slot += 1 };
    }
}

/// Counts a dropped packet of a service and gives the verdict.
#[inline(always)]
pub fn refuse(reason: Reason, service: u16) -> Verdict {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(u32::from(service)) {
        // SAFETY: the element belongs to this CPU.
        unsafe { (*stats).dropped += 1 };
    }
    Verdict::of(reason).for_service(service)
}

/// This CPU's counters of a backend.
#[inline(always)]
pub fn backend(id: u16) -> Option<&'static mut BackendStats> {
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    BACKEND_STATS
        .get_ptr_mut(u32::from(id))
        .map(|p| unsafe { &mut *p })
}

/// This CPU's counters of a service.
#[inline(always)]
pub fn service(id: u16) -> Option<&'static mut ServiceStats> {
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    SERVICE_STATS
        .get_ptr_mut(u32::from(id))
        .map(|p| unsafe { &mut *p })
}

/// Live flows of a backend.
#[inline(always)]
pub fn live(id: u16) -> i64 {
    LIVE_FLOWS.get(u32::from(id)).map_or(0, |live| live.count)
}

/// Changes the live flows of a backend, which all CPUs and user space share.
#[inline(always)]
pub fn add_live(id: u16, change: i64) {
    if let Some(live) = LIVE_FLOWS.get_ptr_mut(u32::from(id)) {
        // SAFETY: the element is aligned to eight octets and only changed atomically.
        unsafe { atomic::add(&raw mut (*live).count, change) };
    }
}
