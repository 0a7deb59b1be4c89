//! What clients address: a VIP, a port, a protocol, and how its packets are treated.

use crate::addr::Addr;
use core::mem::size_of;

/// IP protocol numbers that the data plane knows (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Key of the `services` map: one address that packets may be sent to.
///
/// Port 0 stands for all ports. Entries of the kinds [`kind::ECHO`] and [`kind::SNAT`] use
/// port 0 and protocol 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub addr: Addr,
    /// Destination port in host byte order (so that `bpftool` prints it readably); 0 is any.
    pub port: u16,
    /// IP protocol: 6 or 17; 0 for the kinds without ports.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
    /// Zero. Apart from the other, since the kernel wants stores on its stack aligned.
    pub _pad2: u32,
}

const _: () = assert!(size_of::<ServiceKey>() == 16 + 2 + 1 + 1 + 4);

impl ServiceKey {
    /// Builds a key; `port` is in host byte order.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, protocol: u8) -> Self {
        Self {
            addr,
            port,
            protocol,
            _pad: 0,
            _pad2: 0,
        }
    }
}

/// Data of the key of the `service_prefixes` LPM trie.
///
/// The trie matches protocol and port whole (32 bits) and then as many address bits as the
/// prefix has: the prefix length in the key is 32 + the length in the 128-bit address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePrefix {
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
    /// Destination port in network byte order; 0 is any.
    pub port: [u8; 2],
    /// The address, mapped form for IPv4 (so a /24 has 96 + 24 bits).
    pub addr: [u8; 16],
}

const _: () = assert!(size_of::<ServicePrefix>() == 1 + 1 + 2 + 16);

/// Bits before the address in a [`ServicePrefix`].
pub const SERVICE_PREFIX_FIXED_BITS: u32 = 32;

/// What an entry of `services` or `service_prefixes` stands for.
pub mod kind {
    /// A service: `id` is its index in `service_table`.
    pub const BALANCE: u8 = 1;
    /// An address of some service, without port: echo requests to it are answered.
    pub const ECHO: u8 = 2;
    /// A source address of full-nat: `id` is its index in `snat_addrs`.
    pub const SNAT: u8 = 3;
}

/// Value of `services` and `service_prefixes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceRef {
    /// Index in the table that `kind` names.
    pub id: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// Zero.
    pub _pad: u8,
}

const _: () = assert!(size_of::<ServiceRef>() == 2 + 1 + 1);

/// How a packet reaches the backend. The codes are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Destination NAT; the return path goes through the balancer.
    Nat = 1,
    /// Destination and source NAT; backends need no route back.
    FullNat = 2,
    /// Direct server return: only the MAC addresses are rewritten.
    DsrL2 = 3,
    /// Direct server return through IP in IP (RFC 2003, RFC 2473).
    DsrIpip = 4,
    /// Direct server return through GUE variant 1 (UDP, then the inner IP packet at once).
    DsrGue = 5,
    /// This host's user space serves it: police, count, pass.
    Local = 6,
}

impl Mode {
    /// Every mode, in code order.
    pub const ALL: [Self; 6] = [
        Self::Nat,
        Self::FullNat,
        Self::DsrL2,
        Self::DsrIpip,
        Self::DsrGue,
        Self::Local,
    ];

    /// The mode with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Nat),
            2 => Some(Self::FullNat),
            3 => Some(Self::DsrL2),
            4 => Some(Self::DsrIpip),
            5 => Some(Self::DsrGue),
            6 => Some(Self::Local),
            _ => None,
        }
    }

    /// The code stored in maps.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name used in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::DsrL2 => "dsr-l2",
            Self::DsrIpip => "dsr-ipip",
            Self::DsrGue => "dsr-gue",
            Self::Local => "local",
        }
    }

    /// True where the backend answers the client directly.
    pub const fn is_dsr(self) -> bool {
        matches!(self, Self::DsrL2 | Self::DsrIpip | Self::DsrGue)
    }

    /// True where addresses and ports are translated.
    pub const fn is_nat(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

/// How a new flow gets its backend. The codes are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// Maglev consistent hashing (Eisenbud et al., NSDI 2016) on the flow's addresses and ports.
    Maglev = 1,
    /// As Maglev, but a client address keeps its backend for `affinity_ticks`.
    SourceAffinity = 2,
    /// Two candidates from the ring, the one with fewer live flows per weight
    /// (Mitzenmacher, "The power of two choices", 2001).
    TwoChoices = 3,
}

impl Selection {
    /// The selection with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Maglev),
            2 => Some(Self::SourceAffinity),
            3 => Some(Self::TwoChoices),
            _ => None,
        }
    }

    /// The code stored in maps.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name used in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::SourceAffinity => "source-affinity",
            Self::TwoChoices => "two-choices",
        }
    }
}

/// Flags of a [`Service`].
pub mod service_flags {
    /// The guard has rules for this service's scope.
    pub const GUARDED: u32 = 1 << 0;
    /// A source that no rule of the service's scope matches is refused (an allow list).
    pub const DEFAULT_DENY: u32 = 1 << 1;
    /// New flows of a source are limited by the `budget_*` fields.
    pub const BUDGET: u32 = 1 << 2;
}

