//! The maps of the programs on sockets. Who writes and reads them, and what happens when they are
//! full, is said once, in `proxy_common::sock`.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SockHash};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use proxy_common::sock::{self, Connection, End, Half, Leg, ListenerKey, Offsets};

/// `BPF_F_MMAPABLE`: user space maps the array into its memory.
const MMAPABLE: usize = 1 << 10;

#[btf_map(name = "sock_offsets")]
pub static OFFSETS: Array<Offsets, 1> = Array::new();
#[btf_map(name = "sock_ends")]
pub static ENDS: Inherited<End> = Inherited::new();
#[btf_map(name = "sock_sockets")]
pub static SOCKETS: SockHash<u64, { sock::SOCKETS as usize }> = SockHash::new();
#[btf_map(name = "sock_waiting")]
pub static WAITING: LruHashMap<Connection, Half, { sock::WAITING as usize }> = LruHashMap::new();
#[btf_map(name = "sock_found")]
pub static FOUND: LruHashMap<u64, Half, { sock::WAITING as usize }> = LruHashMap::new();
#[btf_map(name = "sock_listeners")]
pub static LISTENERS: HashMap<ListenerKey, u32, { sock::LISTENERS as usize }> = HashMap::new();
#[btf_map(name = "sock_joined")]
pub static JOINED: HashMap<u64, u32, { sock::LEGS as usize }> = HashMap::new();
#[btf_map(name = "sock_legs")]
pub static LEGS: Array<Leg, { sock::LEGS as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "sock_counts")]
pub static COUNTS: PerCpuArray<u64, { sock::COUNTS as usize }> = PerCpuArray::new();

/// Storage in sockets that accepted ones inherit from their listener, which aya's type has no
/// flag for.
#[repr(C)]
pub struct Inherited<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are never read; the loader takes their types for the map's description.
unsafe impl<T> Sync for Inherited<T> {}

impl<T> Inherited<T> {
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
    pub unsafe fn get_or_make(&self, sk: *mut c_void, first: &mut T) -> Option<*mut T> {
        let first = core::ptr::from_mut(first).cast();
        let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the caller's promise.
        let value = unsafe { bpf_sk_storage_get(self.map(), sk, first, flags) };
        (!value.is_null()).then_some(value.cast())
    }

    fn map(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}
