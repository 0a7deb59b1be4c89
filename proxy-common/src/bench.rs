//! What the benchmark's driver program and its user space agree on. No part of the data plane:
//! a change here does not change [`crate::ABI_VERSION`].
//!
//! A test run gives a program the same packet again and again, without restoring it. The driver
//! restores it: it undoes the growth of the head, writes the headers from a template, perhaps
//! another client address and port, and tail-calls the program that is measured.

use core::mem::size_of;

/// Words of eight octets that the driver writes before each packet: all headers of a TCP segment
/// over IPv6, and the same number of octets over IPv4, so that both families cost the driver
/// the same.
pub const TEMPLATE_WORDS: usize = 10;

/// Bits of a flow's number that go into the source port; the next 16 go into the address.
pub const PORT_BITS: u32 = 14;
/// Lowest source port of a varied flow.
pub const FIRST_PORT: u16 = 1024;

/// Value of the map `bench` (one element).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// First octets of the frame, in memory order.
    pub template: [u64; TEMPLATE_WORDS],
    /// Octets of the frame.
    pub length: u32,
    /// From one flow's number to the next: odd, so that every flow has its turn.
    pub step: u32,
    /// Number of flows less one: a power of two less one, below 2^30.
    pub mask: u32,
    /// Packets so far; the driver counts.
    pub next: u32,
    /// Offset of the last two octets of the source address.
    pub address_offset: u32,
    /// Offset of the source port.
    pub port_offset: u32,
}

const _: () = assert!(size_of::<Driver>() == 8 * TEMPLATE_WORDS + 6 * 4);

crate::map_value!(Driver);

/// Name of the map with the [`Driver`].
pub const DRIVER_MAP: &str = "bench";
/// Name of the program array whose element 0 is measured.
pub const TARGET_MAP: &str = "target";

/// Lines of 64 octets as many as the slots of the default flow table take on one of two CPUs.
pub const TOUCH_SMALL: u32 = (4 << 20) / 64;
/// Lines of 64 octets as many as the slots of a million flows take.
pub const TOUCH_LARGE: u32 = (16 << 20) / 64;

/// Programs of the driver's object.
pub mod program {
    /// The driver.
    pub const DRIVER: &str = "bench_driver";
    /// Baseline: swaps the MAC addresses, sends back.
    pub const SWAP: &str = "bench_swap";
    /// Baseline: constant IP-in-IP header, sends back.
    pub const ENCAPSULATE: &str = "bench_encap";
    /// Baseline: passes.
    pub const PASS: &str = "bench_pass";
    /// Floor: [`SWAP`], and one word changed in a random line of [`super::TOUCH_SMALL`] lines.
    pub const TOUCH_SMALL: &str = "bench_touch_4m";
    /// Floor: [`SWAP`], and one word changed in a random line of [`super::TOUCH_LARGE`] lines.
    pub const TOUCH_LARGE: &str = "bench_touch_16m";
    /// Drops: the far end of the live runs.
    pub const DROP: &str = "bench_drop";
}
