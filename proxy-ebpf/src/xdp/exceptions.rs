//! May a SYN be forwarded without a look at the flow table? Told in `proxy_common::exceptions`.

use crate::atomic;
use crate::maps::EXCEPTIONS;
use proxy_common::exceptions::{HALF_WORDS, half, place, since};

/// True if the flow with this hash is nowhere but where the ring leads to that is settled at `until`:
/// the flow table knows it as such, or not at all.
#[inline(always)]
pub fn is_ruled(hash: u64, until: u32) -> bool {
    let Some(exceptions) = EXCEPTIONS.get_ptr(0) else {
        return false;
    };
    let (word, mask) = place(hash);
    // SAFETY: the state is inside the map's value, and so is the word: a half has 2^13, and a hash of 64
    // bits is shifted by 51.
    unsafe {
        let state = (&raw const (*exceptions).state).read_volatile();
        let marks = (&raw const (*exceptions).marks).cast::<u64>();
        let at = word + half(state) as usize * HALF_WORDS;
        until <= since(state) && marks.add(at).read_volatile() & mask == 0
    }
}

/// Has SYNs of a flow look at the flow table from now on.
#[inline(never)]
pub fn mark(hash: u64) -> u64 {
    let Some(exceptions) = EXCEPTIONS.get_ptr_mut(0) else {
        return 0;
    };
    let (word, mask) = place(hash);
    // SAFETY: as above.
    unsafe {
        let marks = (&raw mut (*exceptions).marks).cast::<u64>();
        atomic::set_bits(marks.add(word), mask);
        atomic::set_bits(marks.add(word + HALF_WORDS), mask);
    }
    0
}
