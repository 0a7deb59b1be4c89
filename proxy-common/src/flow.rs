//! The flow table: which backend the packets of a 5-tuple go to.
//!
//! A hash map of the kernel costs 27–37 ns a probe and an LRU insertion 150–400 ns, and an LRU
//! forgets established flows when a SYN flood arrives. The table is therefore made of sets that
//! the packet path manages itself, in two arrays: of each flow a *slot* of eight octets, and
//! apart from it an *entry* of a cache line. Sixteen of each make a set.
//!
//! - Each CPU owns a contiguous part of both arrays and is its only writer while a packet is
//!   processed, so no lock is needed. Another CPU may read the part when a packet of a known flow
//!   reaches it (a changed receive queue, or the return path of NAT) and then copies the entry.
//! - **A slot holds all that a packet of an established flow needs**: 26 bits of the tuple's keyed
//!   hash, the backend, and when the last packet came. A key hashes to one set and to a preferred way in it, whose quarter of
//!   the set is half a cache line. So a lookup waits for one line from far memory, mostly, and
//!   sixteen megabytes of slots hold a million flows at the planned load.
//! - **A SYN leaves nothing where the ring tells the same again** (see [`crate::exceptions`]). Else it
//!   writes a slot and no more. Its entry is written when the flow's second packet
//!   confirms it; until then the slot is *bare*. The entry holds the tuple and what is seldom
//!   needed, and the slower programs compare the tuple.
//! - The slot takes part in identifying a flow, so two flows of a set with equal bits are one to the
//!   first program. For a new flow that is one chance in 8 million at the planned load, and
//!   nobody can aim at it without the secrets of the hash. A SYN is not exposed to it where the
//!   other flow has an entry: the slower program then tells them apart, and takes the *steady* mark
//!   off both, so that it also sees all that follows.
//! - A new flow is *unconfirmed* until the table sees its second packet. When a set is full, a new flow replaces
//!   an unconfirmed one; it never replaces a confirmed one that is not idle for its timeout.
//!   A flood of SYNs can hence only wash out other SYNs. A flow that finds no room is forwarded
//!   by the ring alone and counted.
//! - A flow that a SYN opens is counted as live when it is confirmed, so that replacing an
//!   unconfirmed flow needs no look at it. What is counted at once (for the selection by two
//!   choices, and where the first packet is no SYN) says so in its slot.
//! - The time in a slot is coarse, and wraps after 73 minutes (4 where it is bare): flows with longer
//!   timeouts have that in their entry renewed as often as the slot's changes.
//! - User space maps the arrays into its memory, removes expired entries and corrects the live
//!   counts. It removes one with two compare-exchanges: the tuple's last word (ports and protocol)
//!   to 0, so that the slower programs do not find it; then the slot to 0, so that the way is free.
//!   Without it the packet path still replaces expired entries when it needs room.

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
    /// IP protocol; 0 marks an entry that was removed.
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
    /// A second packet was seen. The slot says the same.
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

/// A slot: what the packet path knows of a flow without its entry. 0 where the way is free.
///
/// ```text
/// 63        38 37 36 35 34 33    24 23      16 15        0
/// │ hash      │B │S │L │C │ period │ service  │ backend  │
/// ```
pub mod slot {
    /// Backend id.
    pub const BACKEND: u64 = 0xffff;
    /// Low bits of the service's id. They tell whether the backend's id still means the backend
    /// that the flow has: user space gives free ids to other services again.
    pub const SERVICE: u64 = 0xff << SERVICE_SHIFT;
    /// See [`SERVICE`].
    pub const SERVICE_SHIFT: u32 = 16;
    /// When the last packet came: low bits of the tick without its [`super::PERIOD_SHIFT`] lowest,
    /// of a bare flow its [`super::BARE_PERIOD_SHIFT`] lowest.
    pub const PERIOD: u64 = 0x3ff << PERIOD_SHIFT;
    /// See [`PERIOD`].
    pub const PERIOD_SHIFT: u32 = 24;
    /// The flow has seen a second packet.
    pub const CONFIRMED: u64 = 1 << 34;
    /// The flow is counted as live although it is unconfirmed: who replaces it must look at it.
    pub const COUNTED: u64 = 1 << 35;
    /// The first program may send the flow's packets: confirmed, neither opening nor closing, no
    /// return path, and no other flow of the set has the same bits of hash.
    pub const STEADY: u64 = 1 << STEADY_SHIFT;
    /// See [`STEADY`].
    pub const STEADY_SHIFT: u32 = 36;
    /// There is no entry yet: only a SYN was seen.
    pub const BARE: u64 = 1 << 37;
    /// A bare return path of `nat`: no entry yet, and the service tells the VIP and its port. (No other
    /// bare flow is steady.)
    pub const BARE_RETURN: u64 = BARE | STEADY;
    /// What a slot tells of its flow's hash.
    pub const HASH: u64 = !0 << HASH_SHIFT;
    /// See [`HASH`].
    pub const HASH_SHIFT: u32 = 38;

