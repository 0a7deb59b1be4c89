//! Every map of steering. Who writes and reads them, and what happens when they are
//! full, is said once, in `proxy_common::maps`.

use aya_ebpf::btf_maps::{Array, LpmTrie, PerCpuArray, SockMap};
use aya_ebpf::macros::btf_map;
use proxy_common::steer::{
    BINDINGS, GENERATIONS, GROUPS, RANGE_LISTS, SteerGroup, SteerKey, SteerRanges, SteerState,
    SteerStats,
};

#[btf_map(name = "steer_state")]
pub static STEER_STATE: Array<SteerState, 1> = Array::new();
#[btf_map(name = "steer_ports")]
pub static STEER_PORTS: LpmTrie<SteerKey, u32, { BINDINGS as usize }> = LpmTrie::new();
#[btf_map(name = "steer_prefixes")]
pub static STEER_PREFIXES: LpmTrie<SteerKey, u32, { BINDINGS as usize }> = LpmTrie::new();
#[btf_map(name = "steer_ranges")]
pub static STEER_RANGES: Array<SteerRanges, { RANGE_LISTS as usize }> = Array::new();
#[btf_map(name = "steer_groups")]
pub static STEER_GROUPS: Array<SteerGroup, { GROUPS as usize }> = Array::new();
#[btf_map(name = "steer_sockets")]
pub static STEER_SOCKETS: SockMap<{ (GENERATIONS * GROUPS) as usize }> = SockMap::new();
#[btf_map(name = "steer_stats")]
pub static STEER_STATS: PerCpuArray<SteerStats, { GROUPS as usize + 1 }> = PerCpuArray::new();
