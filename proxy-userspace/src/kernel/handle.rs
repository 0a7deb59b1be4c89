//! Maps by bpf(2): typed elements, batches, ranges of per-CPU arrays, inner maps with a name, and
//! arrays in our memory. aya's map types have none of the last four.
//!
//! Sizes of keys and values are checked against what the kernel says about the map.

use super::sys::{self, MAP_TYPE_ARRAY, MapInfo, address, bpf, bpf_fd, cmd, id_attr};
use aya::Pod;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    start: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A map's descriptor with what the kernel says about it.
#[derive(Debug)]
pub(crate) struct MapHandle {
    fd: OwnedFd,
    info: MapInfo,
}

impl AsFd for MapHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl MapHandle {
    /// Takes a descriptor.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut map = MapInfo::default();
        sys::info(fd.as_fd(), &mut map)?;
        Ok(Self { fd, info: map })
    }

    /// Opens a pinned map.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::new(sys::open_pinned(path)?)
    }

    /// Opens the map with this id.
    pub(crate) fn by_id(id: u32) -> io::Result<Self> {
        Self::new(bpf_fd(cmd::MAP_BY_ID, &mut id_attr(id))?)
    }

    /// Makes an array; the name is cut to the kernel's 15 octets.
    pub(crate) fn create_array(
        name: &str,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    ) -> io::Result<Self> {
        #[repr(C)]
        struct CreateAttr {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            flags: u32,
            inner: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut attr = CreateAttr {
            map_type: MAP_TYPE_ARRAY,
            key_size: 4,
            value_size,
            max_entries,
            flags,
            inner: 0,
            numa_node: 0,
            name: [0; 16],
        };
        for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        Self::new(bpf_fd(cmd::MAP_CREATE, &mut attr)?)
    }

    /// Another descriptor of the same map.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            info: self.info,
        })
    }

    /// The descriptor alone.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// An element of an array (not per CPU) as it is, whatever its size.
    pub(crate) fn raw_element(&self, index: u32) -> io::Result<Vec<u8>> {
        if self.info.map_type != MAP_TYPE_ARRAY || self.info.key_size != 4 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut value = vec![0u8; self.info.value_size as usize];
        let mut attr = self.element(address(&index), value.as_mut_ptr() as u64);
        bpf(cmd::MAP_LOOKUP, &mut attr)?;
        Ok(value)
    }

    /// What the kernel says about it.
    pub(crate) fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Fails unless keys and values have these sizes.
    fn check(&self, key: usize, value: usize) -> io::Result<()> {
        if self.info.key_size as usize == key && self.info.value_size as usize == value {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the map has keys of {} and values of {} octets, not {key} and {value}",
                    self.info.key_size, self.info.value_size
                ),
            ))
        }
    }

    fn element(&self, key: u64, value: u64) -> ElementAttr {
        ElementAttr {
            map: self.fd.as_raw_fd() as u32,
            key,
            value,
            ..ElementAttr::default()
        }
    }

    /// The value of a key; `None` if there is no such key.
    pub(crate) fn get<K: Pod, V: Pod>(&self, key: &K) -> io::Result<Option<V>> {
        self.check(size_of::<K>(), size_of::<V>())?;
        let mut value = MaybeUninit::<V>::uninit();
        let mut attr = self.element(address(key), value.as_mut_ptr() as u64);
        match bpf(cmd::MAP_LOOKUP, &mut attr) {
            // SAFETY: the kernel wrote `value_size` octets, which `check` compared with `V`; `V`
            // is plain data, valid for every bit pattern.
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the value of a key.
    pub(crate) fn set<K: Pod, V: Pod>(&self, key: &K, value: &V) -> io::Result<()> {
        self.check(size_of::<K>(), size_of::<V>())?;
        let mut attr = self.element(address(key), address(value));
        bpf(cmd::MAP_UPDATE, &mut attr).map(drop)
    }

    /// Removes a key; false if there was none.
    pub(crate) fn remove<K: Pod>(&self, key: &K) -> io::Result<bool> {
        self.check(size_of::<K>(), self.info.value_size as usize)?;
        let mut attr = self.element(address(key), 0);
        match bpf(cmd::MAP_DELETE, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The key after this one (the first for `None`).
    fn next_key<K: Pod>(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = MaybeUninit::<K>::uninit();
        let mut attr = self.element(key.map_or(0, address), next.as_mut_ptr() as u64);
        match bpf(cmd::MAP_NEXT_KEY, &mut attr) {
            // SAFETY: the kernel wrote `key_size` octets, which the caller compared with `K`;
            // `K` is plain data.
            Ok(_) => Ok(Some(unsafe { next.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All keys. Bounded by the capacity: a map that changes meanwhile may begin again.
    pub(crate) fn keys<K: Pod>(&self) -> io::Result<Vec<K>> {
        self.check(size_of::<K>(), self.info.value_size as usize)?;
        let mut keys = Vec::new();
        while let Some(next) = self.next_key(keys.last())? {
            keys.push(next);
            if keys.len() >= self.info.max_entries as usize {
                break;
            }
        }
        Ok(keys)
    }

    /// All entries.
    pub(crate) fn entries<K: Pod, V: Pod>(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        for key in self.keys::<K>()? {
            if let Some(value) = self.get::<K, V>(&key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    /// Writes elements `0..values.len()` of an array in as few calls as possible.
    pub(crate) fn fill_array<V: Pod>(&self, values: &[V]) -> io::Result<()> {
        let keys: Vec<u32> = (0..values.len() as u32).collect();
        self.set_batch(&keys, values).map_err(|(_, error)| error)
    }

    /// Sets many keys in as few calls as possible. An error comes with how many were set.
    pub(crate) fn set_batch<K: Pod, V: Pod>(
        &self,
        keys: &[K],
        values: &[V],
    ) -> Result<(), (usize, io::Error)> {
        self.check(size_of::<K>(), size_of::<V>())
            .map_err(|error| (0, error))?;
        let count = keys.len().min(values.len());
        let mut done = 0;
        while done < count {
            let mut attr = BatchAttr {
                keys: keys[done..].as_ptr() as u64,
                values: values[done..].as_ptr() as u64,
                count: (count - done) as u32,
                map: self.fd.as_raw_fd() as u32,
                ..BatchAttr::default()
            };
            let result = bpf(cmd::UPDATE_BATCH, &mut attr);
            let set = match result {
                // The kernel leaves the count as it was where it refuses the call as a whole.
                Err(_) if attr.count as usize >= count - done => 0,
                _ => attr.count as usize,
            };
            done += set;
            result.map_err(|error| (done, error))?;
            if set == 0 {
                return Err((done, io::ErrorKind::WriteZero.into()));
            }
        }
        Ok(())
    }

    /// Elements `first..first + count` of an array, as raw octets of `stride` each.
    fn read_range(&self, first: u32, count: u32, stride: usize) -> io::Result<Vec<u8>> {
        let count = count.min(self.info.max_entries.saturating_sub(first));
        let mut octets = vec![0u8; count as usize * stride];
        let mut keys = vec![0u32; count as usize];
        let mut done = 0u32;
        while done < count {
            // The kernel goes on after the key given; nothing is given to begin at 0.
            let before = (first + done).wrapping_sub(1);
            let mut next = 0u32;
            let mut attr = BatchAttr {
                start: if first + done == 0 {
                    0
                } else {
                    address(&before)
                },
                next: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: octets[done as usize * stride..].as_mut_ptr() as u64,
                count: count - done,
                map: self.fd.as_raw_fd() as u32,
                ..BatchAttr::default()
            };
            match bpf(cmd::LOOKUP_BATCH, &mut attr) {
                Ok(_) => {}
                // The end of the map; what was read before it counts.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            if attr.count == 0 {
                break;
            }
            done += attr.count;
        }
        octets.truncate(done as usize * stride);
        Ok(octets)
    }

    /// Elements `first..first + count` of an array (fewer at its end).
    pub(crate) fn read_array<V: Pod>(&self, first: u32, count: u32) -> io::Result<Vec<V>> {
        self.check(4, size_of::<V>())?;
        let stride = size_of::<V>().next_multiple_of(8);
        let octets = self.read_range(first, count, self.array_stride(stride))?;
        Ok(octets
            .chunks_exact(self.array_stride(stride))
            .map(read_value)
            .collect())
    }

    /// Batches of plain arrays are packed by the value size, those of per-CPU arrays padded.
    fn array_stride(&self, padded: usize) -> usize {
        if self.info.map_type == MAP_TYPE_ARRAY {
            self.info.value_size as usize
        } else {
            padded
        }
    }

    /// As [`Self::read_array`] for a per-CPU array; the values of `cpus` (all possible) CPUs each.
    pub(crate) fn read_per_cpu<V: Pod>(
        &self,
        first: u32,
        count: u32,
        cpus: usize,
    ) -> io::Result<Vec<Vec<V>>> {
        self.check(4, size_of::<V>())?;
        let one = size_of::<V>().next_multiple_of(8);
        let octets = self.read_range(first, count, one * cpus)?;
        Ok(octets
            .chunks_exact(one * cpus)
            .map(|element| element.chunks_exact(one).map(read_value).collect())
            .collect())
    }

    /// Sets one element of a per-CPU array.
    pub(crate) fn set_per_cpu<V: Pod>(&self, index: u32, values: &[V]) -> io::Result<()> {
        self.check(4, size_of::<V>())?;
        let stride = size_of::<V>().next_multiple_of(8);
        let mut octets = vec![0u8; stride * values.len()];
        for (to, from) in octets.chunks_exact_mut(stride).zip(values) {
            // SAFETY: `to` has room for a `V` and cannot overlap `from`; octets need no alignment.
            unsafe { to.as_mut_ptr().cast::<V>().write_unaligned(*from) };
        }
        let mut attr = self.element(address(&index), octets.as_ptr() as u64);
        bpf(cmd::MAP_UPDATE, &mut attr).map(drop)
    }

    /// Maps the whole array (made with `BPF_F_MMAPABLE`) into memory, shared with the kernel.
    pub(crate) fn map_memory(&self) -> io::Result<Mapping> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let stride = self.info.value_size.next_multiple_of(8) as usize;
        let length = NonZeroUsize::new(stride * self.info.max_entries as usize)
            .ok_or(io::ErrorKind::InvalidData)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &self.fd, 0) }?;
        Ok(Mapping {
            start: start.cast(),
            length: length.get(),
        })
    }
}

/// Copies a value out of octets that are at least as long.
fn read_value<V: Pod>(octets: &[u8]) -> V {
    assert!(octets.len() >= size_of::<V>());
    // SAFETY: the slice is long enough, `V` is plain data, and the read needs no alignment.
    unsafe { octets.as_ptr().cast::<V>().read_unaligned() }
}

/// An array of the kernel in our memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only handed out as types
// that synchronise each access (see `Shared`).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// A type that consists of atomics only, so that the kernel may change it at any time.
///
/// # Safety
///
/// Every field must be an atomic integer (or an array of such) and there must be no padding.
pub(crate) unsafe trait Shared {}

// SAFETY: one atomic.
unsafe impl Shared for std::sync::atomic::AtomicI64 {}

impl Mapping {
    /// The mapping as elements of `T`, whose size must be that of the array's elements.
    pub(crate) fn elements<T: Shared>(&self) -> &[T] {
        let count = self.length / size_of::<T>();
        // SAFETY: mappings are page aligned, which is more than any `T` here asks for; the
        // length is within the mapping, which lives as long as `self`; `Shared` types tolerate
        // changes from outside.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<T>(), count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map_memory` mapped; no borrow of it outlives `self`.
        let _ = unsafe { nix::sys::mman::munmap(self.start.cast(), self.length) };
    }
}
