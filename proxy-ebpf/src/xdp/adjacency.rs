//! How to send to a backend, worked out in advance.
//!
//! Nearly all packets go to a backend that others went to just before. What is the same for all of
//! them (is the backend up, how is it reached, most of the outer headers) is put together once and
//! then read from one place, instead of from the backend, the route and the settings.

use crate::maps::{ADJACENCIES, SERVICE_TABLE};
use crate::packet::{ether, forget};
use crate::xdp::guard;
use crate::xdp::rewrite::encap::{HOP_LIMIT, overhead};
use crate::xdp::rewrite::ethertype;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::checksum::sum64;
use proxy_common::flow::{SLOT_AGE_MAX, slot};
use proxy_common::maps::capacity;
use proxy_common::service::{Mode, protocol};
use proxy_common::settings::{Adjacency, CachedRoute, Settings};

/// This CPU's element for a backend's id.
#[inline(always)]
fn element(backend: u32) -> Option<*mut Adjacency> {
    ADJACENCIES.get_ptr_mut(backend & (capacity::ADJACENCIES - 1))
}

/// How to send to a backend for a service, if that is known and still true. `ids` are those of a
/// slot, in their places.
#[inline(always)]
pub fn fresh(
    settings: &Settings,
    ifindex: u32,
    ids: u64,
    now_ns: u64,
) -> Option<&'static Adjacency> {
    let adjacency = element(ids as u32)?;
    // SAFETY: the element belongs to this CPU.
    let adjacency = unsafe { &*adjacency };
    // SAFETY: both fields stand side by side, aligned to four octets.
    let found = unsafe { (&raw const adjacency.backend).cast::<u32>().read() };
    ((found ^ ids as u32) & (slot::BACKEND | slot::SERVICE) as u32 == 0
        && adjacency.generation == settings.generation
        && adjacency.from_ifindex == ifindex
        && adjacency.expires_ns > now_ns)
        .then_some(adjacency)
}

/// Works out how to send to a backend, unless that is known. `generation` was read before the
/// backend was: a change in between makes the result stale.
#[inline(always)]
pub fn note(backend: &Backend, route: &CachedRoute, id: u16, generation: u32) {
    let Some(adjacency) = element(u32::from(id)) else {
        return;
    };
    // SAFETY: the element belongs to this CPU.
    let known = unsafe { &*adjacency };
    if known.backend != id
        || known.generation != generation
        || known.expires_ns != route.expires_ns
        || known.from_ifindex != route.from_ifindex
    {
        let id = u64::from(id) | u64::from(generation) << 32;
        learn(adjacency, backend, route, id);
    }
}

#[inline(never)]
fn learn(to: *mut Adjacency, backend: &Backend, route: &CachedRoute, id: u64) -> u64 {
    let gue = backend.mode == Mode::DsrGue.code();
    let tunnel = gue || backend.mode == Mode::DsrIpip.code();
    let grow = if tunnel { overhead(backend, gue) } else { 0 };
    let configured = u32::from_ne_bytes(backend.encap_src.low32());
    let (guarded, long_lived) =
        SERVICE_TABLE
            .get(u32::from(backend.service))
            .map_or((true, true), |service| {
                let longest = service.established_ticks.max(service.udp_ticks);
                (service.flags & guard::RULES != 0, longest > SLOT_AGE_MAX)
            });
    // SAFETY: the element belongs to this CPU, and no other reference to it is held.
    let to = unsafe { &mut *to };
    // Not to be taken for valid while it is being written.
    to.generation = !(id >> 32) as u32;
    forget();
    to.expires_ns = route.expires_ns;
    to.from_ifindex = route.from_ifindex;
    to.ifindex = route.ifindex;
    to.max_length = route.mtu.saturating_sub(grow as u32);
    to.backend = id as u16;
    to.service = backend.service;
    to.spread_mask = backend.encap_src_mask & !u32::from_be(configured);
    to.port_be = backend.port_be;
    to.mode = backend.mode;
    to.grow = grow as u8;
    to.guarded = u32::from(guarded);
    to.long_lived = u32::from(long_lived);
    to.sum = 0;
    to.template = [0; _];
    let at = (&raw mut to.template).cast::<u8>();
    // SAFETY: `dst_mac` and `src_mac` are twelve octets side by side; the template has room.
    unsafe {
        let macs = (&raw const route.dst_mac).cast::<u32>();
        let words = at.cast::<u32>();
        words.write(macs.read());
        words.add(1).write(macs.add(1).read());
        words.add(2).write(macs.add(2).read());
    }
    if tunnel {
        let next = if gue { protocol::UDP } else { 0 };
        if backend.addr.is_v4() {
            to.sum = outer_v4(at, backend, next);
        } else {
            outer_v6(at, backend, next);
        }
    } else {
        let [a, b] = backend.addr.words();
        to.template[2] = a;
        to.template[3] = b;
    }
    forget();
    to.generation = (id >> 32) as u32;
    0
}

/// Writes a field of a template.
///
/// # Safety
///
/// It ends inside of the template.
#[inline(always)]
unsafe fn put<T>(template: *mut u8, offset: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { template.add(offset).cast::<T>().write_unaligned(value) };
}

/// Ethertype, IPv4 header and perhaps UDP's; gives the sum of the IPv4 header's constant words.
#[inline(always)]
fn outer_v4(template: *mut u8, backend: &Backend, next: u8) -> u32 {
    let next = if next == 0 { protocol::IPIP } else { next };
    let src = u32::from_ne_bytes(backend.encap_src.low32());
    let dst = u32::from_ne_bytes(backend.addr.low32());
    let hop = u16::from_ne_bytes([HOP_LIMIT, next]);
    // SAFETY: the last field ends at octet 38 of 64.
    unsafe {
        put(template, 12, ethertype(0));
        put(template, 14, 0x45u8);
        put(template, 22, hop);
        put(template, 26, src);
        put(template, 30, dst);
        udp(template.add(ether::LEN + 20), backend);
    }
    let addresses = sum64(u64::from(src) << 32 | u64::from(dst));
    let sum = u64::from(u16::from_ne_bytes([0x45, 0])) + u64::from(hop) + addresses;
    // Both halves of 33 bits: the sum of two addresses does not fit 32.
    ((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)) as u32
}

/// Ethertype, IPv6 header and perhaps UDP's.
#[inline(always)]
fn outer_v6(template: *mut u8, backend: &Backend, next: u8) {
    let copy = |offset: usize, addr: &Addr| {
        let [a, b] = addr.words();
        // SAFETY: the last address ends at octet 54 of 64.
        unsafe {
            put(template, offset, a);
            put(template, offset + 8, b);
        }
    };
    copy(22, &backend.encap_src);
    copy(38, &backend.addr);
    // SAFETY: the last field ends at octet 58 of 64.
    unsafe {
        put(template, 12, ethertype(1));
        put(template, 14, 0x60u8);
        put(template, 20, next);
        put(template, 21, HOP_LIMIT);
        udp(template.add(ether::LEN + 40), backend);
    }
}

/// Ports of GUE; the source's lower bits are the flow's. Behind IP in IP nobody reads them.
///
/// # Safety
///
/// There is room for four octets.
#[inline(always)]
unsafe fn udp(at: *mut u8, backend: &Backend) {
    // SAFETY: the caller's promise.
    unsafe {
        put(at, 0, 0xc000u16.to_be());
        put(at, 2, backend.gue_port_be);
    }
}
