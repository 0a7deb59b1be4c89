//! The benchmark's driver and its baselines; see `proxy_common::bench`. Never installed.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use proxy_common::bench::{
    Driver, FIRST_PORT, PORT_BITS, TEMPLATE_WORDS, TOUCH_LARGE, TOUCH_SMALL,
};
use proxy_common::checksum::finish;

#[btf_map(name = "bench")]
static BENCH: Array<Driver, 1> = Array::new();
#[btf_map(name = "target")]
static TARGET: ProgramArray<1> = ProgramArray::new();
#[btf_map(name = "lines")]
static LINES: Array<[u64; 8], { TOUCH_LARGE as usize }> = Array::new();

/// Restores the frame and calls the program that is measured. Does the same work for every row,
/// needed or not, so that rows differ by what is measured alone.
#[xdp(frags)]
pub fn bench_driver(ctx: XdpContext) -> u32 {
    drive(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn drive(ctx: &XdpContext) -> Option<u32> {
    let driver = BENCH.get_ptr_mut(0)?;
    // SAFETY: the benchmark runs on one CPU, and user space writes only between runs.
    let driver = unsafe { &mut *driver };
    let grown = length(ctx) as i32 - driver.length as i32;
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
        return None;
    }
    let head = at::<[u64; TEMPLATE_WORDS]>(ctx, 0)?.cast::<u64>();
    for (index, word) in driver.template.iter().enumerate() {
        // SAFETY: `at` has checked the bounds, and a frame that has its first length starts at a
        // multiple of eight. Volatile, or the compiler would call a function that copies octets.
        unsafe { head.add(index).write_volatile(*word) };
    }
    vary(ctx, driver)?;
    // SAFETY: the call does not return; nothing here has a destructor.
    unsafe { TARGET.tail_call(ctx, 0) };
    None
}

/// Writes the client of the next flow (always the same one if the mask is 0). Checksums are left
/// as they are: nobody on the measured way verifies them.
#[inline(always)]
fn vary(ctx: &XdpContext, driver: &mut Driver) -> Option<()> {
    let flow = driver.next.wrapping_mul(driver.step) & driver.mask;
    driver.next = driver.next.wrapping_add(1);
    let address = at::<u16>(ctx, (driver.address_offset & 62) as usize)?;
    let port = at::<u16>(ctx, (driver.port_offset & 62) as usize)?;
    // SAFETY: `at` has checked the bounds; the offset is even.
    unsafe { address.write(((flow >> PORT_BITS) as u16).to_be()) };
    let number = FIRST_PORT + (flow & ((1 << PORT_BITS) - 1)) as u16;
    // SAFETY: as above.
    unsafe { port.write(number.to_be()) };
    Some(())
}

/// Baseline: the least that a program does which sends packets back.
#[xdp(frags)]
pub fn bench_swap(ctx: XdpContext) -> u32 {
    swap(&ctx, 0).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// Floor for a program that changes state in a table of 4 MiB.
#[xdp(frags)]
pub fn bench_touch_4m(ctx: XdpContext) -> u32 {
    touch(&ctx, TOUCH_SMALL).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// Floor for a program that changes state in a table of 16 MiB.
#[xdp(frags)]
pub fn bench_touch_16m(ctx: XdpContext) -> u32 {
    touch(&ctx, TOUCH_LARGE).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// Swaps, and does what a lookup has to: reads a line that no prefetcher guesses, decides by what is in
/// it, writes to it.
#[inline(always)]
fn touch(ctx: &XdpContext, lines: u32) -> Option<()> {
    let driver = BENCH.get_ptr(0)?;
    // SAFETY: the benchmark runs on one CPU.
    let number = u64::from(unsafe { (*driver).next });
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let line = LINES.get_ptr_mut((hash >> 40) as u32 & (lines - 1))?;
    // SAFETY: as above; the value is a line of words.
    unsafe {
        let word = line.cast::<u64>();
        if word.read_volatile() == u64::MAX {
            return None;
        }
        word.write_volatile(number);
    }
    swap(ctx, 0)
}

/// Baseline: the least that a program does which puts packets into a tunnel.
#[xdp(frags)]
pub fn bench_encap(ctx: XdpContext) -> u32 {
    encapsulate(&ctx).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// Baseline: the least that a program does.
#[xdp(frags)]
pub fn bench_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// The far end of the live runs.
#[xdp(frags)]
pub fn bench_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// Writes the MAC addresses found at `from` to the frame's start, swapped.
#[inline(always)]
fn swap(ctx: &XdpContext, from: usize) -> Option<()> {
    type Macs = [u16; 6];
    let old = at::<Macs>(ctx, from)?;
    let new = at::<Macs>(ctx, 0)?;
    // SAFETY: `at` has checked the bounds; headers start at even offsets.
    let [a, b, c, d, e, f] = unsafe { old.read() };
    // SAFETY: as above.
    unsafe { new.write([d, e, f, a, b, c]) };
    Some(())
}

/// Octets of an IPv4 header without options.
const OUTER: usize = 20;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

#[inline(always)]
fn encapsulate(ctx: &XdpContext) -> Option<()> {
    // SAFETY: the context is valid.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(OUTER as i32)) } != 0 {
        return None;
    }
    swap(ctx, OUTER)?;
    let ethertype = at::<u16>(ctx, ETHERNET - 2)?;
    let length = at::<u16>(ctx, ETHERNET + OUTER + 2)?;
    let outer = at::<[u16; OUTER / 2]>(ctx, ETHERNET)?;
    // SAFETY: `at` has checked the bounds.
    let total = (u16::from_be(unsafe { length.read() }) + OUTER as u16).to_be();
    let be = u16::to_be;
    // 172.16.0.1 to 10.0.0.2, TTL 64, protocol 4.
    let words = [
        be(0x4500),
        total,
        0,
        0,
        be(0x4004),
        0,
        be(0xac10),
        be(1),
        be(0x0a00),
        be(2),
    ];
    let sum = words.iter().map(|word| u64::from(*word)).sum();
    let mut header = words;
    header[5] = finish(sum);
    // SAFETY: `at` has checked the bounds.
    unsafe { outer.write(header) };
    // SAFETY: `at` has checked the bounds.
    unsafe { ethertype.write(be(0x0800)) };
    Some(())
}

/// Octets of the frame. The difference of the pointers is taken in 64 bits: the verifier refuses it
/// in 32, which is what the compiler would make of it.
#[inline(always)]
fn length(ctx: &XdpContext) -> u64 {
    let mut length = (ctx.data_end() - ctx.data()) as u64;
    // SAFETY: an and with a constant. It hides from the compiler that the upper half is not used.
    // It must be an instruction: an empty text would get a line number of its own, and the kernel
    // refuses two line numbers for one instruction.
    unsafe { core::arch::asm!("{0} &= 0xffff", inout(reg) length, options(pure, nomem, nostack)) };
    length
}

/// A pointer to a `T` at `offset`, if the frame holds it whole.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
