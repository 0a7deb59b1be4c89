//! What TCP knows of a socket that was given a backend, added up per backend.
//!
//! TCP counts by itself, from a connection's beginning; so nothing is done per packet. A socket is
//! looked at when its connection opens and when it ends ([`run`], by events of the socket), so that the
//! shortest one is not missed, and as long as it is open whenever user space has the sockets gone
//! through ([`look_at`], an iterator over their storage: it finds them in every network namespace).
//! Only the second sees that the other end takes nothing, for which the kernel has no event.
//!
//! Both may look at one socket at the same moment. Each takes what has come since the last look by an
//! atomic exchange, so that nothing is counted twice.

use super::given::Socket;
use super::maps::{BACKENDS, FACTS, LAYOUT, SEEN, store, stored};
use super::{TCP, count};
use crate::atomic;
use crate::connect::choose;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_sock_ops_cb_flags_set,
};
use core::ffi::c_void;
use core::mem::offset_of;
use proxy_common::connect::{Facts, Layout, Seen, flag};

/// What the kernel takes for "go on".
const DONE: u32 = 1;

/// States of a TCP socket (include/net/tcp_states.h).
mod state {
    pub(super) const ESTABLISHED: u32 = 1;
    pub(super) const CLOSE: u32 = 7;
}

/// True for errors of a connection that could not be opened which say something about the other end or
/// the way there: `ENETUNREACH`, `ECONNRESET`, `ETIMEDOUT`, `ECONNREFUSED`, `EHOSTUNREACH`.
#[inline(always)]
const fn is_failure(error: u32) -> bool {
    // No array of them: that would be a map of its own.
    error == 101 || error == 104 || error == 110 || error == 111 || error == 113
}

/// An element of the storage of sockets, as an iterator is given it.
#[repr(C)]
pub struct Element {
    meta: *mut c_void,
    map: *mut c_void,
    sk: *mut c_void,
    seen: *mut Seen,
}

/// Runs on each event of a TCP socket.
#[inline(always)]
pub fn run(ops: *mut bpf_sock_ops) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let op = unsafe { (*ops).op };
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        dials(ops);
    } else if op == BPF_SOCK_OPS_STATE_CB {
        moves(ops);
    }
    DONE
}

/// A socket dials: it is watched, if it was given a backend of a service that asks for it.
#[inline(always)]
fn dials(ops: *mut bpf_sock_ops) -> Option<()> {
    let sk = socket(ops)?;
    // An earlier connection of the socket has nothing to do with this one.
    // SAFETY: the verifier knows the socket.
    if let Some(seen) = unsafe { stored(&SEEN, sk) } {
        // SAFETY: the kernel keeps the storage while the program runs.
        unsafe { (*seen).id = 0 };
    }
    let dialling = Socket::new(ops.cast(), sk, TCP);
    let peer = dialling.given()?;
    // SAFETY: as above, and the socket is locked.
    let (id, epoch) = unsafe { ((*peer).id, (*peer).epoch) };
    if id == 0 || LAYOUT.get(0)?.is_known == 0 {
        return None;
    }
    let service = u32::from(BACKENDS.get(id)?.service);
    if choose::header(service)?.flags & flag::WATCH == 0 {
        return None;
    }
    // SAFETY: the verifier knows the socket.
    let Some(seen) = (unsafe { store(&SEEN, sk) }) else {
        count(service, |stats| stats.unrecorded += 1);
        return None;
    };
    // SAFETY: the kernel keeps the storage while the program runs, and the socket is locked. Its
    // counts start from zero, also if it has dialled before.
    unsafe {
        *seen = Seen {
            sock: sk as u64,
            dialled: bpf_ktime_get_ns(),
            id,
            epoch,
            ..Seen::default()
        };
        let flags = (*ops).bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags as i32);
    }
    // The SYN, which the kernel does not count among segments.
    add(facts(id, epoch)?, offset_of!(Facts, segments), 1);
    Some(())
}

/// A socket's connection opens or ends.
#[inline(always)]
fn moves(ops: *mut bpf_sock_ops) -> Option<()> {
    // SAFETY: the kernel passes a valid context.
    let next = unsafe { (&raw const (*ops).__bindgen_anon_1.args[1]).read_volatile() };
    if next != state::ESTABLISHED && next != state::CLOSE {
        return None;
    }
    let sk = socket(ops)?;
    // SAFETY: the verifier knows the socket.
    let seen = unsafe { stored(&SEEN, sk) }?;
    // SAFETY: the kernel keeps the storage while the program runs.
    let (id, epoch, was_open) = unsafe { ((*seen).id, (*seen).epoch, (*seen).is_open != 0) };
    if id == 0 {
        return None;
    }
    let facts = facts(id, epoch)?;
    let layout = LAYOUT.get(0)?;
    look(seen, facts, layout);
    if next == state::CLOSE {
        if !was_open && has_failed(seen, layout) {
            add(facts, offset_of!(Facts, failed), 1);
        }
        // SAFETY: as above.
        unsafe { (*seen).id = 0 };
        return None;
    }
    // SAFETY: as above.
    let took = unsafe {
        (*seen).is_open = 1;
        bpf_ktime_get_ns().wrapping_sub((*seen).dialled)
    };
    add(facts, offset_of!(Facts, opened), 1);
    add(facts, offset_of!(Facts, opening_ns), took);
    Some(())
}

