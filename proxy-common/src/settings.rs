//! What the packet path reads before anything else, and the state it keeps per CPU.

use crate::addr::Addr;
use core::mem::size_of;

/// Flags of [`Settings`].
pub mod settings_flags {
    /// Some service is a prefix: the address filter cannot rule packets out.
    pub const PREFIX_SERVICES: u32 = 1 << 0;
    /// The global scope of the guard has rules.
    pub const GUARD_GLOBAL: u32 = 1 << 1;
    /// Copies of packets go to the `capture` ring buffer.
    pub const CAPTURE: u32 = 1 << 2;
    /// Some service uses NAT: packets from backends may be return traffic.
    pub const NAT: u32 = 1 << 3;
}

/// Value of the `settings` map (one element). Written by user space only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`crate::ABI_VERSION`] of the data plane that made the maps.
    pub abi: u32,
    /// Bits of [`settings_flags`].
    pub flags: u32,
    /// Raised on each change of services or routes: per-CPU caches of older generations are stale.
    /// Odd while user space is in the middle of a change (see its `kernel::plan`): whoever writes
    /// the settings for another reason keeps the parity.
    pub generation: u32,
    /// Raised on each change of the guard: known flows are judged once more.
    pub guard_generation: u32,
    /// Sets of the flow table per CPU.
    pub sets_per_cpu: u32,
    /// CPUs that the flow table is divided among.
    pub cpus: u32,
    /// Of the packets of traced flows that tell nothing new, one in this many makes an event; 0
    /// makes none of them.
    pub sample_every: u32,
    /// Octets of each packet that a capture copies.
    pub capture_octets: u32,
    /// ICMP errors that a CPU may send per second.
    pub icmp_per_second: u32,
    /// Which flows are traced, see [`crate::trace::threshold`]; 0 traces none.
    pub trace_below: u32,
    /// How long a cached next hop is used before the FIB is asked again.
    pub route_ttl_ns: u64,
    /// Secrets of the flow table's hash, drawn when the maps are made, so that nobody can aim
    /// flows at one set.
    pub secrets: [u64; 5],
    /// Seed of the selection hash. The same on all balancers of a fleet, so that a flow that
    /// moves to another balancer keeps its backend.
    pub selection_seed: u64,
}

const _: () = assert!(size_of::<Settings>() == 10 * 4 + 8 + 5 * 8 + 8);

/// The time by which rings are told apart: units of 2^30 ns (1.07 s) of the coarse monotonic clock.
/// Wraps after 146 years.
#[inline(always)]
pub const fn second(ns: u64) -> u32 {
    (ns >> 30) as u32
}

/// Octets of the address filter.
pub const FILTER_OCTETS: usize = 8192;

/// Value of `address_filter` (one element): a Bloom filter with one hash.
///
/// A clear bit proves that an address is neither a VIP, nor a NAT backend, nor a full-nat source,
/// so that most packets which do not concern the balancer leave after two bit tests.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressFilter {
    /// Bits, see [`crate::hash::filter_bit`].
    pub words: [u64; FILTER_OCTETS / 8],
}

const _: () = assert!(size_of::<AddressFilter>() == FILTER_OCTETS);

/// Per-CPU state of the packet path (`cpu_state`, one element per CPU). Kernel writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuState {
    /// Packets of traced flows until the next event of one that tells nothing new.
    pub sample_countdown: u32,
    /// Second (coarse monotonic) that `icmp_sent` counts in.
    pub icmp_second: u32,
    /// ICMP errors sent in that second.
    pub icmp_sent: u32,
    /// Tick that `looks` counts in.
    pub look_tick: u32,
    /// Other CPUs' parts of the flow table looked into in that tick.
    pub looks: u32,
    /// Next full-nat port to try.
    pub next_port: u32,
    /// When the packet that is being captured arrived, monotonic nanoseconds.
    pub capture_ns: u64,
    /// A number in transit, see the flow table's search.
    pub number: u64,
    /// Jiffies at which `clock_ns` was read.
    pub clock_jiffies: u64,
    /// The coarse monotonic clock, which advances with the jiffies.
    pub clock_ns: u64,
    /// Sampled events that found the `events` ring buffer full. User space reads it.
    pub events_lost: u64,
    /// Packets that found the `capture` ring buffer full. User space reads it.
    pub capture_lost: u64,
}

const _: () = assert!(size_of::<CpuState>() == 6 * 4 + 6 * 8);

/// Other CPUs' parts of the flow table that a CPU may look into per tick; beyond that a packet of
/// an unknown flow is selected anew. Keeps a flood of stray segments from costing CPUs × lookups:
/// at about 15 ns a look this is 6 % of a CPU. On two CPUs it lets 2048 flows move per tick, so
/// that many connections which end at once on another CPU are still found and end being counted.
pub const LOOKS_PER_TICK: u32 = 4096;

