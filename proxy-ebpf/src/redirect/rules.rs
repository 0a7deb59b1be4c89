//! Which connections a set wants, and what was counted of it.

use super::maps::{PREFIXES, STATS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use proxy_common::addr::Addr;
use proxy_common::redirect::{MeshSet, MeshStats, PREFIX_FIXED_BITS, PrefixKey, RANGES, set_flag};

/// True if the rules of the set want the other end's address: where a workload goes, or who comes
/// to one.
#[inline(always)]
pub fn is_address_in(set: u32, settings: &MeshSet, addr: &Addr) -> bool {
    let key = PrefixKey {
        set,
        addr: addr.octets,
    };
    let found = PREFIXES
        .get(&Key::new(PREFIX_FIXED_BITS + 128, key))
        .copied();
    let others = u32::from(settings.flags & set_flag::ONLY_PREFIXES == 0);
    found.unwrap_or(others) != 0
}

/// True if they want the server's port.
#[inline(always)]
pub fn is_port_in(settings: &MeshSet, port: u32) -> bool {
    for index in 0..RANGES {
        if index as u32 >= settings.count {
            break;
        }
        let range = &settings.ranges[index];
        if u32::from(range.first) <= port && port <= u32::from(range.last) {
            return range.is_in != 0;
        }
    }
    settings.flags & set_flag::ONLY_PORTS == 0
}

/// Counts something of a set.
#[inline(always)]
pub fn count(set: u32, add: impl FnOnce(&mut MeshStats)) {
    if let Some(stats) = STATS.get_ptr_mut(set) {
        // SAFETY: the element belongs to this CPU, and no other reference to it is held.
        add(unsafe { &mut *stats });
    }
}

/// Notes a connection that should be redirected and cannot be; true if it may go on as it is.
#[inline(always)]
pub fn is_let_pass(set: u32, settings: &MeshSet) -> bool {
    if settings.flags & set_flag::FAILS_OPEN != 0 {
        count(set, |stats| stats.passed += 1);
        return true;
    }
    count(set, |stats| stats.refused += 1);
    false
}
