//! Sidecar-less redirection: what chosen cgroups connect to goes to the daemon first, and so does
//! what others open to them.
//!
//! [`connect`] decides at connect() and writes the listener's address in the place of the one that
//! was dialled; [`meet`] carries that one to the daemon's end; [`peer`] shows it to the workload.
//! [`hear`] learns at which ports workloads listen, and [`arrive`] gives what comes there the
//! daemon's socket.
//! See `proxy_common::redirect` for the whole, and for who writes which map.

pub mod arrive;
pub mod connect;
pub mod hear;
pub mod maps;
pub mod meet;
pub mod peer;
mod rules;
mod who;

use aya_ebpf::bindings::bpf_sock_addr;
use core::mem::offset_of;
use proxy_common::addr::Addr;

/// A word of the context of a program on addresses. Volatile, for the kernel takes loads of a field
/// alone, and the compiler would join those of neighbours.
#[inline(always)]
fn word(ctx: *mut bpf_sock_addr, offset: usize) -> u32 {
    // SAFETY: the kernel gives a valid context, whose fields are aligned words.
    unsafe { ctx.byte_add(offset).cast::<u32>().read_volatile() }
}

#[inline(always)]
fn set_word(ctx: *mut bpf_sock_addr, offset: usize, value: u32) {
    // SAFETY: as above; the field is one that may be written.
    unsafe { ctx.byte_add(offset).cast::<u32>().write_volatile(value) }
}

/// The address in the context.
#[inline(always)]
fn address<const V6: bool>(ctx: *mut bpf_sock_addr) -> Addr {
    if !V6 {
        return Addr::v4(word(ctx, offset_of!(bpf_sock_addr, user_ip4)).to_ne_bytes());
    }
    let at = |index: usize| {
        let offset = offset_of!(bpf_sock_addr, user_ip6) + 4 * index;
        u64::from(word(ctx, offset))
    };
    Addr::from_words([at(0) | at(1) << 32, at(2) | at(3) << 32])
}

/// The port in the context, host order.
#[inline(always)]
fn port(ctx: *mut bpf_sock_addr) -> u32 {
    let port = word(ctx, offset_of!(bpf_sock_addr, user_port)) as u16;
    u32::from(u16::from_be(port))
}

/// Puts an address and port there. `V6`: an IPv4 address stays in its mapped form.
#[inline(always)]
fn set_address<const V6: bool>(ctx: *mut bpf_sock_addr, addr: &Addr, port: u32) {
    if V6 {
        let [first, second] = addr.words();
        let quarters = [
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ];
        let offset = offset_of!(bpf_sock_addr, user_ip6);
        set_word(ctx, offset, quarters[0]);
        set_word(ctx, offset + 4, quarters[1]);
        set_word(ctx, offset + 8, quarters[2]);
        set_word(ctx, offset + 12, quarters[3]);
    } else {
        let offset = offset_of!(bpf_sock_addr, user_ip4);
        set_word(ctx, offset, u32::from_ne_bytes(addr.low32()));
    }
    let port = (port as u16).to_be();
    set_word(ctx, offset_of!(bpf_sock_addr, user_port), u32::from(port));
}