    /// Backend, and service as far as a slot holds it.
    #[inline(always)]
    pub const fn ids(backend: u16, service: u16) -> u64 {
        backend as u64 | (service as u64) << SERVICE_SHIFT & SERVICE
    }

    /// The time of a flow with an entry.
    #[inline(always)]
    pub const fn at(tick: u32) -> u64 {
        ((tick >> super::PERIOD_SHIFT) as u64) << PERIOD_SHIFT & PERIOD
    }

    /// The time of a bare flow.
    #[inline(always)]
    pub const fn bare_at(tick: u32) -> u64 {
        ((tick >> super::BARE_PERIOD_SHIFT) as u64) << PERIOD_SHIFT & PERIOD
    }

    /// Ticks since the flow was last seen, at least: up to a period more have passed, or many times
    /// the time after which periods repeat.
    #[inline(always)]
    pub const fn age(slot: u64, tick: u32) -> u32 {
        let shift = if slot & BARE == 0 {
            super::PERIOD_SHIFT
        } else {
            super::BARE_PERIOD_SHIFT
        };
        let then = (slot >> PERIOD_SHIFT) as u32;
        let most = (PERIOD >> PERIOD_SHIFT) as u32;
        match (tick >> shift).wrapping_sub(then) & most {
            0 => 0,
            // Seen after the clock was read that `tick` is from.
            periods if periods > most - 4 => 0,
            periods => ((periods - 1) << shift) + (tick & ((1 << shift) - 1)),
        }
    }
}

/// A period is 2^12 ticks, 4.3 s: the time in the slot of a flow with an entry.
pub const PERIOD_SHIFT: u32 = 12;

/// A bare flow's is 2^8 ticks, 268 ms.
pub const BARE_PERIOD_SHIFT: u32 = 8;

/// Idle time up to which a slot alone can tell, with a pass of the sweep and more to spare: 72
/// minutes. Flows of services with a longer timeout have the time in their entries renewed.
pub const SLOT_AGE_MAX: u32 = ticks_from_ms(72 * 60_000);

/// The same of a bare flow's slot, which cannot tell more: 4 minutes.
pub const BARE_AGE_MAX: u32 = ticks_from_ms(4 * 60_000);

/// Is a flow with this slot, whose entry was last renewed at `renewed`, idle for longer than `limit`
/// ticks? Up to a period late.
#[inline(always)]
pub const fn is_idle(slot: u64, renewed: u32, limit: u32, tick: u32) -> bool {
    if limit <= SLOT_AGE_MAX {
        slot::age(slot, tick) > limit
    } else {
        ticks_since(renewed, tick) > limit + (1 << PERIOD_SHIFT)
    }
}

/// Element of `flow_tags`: the slots of a set.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetTags {
    /// Of each way 0, or its [`slot`].
    pub tags: [u64; WAYS],
}

const _: () = assert!(size_of::<SetTags>() == 8 * WAYS);

/// Element of `flows`: the flows of a set.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// The flows.
    pub ways: [FlowEntry; WAYS],
}

const _: () = assert!(size_of::<FlowSet>() == WAYS * 64);

/// Where a key lives: set within a CPU's part, preferred way, bits of hash in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Set, below the `sets` given.
    pub set: u32,
    /// Preferred way, below [`WAYS`]. Others are tried by rising [`nth_way`].
    pub way: u32,
    /// The slot's bits of [`slot::HASH`].
    pub tag: u64,
}

impl Position {
    /// Splits a hash of [`crate::hash::flow_hash`]; `sets` is the number of sets of one CPU.
    #[inline(always)]
    pub const fn of(hash: u64, sets: u32) -> Self {
        Self {
            set: (((hash & 0xffff_ffff) * sets as u64) >> 32) as u32,
            way: (hash >> 32) as u32 & (WAYS as u32 - 1),
            tag: hash & slot::HASH,
        }
    }
}