/// Of [`LOOKS_PER_TICK`], what packets may use that cost a sender nothing: SYNs to services that
/// choose by chance, and quoted packets. A flood of those leaves the other half to flows that change
/// their CPU, which would else lose their backend.
pub const CHEAP_LOOKS_PER_TICK: u32 = LOOKS_PER_TICK / 2;

/// Of [`LOOKS_PER_TICK`], what packets may use whose flow other CPUs cannot know to be anywhere but
/// where the ring says: second packets of connections, mostly. Only the exactness of live counts is
/// at stake for them. At 100 ns for a line from far memory it is 3 % of a CPU, however many there are.
pub const SETTLED_LOOKS_PER_TICK: u32 = 256;

/// CPUs that the flow table can be divided among: what the kernel is built for at most, in round.
pub const MAX_CPUS: u32 = 8192;

/// Value of the per-CPU `service_cache`: the outcome of a service lookup, good or bad.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedService {
    /// Destination address.
    pub addr: Addr,
    /// Destination port in network byte order.
    pub port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// `ServiceRef::kind`; 0 when there is no service.
    pub kind: u8,
    /// `ServiceRef::id`.
    pub id: u16,
    /// Zero.
    pub _pad: u16,
    /// `Settings::generation` of the lookup.
    pub generation: u32,
    /// Zero.
    pub _pad2: u32,
}

const _: () = assert!(size_of::<CachedService>() == 16 + 2 + 1 + 1 + 2 + 2 + 4 + 4);

/// Value of the per-CPU `route_cache`: how to reach an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedRoute {
    /// Destination address.
    pub addr: Addr,
    /// Monotonic nanoseconds after which the FIB is asked again.
    pub expires_ns: u64,
    /// `Settings::generation` of the lookup.
    pub generation: u32,
    /// Interface to send from.
    pub ifindex: u32,
    /// Interface on which the packet that asked arrived.
    pub from_ifindex: u32,
    /// MTU of the route, octets of IP packet.
    pub mtu: u32,
    /// MAC address of the next hop.
    pub dst_mac: [u8; 6],
    /// MAC address of the interface.
    pub src_mac: [u8; 6],
    /// Zero.
    pub _pad: [u8; 4],
}

const _: () = assert!(size_of::<CachedRoute>() == 16 + 8 + 4 * 4 + 6 + 6 + 4);

/// Words of an [`Adjacency`]'s template: link header, outer IPv6 header and UDP fit.
pub const TEMPLATE_WORDS: usize = 8;

/// Value of the per-CPU `adjacencies`, by the low bits of the backend's id: all that sending a
/// whole, untagged packet to a backend needs, worked out in advance from the backend and its route.
///
/// Stale when `generation` is not `Settings::generation`, so whoever changes a backend raises that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjacency {
    /// Monotonic nanoseconds after which it is worked out again.
    pub expires_ns: u64,
    /// `Settings::generation` under which it was worked out.
    pub generation: u32,
    /// Interface on which the packet that asked arrived.
    pub from_ifindex: u32,
    /// Interface to send from.
    pub ifindex: u32,
    /// Octets of the longest IP packet that fits, before encapsulation.
    pub max_length: u32,
    /// Backend id. This and the next field stand side by side as in a flow's entry.
    pub backend: u16,
    /// Service id.
    pub service: u16,
    /// Bits of the last 32 (as a big-endian number) of the outer source that the flow's hash fills.
    pub spread_mask: u32,
    /// Sum of the constant words of an outer IPv4 header.
    pub sum: u32,
    /// `nat`: port in network byte order; 0 keeps the client's destination port.
    pub port_be: u16,
    /// One of [`crate::service::Mode`].
    pub mode: u8,
    /// Octets of outer headers.
    pub grow: u8,
    /// 1 where rules of the service's guard may concern its packets.
    pub guarded: u32,
    /// 1 where flows may be idle for longer than their slots can tell.
    pub long_lived: u32,
    /// The frame's first octets. MAC addresses and ethertype; then the outer headers with zeros for
    /// what differs from packet to packet. `nat`: the backend's address in words 2 and 3.
    pub template: [u64; TEMPLATE_WORDS],
}

const _: () =
    assert!(size_of::<Adjacency>() == 8 + 4 * 4 + 2 * 2 + 4 + 4 + 2 + 1 + 1 + 4 + 4 + 8 * 8);

crate::map_value!(
    Settings,
    AddressFilter,
    CpuState,
    CachedService,
    CachedRoute,
    Adjacency
);
