//! The maps. Who writes and reads them, and what happens when they are full, is said once, in
//! `proxy_common::connect`.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage,
};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use proxy_common::connect::{
    self, Affinity, AffinityKey, Backend, Element, Facts, Layout, Name, Open, Owners, Peer,
    PrefixKey, Row, Seen, ServiceStats, State, Talks, Told, VipKey,
};

/// `BPF_F_INNER_MAP`: tables of different sizes fit one outer map.
const INNER_MAP: usize = 1 << 12;
/// `BPF_F_NO_PREALLOC`: memory is taken as sockets come.
const NO_PREALLOC: usize = 1;

/// A service's table; the real ones have as many elements as they need.
pub type Table = Array<Element, 1, INNER_MAP>;

#[btf_map(name = "connect_state")]
pub static STATE: Array<State, 1> = Array::new();
#[btf_map(name = "connect_owners")]
pub static OWNERS: Array<Owners, 1> = Array::new();
#[btf_map(name = "connect_vips")]
pub static VIPS: HashMap<VipKey, u32, { connect::VIPS as usize }> = HashMap::new();
#[btf_map(name = "connect_prefix")]
pub static PREFIXES: LpmTrie<PrefixKey, u32, { connect::VIPS as usize }> = LpmTrie::new();
#[btf_map(name = "connect_tables")]
pub static TABLES: ArrayOfMaps<Table, { connect::SERVICES as usize }> = ArrayOfMaps::new();
#[btf_map(name = "connect_names")]
pub static NAMES: Array<Name, { connect::SERVICES as usize }> = Array::new();
#[btf_map(name = "connect_backend")]
pub static BACKENDS: Array<Backend, { connect::BACKENDS as usize }> = Array::new();
#[btf_map(name = "connect_open")]
pub static OPEN: Array<Open, { connect::BACKENDS as usize }> = Array::new();
#[btf_map(name = "connect_peers")]
pub static PEERS: SkStorage<Peer> = SkStorage::new();
#[btf_map(name = "connect_rows")]
pub static ROWS: Array<Row, { connect::ROWS as usize }> = Array::new();
#[btf_map(name = "connect_talks")]
pub static TALKS: SkStorage<Talks> = SkStorage::new();
#[btf_map(name = "connect_sockets")]
pub static SOCKETS: HashMap<u64, Told, { connect::SOCKETS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "connect_affine")]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, { connect::AFFINITIES as usize }> =
    LruHashMap::new();
#[btf_map(name = "connect_stats")]
pub static SERVICE_STATS: PerCpuArray<ServiceStats, { connect::SERVICES as usize }> =
    PerCpuArray::new();
#[btf_map(name = "connect_given")]
pub static GIVEN: PerCpuArray<u64, { connect::BACKENDS as usize }> = PerCpuArray::new();
#[btf_map(name = "connect_layout")]
pub static LAYOUT: Array<Layout, 1> = Array::new();
#[btf_map(name = "connect_seen")]
pub static SEEN: SkStorage<Seen> = SkStorage::new();
#[btf_map(name = "connect_facts")]
pub static FACTS: Array<Facts, { connect::BACKENDS as usize }> = Array::new();

/// What a socket stores. aya's own methods take the context of a socket's address only.
///
/// # Safety
///
/// `sk` is a socket that the verifier knows.
#[inline(always)]
pub unsafe fn stored<T>(map: &SkStorage<T>, sk: *mut c_void) -> Option<*mut T> {
    // SAFETY: the caller's promise.
    let value = unsafe { bpf_sk_storage_get(address(map), sk, core::ptr::null_mut(), 0) };
    (!value.is_null()).then_some(value.cast())
}

/// As [`stored`], and makes it of zeros if there is none.
///
/// # Safety
///
/// As [`stored`].
#[inline(always)]
pub unsafe fn store<T>(map: &SkStorage<T>, sk: *mut c_void) -> Option<*mut T> {
    let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: the caller's promise.
    let value = unsafe { bpf_sk_storage_get(address(map), sk, core::ptr::null_mut(), flags) };
    (!value.is_null()).then_some(value.cast())
}

#[inline(always)]
fn address<T>(map: &SkStorage<T>) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}
