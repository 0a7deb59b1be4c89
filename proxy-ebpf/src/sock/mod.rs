//! Same-host acceleration: what one end of a connection writes goes to the other end's queue,
//! past TCP and IP, if both are on this host and one of them is the daemon's.
//!
//! [`track`] puts both ends into a socket hash when the connection is established, before either
//! has written or read. From then on [`redirect`] decides for each message. It may take the short
//! way only while **nothing is left on the long one**: the octet that this end writes next is the
//! octet that the other end's application reads next. That is true of a new connection, and nobody
//! but this end can make it untrue, so it needs no lock.
//!
//! The short way has no window: a sender that is not stopped fills the memory. What happens when an
//! end does not read depends on who writes. The daemon's own writes fail with `EPIPE`
//! ([`proxy_common::sock::SINK`]) and it tries again. Others know of no such error; their messages go by
//! TCP, whose window then holds them back. Octets of both ways wait at the reader's end then, where
//! the kernel gives out those of the short way first, which is their order; but a read that empties
//! the first queue is short, and whoever takes a short read for an empty socket would wait for news
//! that never come. Therefore only the daemon, which knows, is ever in that state.
//!
//! The two other ends of a tunnel through the daemon may be [joined](direct): what one of them writes
//! then goes to the other's queue, past the daemon as well.

pub mod direct;
pub mod maps;
pub mod redirect;
pub mod steer;
pub mod track;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::ffi::c_void;
use maps::COUNTS;
use proxy_common::sock::Count;

/// Adds to a count of this CPU.
#[inline(always)]
fn count(what: Count, more: u64) {
    if let Some(slot) = COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: the element belongs to this CPU.
        unsafe { *slot += more };
    }
}

/// A field of a kernel's object, which may have gone.
#[inline(always)]
fn read<T: Copy + Default>(object: u64, offset: u32) -> Option<T> {
    let mut value = T::default();
    let from = (object + u64::from(offset)) as *const c_void;
    // SAFETY: the helper checks the address; the value is made of integers.
    let failed =
        unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    (failed == 0).then_some(value)
}
