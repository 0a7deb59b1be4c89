//! What a workload is told of its peer: the VIP that it has dialled.

use super::GO_ON;
use super::call::{Call, Place};
use super::given::Socket;
use super::maps::{PEERS, TALKS, stored};
use proxy_common::connect::{PAIRS, Peer};

/// getpeername().
#[inline(always)]
pub fn peer<const FAMILY: bool>(call: &Call<FAMILY>) -> i32 {
    let socket = Socket::new(call.context(), call.socket(), call.protocol());
    let seen = call.place();
    // SAFETY: what is given to a socket is there while the program runs.
    let given = socket.given().map(|peer| unsafe { &*peer });
    if let Some(vip) = dialled(given, &seen) {
        call.rename(&vip);
    }
    GO_ON
}

/// recvfrom() and the like, of datagrams.
#[inline(always)]
pub fn sender<const FAMILY: bool>(call: &Call<FAMILY>) -> i32 {
    let seen = call.place();
    // SAFETY: the socket is the context's, and the kernel keeps the storage while the program runs.
    let given = unsafe { stored(&PEERS, call.socket()).map(|peer| &*peer) };
    if let Some(vip) = dialled(given, &seen) {
        call.rename(&vip);
        return GO_ON;
    }
    // SAFETY: the socket is the context's, and the kernel keeps the storage while the program runs.
    let Some(talks) = (unsafe { stored(&TALKS, call.socket()).map(|talks| &*talks) }) else {
        return GO_ON;
    };
    for index in 0..PAIRS {
        let pair = &talks.pairs[index];
        if is_from(pair, &seen) {
            call.rename(&vip_of(pair));
            break;
        }
    }
    GO_ON
}

/// What a connected socket has dialled, if this is what it got.
#[inline(always)]
fn dialled(given: Option<&Peer>, seen: &Place) -> Option<Place> {
    let peer = given?;
    is_from(peer, seen).then(|| vip_of(peer))
}

#[inline(always)]
fn is_from(peer: &Peer, seen: &Place) -> bool {
    peer.id != 0 && peer.backend == seen.addr && peer.backend_port_be == seen.port_be
}

#[inline(always)]
fn vip_of(peer: &Peer) -> Place {
    Place {
        addr: peer.vip,
        port_be: peer.vip_port_be,
    }
}
