//! Names, capacities and ownership of every map and program.
//!
//! The names are those of the object's symbols, and of the pins under the data plane's directory
//! in bpffs: `maps/NAME`, `progs/NAME`, `links/INTERFACE`. The kernel keeps 15 octets of a map's
//! name, so names are at most 15 long.

/// Programs.
pub mod program {
    /// The balancer (XDP).
    pub const BALANCE: &str = "sluice_balance";
    /// Packets that are not plain: entered from [`BALANCE`] through [`super::STAGES`].
    pub const PARSE: &str = "sluice_parse";
    /// Packets of flows without an entry: entered from [`BALANCE`] through [`super::STAGES`].
    pub const OPEN: &str = "sluice_open";
    /// ICMP: entered from [`BALANCE`] through [`super::STAGES`].
    pub const ICMP: &str = "sluice_icmp";
    /// Answers of NAT backends: entered through [`super::STAGES`].
    pub const RETURN: &str = "sluice_return";
    /// "Too big" messages to senders: entered through [`super::STAGES`].
    pub const TOO_BIG: &str = "sluice_too_big";
    /// The programs behind [`BALANCE`], in the order of [`super::stage`].
    pub const STAGES: [&str; super::stage::COUNT as usize] = [OPEN, ICMP, RETURN, TOO_BIG, PARSE];
    /// Removes tunnel headers on a backend (XDP).
    pub const DECAP: &str = "sluice_decap";
    /// Sends health probes to VIPs to their backends (tc, on egress).
    pub const PROBE: &str = "sluice_probe";
    /// Gives what comes to a steered address and port to its listener's socket (sk_lookup).
    pub const STEER: &str = "sluice_steer";
    /// Passes everything (XDP): lets a veth peer receive redirected frames.
    pub const PASS: &str = "sluice_pass";
}

/// One element: [`crate::settings::Settings`]. User space writes, kernel reads.
pub const SETTINGS: &str = "settings";
/// One element: [`crate::settings::AddressFilter`]. User space writes, kernel reads.
pub const ADDRESS_FILTER: &str = "address_filter";
/// Hash of [`crate::service::ServiceKey`] → [`crate::service::ServiceRef`]. User space writes;
/// when full, the configuration is refused.
pub const SERVICES: &str = "services";
/// LPM trie of [`crate::service::ServicePrefix`] → [`crate::service::ServiceRef`]. As `services`.
pub const SERVICE_PREFIXES: &str = "service_prefix";
/// Array of [`crate::service::Service`] by service id. User space writes.
pub const SERVICE_TABLE: &str = "service_table";
/// Array of maps by service id: each an array of [`crate::service::RingChunk`]. User space
/// builds a new inner map, which also holds the ring before, and swaps it in.
pub const RINGS: &str = "rings";
/// Array of [`crate::backend::Backend`] by backend id. User space writes.
pub const BACKENDS: &str = "backends";
/// Array of [`crate::stats::LiveFlows`] by backend id. Both sides change it atomically.
pub const LIVE_FLOWS: &str = "live_flows";
/// Array of [`crate::flow::FlowSet`], divided among CPUs. Kernel writes; user space ends flows.
/// When a set is full see [`crate::flow`].
pub const FLOWS: &str = "flows";
/// One element: [`crate::exceptions::Exceptions`]. Kernel adds; user space builds each half anew.
/// When it is full, SYNs look at the flow table.
pub const EXCEPTIONS: &str = "exceptions";
/// Array of [`crate::flow::SetTags`], as many as `flows`. Kernel writes; user space and other CPUs clear slots.
pub const FLOW_TAGS: &str = "flow_tags";
/// Array of [`crate::addr::Addr`]: source addresses of full-nat. User space writes.
pub const SNAT_ADDRS: &str = "snat_addrs";
/// Array of [`crate::flow::SnatPort`], see [`crate::flow::snat_index`]. Kernel writes; user space
/// clears expired ones. When no port is free the packet is dropped and counted.
pub const SNAT_PORTS: &str = "snat_ports";
/// LRU hash of [`crate::flow::FragmentKey`] → [`crate::flow::Fragment`]. Kernel only; when full
/// the oldest datagram is forgotten.
pub const FRAGMENTS: &str = "fragments";
/// LRU hash of [`crate::service::AffinityKey`] → [`crate::service::Affinity`]. Kernel only.
pub const AFFINITY: &str = "affinity";
/// LPM trie of [`crate::guard::GuardKey`] → [`crate::guard::GuardRule`]. User space writes;
/// when full the writer is refused.
pub const GUARD_RULES: &str = "guard_rules";
/// LRU hash of [`crate::service::AffinityKey`] → `u64` nanoseconds (GCRA). Kernel only.
pub const GUARD_BUDGETS: &str = "guard_budgets";
/// Per-CPU array of one [`crate::settings::CpuState`]. Kernel writes; user space reads the losses.
pub const CPU_STATE: &str = "cpu_state";
/// Program array of the later stages, indexed by [`stage`]. User space fills it before it attaches
/// the first program. It and [`SCRATCH`] belong to one load of the programs and are not adopted
/// with the others: a new program gets new ones, while the old one goes on with its own.
pub const STAGES: &str = "stages";

