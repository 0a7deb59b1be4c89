//! Which service an address and port stand for, in the order of the packet path.

use super::call::Place;
use super::maps::{PREFIXES, VIPS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use proxy_common::connect::{PREFIX_KEY_FIXED_BITS, PrefixKey, State, VipKey, kinds};

/// The service of a VIP: the exact address before prefixes; of each, the port before all ports.
#[inline(always)]
pub fn service(state: &State, place: &Place, protocol: u8) -> Option<u32> {
    let kinds = state.kinds;
    if kinds & kinds::PORT != 0
        && let Some(service) = exact(place, place.port_be, protocol)
    {
        return Some(service);
    }
    if kinds & kinds::ALL_PORTS != 0
        && let Some(service) = exact(place, 0, protocol)
    {
        return Some(service);
    }
    if kinds & kinds::PREFIX_PORT != 0
        && let Some(service) = covered(place, place.port_be, protocol)
    {
        return Some(service);
    }
    if kinds & kinds::PREFIX_ALL_PORTS != 0 {
        return covered(place, 0, protocol);
    }
    None
}

#[inline(always)]
fn exact(place: &Place, port_be: u16, protocol: u8) -> Option<u32> {
    let key = VipKey::new(place.addr, port_be, protocol);
    // SAFETY: the value is a number, copied at once.
    unsafe { VIPS.get(key) }.copied()
}

#[inline(always)]
fn covered(place: &Place, port_be: u16, protocol: u8) -> Option<u32> {
    let key = PrefixKey::new(place.addr, port_be, protocol);
    PREFIXES
        .get(&Key::new(PREFIX_KEY_FIXED_BITS + 128, key))
        .copied()
}
