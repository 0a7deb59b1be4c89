//! Every map of the data plane. Who writes and reads them, and what happens when they are full,
//! is said once, in `proxy_common::maps`; capacities marked "default" there are set by the loader.

use crate::xdp::icmp::Quote;
use crate::xdp::parse::Packet;
use crate::xdp::send::Chosen;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::exceptions::Exceptions;
use proxy_common::flow::{FlowKey, FlowSet, Fragment, FragmentKey, SetTags, SnatPort};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::maps::{DecapSettings, capacity, stage};
use proxy_common::reason::REASON_SLOTS;
use proxy_common::service::{
    Affinity, AffinityKey, RingChunk, Service, ServiceKey, ServicePrefix, ServiceRef,
};
use proxy_common::settings::{
    AddressFilter, Adjacency, CachedRoute, CachedService, CpuState, Settings,
};
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};

/// `BPF_F_MMAPABLE`: user space maps the array into its memory.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_INNER_MAP`: rings of different sizes fit one outer map.
const INNER_MAP: usize = 1 << 12;

/// A ring; the real ones have as many chunks as their size needs.
pub type Ring = Array<RingChunk, 1, { INNER_MAP | MMAPABLE }>;

#[btf_map(name = "settings")]
pub static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "address_filter")]
pub static ADDRESS_FILTER: Array<AddressFilter, 1> = Array::new();
#[btf_map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, ServiceRef, { capacity::SERVICE_KEYS as usize }> =
    HashMap::new();
#[btf_map(name = "service_prefix")]
pub static SERVICE_PREFIXES: LpmTrie<
    ServicePrefix,
    ServiceRef,
    { capacity::SERVICE_PREFIXES as usize },
> = LpmTrie::new();
#[btf_map(name = "service_table")]
pub static SERVICE_TABLE: Array<Service, { capacity::SERVICES as usize }> = Array::new();
#[btf_map(name = "rings")]
pub static RINGS: ArrayOfMaps<Ring, { capacity::SERVICES as usize }> = ArrayOfMaps::new();
#[btf_map(name = "backends")]
pub static BACKENDS: Array<Backend, { capacity::BACKENDS as usize }> = Array::new();
#[btf_map(name = "live_flows")]
pub static LIVE_FLOWS: Array<LiveFlows, { capacity::BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "flows")]
pub static FLOWS: Array<FlowSet, 1, MMAPABLE> = Array::new();
#[btf_map(name = "flow_tags")]
pub static FLOW_TAGS: Array<SetTags, 1, MMAPABLE> = Array::new();
#[btf_map(name = "exceptions")]
pub static EXCEPTIONS: Array<Exceptions, 1, MMAPABLE> = Array::new();
#[btf_map(name = "snat_addrs")]
pub static SNAT_ADDRS: Array<Addr, { capacity::SNAT_ADDRS as usize }> = Array::new();
#[btf_map(name = "snat_ports")]
pub static SNAT_PORTS: Array<SnatPort, 1, MMAPABLE> = Array::new();
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { capacity::FRAGMENTS as usize }> =
    LruHashMap::new();
#[btf_map(name = "affinity")]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, { capacity::AFFINITY as usize }> =
    LruHashMap::new();
#[btf_map(name = "guard_rules")]
pub static GUARD_RULES: LpmTrie<GuardKey, GuardRule, { capacity::GUARD_RULES as usize }> =
    LpmTrie::new();
#[btf_map(name = "guard_budgets")]
pub static GUARD_BUDGETS: LruHashMap<AffinityKey, u64, { capacity::GUARD_BUDGETS as usize }> =
    LruHashMap::new();
#[btf_map(name = "cpu_state")]
pub static CPU_STATE: PerCpuArray<CpuState, 1> = PerCpuArray::new();
#[btf_map(name = "stages")]
pub static STAGES: ProgramArray<{ stage::COUNT as usize }> = ProgramArray::new();
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Work, 1> = PerCpuArray::new();
#[btf_map(name = "service_cache")]
pub static SERVICE_CACHE: PerCpuArray<CachedService, { capacity::SERVICE_CACHE as usize }> =
    PerCpuArray::new();
#[btf_map(name = "route_cache")]
pub static ROUTE_CACHE: PerCpuArray<CachedRoute, { capacity::ROUTE_CACHE as usize }> =
    PerCpuArray::new();
#[btf_map(name = "adjacencies")]
pub static ADJACENCIES: PerCpuArray<Adjacency, { capacity::ADJACENCIES as usize }> =
    PerCpuArray::new();
#[btf_map(name = "reasons")]
pub static REASONS: PerCpuArray<u64, { REASON_SLOTS as usize }> = PerCpuArray::new();
#[btf_map(name = "backend_stats")]
pub static BACKEND_STATS: PerCpuArray<BackendStats, { capacity::BACKENDS as usize }> =
    PerCpuArray::new();
#[btf_map(name = "service_stats")]
pub static SERVICE_STATS: PerCpuArray<ServiceStats, { capacity::SERVICES as usize }> =
    PerCpuArray::new();
// Untyped, since libbpf refuses a ring buffer with a value type.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<(), { capacity::EVENTS_OCTETS as usize }> = RingBuf::new();
#[btf_map(name = "capture")]
pub static CAPTURE: RingBuf<(), { capacity::CAPTURE_OCTETS as usize }> = RingBuf::new();
#[btf_map(name = "decap_settings")]
pub static DECAP_SETTINGS: Array<DecapSettings, 1> = Array::new();

/// What is known of the packet in hand, one per CPU.
///
/// It lives in a map and not on the stack for two reasons. The stack has 512 octets for all
/// functions together. And the verifier takes what it reads from a map for unknown numbers: the
/// stages behind the parser are checked once, not once for each way through the parser.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Work {
    /// The parsed packet.
    pub packet: Packet,
    /// The backend and how to reach it.
    pub chosen: Chosen,
    /// For ICMP errors.
    pub error: Scratch,
    /// The tuple that the packet gets.
    pub new: FlowKey,
    /// When the packet came, coarse monotonic nanoseconds.
    pub now_ns: u64,
    /// MTU to tell the sender of a packet that is too big.
    pub mtu: u32,
    /// `full-nat`: index of the source address that an answer is for; [`NO_SNAT`] for `nat`.
    pub snat: u32,
}

/// No full-nat source address.
pub const NO_SNAT: u32 = u32::MAX;

/// What an ICMP error quotes and what that becomes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Scratch {
    /// The quoted packet.
    pub quote: Quote,
    /// The quoted tuple, reversed.
    pub key: FlowKey,
    /// What the quoted tuple becomes.
    pub inner: FlowKey,
    /// What the message's own source becomes.
    pub outer_src: Addr,
    /// What the message's own destination becomes.
    pub outer_dst: Addr,
}

/// A trie's key on the stack, where the verifier wants every access aligned.
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

/// Key of the guard's trie for a whole address in a scope.
#[inline(always)]
pub fn guard_key(scope: u32, addr: &Addr) -> Aligned<Key<GuardKey>> {
    Aligned(Key::new(32 + 128, GuardKey::new(scope, addr.octets)))
}

/// Key of the prefix services' trie for a whole address.
#[inline(always)]
pub fn prefix_key(addr: &Addr, port_be: u16, protocol: u8) -> Aligned<Key<ServicePrefix>> {
    let port = port_be.to_ne_bytes();
    Aligned(Key::new(
        32 + 128,
        ServicePrefix {
            protocol,
            _pad: 0,
            port,
            addr: addr.octets,
        },
    ))
}
