//! Which service a packet is addressed to.
//!
//! The `services` map is what operators read and what decides; a per-CPU, direct-mapped cache of
//! its answers (the negative ones too) spares most new flows its probes. The cache is stale as a
//! whole when `Settings::generation` has changed.

use crate::maps::{ADDRESS_FILTER, SERVICE_CACHE, SERVICE_PREFIXES, SERVICES, prefix_key};
use proxy_common::addr::Addr;
use proxy_common::hash::filter_bit;
use proxy_common::maps::capacity;
use proxy_common::service::{ServiceKey, ServiceRef, kind, protocol};
use proxy_common::settings::{AddressFilter, CachedService, Settings, settings_flags};

/// True if the address filter does not rule the address out.
#[inline(always)]
pub fn may_concern(addr: &Addr) -> bool {
    ADDRESS_FILTER
        .get_ptr(0)
        .is_none_or(|filter| is_marked(filter, addr))
}

#[inline(always)]
fn is_marked(filter: *const AddressFilter, addr: &Addr) -> bool {
    let (word, mask) = filter_bit(addr);
    // SAFETY: `filter_bit` gives a word inside the filter.
    let word = unsafe { (&raw const (*filter).words).cast::<u64>().add(word).read() };
    word & mask != 0
}

/// True if a packet that is no ICMP error may concern a service, by its addresses. With NAT, answers
/// of backends concern us, too.
#[inline(always)]
pub fn concerns(settings: &Settings, src: &Addr, dst: &Addr) -> bool {
    let Some(filter) = ADDRESS_FILTER.get_ptr(0) else {
        return true;
    };
    is_marked(filter, dst)
        || settings.flags & settings_flags::PREFIX_SERVICES != 0
        || (settings.flags & settings_flags::NAT != 0 && is_marked(filter, src))
}

/// The element of the cache that a destination belongs to.
#[inline(always)]
fn slot(addr: &Addr, port_be: u16, protocol: u8) -> Option<*mut CachedService> {
    let [a, b] = addr.words();
    let mixed = (a ^ b.rotate_left(17) ^ u64::from(port_be) ^ u64::from(protocol) << 16)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SERVICE_CACHE.get_ptr_mut((mixed >> 40) as u32 & (capacity::SERVICE_CACHE - 1))
}

/// True if an element holds what the destination stands for now.
#[inline(always)]
fn holds(
    cached: &CachedService,
    settings: &Settings,
    addr: &Addr,
    port_be: u16,
    protocol: u8,
) -> bool {
    let ([a, b], [c, d]) = (cached.addr.words(), addr.words());
    cached.generation == settings.generation
        && (a ^ c) | (b ^ d) == 0
        && cached.port_be == port_be
        && cached.protocol == protocol
}

/// The service of a destination, if the cache knows that it is one.
#[inline(always)]
pub fn cached(settings: &Settings, addr: &Addr, port_be: u16, protocol: u8) -> Option<u16> {
    let cached = slot(addr, port_be, protocol)?;
    // SAFETY: the element belongs to this CPU.
    let cached = unsafe { &*cached };
    (holds(cached, settings, addr, port_be, protocol) && cached.kind == kind::BALANCE)
        .then_some(cached.id)
}

/// What the destination stands for; `kind` is 0 for nothing.
#[inline(always)]
pub fn lookup(settings: &Settings, addr: &Addr, port_be: u16, protocol: u8) -> ServiceRef {
    let Some(cached) = slot(addr, port_be, protocol) else {
        return ServiceRef::default();
    };
    // SAFETY: the element belongs to this CPU.
    let cached = unsafe { &mut *cached };
    if holds(cached, settings, addr, port_be, protocol) {
        return ServiceRef {
            id: cached.id,
            kind: cached.kind,
            _pad: 0,
        };
    }
    fill(
        settings,
        cached,
        addr,
        u64::from(port_be) | u64::from(protocol) << 16,
    );
    ServiceRef {
        id: cached.id,
        kind: cached.kind,
        _pad: 0,
    }
}

/// Asks the maps: the exact address before prefixes; of each, the port before all ports.
#[inline(never)]
fn fill(settings: &Settings, cached: &mut CachedService, addr: &Addr, port_protocol: u64) -> u64 {
    let port_be = port_protocol as u16;
    let protocol = (port_protocol >> 16) as u8;
    let found = exact(addr, u16::from_be(port_be), protocol)
        .or_else(|| exact(addr, 0, protocol))
        .or_else(|| prefixed(settings, addr, port_be, protocol))
        .or_else(|| exact(addr, 0, 0))
        .unwrap_or_default();
    *cached = CachedService {
        addr: *addr,
        port_be,
        protocol,
        kind: found.kind,
        id: found.id,
        _pad: 0,
        generation: settings.generation,
        _pad2: 0,
    };
    0
}

#[inline(always)]
fn exact(addr: &Addr, port: u16, protocol: u8) -> Option<ServiceRef> {
    let key = ServiceKey::new(*addr, port, protocol);
    // SAFETY: the value is copied at once; user space replaces whole values.
    unsafe { SERVICES.get(key) }.copied()
}

#[inline(always)]
fn prefixed(settings: &Settings, addr: &Addr, port_be: u16, protocol: u8) -> Option<ServiceRef> {
    if settings.flags & settings_flags::PREFIX_SERVICES == 0 {
        return None;
    }
    for port in [port_be, 0] {
        if let Some(found) = SERVICE_PREFIXES.get(&prefix_key(addr, port, protocol).0) {
            return Some(*found);
        }
    }
    SERVICE_PREFIXES.get(&prefix_key(addr, 0, 0).0).copied()
}

/// True if echo requests to this address are answered: some service has it.
#[inline(always)]
pub fn answers_echo(settings: &Settings, addr: &Addr) -> bool {
    lookup(settings, addr, 0, protocol::ICMP).kind == kind::ECHO
}
