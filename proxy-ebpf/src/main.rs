//! The kernel programs of sluice: entry points only.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the target's atomics, see `atomic`")]

mod atomic;
mod event;
#[cfg(feature = "log")]
mod log;
mod maps;
mod packet;
mod stats;
mod tc;
mod verdict;
mod xdp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// The balancer.
#[xdp(frags)]
pub fn sluice_balance(ctx: XdpContext) -> u32 {
    xdp::balance(ctx.ctx)
}

/// The balancer's part for packets that are not plain.
#[xdp(frags)]
pub fn sluice_parse(ctx: XdpContext) -> u32 {
    xdp::parse(ctx.ctx)
}

/// The balancer's part for flows without an entry.
#[xdp(frags)]
pub fn sluice_open(ctx: XdpContext) -> u32 {
    xdp::open(ctx.ctx)
}

/// The balancer's part for ICMP.
#[xdp(frags)]
pub fn sluice_icmp(ctx: XdpContext) -> u32 {
    xdp::icmp(ctx.ctx)
}

/// The balancer's part for answers of NAT backends.
#[xdp(frags)]
pub fn sluice_return(ctx: XdpContext) -> u32 {
    xdp::answer(ctx.ctx)
}

/// The balancer's part that reports path MTUs.
#[xdp(frags)]
pub fn sluice_too_big(ctx: XdpContext) -> u32 {
    xdp::too_big(ctx.ctx)
}

/// The receiver side of tunnels.
#[xdp(frags)]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    xdp::decap::run(ctx.ctx)
}

/// Passes everything: a veth device receives redirected frames only while it has an XDP program.
#[xdp(frags)]
pub fn sluice_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sends health probes to VIPs to the one backend that they are for.
#[classifier]
pub fn sluice_probe(ctx: TcContext) -> i32 {
    tc::probe::run(ctx.skb.skb)
}

/// The licence that the kernel asks for: helpers for GPL programs may be used.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic must not load: an endless loop, which the verifier refuses if it can be reached.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
