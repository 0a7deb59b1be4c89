//! Exceptions: flows of which the flow table knows what the ring does not tell.
//!
//! Where a service's ring alone decides, and is *settled* (has not changed for as long as a client
//! may wait for an answer to its SYN), a SYN neither leaves anything in the flow table nor looks at it:
//! the flow's second packet gets the same answer from the ring. That is only right if the table would
//! not have said anything else. It would for
//!
//! - a flow whose backend is not the one that the ring leads to now,
//! - a flow that is closing, whose entry a SYN with the same tuple begins anew,
//! - a flow of which only a SYN was seen while the ring was not settled.
//!
//! Those are marked in a Bloom filter with one hash, small enough for a CPU's second-level cache. Where a
//! SYN finds its mark, or a ring is not settled, it is dealt with by way of the table.
//!
//! Marks cannot be taken back one by one, so there are two halves. The packet path reads the one in
//! force and marks in both. The sweep clears the other, marks what it finds in the whole table,
//! and puts it in force; with it the second at which it began. **A ring is settled when a look at the
//! whole table is in force that began after its time**: if user space is not there to look, SYNs go on
//! leaving flows.

use crate::flow::slot;
use core::mem::size_of;

/// Words of a half: 64 KiB, so that with the ring of one service it is still near. At 50 000 exceptions
/// one SYN in ten looks at the table.
pub const HALF_WORDS: usize = 8192;

/// Value of `exceptions` (one element).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceptions {
    /// See [`state`].
    pub state: u64,
    /// Zero.
    pub _pad: [u64; 7],
    /// Marks of both halves, see [`place`].
    pub marks: [u64; 2 * HALF_WORDS],
}

const _: () = assert!(size_of::<Exceptions>() == 8 + 7 * 8 + 2 * 8 * HALF_WORDS);

/// The half in force (0 or 1), and the [`crate::settings::second`] at which the look at the table began
/// that it holds, in one word.
#[inline(always)]
pub const fn state(half: u64, since: u32) -> u64 {
    (since as u64) << 1 | half & 1
}

/// The half in force.
#[inline(always)]
pub const fn half(state: u64) -> u64 {
    state & 1
}

/// When the look at the table began that is in force.
#[inline(always)]
pub const fn since(state: u64) -> u32 {
    (state >> 1) as u32
}

/// Word within a half, and mask, of a flow: by what its slot tells of its hash, so that a bare flow can
/// be marked as well.
#[inline(always)]
pub const fn place(hash: u64) -> (usize, u64) {
    const {
        assert!(slot::HASH_SHIFT <= 64 - 13 - 6);
        assert!(HALF_WORDS == 1 << 13);
    }
    ((hash >> 51) as usize, 1 << (hash >> 45 & 63))
}

crate::map_value!(Exceptions);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_marked_alike_by_its_hash_and_by_its_slot() {
        let hash = 0x0123_4567_89ab_cdef;
        assert_eq!(place(hash), place(hash & slot::HASH));
        assert_eq!(place(u64::MAX).0, HALF_WORDS - 1);
    }

    #[test]
    fn half_and_time_share_a_word() {
        let word = state(1, u32::MAX);
        assert_eq!((half(word), since(word)), (1, u32::MAX));
        assert_eq!((half(state(2, 7)), since(state(2, 7))), (0, 7));
    }
}
