//! The flow table: which backend the packets of a 5-tuple go to.
//!
//! A hash map of the kernel costs 27–37 ns a probe and an LRU insertion 150–400 ns, and an LRU
//! forgets established flows when a SYN flood arrives. The table is therefore made of sets that
//! the packet path manages itself, in two arrays: the flows (a line of 64 octets each, sixteen to
//! a set), and apart from them a tag of two octets for each.
//!
//! - Each CPU owns a contiguous part of both arrays and is its only writer while a packet is
//!   processed, so no lock is needed. Another CPU may read the part when a packet of a known flow
//!   reaches it (a changed receive queue, or the return path of NAT) and then copies the entry.
//! - A key hashes to one set and to a preferred pair of ways in it. A flow is mostly in one of
//!   these two, so a lookup reads two neighbouring lines, both at once, and nothing else.
//!   Otherwise the tags tell which way to compare.
//! - **A new flow is placed by the tags alone**: they say whether the flow is known, which way is
//!   free, and which holds a flow that may go. The tags of half a million flows fit a CPU's cache;
//!   the flow's own line, far away in memory, is only written, and nothing waits for that.
//! - A new flow is *unconfirmed* until its second packet. When a set is full, a new flow replaces
//!   an unconfirmed one; it never replaces a confirmed one that is not idle for its timeout.
//!   A flood of SYNs can hence only wash out other SYNs. A flow that finds no room is forwarded
//!   by the ring alone and counted.
//! - A flow that a SYN opens is counted as live when it is confirmed, so that replacing an
//!   unconfirmed flow needs no look at it. What is counted at once (for the selection by two
//!   choices, and where the first packet is no SYN) says so in its tag.
//! - User space maps the arrays into its memory, removes expired entries and corrects the live
//!   counts. It removes one with two compare-exchanges: the tuple's last word (ports and protocol)
//!   to 0, so that the way no longer matches; then the tag to 0, so that the way is free. Without
//!   it the packet path still replaces expired entries when it needs room.

use crate::addr::{Addr, join};
use core::mem::size_of;

/// Ways in a set.
pub const WAYS: usize = 16;

/// Flows that a set is planned for: at this mean, 0.1 % of the flows find their set full.
pub const PLANNED_FLOWS_PER_SET: u32 = 8;

/// A tick is 2^20 ns (1.05 ms) of the coarse monotonic clock; it wraps after 52 days.
pub const TICK_SHIFT: u32 = 20;

/// Converts milliseconds to ticks, rounding up.
pub const fn ticks_from_ms(ms: u64) -> u32 {
    let ticks = ms
        .saturating_mul(1_000_000)
        .saturating_add((1 << TICK_SHIFT) - 1)
        >> TICK_SHIFT;
    // Half the range, so that a difference of ticks is never ambiguous.
    if ticks > (u32::MAX / 2) as u64 {
        u32::MAX / 2
    } else {
        ticks as u32
    }
}

/// Ticks from `then` to `now`; 0 if `then` lies ahead (another CPU's clock was read later).
#[inline(always)]
pub const fn ticks_since(then: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(then);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

/// The 5-tuple of a packet as it arrives. Ports are in network byte order, as in the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network byte order.
    pub src_port_be: u16,
    /// Destination port, network byte order.
    pub dst_port_be: u16,
    /// IP protocol; 0 marks an entry that is being written.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
    /// Zero. Two fields and not three octets, since the kernel wants stores on its stack aligned.
    pub _pad2: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 16 + 16 + 2 + 2 + 1 + 1 + 2);

impl FlowKey {
    /// Builds a tuple; ports are in network byte order.
    #[inline(always)]
    pub const fn new(
        src: Addr,
        dst: Addr,
        src_port_be: u16,
        dst_port_be: u16,
        protocol: u8,
    ) -> Self {
        Self {
            src,
            dst,
            src_port_be,
            dst_port_be,
            protocol,
            _pad: 0,
            _pad2: 0,
        }
    }

    /// The same tuple seen from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(
            self.dst,
            self.src,
            self.dst_port_be,
            self.src_port_be,
            self.protocol,
        )
    }

    /// Sets both ports at once, given as they stand side by side in the packet. One store of the
    /// whole last word, so that the word can be read back without a stall.
    #[inline(always)]
    pub const fn set_ports(&mut self, ports: [u8; 4]) {
        let last = join(ports, [self.protocol, 0, 0, 0]);
        // SAFETY: both types are forty octets of plain numbers, aligned to eight.
        let words = unsafe { &mut *core::ptr::from_mut(self).cast::<[u64; 5]>() };
        words[4] = last;
    }

    /// The tuple as five words in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        // SAFETY: both types are forty octets of plain numbers, without padding.
        unsafe { core::mem::transmute::<Self, [u64; 5]>(*self) }
    }
}

