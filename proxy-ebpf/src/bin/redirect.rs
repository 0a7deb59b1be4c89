//! The programs of sidecar-less redirection: entry points only. An object of its own, loaded only
//! where a listener asks for it.
#![no_std]
#![no_main]

#[path = "../redirect/mod.rs"]
mod redirect;

use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

/// Sends what a workload opens over IPv4 to the daemon.
#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    redirect::connect::run::<false>(ctx.sock_addr)
}

/// Sends what a workload opens by a socket of IPv6 to the daemon.
#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    redirect::connect::run::<true>(ctx.sock_addr)
}

/// Tells a workload the peer that it dialled.
#[cgroup_sock_addr(getpeername4)]
pub fn mesh_peer4(ctx: SockAddrContext) -> i32 {
    redirect::peer::run::<false>(ctx.sock_addr)
}

/// Tells a workload the peer that it dialled, by a socket of IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn mesh_peer6(ctx: SockAddrContext) -> i32 {
    redirect::peer::run::<true>(ctx.sock_addr)
}

/// Carries what is known of a connection from one end to the other.
#[sock_ops]
pub fn mesh_meet(ctx: SockOpsContext) -> u32 {
    redirect::meet::run(ctx.ops)
}

/// Notes who listens where, and what the daemon dials.
#[sock_ops]
pub fn mesh_hear(ctx: SockOpsContext) -> u32 {
    redirect::hear::run(ctx.ops)
}

/// Sends what arrives at a workload's port to the daemon.
#[sk_lookup]
pub fn mesh_arrive(ctx: SkLookupContext) -> u32 {
    redirect::arrive::run(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
