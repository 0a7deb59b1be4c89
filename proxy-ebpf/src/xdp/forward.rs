//! Last stage: how to reach an address, and the frame's way out.
//!
//! The FIB knows the next hop, but asking it costs more than the rest of a known flow's way. Its
//! answers are kept per CPU for `Settings::route_ttl_ns`, by destination.

use crate::maps::ROUTE_CACHE;
use crate::packet::Frame;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup, xdp_action,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect};
use core::mem::{MaybeUninit, offset_of};
use proxy_common::addr::Addr;
use proxy_common::maps::capacity;
use proxy_common::settings::{CachedRoute, Settings};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// How long a missing neighbour is believed to be missing.
const UNRESOLVED_NS: u64 = 20_000_000;
/// MTU of a route whose neighbour is missing: the stack will see to it.
const UNKNOWN_MTU: u32 = 65_535;

/// The way to an address.
#[derive(Clone, Copy)]
pub enum Route {
    /// Send to this next hop.
    Known(&'static CachedRoute),
    /// The next hop's MAC address is unknown: the stack may resolve it.
    Unresolved,
    /// There is none.
    None,
}

/// The element of the cache that an address belongs to.
#[inline(always)]
fn slot(to: &Addr) -> Option<*mut CachedRoute> {
    let [a, b] = to.words();
    let mixed = (a ^ b.rotate_left(29)).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    ROUTE_CACHE.get_ptr_mut((mixed >> 44) as u32 & (capacity::ROUTE_CACHE - 1))
}

#[inline(always)]
fn is_fresh(
    frame: Frame,
    settings: &Settings,
    cached: &CachedRoute,
    to: &Addr,
    now_ns: u64,
) -> bool {
    let ([a, b], [c, d]) = (cached.addr.words(), to.words());
    (a ^ c) | (b ^ d) == 0
        && cached.expires_ns > now_ns
        && cached.generation == settings.generation
        && cached.from_ifindex == frame.ifindex()
}

/// Finds the way to `to`.
#[inline(always)]
pub fn route(frame: Frame, settings: &Settings, to: &Addr, now_ns: u64) -> Route {
    let Some(cached) = slot(to) else {
        return Route::None;
    };
    // SAFETY: the element belongs to this CPU.
    let fresh = is_fresh(frame, settings, unsafe { &*cached }, to, now_ns);
    if !fresh {
        match ask(frame, cached, to, now_ns, settings) {
            0 => {}
            1 => return Route::Unresolved,
            _ => return Route::None,
        }
    }
    // SAFETY: as above.
    let cached = unsafe { &*cached };
    if cached.ifindex == 0 {
        Route::Unresolved
    } else {
        Route::Known(cached)
    }
}

/// Asks the FIB. 0: known, 1: unresolved, 2: no route. Keeps the first two.
#[inline(never)]
fn ask(frame: Frame, cached: *mut CachedRoute, to: &Addr, now_ns: u64, settings: &Settings) -> u64 {
    let mut params = MaybeUninit::<FibLookup>::zeroed();
    let p = params.as_mut_ptr();
    let from = frame.ifindex();
    // SAFETY: all fields are plain integers and zeroed.
    unsafe { put_question(p, from, to) };
    let mut answer = lookup(frame, p, 0);
    if answer == BPF_FIB_LKUP_RET_FWD_DISABLED {
        // A one-armed balancer need not forward in the stack's sense: ask as a sender on the
        // interface the packet came from.
        // SAFETY: as above.
        unsafe {
            (*p).ifindex = from;
            (*p).__bindgen_anon_1.tot_len = 1;
        }
        answer = lookup(frame, p, BPF_FIB_LOOKUP_OUTPUT);
    }
    // SAFETY: the element belongs to this CPU; the helper has filled the parameters.
    unsafe {
        (*cached).addr = *to;
        (*cached).generation = settings.generation;
        (*cached).from_ifindex = from;
        match answer {
            BPF_FIB_LKUP_RET_SUCCESS => {
                (*cached).ifindex = (*p).ifindex;
                (*cached).mtu = u32::from((*p).__bindgen_anon_1.mtu_result);
                copy_macs(p, cached);
                (*cached).expires_ns = now_ns + settings.route_ttl_ns;
                0
            }
            BPF_FIB_LKUP_RET_NO_NEIGH => {
                (*cached).ifindex = 0;
                (*cached).mtu = UNKNOWN_MTU;
                (*cached).expires_ns = now_ns + UNRESOLVED_NS;
                1
            }
            _ => {
                (*cached).expires_ns = 0;
                2
            }
        }
    }
}

/// Asks for the way to an address from an interface.
///
/// # Safety
///
/// The pointer is to parameters that are zeroed.
#[inline(always)]
pub unsafe fn put_question(p: *mut FibLookup, from: u32, to: &Addr) {
    // SAFETY: the caller's promise; all fields are plain integers.
    unsafe {
        (*p).ifindex = from;
        // A length makes the kernel work out the route's MTU; this one always fits.
        (*p).__bindgen_anon_1.tot_len = 1;
        if to.is_v4() {
            (*p).family = AF_INET;
            (*p).__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.low32());
        } else {
            (*p).family = AF_INET6;
            (*p).__bindgen_anon_4.ipv6_dst =
                (&raw const to.octets).cast::<[u32; 4]>().read_unaligned();
        }
    }
}

