//! The peer that a workload sees: the one that it dialled.

use super::maps::ORIGINS;
use super::set_address;
use aya_ebpf::bindings::bpf_sock_addr;
use core::ffi::c_void;
use proxy_common::redirect::{ACCEPTED, Origin};

/// The one verdict that there is.
const GO: i32 = 1;

/// Answers one getpeername(). `V6`: of a socket of IPv6.
#[inline(always)]
pub fn run<const V6: bool>(ctx: *mut bpf_sock_addr) -> i32 {
    // SAFETY: the kernel gives a valid context.
    let sk: *mut c_void = unsafe { (*ctx).__bindgen_anon_1.sk }.cast();
    if sk.is_null() {
        return GO;
    }
    // SAFETY: the verifier knows the socket.
    if let Some(origin) = unsafe { ORIGINS.get(sk) } {
        // SAFETY: the value is the socket's own; it is written only before it is connected.
        let origin: Origin = unsafe { *origin };
        // Accept asks as well, and the daemon's peer is who it is.
        let is_workload = origin.cgroup != 0 && origin.set & ACCEPTED == 0;
        if is_workload && (V6 || origin.addr.is_v4()) {
            set_address::<V6>(ctx, &origin.addr, origin.port);
        }
    }
    GO
}
