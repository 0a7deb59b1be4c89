//! Which backend a new flow gets.

use crate::maps::{AFFINITY, BACKENDS, RINGS};
use crate::stats;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::flow::{FlowKey, ticks_since};
use proxy_common::hash::{mix, ring_slot, selection_hash, source_hash};
use proxy_common::service::{
    Affinity, AffinityKey, RING_CHUNK_SLOTS, RingChunk, Selection, Service, ring_place,
};

/// Chooses a backend for a flow. 0 if the service has none that takes new flows.
#[inline(always)]
pub fn backend(service: &Service, id: u16, key: &FlowKey, seed: u64, now: u32) -> u16 {
    if service.ring_size == 0 {
        return 0;
    }
    let hash = selection_hash(key, seed);
    if service.selection == Selection::Maglev.code() {
        return ring(id, hash, service.ring_size);
    }
    if service.selection == Selection::TwoChoices.code() {
        return two_choices(service, u64::from(id), u64::from(hash)) as u16;
    }
    source_affinity(service, u64::from(id), &key.src, seed, u64::from(now)) as u16
}

/// Chooses a backend by the ring alone, where the service says so; and when that ring is settled.
#[inline(always)]
pub fn by_ring(service: &Service, id: u16, key: &FlowKey, seed: u64) -> Option<(u16, u32)> {
    if !is_by_ring(service) || service.ring_size == 0 {
        return None;
    }
    let hash = selection_hash(key, seed);
    let found = in_force(u64::from(id), u64::from(hash), u64::from(service.ring_size));
    Some((found as u16, (found >> 32) as u32))
}

/// The backend that a service's ring leads a hash to, and above it, when that ring is settled. A function
/// of its own, for the stack's sake.
#[inline(never)]
fn in_force(id: u64, hash: u64, size: u64) -> u64 {
    let (chunk, lane) = ring_place(ring_slot(hash as u32, size as u32));
    RINGS.get_value(id as u32, &chunk).map_or(0, |chunk| {
        u64::from(in_lane(chunk, lane)) | u64::from(chunk.until) << 32
    })
}

/// True where the ring alone chooses.
#[inline(always)]
pub fn is_by_ring(service: &Service) -> bool {
    service.selection == Selection::Maglev.code()
}

/// When the ring of a service is settled.
#[inline(always)]
pub fn settles(id: u16) -> u32 {
    RINGS
        .get_value(u32::from(id), &0)
        .map_or(u32::MAX, |chunk| chunk.until)
}

/// Set in what [`later`] gives if that is not where the ring leads.
pub const EXCEPTION: u64 = 1 << 16;

/// Chooses a backend, by the ring alone, for a flow that has no entry although this is not its first
/// packet: where a SYN that has left nothing went, if there was one. 0 if nobody can take the flow.
///
/// SYNs leave nothing while the ring is settled, so if it has changed lately, such a flow is led by the
/// ring before; unless its backend there serves no more.
#[inline(never)]
pub fn later(service: &Service, id: u64, hash: u64, second: u64) -> u64 {
    let Some(ring) = RINGS.get(id as u32) else {
        return 0;
    };
    let (at, lane) = ring_place(ring_slot(hash as u32, service.ring_size));
    let Some(chunk) = ring.get(at) else {
        return 0;
    };
    let now = if service.ring_size == 0 {
        0
    } else {
        in_lane(chunk, lane)
    };
    if chunk.before_size != 0 {
        let (at, lane) = ring_place(ring_slot(hash as u32, chunk.before_size));
        if let Some(before) = ring.get(u32::from(chunk.before_first) + at)
            && (second as u32) < before.until
        {
            let then = in_lane(before, lane);
            if then != now && keeps_flows(then, id as u16).is_some() {
                return u64::from(then) | EXCEPTION;
            }
        }
    }
    u64::from(now)
}

/// The backend that the ring leads a hash to.
#[inline(always)]
fn ring(id: u16, hash: u32, size: u32) -> u16 {
    in_force(u64::from(id), u64::from(hash), u64::from(size)) as u16
}

/// The backend in a slot of a chunk.
#[inline(always)]
fn in_lane(chunk: &RingChunk, lane: u32) -> u16 {
    let mut lane = u64::from(lane);
    // SAFETY: an and with a constant, which the verifier follows. A lane is below 27, so it changes nothing.
    unsafe { core::arch::asm!("{0} &= 31", inout(reg) lane, options(pure, nomem, nostack)) };
    if lane >= RING_CHUNK_SLOTS as u64 {
        return 0;
    }
    // SAFETY: the lane is inside the chunk.
    unsafe {
        (&raw const chunk.slots)
            .cast::<u16>()
            .add(lane as usize)
            .read()
    }
}

/// Two candidates, the one with fewer live flows per weight. The ring already holds each backend
/// as often as its weight asks, so the comparison must weigh, too, or heavy ones would lose.
#[inline(never)]
fn two_choices(service: &Service, id: u64, hash: u64) -> u64 {
    let first = ring(id as u16, hash as u32, service.ring_size);
    let second = ring(id as u16, (mix(hash) >> 32) as u32, service.ring_size);
    if first == second {
        return u64::from(first);
    }
    let (Some(a), Some(b)) = (
        BACKENDS.get(u32::from(first)),
        BACKENDS.get(u32::from(second)),
    ) else {
        return u64::from(first);
    };
    let (live_a, live_b) = (stats::live(first), stats::live(second));
    if live_b * i64::from(a.weight) < live_a * i64::from(b.weight) {
        u64::from(second)
    } else {
        u64::from(first)
    }
}

/// A client keeps its backend for `affinity_ticks` after its last new flow.
#[inline(never)]
fn source_affinity(service: &Service, id: u64, client: &Addr, seed: u64, now: u64) -> u64 {
    let id = id as u16;
    let now = now as u32;
    let key = AffinityKey::new(*client, id);
    if let Some(kept) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: the value is aligned; CPUs that race write the same client's choices.
        let kept = unsafe { &mut *kept };
        if ticks_since(kept.last_seen, now) <= service.affinity_ticks && takes_new(kept.backend, id)
        {
            kept.last_seen = now;
            return u64::from(kept.backend);
        }
    }
    let chosen = ring(id, source_hash(client, seed), service.ring_size);
    if chosen != 0 {
        let kept = Affinity {
            last_seen: now,
            backend: chosen,
            _pad: 0,
        };
        // A full map forgets the client seen longest ago.
        let _ = AFFINITY.insert(key, kept, 0);
    }
    u64::from(chosen)
}

#[inline(always)]
fn takes_new(id: u16, service: u16) -> bool {
    BACKENDS.get(u32::from(id)).is_some_and(|backend| {
        backend.state == BackendState::Up.code()
            && backend.service == service
            && backend.weight != 0
    })
}

/// The backend of a known flow, if it may keep its flows and still belongs to the service.
#[inline(always)]
pub fn keeps_flows(id: u16, service: u16) -> Option<&'static Backend> {
    let backend = BACKENDS.get(u32::from(id))?;
    let state = backend.state;
    let keeps = state == BackendState::Up.code() || state == BackendState::Draining.code();
    if keeps && backend.service == service {
        Some(backend)
    } else {
        None
    }
}
