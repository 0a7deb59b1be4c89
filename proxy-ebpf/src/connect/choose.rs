//! A backend for a socket, or for a destination of one.

use super::call::Place;
use super::maps::{AFFINITY, BACKENDS, GIVEN, OPEN, TABLES};
use super::now;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_prandom_u32};
use proxy_common::connect::{Affinity, AffinityKey, Backend, Header, Slot, flag, state};
use proxy_common::hash::ring_slot;

/// A table may be replaced by a smaller one, and a backend may go down, between two looks at them:
/// then it is drawn again, so often at most.
const DRAWS: u32 = 4;

/// A backend that was chosen.
#[derive(Clone, Copy)]
pub struct Chosen {
    pub id: u32,
    pub epoch: u32,
    pub place: Place,
}

/// How the service is used, if it is known.
#[inline(always)]
pub fn header(service: u32) -> Option<Header> {
    TABLES.get_value(service, &0).map(Header::of)
}

/// A backend for what was dialled.
#[inline(always)]
pub fn backend(service: u32, header: &Header, dialled: &Place) -> Option<Chosen> {
    if header.slots == 0 {
        return None;
    }
    if header.flags & flag::AFFINITY == 0 {
        return drawn(service, header, dialled);
    }
    let key = AffinityKey {
        // SAFETY: no arguments.
        client: unsafe { bpf_get_current_cgroup_id() },
        service,
        _pad: 0,
    };
    let now = now();
    // SAFETY: the value is used as plain numbers.
    if let Some(known) = unsafe { AFFINITY.get(key) }.copied()
        && now.wrapping_sub(known.ticks) <= header.affinity_ticks
        && let Some(backend) = BACKENDS.get(known.id)
        && backend.epoch == known.epoch
        && backend.state == state::UP
        && backend.weight > 0
        && u32::from(backend.service) == service
    {
        let chosen = chosen(known.id, backend, dialled);
        remember(&key, &chosen, now);
        return Some(chosen);
    }
    let chosen = drawn(service, header, dialled)?;
    remember(&key, &chosen, now);
    Some(chosen)
}

#[inline(always)]
fn remember(key: &AffinityKey, chosen: &Chosen, now: u32) {
    let value = Affinity {
        id: chosen.id,
        epoch: chosen.epoch,
        ticks: now,
        _pad: 0,
    };
    // Where it does not fit, the client may be given another backend the next time.
    let _ = AFFINITY.insert(key, value, 0);
}

#[inline(always)]
fn drawn(service: u32, header: &Header, dialled: &Place) -> Option<Chosen> {
    for _ in 0..DRAWS {
        let Some((id, backend)) = draw(service, header) else {
            continue;
        };
        if header.flags & flag::TWO_CHOICES != 0
            && let Some((other_id, other)) = draw(service, header)
            && is_idler(other_id, other, id, backend)
        {
            return Some(chosen(other_id, other, dialled));
        }
        return Some(chosen(id, backend, dialled));
    }
    None
}

/// A backend by the alias table, if it takes new sockets.
#[inline(always)]
fn draw(service: u32, header: &Header) -> Option<(u32, &'static Backend)> {
    let index = 1 + ring_slot(random(), header.slots);
    let slot = Slot::of(TABLES.get_value(service, &index)?);
    let id = slot.pick(random());
    let backend = BACKENDS.get(id)?;
    (backend.state == state::UP).then_some((id, backend))
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// True if the first has fewer sockets for its weight.
#[inline(always)]
fn is_idler(one_id: u32, one: &Backend, other_id: u32, other: &Backend) -> bool {
    let sockets = |id| OPEN.get(id).map_or(0, |open| open.sockets);
    sockets(one_id) * u64::from(other.weight) < sockets(other_id) * u64::from(one.weight)
}

#[inline(always)]
fn chosen(id: u32, backend: &Backend, dialled: &Place) -> Chosen {
    let port_be = match backend.port_be {
        0 => dialled.port_be,
        port_be => port_be,
    };
    if let Some(given) = GIVEN.get_ptr_mut(id) {
        // SAFETY: the element belongs to this CPU.
        unsafe { *given += 1 };
    }
    Chosen {
        id,
        epoch: backend.epoch,
        place: Place {
            addr: backend.addr,
            port_be,
        },
    }
}
