//! What comes to a steered address and port gets its listener's socket. See `proxy_common::steer`.
//!
//! The program runs for each new TCP connection and each datagram without a connected socket, in
//! the network namespace it is attached to, before the kernel looks for a bound socket.

mod maps;

use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup, sk_action};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::SkLookupContext;
use core::mem::offset_of;
use maps::{
    STEER_GROUPS, STEER_PORTS, STEER_PREFIXES, STEER_RANGES, STEER_SOCKETS, STEER_STATE,
    STEER_STATS,
};
use proxy_common::addr::Addr;
use proxy_common::steer::{
    GROUPS, RANGES, STEER_KEY_FIXED_BITS, SteerKey, SteerStats, UNMATCHED, socket_index,
};

/// `AF_INET`.
const INET: u32 = 2;
/// `AF_INET6`.
const INET6: u32 = 10;

/// What the kernel is told; it goes on with the socket that was assigned, if any.
const PASS: u32 = sk_action::SK_PASS;
const DROP: u32 = sk_action::SK_DROP;

/// Judges one lookup.
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> u32 {
    let Some(group) = find(ctx.lookup) else {
        count(UNMATCHED, |stats| stats.steered += 1);
        return PASS;
    };
    assign(ctx, group)
}

/// The group whose binding is for the lookup's local address and port.
#[inline(always)]
fn find(lookup: *const bpf_sk_lookup) -> Option<u32> {
    // All fields at once: of loads in two branches the compiler would make one of a computed address,
    // and the kernel takes constant ones alone.
    let family = word(lookup, offset_of!(bpf_sk_lookup, family));
    let protocol = word(lookup, offset_of!(bpf_sk_lookup, protocol)) as u8;
    let port = word(lookup, offset_of!(bpf_sk_lookup, local_port)) as u16;
    let v4 = word(lookup, offset_of!(bpf_sk_lookup, local_ip4));
    let v6: [u32; 4] = core::array::from_fn(|index| {
        word(lookup, offset_of!(bpf_sk_lookup, local_ip6) + 4 * index)
    });
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let addr = match family {
        INET => Addr::v4(v4.to_ne_bytes()),
        INET6 => Addr::from_words([pair(v6[0], v6[1]), pair(v6[2], v6[3])]),
        _ => return None,
    };
    let bits = STEER_KEY_FIXED_BITS + 128;
    if let Some(group) = STEER_PORTS.get(&Key::new(bits, SteerKey::new(protocol, port, addr))) {
        return Some(*group);
    }
    let list = STEER_PREFIXES.get(&Key::new(bits, SteerKey::new(protocol, 0, addr)))?;
    let list = STEER_RANGES.get(*list)?;
    for index in 0..RANGES {
        if index as u32 >= list.count {
            break;
        }
        let range = &list.ranges[index];
        if range.first <= port && port <= range.last {
            return Some(u32::from(range.group));
        }
    }
    None
}

/// A field of the context. Volatile, for the kernel takes loads of a field alone, and the compiler
/// would join those of neighbours.
#[inline(always)]
fn word(lookup: *const bpf_sk_lookup, offset: usize) -> u32 {
    // SAFETY: the kernel gives a valid context, whose fields are aligned words.
    unsafe { lookup.byte_add(offset).cast::<u32>().read_volatile() }
}

/// Gives the group's socket of the generation in force.
#[inline(always)]
fn assign(ctx: &SkLookupContext, group: u32) -> u32 {
    let group = group & (GROUPS - 1);
    let generation = STEER_STATE.get(0).map_or(0, |state| state.generation);
    let index = socket_index(generation, group);
    // What is steered is steered by name: it comes before what another program has chosen.
    let replace = u64::from(BPF_SK_LOOKUP_F_REPLACE);
    let failed = match STEER_SOCKETS.redirect_sk_lookup(ctx, index, replace) {
        Ok(()) => {
            count(group, |stats| stats.steered += 1);
            return PASS;
        }
        Err(error) => error != -NO_ENTRY,
    };
    let fails_open = STEER_GROUPS.get(group).is_some_and(|it| it.fails_open != 0);
    count(group, |stats| {
        stats.failed += u64::from(failed);
        if fails_open {
            stats.passed += 1;
        } else {
            stats.refused += 1;
        }
    });
    if fails_open { PASS } else { DROP }
}

/// `ENOENT`: there is no socket.
const NO_ENTRY: i32 = 2;

#[inline(always)]
fn count(element: u32, add: impl FnOnce(&mut SteerStats)) {
    if let Some(stats) = STEER_STATS.get_ptr_mut(element) {
        // SAFETY: the element belongs to this CPU, and no other reference to it is held.
        add(unsafe { &mut *stats });
    }
}