/// Value of `service_table`, indexed by service id. Index 0 is never used.
///
/// Times are in ticks, see [`crate::flow::TICK_SHIFT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The VIP, or the prefix's first address.
    pub vip: Addr,
    /// Bits of `service_flags`.
    pub flags: u32,
    /// Slots in the Maglev ring; 0 when no backend may take new flows.
    pub ring_size: u32,
    /// Idle time after which an unanswered SYN may be forgotten.
    pub syn_ticks: u32,
    /// Idle time after which an established TCP flow may be forgotten.
    pub established_ticks: u32,
    /// Idle time after which a closing TCP flow (FIN or RST seen) may be forgotten.
    pub closing_ticks: u32,
    /// Idle time after which a UDP flow may be forgotten.
    pub udp_ticks: u32,
    /// Idle time after which source affinity ends.
    pub affinity_ticks: u32,
    /// Port in host byte order; 0 is any.
    pub port: u16,
    /// First index in `snat_addrs` for this service's IPv4 backends, and how many.
    pub snat4_first: u8,
    /// See `snat4_first`.
    pub snat4_count: u8,
    /// First index in `snat_addrs` for IPv6 backends.
    pub snat6_first: u8,
    /// How many IPv6 source addresses.
    pub snat6_count: u8,
    /// One of [`Mode`].
    pub mode: u8,
    /// One of [`Selection`].
    pub selection: u8,
    /// IP protocol, 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
    /// Nanoseconds that one new flow of a source costs (GCRA emission interval).
    pub budget_interval_ns: u64,
    /// Nanoseconds of credit that a source may use at once (GCRA burst tolerance).
    pub budget_burst_ns: u64,
}

const _: () = assert!(size_of::<Service>() == 16 + 7 * 4 + 2 + 4 + 1 + 1 + 1 + 3 + 8 + 8);

/// Slots of one element of a Maglev ring map.
pub const RING_CHUNK_SLOTS: usize = 27;

/// One element of a Maglev ring map: backend ids of [`RING_CHUNK_SLOTS`] consecutive slots, and what
/// must be known of the whole ring to know what a slot is worth, so that one line of memory tells both.
///
/// A ring is in force, and so changed, by one pointer to its map. The map holds the chunks of that ring
/// and behind them, where flows may still be without an entry that began under it, those of the
/// *ring before*. Times are seconds of [`crate::settings::second`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingChunk {
    /// In the ring in force: when it is *settled*. Until then SYNs leave a flow in the table.
    /// In the ring before: until when flows without an entry follow it.
    pub until: u32,
    /// Slots of the ring before; 0 where there is none.
    pub before_size: u32,
    /// First element of the ring before.
    pub before_first: u16,
    /// Backend ids; 0 is no backend.
    pub slots: [u16; RING_CHUNK_SLOTS],
}

const _: () = assert!(size_of::<RingChunk>() == 4 + 4 + 2 + 2 * RING_CHUNK_SLOTS);

/// The chunk that a slot is in, and its place there. By a product: dividing takes a CPU longer than
/// the rest of a lookup.
#[inline(always)]
pub const fn ring_place(slot: u32) -> (u32, u32) {
    const SHIFT: u32 = 37;
    const FACTOR: u64 = (1 << SHIFT) / RING_CHUNK_SLOTS as u64 + 1;
    let chunk = ((slot as u64 * FACTOR) >> SHIFT) as u32;
    (chunk, slot - chunk * RING_CHUNK_SLOTS as u32)
}

/// Default ring size: the prime that gives 100 backends 655 slots each.
pub const DEFAULT_RING_SIZE: u32 = 65_537;

/// Value of the `affinity` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Tick of the last new flow.
    pub last_seen: u32,
    /// Backend id.
    pub backend: u16,
    /// Zero.
    pub _pad: u16,
}

const _: () = assert!(size_of::<Affinity>() == 4 + 2 + 2);

/// Key of the `affinity` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Client address.
    pub client: Addr,
    /// Service id.
    pub service: u16,
    /// Zero.
    pub _pad: u16,
    /// Zero. Apart from the other, since the kernel wants stores on its stack aligned.
    pub _pad2: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 16 + 2 + 2 + 4);

impl AffinityKey {
    /// The key of a client's new flows to a service.
    #[inline(always)]
    pub const fn new(client: Addr, service: u16) -> Self {
        Self {
            client,
            service,
            _pad: 0,
            _pad2: 0,
        }
    }
}

crate::map_value!(
    ServiceKey,
    ServicePrefix,
    ServiceRef,
    Service,
    RingChunk,
    Affinity,
    AffinityKey
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::capacity;

    #[test]
    fn every_slot_is_found_in_its_chunk() {
        let slots = RING_CHUNK_SLOTS as u32;
        for slot in 0..=capacity::MAX_RING_SIZE {
            assert_eq!(ring_place(slot), (slot / slots, slot % slots));
        }
    }

    #[test]
    fn two_of_the_largest_rings_can_be_named() {
        let chunks = capacity::MAX_RING_SIZE.div_ceil(RING_CHUNK_SLOTS as u32);
        assert!(chunks <= u32::from(u16::MAX));
    }
}