/// One element: [`crate::steer::SteerState`]. User space writes, kernel reads. This and the maps
/// whose names begin alike are those of steering, see [`crate::steer`]: in an object of their own,
/// pinned in a folder of their own.
pub const STEER_STATE: &str = "steer_state";
/// LPM trie of [`crate::steer::SteerKey`] → `u32`, a group. User space writes; when full, the
/// configuration is refused.
pub const STEER_PORTS: &str = "steer_ports";
/// LPM trie of [`crate::steer::SteerKey`] → `u32`, an index of `steer_ranges`. As `steer_ports`.
pub const STEER_PREFIXES: &str = "steer_prefixes";
/// Array of [`crate::steer::SteerRanges`]. User space writes elements to which no prefix refers;
/// when all are referred to, the configuration is refused.
pub const STEER_RANGES: &str = "steer_ranges";
/// Array of [`crate::steer::SteerGroup`]. User space writes, kernel reads.
pub const STEER_GROUPS: &str = "steer_groups";
/// Socket map by [`crate::steer::socket_index`]. User space writes; a socket that is closed takes
/// itself out.
pub const STEER_SOCKETS: &str = "steer_sockets";
/// Per-CPU array of [`crate::steer::SteerStats`] by group, and one more. Kernel writes.
pub const STEER_STATS: &str = "steer_stats";

/// Indexes of [`STAGES`].
pub mod stage {
    /// [`super::program::OPEN`].
    pub const OPEN: u32 = 0;
    /// [`super::program::ICMP`].
    pub const ICMP: u32 = 1;
    /// [`super::program::RETURN`].
    pub const RETURN: u32 = 2;
    /// [`super::program::TOO_BIG`].
    pub const TOO_BIG: u32 = 3;
    /// [`super::program::PARSE`].
    pub const PARSE: u32 = 4;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// Per-CPU array of one working area for the packet in hand. Kernel only; see [`STAGES`].
pub const SCRATCH: &str = "scratch";
/// Per-CPU array of [`crate::settings::CachedService`]. Kernel only.
pub const SERVICE_CACHE: &str = "service_cache";
/// Per-CPU array of [`crate::settings::CachedRoute`]. Kernel only.
pub const ROUTE_CACHE: &str = "route_cache";
/// Per-CPU array of [`crate::settings::Adjacency`] by the low bits of the backend's id. Kernel only.
pub const ADJACENCIES: &str = "adjacencies";
/// Per-CPU array of `u64` by [`crate::reason::Reason`]. Kernel writes.
pub const REASONS: &str = "reasons";
/// Per-CPU array of [`crate::stats::BackendStats`] by backend id. Kernel writes.
pub const BACKEND_STATS: &str = "backend_stats";
/// Per-CPU array of [`crate::stats::ServiceStats`] by service id. Kernel writes.
pub const SERVICE_STATS: &str = "service_stats";
/// Ring buffer of [`crate::event::Event`]. When full, events are lost.
pub const EVENTS: &str = "events";
/// Ring buffer of [`crate::event::CaptureRecord`]. When full, packets are missing in the capture.
pub const CAPTURE: &str = "capture";
/// One element: [`DecapSettings`]. User space writes, `sluice_decap` reads.
pub const DECAP_SETTINGS: &str = "decap_settings";

/// Capacities. Those marked "default" can be set when the maps are made.
pub mod capacity {
    /// Service ids, including the unused 0.
    pub const SERVICES: u32 = 4096;
    /// Entries of `services`: one per VIP and port, one per VIP for echo, the full-nat sources.
    pub const SERVICE_KEYS: u32 = 16_384;
    /// Entries of `service_prefix`.
    pub const SERVICE_PREFIXES: u32 = 1024;
    /// Backend ids, including the unused 0. Default.
    pub const BACKENDS: u32 = 16_384;
    /// Most backends, a limit of the 16-bit ids in rings.
    pub const MAX_BACKENDS: u32 = 65_536;
    /// Most slots of a ring.
    pub const MAX_RING_SIZE: u32 = 1_000_003;
    /// Flows of all CPUs together. Default.
    pub const FLOWS: u32 = 524_288;
    /// Source addresses of full-nat.
    pub const SNAT_ADDRS: u32 = 8;
    /// Datagrams whose fragments are followed.
    pub const FRAGMENTS: u32 = 16_384;
    /// Clients with source affinity. Default.
    pub const AFFINITY: u32 = 65_536;
    /// Guard rules. Default.
    pub const GUARD_RULES: u32 = 65_536;
    /// Sources with a budget. Default.
    pub const GUARD_BUDGETS: u32 = 65_536;
    /// Elements of `service_cache`, a power of two.
    pub const SERVICE_CACHE: u32 = 1024;
    /// Elements of `route_cache`, a power of two.
    pub const ROUTE_CACHE: u32 = 4096;
    /// Elements of `adjacencies`, a power of two.
    pub const ADJACENCIES: u32 = 4096;
    /// Octets of the `events` ring buffer.
    pub const EVENTS_OCTETS: u32 = 1 << 18;
    /// Octets of the `capture` ring buffer.
    pub const CAPTURE_OCTETS: u32 = 1 << 22;
}

/// Value of `decap_settings`: what a backend accepts tunnels from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapSettings {
    /// UDP port of GUE, host byte order.
    pub gue_port: u16,
    /// How many of `sources` are used; 0 accepts any source.
    pub sources: u16,
    /// Zero.
    pub _pad: u32,
    /// Accepted outer sources: address and prefix length in 128-bit form.
    pub source: [DecapSource; 8],
}

/// A prefix of outer sources.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecapSource {
    /// Address, masked.
    pub addr: crate::addr::Addr,
    /// Mask.
    pub mask: crate::addr::Addr,
}

const _: () = assert!(core::mem::size_of::<DecapSource>() == 16 + 16);
const _: () = assert!(core::mem::size_of::<DecapSettings>() == 2 + 2 + 4 + 8 * 32);

/// Default UDP port of GUE (IANA).
pub const DEFAULT_GUE_PORT: u16 = 6080;

crate::map_value!(DecapSettings, DecapSource);