/// Phase of a flow, for its timeout and for the live count. The codes are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// TCP: only a SYN was seen.
    Syn = 1,
    /// TCP: a later segment was seen.
    Established = 2,
    /// TCP: a FIN or RST was seen. Not counted as live.
    Closing = 3,
    /// UDP.
    Udp = 4,
}

impl Phase {
    /// The phase with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Syn),
            2 => Some(Self::Established),
            3 => Some(Self::Closing),
            4 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The code stored in maps.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Flags of a [`FlowEntry`].
pub mod flow_flags {
    /// The entry is the return path of a `nat` flow: source becomes the VIP.
    pub const RETURN: u8 = 1 << 0;
    /// A second packet was seen. The tag says the same; this bit spares known flows the tags.
    pub const CONFIRMED: u8 = 1 << 1;
}

/// Whether an entry is counted as live. A flow whose packets come by several CPUs has several
/// entries, of which one at most is counted.
pub mod counted {
    /// Not yet: it will be, when it is confirmed.
    pub const NOT_YET: u32 = 0;
    /// It is.
    pub const YES: u32 = 1;
    /// It never will be (again): it is closing, or another CPU's entry is counted in its place.
    pub const NEVER: u32 = 2;
}

/// One flow: 64 octets, one cache line.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// The tuple.
    pub key: FlowKey,
    /// Tick of the last packet.
    pub last_seen: u32,
    /// One of [`counted`]: whether this entry is counted in `live_flows` of its backend. Changed
    /// with atomic exchange only, because user space and the packet path may both end a flow.
    pub counted: u32,
    /// `Settings::guard_generation` under which the guard let the flow pass.
    pub guard_generation: u32,
    /// `full-nat`: index in `snat_addrs` of the source address. Return path of `nat`: the last
    /// four octets of the VIP, in memory order.
    pub nat_word: u32,
    /// Backend id.
    pub backend: u16,
    /// Service id.
    pub service: u16,
    /// `full-nat`: source port towards the backend. Return path of `nat`: the VIP's port.
    /// Network byte order.
    pub nat_port_be: u16,
    /// One of [`Phase`].
    pub phase: u8,
    /// Bits of [`flow_flags`].
    pub flags: u8,
}

const _: () = assert!(size_of::<FlowEntry>() == 40 + 4 * 4 + 3 * 2 + 1 + 1);

/// Bits of a tag beside the hash.
pub mod tag {
    /// The way holds a flow.
    pub const USED: u16 = 1 << 0;
    /// The flow has seen a second packet.
    pub const CONFIRMED: u16 = 1 << 1;
    /// The flow is counted as live although it is unconfirmed: who replaces it must look at it.
    pub const COUNTED: u16 = 1 << 2;
    /// What a tag tells of its flow's hash.
    pub const HASH: u16 = !7;
}

/// Element of `flow_tags`: what the ways of a set hold.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetTags {
    /// Of each way 0, or bits of its flow's hash and of [`tag`].
    pub tags: [u16; WAYS],
}

const _: () = assert!(size_of::<SetTags>() == 2 * WAYS);

/// Element of `flows`: the flows of a set.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// The flows.
    pub ways: [FlowEntry; WAYS],
}

const _: () = assert!(size_of::<FlowSet>() == WAYS * 64);

/// Where a key lives: set within a CPU's part, preferred way, tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Set, below the `sets` given.
    pub set: u32,
    /// Preferred way, below [`WAYS`]; it and its neighbour (the lowest bit changed) are the
    /// preferred pair.
    pub way: u32,
    /// Tag of an unconfirmed flow, never 0.
    pub tag: u16,
}

impl Position {
    /// Splits a hash of [`crate::hash::flow_hash`]; `sets` is the number of sets of one CPU.
    #[inline(always)]
    pub const fn of(hash: u64, sets: u32) -> Self {
        Self {
            set: (((hash & 0xffff_ffff) * sets as u64) >> 32) as u32,
            way: (hash >> 32) as u32 & (WAYS as u32 - 1),
            tag: (hash >> 48) as u16 & tag::HASH | tag::USED,
        }
    }
}

/// The same sixteen bits in all four lanes of a word.
pub const fn lanes(bits: u16) -> u64 {
    bits as u64 * 0x0001_0001_0001_0001
}

/// Marks (with its highest bit) the lowest of four lanes that is zero; 0 if none is.
///
/// This is the well-known carry trick: a lane above a zero one may be marked wrongly.
#[inline(always)]
pub const fn zero_lanes(word: u64) -> u64 {
    word.wrapping_sub(lanes(1)) & !word & lanes(0x8000)
}

/// As [`zero_lanes`], for the lanes that hold a flow with this hash; `tag` is unconfirmed.
#[inline(always)]
pub const fn same_lanes(tags: u64, tag: u16) -> u64 {
    zero_lanes(tags & lanes(tag::HASH | tag::USED) ^ lanes(tag))
}

