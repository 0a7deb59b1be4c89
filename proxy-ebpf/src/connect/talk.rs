//! Datagrams that name their destination.
//!
//! A socket keeps the backend of a destination: several datagrams make one conversation, and answers
//! come from whom the questions went to. It gets another one when it has said nothing for the service's
//! `timeouts.udp`, or when its backend is gone, so that resolvers that live for weeks do not.

use super::call::{Call, Place};
use super::choose;
use super::dial::{peer, without_backend};
use super::maps::{BACKENDS, PEERS, TALKS, store, stored};
use super::{GO_ON, UDP, count, find, is_ours, now, state};
use proxy_common::connect::{Header, PAIRS, Peer, state as backend_state};

/// Judges one datagram.
#[inline(always)]
pub fn run<const FAMILY: bool>(call: &Call<FAMILY>) -> i32 {
    if call.protocol() != UDP {
        return GO_ON;
    }
    let Some((state, owners)) = state() else {
        return GO_ON;
    };
    if is_ours(owners) {
        return GO_ON;
    }
    let dialled = call.place();
    let Some(service) = find::service(state, &dialled, UDP as u8) else {
        return GO_ON;
    };
    let Some(header) = choose::header(service) else {
        return GO_ON;
    };
    if let Some(place) = connected_to(call, &dialled) {
        count(service, |stats| stats.datagrams += 1);
        call.rename(&place);
        return GO_ON;
    }
    let now = now();
    // SAFETY: the socket is the context's, and the kernel keeps the storage while the program runs.
    let talks = unsafe { stored(&TALKS, call.socket()).map(|talks| &mut *talks) };
    let mut reuse = PAIRS;
    if let Some(talks) = talks {
        for index in 0..PAIRS {
            let pair = &talks.pairs[index];
            if pair.id == 0 || pair.vip != dialled.addr || pair.vip_port_be != dialled.port_be {
                continue;
            }
            if goes_on(pair, now.wrapping_sub(talks.ticks[index]), &header) {
                talks.ticks[index] = now;
                count(service, |stats| stats.datagrams += 1);
                call.rename(&backend_of(pair));
                return GO_ON;
            }
            reuse = index;
            break;
        }
    }
    let Some(chosen) = choose::backend(service, &header, &dialled) else {
        return without_backend(service, &header);
    };
    count(service, |stats| {
        stats.opened += 1;
        stats.datagrams += 1;
    });
    if !remember(call, &peer(&dialled, &chosen), now, reuse) {
        count(service, |stats| stats.unrecorded += 1);
    }
    call.rename(&chosen.place);
    GO_ON
}

/// The backend of a connected socket that names the VIP it is connected to all the same.
#[inline(always)]
fn connected_to<const FAMILY: bool>(call: &Call<FAMILY>, dialled: &Place) -> Option<Place> {
    // SAFETY: the socket is the context's, and the kernel keeps the storage while the program runs.
    let peer = unsafe { &*stored(&PEERS, call.socket())? };
    let is_it = peer.id != 0 && peer.vip == dialled.addr && peer.vip_port_be == dialled.port_be;
    is_it.then(|| backend_of(peer))
}

#[inline(always)]
fn backend_of(peer: &Peer) -> Place {
    Place {
        addr: peer.backend,
        port_be: peer.backend_port_be,
    }
}

/// True if a conversation may go on that has paused for so many ticks.
#[inline(always)]
fn goes_on(pair: &Peer, pause: u32, header: &Header) -> bool {
    let is_fresh = pause <= header.udp_ticks;
    let backend = BACKENDS.get(pair.id);
    is_fresh
        && backend.is_some_and(|backend| {
            let state = backend.state;
            backend.epoch == pair.epoch
                && (state == backend_state::UP || state == backend_state::DRAINING)
        })
}

/// Keeps a pair in the socket, in place of this one or of the oldest. False if there is no room.
#[inline(always)]
fn remember<const FAMILY: bool>(call: &Call<FAMILY>, pair: &Peer, now: u32, reuse: usize) -> bool {
    // SAFETY: the socket is the context's.
    let Some(talks) = (unsafe { store(&TALKS, call.socket()) }) else {
        return false;
    };
    // SAFETY: the kernel keeps the storage while the program runs.
    let talks = unsafe { &mut *talks };
    let index = match reuse < PAIRS {
        true => reuse,
        false => {
            let next = talks.next as usize % PAIRS;
            talks.next = (next as u32 + 1) % PAIRS as u32;
            next
        }
    };
    if let (Some(slot), Some(ticks)) = (talks.pairs.get_mut(index), talks.ticks.get_mut(index)) {
        *slot = *pair;
        *ticks = now;
    }
    true
}