/// The way that is tried as the `n`th: the preferred one, then the rest of its quarter of the set,
/// of its half (a cache line), and of the set.
#[inline(always)]
pub const fn nth_way(preferred: u32, n: u32) -> u32 {
    preferred ^ n
}

/// Its highest bit is set if a slot has these bits of hash (or is free, where those are zero), and
/// perhaps others. To be combined by "or" over several slots.
#[inline(always)]
pub const fn has_hash(slot: u64, tag: u64) -> u64 {
    ((slot ^ tag) >> slot::HASH_SHIFT).wrapping_sub(1)
}

/// 1 for a steady flow with an entry and these bits of hash, else 0.
#[inline(always)]
pub const fn is_steady(slot: u64, tag: u64) -> u64 {
    ((slot ^ tag ^ slot::STEADY) >> slot::STEADY_SHIFT).wrapping_sub(1) >> 63
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
                assert_eq!(position.tag & !slot::HASH, 0);
            }
        }
    }

    #[test]
    fn the_parts_of_a_slot_are_apart() {
        let parts = [
            slot::BACKEND,
            slot::SERVICE,
            slot::PERIOD,
            slot::CONFIRMED,
            slot::COUNTED,
            slot::STEADY,
            slot::BARE,
            slot::HASH,
        ];
        assert_eq!(parts.iter().fold(0, |all, part| all ^ part), u64::MAX);
        assert_eq!(parts.iter().map(|part| part.count_ones()).sum::<u32>(), 64);
    }

    #[test]
    fn only_a_steady_flow_with_the_same_hash_is_steady() {
        let tag = 0x9234_5640_0000_0000;
        let rest = slot::ids(7, 9) | slot::at(50_000) | slot::CONFIRMED;
        for counted in [0, slot::COUNTED] {
            assert_eq!(is_steady(tag | rest | counted | slot::STEADY, tag), 1);
            assert_eq!(is_steady(tag | rest | counted, tag), 0);
            let bare = tag | rest | counted | slot::STEADY | slot::BARE;
            assert_eq!(is_steady(bare, tag), 0);
        }
        for bit in slot::HASH_SHIFT..64 {
            assert_eq!(is_steady(tag ^ 1 << bit | rest | slot::STEADY, tag), 0);
        }
        assert_eq!(is_steady(0, 0), 0, "a free way holds no flow");
    }

    #[test]
    fn equal_bits_of_hash_are_found_whatever_a_flow_has_seen() {
        let tag = 0x9234_5640_0000_0000;
        for seen in [0, slot::CONFIRMED, slot::BARE, !slot::HASH] {
            assert_eq!(has_hash(tag | seen, tag) >> 63, 1);
            assert_eq!(has_hash(tag ^ 1 << slot::HASH_SHIFT | seen, tag) >> 63, 0);
        }
    }

    #[test]
    fn a_slots_age_is_told_to_a_period() {
        for seen in [0, 100, 4_095, 4_096, 5_000_000] {
            let slots = [
                (slot::at(seen), PERIOD_SHIFT, SLOT_AGE_MAX),
                (
                    slot::bare_at(seen) | slot::BARE,
                    BARE_PERIOD_SHIFT,
                    BARE_AGE_MAX,
                ),
            ];
            for (slot, shift, most) in slots {
                for passed in [
                    0,
                    1,
                    200,
                    300,
                    1_000,
                    5_000,
                    most,
                    most + ticks_from_ms(6_000),
                ] {
                    let told = slot::age(slot, seen + passed);
                    assert!(told <= passed, "{seen} {passed} {told}");
                    assert!(passed < told + (2 << shift), "{seen} {passed} {told}");
                }
            }
        }
    }

    #[test]
    fn a_slot_from_a_later_period_has_no_age() {
        for tick in [4_095, 4_096 * 1_024 - 1] {
            assert_eq!(slot::age(slot::at(tick + 1), tick), 0);
            assert_eq!(slot::age(slot::bare_at(tick + 1) | slot::BARE, tick), 0);
        }
    }

    #[test]
    fn a_long_timeout_is_told_by_the_entry() {
        let limit = SLOT_AGE_MAX + 1;
        let (seen, slot) = (7_000, slot::at(7_000));
        assert!(!is_idle(slot, seen, limit, seen + limit));
        assert!(is_idle(slot, seen, limit, seen + limit + 5_000));
        assert!(
            is_idle(slot, 0, 60_000, seen + 70_000),
            "a short one by the slot"
        );
        assert!(!is_idle(slot, 0, 60_000, seen + 60_000));
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
