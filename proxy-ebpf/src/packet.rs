//! The one door to packet memory: every access checks the frame's bounds right before it is made.
//!
//! Values are read and written whole and unaligned. Offsets are bounded with an instruction that
//! the optimiser cannot remove, because the verifier (unlike the compiler) forgets what is known
//! about a number once it was spilled to the stack.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use core::arch::asm;

/// Highest offset at which a header may start: far more than any stack of headers we follow.
const MAX_OFFSET: usize = 0x1ff;

/// A frame that is being processed. Pointers into it die with each change of its head.
#[derive(Clone, Copy)]
pub struct Frame {
    ctx: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// The program's context, for helpers.
    #[inline(always)]
    pub fn ctx(self) -> *mut xdp_md {
        self.ctx
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).data_end as usize }
    }

    /// Octets that can be accessed directly.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.end() - self.start()
    }

    /// Interface on which the frame arrived.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// A pointer to a `T` at `offset`, if the frame holds it whole.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        within(self.start(), self.end(), offset)
    }

    /// A pointer to a `T` at the frame's start, if the frame holds it whole.
    #[inline(always)]
    pub fn head<T>(self) -> Option<*mut T> {
        let start = self.start();
        (start + size_of::<T>() <= self.end()).then_some(start as *mut T)
    }

    /// Reads a `T` at `offset`.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked the bounds; every `T` used here is made of integers.
        self.at::<T>(offset).map(|p| unsafe { p.read_unaligned() })
    }

    /// Writes a `T` at `offset`.
    #[inline(always)]
    #[must_use]
    pub fn write<T: Copy>(self, offset: usize, value: T) -> Option<()> {
        // SAFETY: `at` has checked the bounds.
        self.at::<T>(offset)
            .map(|p| unsafe { p.write_unaligned(value) })
    }

    /// Copies a `T` out of the frame, also from beyond its directly accessible part. Slower than
    /// [`Self::read`], but the verifier needs to know nothing of the offset.
    #[inline(always)]
    pub fn load<T: Copy + Default>(self, offset: usize) -> Option<T> {
        let mut value = T::default();
        // SAFETY: the buffer is as long as the length given.
        let result = unsafe {
            bpf_xdp_load_bytes(
                self.ctx,
                offset as u32,
                (&raw mut value).cast(),
                size_of::<T>() as u32,
            )
        };
        if result == 0 { Some(value) } else { None }
    }
}

/// A pointer to a `T` at `offset` from `start`, if it lies whole before `end`.
#[inline(always)]
pub fn within<T>(start: usize, end: usize, offset: usize) -> Option<*mut T> {
    let start = start + bounded(offset);
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

/// Makes the compiler read again from memory what it has just written, so that the verifier sees
/// unknown numbers where it would else follow each constant on its own.
#[inline(always)]
pub fn forget() {
    // SAFETY: no instruction at all.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// Keeps the compiler from knowing how a value came about.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: no instruction at all.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// Writes a value into a header. A slice copy would become a call of `memmove`, octet by octet.
#[inline(always)]
pub fn put<T: Copy, const LEN: usize>(header: &mut [u8; LEN], offset: usize, value: T) {
    debug_assert!(offset + size_of::<T>() <= LEN);
    // SAFETY: offsets are constants inside the header.
    unsafe {
        header
            .as_mut_ptr()
            .add(offset)
            .cast::<T>()
            .write_unaligned(value)
    };
}

/// Bounds an offset in a way that the verifier sees and the compiler keeps.
#[inline(always)]
pub fn bounded(offset: usize) -> usize {
    let mut offset = offset;
    // SAFETY: an and with a constant.
    unsafe { asm!("{0} &= 0x1ff", inout(reg) offset, options(pure, nomem, nostack)) };
    debug_assert!(offset <= MAX_OFFSET);
    offset
}

/// Ethernet and IP constants, in the byte order in which they are compared.
pub mod ether {
    pub const IPV4: u16 = 0x0800u16.to_be();
    pub const IPV6: u16 = 0x86ddu16.to_be();
    pub const VLAN: u16 = 0x8100u16.to_be();
    pub const QINQ: u16 = 0x88a8u16.to_be();
    /// Length of an untagged header.
    pub const LEN: usize = 14;
}
