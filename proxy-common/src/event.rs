//! Records that the packet path sends to user space through ring buffers.

use crate::addr::Addr;
use core::mem::size_of;

/// Record of the `events` ring buffer: the verdict on one packet of a traced flow.
///
/// Fields are only ever added at the end: readers take what they know of a longer record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Coarse monotonic nanoseconds.
    pub time_ns: u64,
    /// Source address.
    pub src: Addr,
    /// Destination address as the packet arrived.
    pub dst: Addr,
    /// Octets of IP packet.
    pub length: u32,
    /// Interface on which the packet arrived.
    pub ifindex: u32,
    /// Source port, network byte order; 0 where there is none.
    pub src_port_be: u16,
    /// Destination port, network byte order.
    pub dst_port_be: u16,
    /// One of [`crate::reason::Reason`].
    pub reason: u16,
    /// Service id, 0 for none.
    pub service: u16,
    /// Backend id, 0 for none.
    pub backend: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Flags of a TCP segment, see [`crate::tcp::flag`].
    pub tcp_flags: u8,
    /// What the flow was judged by, see [`crate::trace::rank`]: who observes less finely than others
    /// tells its flows by it.
    pub rank: u32,
    /// Id of the flow, see [`crate::trace::flow_id`]: that of the client's tuple, also where this is
    /// a backend's answer.
    pub flow: u64,
}

const _: () = assert!(size_of::<Event>() == 8 + 16 + 16 + 4 + 4 + 5 * 2 + 1 + 1 + 4 + 8);

/// Octets of packet that one capture record holds at most.
pub const CAPTURE_OCTETS: usize = 1536;

/// Which side of the balancer a captured packet was on.
pub mod direction {
    /// As it arrived.
    pub const IN: u8 = 0;
    /// As it left.
    pub const OUT: u8 = 1;
}

/// Head of a record of the `capture` ring buffer, followed by [`CAPTURE_OCTETS`] octets of which
/// the first `captured` are the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureHeader {
    /// Monotonic nanoseconds. Equal for the two records of one packet on one CPU.
    pub time_ns: u64,
    /// Octets of frame on the wire.
    pub length: u32,
    /// Octets that follow.
    pub captured: u32,
    /// Interface on which the packet arrived.
    pub ifindex: u32,
    /// One of [`crate::reason::Reason`]; 0 in records of direction `IN`.
    pub reason: u16,
    /// One of [`direction`].
    pub direction: u8,
    /// XDP action (`bpf.h`), 0 in records of direction `IN`.
    pub action: u8,
    /// Service id, 0 for none.
    pub service: u16,
    /// Backend id, 0 for none.
    pub backend: u16,
    /// CPU.
    pub cpu: u32,
}

const _: () = assert!(size_of::<CaptureHeader>() == 8 + 4 * 3 + 2 + 1 + 1 + 2 + 2 + 4);

/// One record of the `capture` ring buffer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CaptureRecord {
    /// What it is.
    pub header: CaptureHeader,
    /// The packet.
    pub data: [u8; CAPTURE_OCTETS],
}

const _: () = assert!(size_of::<CaptureRecord>() == 32 + CAPTURE_OCTETS);

crate::map_value!(Event, CaptureHeader);
