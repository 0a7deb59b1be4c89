//! connect(): of a TCP socket, and of a UDP socket that is to talk to one peer only.

use super::call::{Call, Place, V6};
use super::choose::{self, Chosen};
use super::given::Socket;
use super::maps::{OPEN, OWNERS, SOCKETS};
use super::release::forget;
use super::{FAIL, GO_ON, REFUSED, TCP, UDP, count, find, is_ours, state, this_process};
use crate::atomic;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use proxy_common::connect::{Header, Owners, Peer, Told, flag};

/// Judges one call.
#[inline(always)]
pub fn run<const FAMILY: bool>(call: &Call<FAMILY>) -> i32 {
    let protocol = call.protocol();
    if protocol != TCP && protocol != UDP {
        return GO_ON;
    }
    let Some((state, owners)) = state() else {
        return GO_ON;
    };
    if owners.introduction != 0 {
        introduce(call, owners);
    }
    if is_ours(owners) {
        return GO_ON;
    }
    let socket = Socket::new(call.context(), call.socket(), protocol);
    let dialled = call.place();
    let Some(service) = find::service(state, &dialled, protocol as u8) else {
        disown(&socket);
        return GO_ON;
    };
    let Some(header) = choose::header(service) else {
        disown(&socket);
        return GO_ON;
    };
    match choose::backend(service, &header, &dialled) {
        Some(chosen) => {
            count(service, |stats| stats.connected += 1);
            record(call, &socket, protocol, service, &header, &dialled, &chosen);
            call.rename(&chosen.place);
            GO_ON
        }
        None => {
            disown(&socket);
            without_backend(service, &header)
        }
    }
}

/// What becomes of a call for which there is no backend.
#[inline(always)]
pub fn without_backend(service: u32, header: &Header) -> i32 {
    if header.flags & flag::PASS != 0 {
        count(service, |stats| stats.passed += 1);
        return GO_ON;
    }
    count(service, |stats| stats.refused += 1);
    // The workload would be told that it is not permitted.
    // SAFETY: a number.
    unsafe { bpf_set_retval(-REFUSED) };
    FAIL
}

/// The process is the daemon, or its successor: its sockets are left alone. It has told the cookie of
/// the socket, and nobody else has that socket.
#[inline(always)]
fn introduce<const FAMILY: bool>(call: &Call<FAMILY>, owners: &Owners) {
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(call.context()) };
    if cookie != owners.introduction {
        return;
    }
    if let Some(owners) = OWNERS.get_ptr_mut(0) {
        // SAFETY: user space waits for this call to end before it writes again.
        unsafe { (*owners).processes[0] = this_process() };
    }
}

/// Whatever an earlier connect() has given to the socket holds no more.
#[inline(always)]
fn disown(socket: &Socket) {
    if let Some(peer) = socket.given() {
        // SAFETY: what is given to a socket is there while the program runs, and calls of a socket come
        // one by one.
        forget(socket, unsafe { &mut *peer });
    }
}

/// Writes down what the socket is given.
#[inline(always)]
fn record<const FAMILY: bool>(
    call: &Call<FAMILY>,
    socket: &Socket,
    protocol: u32,
    service: u32,
    header: &Header,
    dialled: &Place,
    chosen: &Chosen,
) {
    let Some(given) = socket.room() else {
        count(service, |stats| stats.unrecorded += 1);
        return;
    };
    // SAFETY: as in `disown`.
    let given = unsafe { &mut *given };
    forget(socket, given);
    *given = peer(dialled, chosen);
    if let Some(open) = OPEN.get_ptr_mut(chosen.id) {
        // SAFETY: an aligned number of the map's value.
        unsafe { atomic::add((&raw mut (*open).sockets).cast(), 1) };
    }
    if header.flags & flag::TELL != 0 {
        match tell(call, socket, protocol, chosen) {
            true => given.is_told = 1,
            false => count(service, |stats| stats.unrecorded += 1),
        }
    }
}

/// Has the socket told when its backend goes away; false if there is no room.
#[inline(always)]
fn tell<const FAMILY: bool>(
    call: &Call<FAMILY>,
    socket: &Socket,
    protocol: u32,
    chosen: &Chosen,
) -> bool {
    let told = Told {
        // SAFETY: the context is the kernel's.
        netns: unsafe { bpf_get_netns_cookie(call.context()) },
        id: chosen.id,
        epoch: chosen.epoch,
        port_be: chosen.place.port_be,
        protocol: protocol as u8,
        family: if FAMILY == V6 { 6 } else { 4 },
        _pad: 0,
    };
    SOCKETS.insert(socket.cookie(), told, 0).is_ok()
}

/// What is given to a socket for a destination.
#[inline(always)]
pub fn peer(dialled: &Place, chosen: &Chosen) -> Peer {
    Peer {
        vip: dialled.addr,
        backend: chosen.place.addr,
        vip_port_be: dialled.port_be,
        backend_port_be: chosen.place.port_be,
        id: chosen.id,
        epoch: chosen.epoch,
        is_told: 0,
    }
}
