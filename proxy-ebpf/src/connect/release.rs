//! A socket goes.

use super::GO_ON;
use super::given::Socket;
use super::maps::{BACKENDS, OPEN, SOCKETS};
use crate::atomic;
use aya_ebpf::programs::SockContext;
use proxy_common::connect::Peer;

/// Forgets what the socket was given.
#[inline(always)]
pub fn run(ctx: &SockContext) -> i32 {
    let context = ctx.sock.cast();
    // SAFETY: the context is the kernel's.
    let protocol = unsafe { (*ctx.sock).protocol };
    let socket = Socket::new(context, context, protocol);
    if let Some(peer) = socket.given() {
        // SAFETY: what is given to a socket is there while the program runs, and nobody has it any more.
        forget(&socket, unsafe { &mut *peer });
        socket.leave();
    }
    GO_ON
}

/// A socket has nothing of what it was given any more: the backend has a socket less, if it is still
/// the same one, and nobody is to be told.
#[inline(always)]
pub fn forget(socket: &Socket, peer: &mut Peer) {
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
    peer.id = 0;
    // The table is dear, and few are in it.
    if peer.is_told != 0 {
        peer.is_told = 0;
        let _ = SOCKETS.remove(socket.cookie());
    }
}
