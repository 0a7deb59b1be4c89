//! Programs on packets that this host sends itself, which XDP never sees.

pub mod probe;

use crate::packet::within;
use aya_ebpf::bindings::__sk_buff;

/// A packet of this host on its way out. Pointers into it die with each change of its head.
#[derive(Clone, Copy)]
pub struct Buffer {
    ctx: *mut __sk_buff,
}

impl Buffer {
    #[inline(always)]
    pub fn new(ctx: *mut __sk_buff) -> Self {
        Self { ctx }
    }

    /// The program's context, for helpers.
    #[inline(always)]
    pub fn ctx(self) -> *mut __sk_buff {
        self.ctx
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as above; programs of this type may write the field.
        unsafe { (*self.ctx).mark = mark };
    }

    /// Octets of frame.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).len }
    }

    /// Interface by which the packet is leaving.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).ifindex }
    }

    /// True if a VLAN tag waits beside the frame to be put in by the device.
    #[inline(always)]
    pub fn is_tagged(self) -> bool {
        // SAFETY: the kernel passes a valid context.
        unsafe { (*self.ctx).vlan_present != 0 }
    }

    /// A pointer to a `T` at `offset`, if the directly accessible part holds it whole. Headers
    /// that this host made are in that part.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        // SAFETY: the kernel passes a valid context.
        let (start, end) = unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) };
        within(start, end, offset)
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
}
