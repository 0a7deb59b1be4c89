//! The kernel programs on sockets: entry points only. An object of its own, so that the packet
//! path's pins and its version do not depend on what is done here.
#![no_std]
#![no_main]

#[path = "../sock/mod.rs"]
mod sock;

use aya_ebpf::macros::{sk_lookup, sk_msg, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SkMsgContext, SockOpsContext};

/// Finds connections that stay on this host.
#[sock_ops]
pub fn sluice_track(ctx: SockOpsContext) -> u32 {
    sock::track::run(ctx.ops)
}

/// Sends what one end of such a connection writes to the other end.
#[sk_msg]
pub fn sluice_redirect(ctx: SkMsgContext) -> u32 {
    sock::redirect::run(&ctx)
}

/// Steers new connections and datagrams to listeners' sockets.
#[sk_lookup]
pub fn sluice_steer(ctx: SkLookupContext) -> u32 {
    sock::steer::run(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
