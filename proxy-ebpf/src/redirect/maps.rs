//! The maps of redirection. Who writes and reads them, and what happens when they are full, is said
//! once, in `proxy_common::redirect`.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockMap};
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use proxy_common::addr::Addr;
use proxy_common::redirect::{
    self, ChosenKey, Dial, Listening, ListeningKey, Meeting, MeshSet, MeshState, MeshStats, Origin,
    PrefixKey, UserKey,
};

#[btf_map(name = "mesh_state")]
pub static STATE: Array<MeshState, 1> = Array::new();
#[btf_map(name = "mesh_chosen")]
pub static CHOSEN: HashMap<ChosenKey, u32, { redirect::CHOSEN as usize }> = HashMap::new();
#[btf_map(name = "mesh_sets")]
pub static SETS: Array<MeshSet, { redirect::SETS as usize }> = Array::new();
#[btf_map(name = "mesh_prefixes")]
pub static PREFIXES: LpmTrie<PrefixKey, u32, { redirect::PREFIXES as usize }> = LpmTrie::new();
#[btf_map(name = "mesh_users")]
pub static USERS: HashMap<UserKey, u32, { redirect::USERS as usize }> = HashMap::new();
#[btf_map(name = "mesh_sockets")]
pub static SOCKETS: SockMap<{ redirect::SETS as usize }> = SockMap::new();
#[btf_map(name = "mesh_daemons")]
pub static DAEMONS: HashMap<u32, u32, { redirect::DAEMONS as usize }> = HashMap::new();
#[btf_map(name = "mesh_origins")]
pub static ORIGINS: Storage<Origin> = Storage::new();
#[btf_map(name = "mesh_waiting")]
pub static WAITING: LruHashMap<Meeting, Origin, { redirect::WAITING as usize }> = LruHashMap::new();
#[btf_map(name = "mesh_stats")]
pub static STATS: PerCpuArray<MeshStats, { redirect::SETS as usize }> = PerCpuArray::new();
#[btf_map(name = "mesh_listening")]
pub static LISTENING: HashMap<ListeningKey, Listening, { redirect::LISTENING as usize }> =
    HashMap::new();
#[btf_map(name = "mesh_dials")]
pub static DIALS: LruHashMap<Dial, u32, { redirect::DIALS as usize }> = LruHashMap::new();

/// Whose socket listens there: at the address itself before all of its family, and before all of
/// both.
#[inline(always)]
pub fn listening(addr: &Addr, port: u32, is_v4: bool) -> Option<Listening> {
    let at = |addr: Addr| {
        let key = ListeningKey {
            addr,
            port,
            _pad: 0,
        };
        // SAFETY: the value is copied; one that is replaced meanwhile was true a moment ago.
        unsafe { LISTENING.get(key) }.copied()
    };
    if let Some(found) = at(*addr) {
        return Some(found);
    }
    if is_v4 && let Some(found) = at(Addr::v4([0; 4])) {
        return Some(found);
    }
    at(Addr::UNSPECIFIED)
}

/// True if a set has a listening socket.
#[inline(always)]
pub fn has_listener(set: u32) -> bool {
    let map = (&raw const SOCKETS).cast_mut().cast::<c_void>();
    let key = (&raw const set).cast::<c_void>();
    // SAFETY: the key is one of this map; the kernel counts the reference that is given back below.
    let socket = unsafe { bpf_map_lookup_elem(map, key) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the socket was just got.
    unsafe { bpf_sk_release(socket) };
    true
}

/// Storage in sockets, by a socket that the verifier knows, whatever the kind of program.
#[repr(C)]
pub struct Storage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the fields are never read; the loader takes their types for the map's description.
unsafe impl<T> Sync for Storage<T> {}

impl<T> Storage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The value in a socket, if it has one.
    ///
    /// # Safety
    ///
    /// `sk` is a socket that the verifier knows.
    #[inline(always)]
    pub unsafe fn get(&self, sk: *mut c_void) -> Option<*mut T> {
        // SAFETY: the caller's promise.
        let value = unsafe { bpf_sk_storage_get(self.map(), sk, core::ptr::null_mut(), 0) };
        (!value.is_null()).then_some(value.cast())
    }

    /// The value in a socket, made if there is none.
    ///
    /// # Safety
    ///
    /// As [`Self::get`].
    #[inline(always)]
    pub unsafe fn get_or_make(&self, sk: *mut c_void) -> Option<*mut T> {
        let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the caller's promise. Without a first value it is zero.
        let value = unsafe { bpf_sk_storage_get(self.map(), sk, core::ptr::null_mut(), flags) };
        (!value.is_null()).then_some(value.cast())
    }

    fn map(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
