//! The kernel programs that balance at connect(): entry points only. An object of its own, loaded
//! where a configuration asks for it. See `proxy_common::connect`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the target's atomics, see `atomic`")]

#[path = "../atomic.rs"]
#[expect(
    dead_code,
    reason = "shared with the packet path, which uses all of it"
)]
mod atomic;
#[path = "../connect/mod.rs"]
mod connect;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, sock_ops};
use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext};
use connect::call::{Call, V4, V6};
use connect::watch::Element;

/// A socket dials.
#[cgroup_sock_addr(connect4)]
pub fn sluice_connect4(ctx: SockAddrContext) -> i32 {
    connect::verdict(connect::dial::run(&Call::<V4>::new(&ctx)))
}

/// A socket dials.
#[cgroup_sock_addr(connect6)]
pub fn sluice_connect6(ctx: SockAddrContext) -> i32 {
    connect::verdict(connect::dial::run(&Call::<V6>::new(&ctx)))
}

/// A datagram is sent to an address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sluice_sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::verdict(connect::talk::run(&Call::<V4>::new(&ctx)))
}

/// A datagram is sent to an address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sluice_sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::verdict(connect::talk::run(&Call::<V6>::new(&ctx)))
}

/// Whom a datagram comes from.
#[cgroup_sock_addr(recvmsg4)]
pub fn sluice_recvmsg4(ctx: SockAddrContext) -> i32 {
    connect::name::sender(&Call::<V4>::new(&ctx))
}

/// Whom a datagram comes from.
#[cgroup_sock_addr(recvmsg6)]
pub fn sluice_recvmsg6(ctx: SockAddrContext) -> i32 {
    connect::name::sender(&Call::<V6>::new(&ctx))
}

/// Whom a socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn sluice_peer4(ctx: SockAddrContext) -> i32 {
    connect::name::peer(&Call::<V4>::new(&ctx))
}

/// Whom a socket is connected to.
#[cgroup_sock_addr(getpeername6)]
pub fn sluice_peer6(ctx: SockAddrContext) -> i32 {
    connect::name::peer(&Call::<V6>::new(&ctx))
}

/// A socket is released.
#[cgroup_sock(sock_release)]
pub fn sluice_release(ctx: SockContext) -> i32 {
    connect::release::run(&ctx)
}

/// A TCP socket dials, opens, ends.
#[sock_ops]
pub fn sluice_watch(ctx: SockOpsContext) -> u32 {
    connect::watch::run(ctx.ops)
}

/// One of the sockets that are watched. aya has no attribute for such programs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sluice_look(element: *const Element) -> i32 {
    connect::watch::look_at(element)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
