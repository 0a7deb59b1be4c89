//! A socket goes.

use super::GO_ON;
use super::maps::{BACKENDS, OPEN, PEERS, SOCKETS, stored};
use crate::atomic;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SockContext;
use proxy_common::connect::Peer;

/// Forgets what the socket was given. What is stored in it goes with it.
#[inline(always)]
pub fn run(ctx: &SockContext) -> i32 {
    // SAFETY: the context is the socket.
    let Some(peer) = (unsafe { stored(&PEERS, ctx.sock.cast()) }) else {
        return GO_ON;
    };
    // SAFETY: the kernel keeps the storage while the program runs.
    let peer = unsafe { &mut *peer };
    if peer.id != 0 {
        forget(peer);
        peer.id = 0;
        // SAFETY: the context is the kernel's.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
        let _ = SOCKETS.remove(cookie);
    }
    GO_ON
}

/// The backend has a socket less, if it is still the same one.
#[inline(always)]
pub fn forget(peer: &Peer) {
    if peer.id == 0 {
        return;
    }
    let is_same = BACKENDS
        .get(peer.id)
        .is_some_and(|backend| backend.epoch == peer.epoch);
    if is_same && let Some(open) = OPEN.get_ptr_mut(peer.id) {
        // SAFETY: an aligned number of the map's value.
        unsafe { atomic::add((&raw mut (*open).sockets).cast(), -1) };
    }
}
