//! The slots of a set of the flow table: which way holds a flow, which is free, which may be replaced.
//!
//! Nothing here looks at an entry. Most of it is arithmetic over all slots instead of a search: what
//! depends on a line from far memory should not be a branch that is often guessed wrong. The loops
//! read volatile, or the compiler would keep all slots on the stack, of which there is little.

use crate::maps::CPU_STATE;
use crate::packet::{forget, opaque};
use proxy_common::flow::{SetTags, WAYS, has_hash, is_steady, nth_way, slot};

/// A way's number as an index that the verifier knows to be below 16.
#[inline(always)]
pub fn lane(way: u32) -> usize {
    let mut way = u64::from(way);
    // SAFETY: an and with a constant.
    unsafe { core::arch::asm!("{0} &= 15", inout(reg) way, options(pure, nomem, nostack)) };
    way as usize
}

/// A way's slot.
#[inline(always)]
pub fn tag_of(tags: *mut SetTags, way: u32) -> *mut u64 {
    // SAFETY: there are sixteen ways.
    unsafe { tags.cast::<u64>().add(lane(way)) }
}

/// The way of a steady flow with this hash, or [`WAYS`].
#[inline(never)]
pub fn steady_way(tags: *mut SetTags, tag: u64) -> u64 {
    let mut found = WAYS as u64;
    for way in 0..WAYS as u32 {
        // SAFETY: the way is in the set.
        if is_steady(unsafe { tag_of(tags, way).read() }, tag) != 0 {
            found = u64::from(way);
            break;
        }
    }
    unknown(found)
}

/// Passes a number through memory, so that the verifier takes it for unknown: it would else
/// follow the rest of the program once for each way that a loop may end with.
#[inline(always)]
pub fn unknown(value: u64) -> u64 {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return WAYS as u64;
    };
    // SAFETY: the element belongs to this CPU.
    unsafe {
        (*state).number = value;
        forget();
        (*state).number
    }
}

/// A way for a new flow, or [`WAYS`], by the slots alone: a free one, the nearer to the preferred
/// one the better, or one whose flow may go without a look at it.
#[inline(never)]
pub fn pick(tags: *mut SetTags, preferred: u64) -> u64 {
    unknown(nearest(tags, preferred as u32))
}

#[inline(always)]
fn nearest(tags: *mut SetTags, preferred: u32) -> u64 {
    let free = first(tags, preferred, u64::MAX);
    if free < WAYS as u64 {
        return free;
    }
    first(tags, preferred, slot::CONFIRMED | slot::COUNTED)
}

/// The way nearest to the preferred one whose slot has none of these bits, or [`WAYS`].
#[inline(always)]
pub fn first(tags: *mut SetTags, preferred: u32, bits: u64) -> u64 {
    for n in 0..WAYS as u32 {
        let mut way = u64::from(nth_way(preferred, n));
        // SAFETY: an and with a constant. Not `pure`: the compiler would keep the numbers of all ways
        // on the stack for the next such loop.
        unsafe { core::arch::asm!("{0} &= 15", inout(reg) way, options(nomem, nostack)) };
        // SAFETY: there are sixteen ways.
        if unsafe { tags.cast::<u64>().add(way as usize).read_volatile() } & bits == 0 {
            return way;
        }
    }
    WAYS as u64
}

/// The slots of a set.
#[inline(always)]
pub fn slots(tags: *mut SetTags) -> [u64; WAYS] {
    // SAFETY: sixteen slots are a hundred and twenty-eight octets, aligned.
    unsafe { tags.cast::<[u64; WAYS]>().read() }
}

/// True if some slot has these bits of hash; perhaps also if they are zero and a way is free.
#[inline(always)]
pub fn holds(slots: [u64; WAYS], tag: u64) -> bool {
    let mut found = 0;
    for slot in slots {
        found |= has_hash(slot, tag);
    }
    opaque(found) >> 63 != 0
}

/// True if some slot is zero.
#[inline(always)]
pub fn has_free(slots: [u64; WAYS]) -> bool {
    let mut found = 0;
    for slot in slots {
        found |= slot.wrapping_sub(1) & !slot;
    }
    opaque(found) >> 63 != 0
}

/// How many flows of a set have these bits of hash.
#[inline(never)]
pub fn twins(tags: *mut SetTags, tag: u64) -> u64 {
    let mut count = 0;
    for way in 0..WAYS as u32 {
        // SAFETY: the way is in the set.
        let slot = unsafe { tag_of(tags, way).read_volatile() };
        count += opaque(has_hash(slot, tag)) >> 63;
    }
    count
}

/// Has the first program hand on the packets of all flows with these bits of hash: another one is to
/// have them, too.
#[inline(never)]
pub fn part(tags: *mut SetTags, tag: u64) -> u64 {
    for way in 0..WAYS as u32 {
        let at = tag_of(tags, way);
        // SAFETY: the way is in the set, and this CPU is the only writer of its part.
        unsafe {
            let value = at.read_volatile();
            let same = opaque(has_hash(value, tag)) >> 63;
            // In a bare flow the mark means another thing.
            let entered = opaque(!value) >> slot::BARE.trailing_zeros() & 1;
            at.write_volatile(value & !((same & entered) << slot::STEADY_SHIFT));
        }
    }
    0
}

/// True if some way of a set has these bits of hash; perhaps also if they are zero and a way is free.
#[inline(always)]
pub fn has_tag(tags: *mut SetTags, tag: u64) -> bool {
    holds(slots(tags), tag)
}