/// As [`zero_lanes`], for the lanes whose flow may be replaced without a look at it (or are free).
#[inline(always)]
pub const fn replaceable_lanes(tags: u64) -> u64 {
    zero_lanes(tags & lanes(tag::CONFIRMED | tag::COUNTED))
}

/// Direct-mapped record of one `full-nat` source port: where its return packets go.
///
/// See [`snat_index`] for its place in `snat_ports`. The port range is divided among CPUs, so each
/// record has one writer for allocation; `last_seen` is written from any CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnatPort {
    /// The client.
    pub client: Addr,
    /// The VIP that the client addressed.
    pub vip: Addr,
    /// The backend's address, which a return packet must come from.
    pub backend_addr: Addr,
    /// Client's port, network byte order.
    pub client_port_be: u16,
    /// VIP's port, network byte order.
    pub vip_port_be: u16,
    /// Backend's port, network byte order.
    pub backend_port_be: u16,
    /// Backend id; 0 while the port is free.
    pub backend: u16,
    /// Tick of the last packet in either direction.
    pub last_seen: u32,
    /// One of [`Phase`].
    pub phase: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

const _: () = assert!(size_of::<SnatPort>() == 3 * 16 + 4 * 2 + 4 + 1 + 3);

/// Index of a full-nat port record; `port` is in host byte order.
#[inline(always)]
pub const fn snat_index(addr_index: u32, udp: bool, port: u16) -> u32 {
    ((addr_index * 2 + udp as u32) << 16) + port as u32
}

/// Lowest source port that `full-nat` uses; the ports below belong to this host's services.
pub const SNAT_FIRST_PORT: u16 = 1024;

/// Key of the `fragments` map: the later fragments of one datagram (RFC 791, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as in the packet.
    pub id: u32,
    /// IP protocol of the payload.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 16 + 16 + 4 + 4);

/// Value of `fragments`: the tuple of the first fragment, whose flow the later ones join.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Tick of the first fragment.
    pub first_seen: u32,
    /// Source port, network byte order.
    pub src_port_be: u16,
    /// Destination port, network byte order.
    pub dst_port_be: u16,
}

const _: () = assert!(size_of::<Fragment>() == 4 + 2 + 2);

/// How long later fragments may follow the first (RFC 791 suggests 15 s for reassembly).
pub const FRAGMENT_TICKS: u32 = ticks_from_ms(15_000);

crate::map_value!(
    FlowKey,
    FlowEntry,
    SetTags,
    FlowSet,
    SnatPort,
    FragmentKey,
    Fragment
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_stays_inside_the_table() {
        for hash in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            for sets in [1, 3, 1024, 131_072] {
                let position = Position::of(hash, sets);
                assert!(position.set < sets);
                assert!(position.way < WAYS as u32);
                assert_ne!(position.tag, 0);
            }
        }
    }

    #[test]
    fn a_tag_is_found_in_each_lane_whatever_its_flow_has_seen() {
        let word = |tags: [u16; 4]| {
            tags.iter()
                .rev()
                .fold(0, |word, tag| word << 16 | u64::from(*tag))
        };
        for lane in 0..4 {
            for seen in [0, tag::CONFIRMED, tag::COUNTED] {
                let mut tags = [0x1001u16, 0, 0x3001, 0x4001];
                tags[lane] = 0x8001 | seen;
                let found = same_lanes(word(tags), 0x8001);
                assert_eq!(found.trailing_zeros() as usize / 16, lane);
                assert_eq!(same_lanes(word(tags), 0x8009), 0);
            }
        }
        assert_eq!(same_lanes(0, tag::USED), 0, "a free way matches nothing");
    }

    #[test]
    fn confirmed_and_counted_flows_are_not_replaceable() {
        let kept = lanes(tag::USED | tag::CONFIRMED);
        assert_eq!(replaceable_lanes(kept), 0);
        assert_eq!(replaceable_lanes(lanes(tag::USED | tag::COUNTED)), 0);
        for lane in 0..4 {
            let one = kept & !(u64::from(tag::CONFIRMED) << (16 * lane));
            assert_eq!(replaceable_lanes(one), 0x8000 << (16 * lane));
        }
    }

    #[test]
    fn a_clock_that_runs_ahead_is_not_an_age() {
        assert_eq!(ticks_since(100, 130), 30);
        assert_eq!(ticks_since(130, 100), 0);
        assert_eq!(ticks_since(u32::MAX - 1, 3), 5);
    }

    #[test]
    fn milliseconds_round_up_to_ticks() {
        assert_eq!(ticks_from_ms(0), 0);
        assert_eq!(ticks_from_ms(1), 1);
        assert_eq!(ticks_from_ms(1_000), 954);
        assert_eq!(ticks_from_ms(u64::MAX), u32::MAX / 2);
    }
}
