//! Balancing at connect(): a socket that dials a VIP is given a backend before its first packet, so
//! that nothing has to be done for each packet. See `proxy_common::connect`.
//!
//! [`dial`] is asked by connect(), [`talk`] by each datagram of a socket that is not connected; both
//! [`find`] the service and [`choose`] a backend, and write down what they gave ([`given`]), so that
//! [`name`] can tell the workload the VIP where it would see the backend. [`release`] forgets it.
//! [`watch`] adds up what TCP counts of such sockets.
//!
//! A program is asked once for a call, and what it writes is not looked at again: a backend whose
//! address is a VIP is dialled as it is. So there are no loops.

pub mod call;
mod choose;
pub mod dial;
mod find;
mod given;
mod maps;
pub mod name;
pub mod release;
pub mod talk;
pub mod watch;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use maps::{OWNERS, SERVICE_STATS, STATE};
use proxy_common::connect::{Owners, ServiceStats, State, TICK_SHIFT};

/// The call goes on.
pub const GO_ON: i32 = 1;
/// The call fails.
pub const FAIL: i32 = 0;

/// `ECONNREFUSED`.
const REFUSED: i32 = 111;

/// TCP.
const TCP: u32 = 6;
/// UDP.
const UDP: u32 = 17;

/// What the kernel is told, 0 or 1. The compiler may keep it in memory for a while, from which the verifier
/// takes any number (6.18); so the end says again that there is only one bit.
#[inline(always)]
pub fn verdict(goes_on: i32) -> i32 {
    let mut verdict = goes_on as u64;
    // SAFETY: an and with a constant.
    unsafe { core::arch::asm!("{0} &= 1", inout(reg) verdict, options(pure, nomem, nostack)) };
    verdict as i32
}

/// True for the sockets of the daemon, which are left alone.
#[inline(always)]
fn is_ours(owners: &Owners) -> bool {
    let process = this_process();
    owners.processes.contains(&process)
}

/// The process that makes the call, as the kernel's first namespace numbers it.
#[inline(always)]
fn this_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The time in ticks.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { aya_ebpf::helpers::bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

#[inline(always)]
fn count(service: u32, add: impl FnOnce(&mut ServiceStats)) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: the element belongs to this CPU, and no other reference to it is held.
        add(unsafe { &mut *stats });
    }
}

#[inline(always)]
fn state() -> Option<(&'static State, &'static Owners)> {
    STATE.get(0).zip(OWNERS.get(0))
}