/// A socket whose turn it is.
#[inline(always)]
pub fn look_at(element: *const Element) -> i32 {
    // SAFETY: the kernel passes a valid context; the last call has no element.
    let (sk, seen) = unsafe { ((*element).sk, (*element).seen) };
    if sk.is_null() || seen.is_null() {
        return 0;
    }
    // SAFETY: the kernel keeps the element while the program runs.
    let (id, epoch) = unsafe { ((*seen).id, (*seen).epoch) };
    if id != 0
        && let Some(facts) = facts(id, epoch)
        && let Some(layout) = LAYOUT.get(0)
    {
        look(seen, facts, layout);
    }
    0
}

/// Adds what has come since the last look.
#[inline(always)]
fn look(seen: *mut Seen, facts: *mut Facts, layout: &Layout) -> Option<()> {
    // SAFETY: the caller's element is there while the program runs. What is read from a map is a
    // number to the verifier, to which offsets may be added.
    let (sock, is_open) = unsafe {
        (
            (&raw const (*seen).sock).read_volatile(),
            (*seen).is_open != 0,
        )
    };
    let sent = read(sock, layout.segments)?;
    let again = read(sock, layout.retransmits)?;
    let delivered = read(sock, layout.delivered)?;
    let disordered = read(sock, layout.disordered)?;
    let round_trip = read(sock, layout.round_trip)? >> 3;
    let waits = read(sock, layout.written)? != read(sock, layout.acknowledged)?;
    let window = read(sock, layout.window)?;
    // SAFETY: aligned numbers of the element.
    let (sent, again, delivered, disordered) = unsafe {
        (
            since(&raw mut (*seen).segments, sent),
            since(&raw mut (*seen).retransmits, again),
            since(&raw mut (*seen).delivered, delivered),
            since(&raw mut (*seen).disordered, disordered),
        )
    };
    // SYNs sent again are not among the segments.
    let sent = if is_open { sent } else { sent + again };
    let is_timed = is_open && delivered != 0 && round_trip > 0;
    let is_waiting = is_open && waits;
    add(facts, offset_of!(Facts, segments), sent);
    add(facts, offset_of!(Facts, retransmits), again);
    add(facts, offset_of!(Facts, disordered), disordered);
    if is_timed || sent > 0 || is_waiting {
        add(facts, offset_of!(Facts, looks), 1);
    }
    if is_waiting && window == 0 {
        add(facts, offset_of!(Facts, zero_windows), 1);
    }
    if is_timed {
        let round_trip = u64::from(round_trip);
        add(facts, offset_of!(Facts, timed), 1);
        add(facts, offset_of!(Facts, round_trips_us), round_trip);
    }
    Some(())
}

/// What a count has gained since it was last looked at.
///
/// # Safety
///
/// As [`atomic::swap`].
#[inline(always)]
unsafe fn since(last: *mut u32, now: u32) -> u64 {
    // SAFETY: the caller's promise.
    let before = unsafe { atomic::swap(last, now) };
    let more = now.wrapping_sub(before);
    // Somebody may have looked later and been faster.
    if more > u32::MAX / 2 {
        0
    } else {
        u64::from(more)
    }
}

/// True if a connection that was not opened speaks against the backend. The workload may have closed
/// it without waiting; but where the SYN had to be sent again, it has waited.
#[inline(always)]
fn has_failed(seen: *mut Seen, layout: &Layout) -> bool {
    // SAFETY: as in `look`.
    let (sock, retransmits) = unsafe {
        (
            (&raw const (*seen).sock).read_volatile(),
            (*seen).retransmits,
        )
    };
    match read(sock, layout.error) {
        Some(0) | None => retransmits > 0,
        Some(error) => is_failure(error),
    }
}

/// Where what is seen of a backend is added up, if it is still the same one.
#[inline(always)]
fn facts(id: u32, epoch: u32) -> Option<*mut Facts> {
    if BACKENDS.get(id)?.epoch != epoch {
        return None;
    }
    FACTS.get_ptr_mut(id)
}

#[inline(always)]
fn add(facts: *mut Facts, count: usize, more: u64) {
    if more > 0 {
        // SAFETY: an aligned number of the map's value.
        unsafe { atomic::add(facts.byte_add(count).cast(), more as i64) };
    }
}

#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<*mut c_void> {
    // SAFETY: the kernel passes a valid context.
    let sk: *mut c_void = unsafe { (*ops).__bindgen_anon_2.sk }.cast();
    (!sk.is_null()).then_some(sk)
}

/// A word of a kernel's socket.
#[inline(always)]
fn read(sock: u64, offset: u32) -> Option<u32> {
    let mut value = 0u32;
    let from = (sock + u64::from(offset)) as *const c_void;
    // SAFETY: the helper checks the address.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, from) };
    (failed == 0).then_some(value)
}
