//! What the packet path reads first, derived from the other maps' contents.

use crate::kernel::tables::Tables;
use proxy_common::addr::Addr;
use proxy_common::hash::filter_bit;
use proxy_common::service::Mode;
use proxy_common::settings::{AddressFilter, FILTER_OCTETS, settings_flags};

/// The address filter for these contents: exact VIPs, full-nat sources, and the backends whose
/// answers come back through the balancer with their own source address (`nat`).
pub fn address_filter(tables: &Tables) -> AddressFilter {
    let mut filter = AddressFilter {
        words: [0; FILTER_OCTETS / 8],
    };
    let nat_backends = tables
        .backends
        .values()
        .filter(|b| b.mode == Mode::Nat.code());
    for addr in (tables.keys.keys().map(|key| &key.addr)).chain(nat_backends.map(|b| &b.addr)) {
        insert(&mut filter, addr);
    }
    filter
}

/// A filter that admits what either of two admits.
pub fn union(a: &AddressFilter, b: &AddressFilter) -> AddressFilter {
    let mut both = *a;
    for (word, other) in both.words.iter_mut().zip(&b.words) {
        *word |= other;
    }
    both
}

fn insert(filter: &mut AddressFilter, addr: &Addr) {
    let (word, bit) = filter_bit(addr);
    filter.words[word] |= bit;
}

/// The flags of the settings that follow from these contents.
pub fn derived_flags(tables: &Tables) -> u32 {
    let is_nat = |code| Mode::from_code(code).is_some_and(Mode::is_nat);
    let mut flags = 0;
    if !tables.prefixes.is_empty() {
        flags |= settings_flags::PREFIX_SERVICES;
    }
    if tables
        .guard
        .keys()
        .any(|(_, key)| super::guard::scope_of(key) == 0)
    {
        flags |= settings_flags::GUARD_GLOBAL;
    }
    // Backends too, as they outlive their service's mode for a moment.
    if tables.services.values().any(|s| is_nat(s.mode))
        || tables.backends.values().any(|b| is_nat(b.mode))
    {
        flags |= settings_flags::NAT;
    }
    flags
}