/// Both MAC addresses of an answer as they stand in a frame, the destination first. The parameters
/// have them as their last twelve octets, source first, which are read in aligned words, as the
/// kernel wants accesses of its stack.
///
/// # Safety
///
/// The pointer is valid.
#[inline(always)]
pub unsafe fn macs_of(from: *const FibLookup) -> Macs {
    const {
        assert!(offset_of!(FibLookup, smac) == 52 && size_of::<FibLookup>() == 64);
    }
    // SAFETY: the caller's promise, and the offsets asserted above.
    let [a, b, c] = unsafe { from.cast::<u32>().add(13).cast::<[u32; 3]>().read() };
    let src = u64::from(a) | u64::from(b & 0xffff) << 32;
    let dst = u64::from(b >> 16) | u64::from(c) << 16;
    Macs(dst | src << 48, (src >> 16) as u32)
}

/// Keeps both MAC addresses of an answer.
///
/// # Safety
///
/// Both pointers are valid.
#[inline(always)]
unsafe fn copy_macs(from: *const FibLookup, to: *mut CachedRoute) {
    const {
        assert!(offset_of!(CachedRoute, dst_mac) == 40 && offset_of!(CachedRoute, src_mac) == 46);
    }
    // SAFETY: the caller's promise.
    let Macs(first, second) = unsafe { macs_of(from) };
    // SAFETY: the caller's promise, and the offsets asserted above.
    unsafe {
        to.cast::<u64>().add(5).write(first);
        to.cast::<u32>().add(12).write(second);
    }
}

#[inline(always)]
fn lookup(frame: Frame, params: *mut FibLookup, flags: u32) -> u32 {
    // SAFETY: the parameters are as long as said.
    let answer = unsafe {
        bpf_fib_lookup(
            frame.ctx().cast(),
            params,
            size_of::<FibLookup>() as i32,
            flags,
        )
    };
    answer as u32
}

/// Both MAC addresses, as they stand at the start of a frame.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Macs(u64, u32);

/// Writes both MAC addresses at the frame's start.
#[inline(always)]
#[must_use]
pub fn write_macs(frame: Frame, route: &CachedRoute) -> Option<()> {
    // SAFETY: `dst_mac` and `src_mac` are twelve octets side by side.
    let macs = unsafe { (&raw const route.dst_mac).cast::<Macs>().read_unaligned() };
    frame.write(0, macs)
}

/// The action that sends a frame on its route.
#[inline(always)]
pub fn action(frame: Frame, route: &CachedRoute) -> u32 {
    if route.ifindex == frame.ifindex() {
        return xdp_action::XDP_TX;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(route.ifindex, 0) as u32 }
}
