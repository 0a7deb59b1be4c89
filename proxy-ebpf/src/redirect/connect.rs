//! Where a workload's connection goes.
//!
//! Whoever has been found to be excluded, by any rule, is let pass; only then does it matter
//! whether the daemon listens. So an exclusion holds while the daemon is down, too.

use super::maps::{ORIGINS, SETS, STATE, USERS, has_listener};
use super::rules::{count, is_address_in, is_let_pass, is_port_in};
use super::who::{chosen, is_daemon};
use super::{address, port, set_address, word};
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_get_netns_cookie, bpf_set_retval,
};
use core::ffi::c_void;
use core::mem::offset_of;
use proxy_common::addr::Addr;
use proxy_common::redirect::{MeshSet, OUTBOUND, Origin, UserKey, set_flag};

/// What the kernel takes for "go on".
const GO: i32 = 1;
/// What it takes for "fail".
const FAIL: i32 = 0;
/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;
/// What a connection is refused by: as if nobody listened where it was to go.
const ECONNREFUSED: i32 = 111;

/// Judges one connect(). `V6`: of a socket of IPv6.
#[inline(always)]
pub fn run<const V6: bool>(ctx: *mut bpf_sock_addr) -> i32 {
    if word(ctx, offset_of!(bpf_sock_addr, type_)) != STREAM
        || word(ctx, offset_of!(bpf_sock_addr, protocol)) != TCP
    {
        return GO;
    }
    // SAFETY: the kernel gives a valid context.
    let sk: *mut c_void = unsafe { (*ctx).__bindgen_anon_1.sk }.cast();
    if sk.is_null() {
        return GO;
    }
    match judge::<V6>(ctx, sk) {
        Verdict::Redirected => GO,
        // By the program at an inner cgroup, which has left its notes in the socket.
        Verdict::Ours => GO,
        Verdict::Passed => {
            forget(sk);
            GO
        }
        Verdict::Refused => {
            forget(sk);
            // SAFETY: a plain call.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            FAIL
        }
    }
}

/// What becomes of a connection.
enum Verdict {
    /// It goes to the listener.
    Redirected,
    /// It goes there already.
    Ours,
    /// It goes where it was to go.
    Passed,
    /// It goes nowhere.
    Refused,
}

/// Forgets what was noted of an earlier connection of the socket, which failed.
#[inline(always)]
fn forget(sk: *mut c_void) {
    // SAFETY: the verifier knows the socket.
    if let Some(origin) = unsafe { ORIGINS.get(sk) } {
        // SAFETY: the value is the socket's own, and connects of a socket come one by one.
        unsafe { (*origin).cgroup = 0 };
    }
}

#[inline(always)]
fn judge<const V6: bool>(ctx: *mut bpf_sock_addr, sk: *mut c_void) -> Verdict {
    let Some(state) = STATE.get(0) else {
        return Verdict::Passed;
    };
    let destination = Destination {
        addr: address::<V6>(ctx),
        port: port(ctx),
    };
    let family = if destination.addr.is_v4() { 4 } else { 6 };
    let (Some((_, set)), false) = (chosen(family, OUTBOUND), is_daemon(state)) else {
        return Verdict::Passed;
    };
    let Some(settings) = SETS.get(set) else {
        return Verdict::Passed;
    };
    if settings.flags & set_flag::USED == 0 {
        return Verdict::Passed;
    }
    if destination.is_listener(settings) {
        return Verdict::Ours;
    }
    if !is_in(set, settings, &destination) {
        count(set, |stats| stats.excluded += 1);
        return Verdict::Passed;
    }
    // SAFETY: the kernel gives a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.cast()) };
    let listener = if netns == state.netns {
        settings.local
    } else {
        settings.reach
    };
    if listener == Addr::UNSPECIFIED {
        count(set, |stats| stats.unreachable += 1);
        return without_listener(set, settings);
    }
    if !has_listener(set) {
        return without_listener(set, settings);
    }
    if note(sk, set, &destination, netns).is_none() {
        count(set, |stats| stats.full += 1);
        return without_listener(set, settings);
    }
    set_address::<V6>(ctx, &listener, settings.port);
    count(set, |stats| stats.redirected += 1);
    Verdict::Redirected
}

/// Notes in the socket where it was to go, and whose it is.
#[inline(always)]
fn note(sk: *mut c_void, set: u32, destination: &Destination, netns: u64) -> Option<()> {
    // SAFETY: the verifier knows the socket.
    let origin = unsafe { ORIGINS.get_or_make(sk) }?;
    // SAFETY: the value is the socket's own, and connects of a socket come one by one.
    unsafe {
        *origin = Origin {
            addr: destination.addr,
            cgroup: bpf_get_current_cgroup_id(),
            netns,
            port: destination.port,
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            user: bpf_get_current_uid_gid() as u32,
            set,
        };
    }
    Some(())
}

/// What becomes of a connection that should be redirected and cannot be.
#[inline(always)]
fn without_listener(set: u32, settings: &MeshSet) -> Verdict {
    match is_let_pass(set, settings) {
        true => Verdict::Passed,
        false => Verdict::Refused,
    }
}

/// Where a connection is to go.
struct Destination {
    addr: Addr,
    port: u32,
}

impl Destination {
    /// True if it goes to the listener already.
    #[inline(always)]
    fn is_listener(&self, settings: &MeshSet) -> bool {
        self.port == settings.port && (self.addr == settings.local || self.addr == settings.reach)
    }
}

/// True if the rules of the set want it.
#[inline(always)]
fn is_in(set: u32, settings: &MeshSet, destination: &Destination) -> bool {
    // SAFETY: a plain call.
    let user = unsafe { bpf_get_current_uid_gid() } as u32;
    // SAFETY: the value is a word, which is copied.
    let of_user = unsafe { USERS.get(UserKey { set, user }) }.copied();
    let by_user = of_user.unwrap_or(u32::from(settings.flags & set_flag::ONLY_USERS == 0));
    by_user != 0
        && is_address_in(set, settings, &destination.addr)
        && is_port_in(settings, destination.port)
}
