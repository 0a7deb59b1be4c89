//! Atomic operations on map values. The target has the instructions, but its `core::sync::atomic`
//! offers only loads and stores.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};

/// Adds to a shared number.
///
/// # Safety
///
/// `at` points to an aligned number inside a map's value.
#[inline(always)]
pub unsafe fn add(at: *mut i64, change: i64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(at, change) };
}

/// Sets bits of a shared word.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub unsafe fn set_bits(at: *mut u64, bits: u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(at, bits) };
}

/// Replaces a shared number and gives what it was.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub unsafe fn swap(at: *mut u32, new: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(at, new) }
}

/// As [`exchange`], of four octets.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub unsafe fn replace(at: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: the caller's promise.
    let (_, done) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(at, old, new)
    };
    done
}

/// Replaces a shared number if it is `old`; false if it was another.
///
/// # Safety
///
/// As [`add`].
#[inline(always)]
pub unsafe fn exchange(at: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(at, old, new)
    };
    done
}
