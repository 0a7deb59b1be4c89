//! A loaded data plane, and typed access to its maps.
//!
//! The verifier takes seconds over the balancer, so planes are kept for the next rig that wants
//! the same sizes, and cleared in between: see [`Plane::take`].

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray,
};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::exceptions::{Exceptions, HALF_WORDS};
use proxy_common::flow::{FlowSet, Fragment, FragmentKey, SetTags, SnatPort};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::maps::{self, DecapSettings, capacity, program};
use proxy_common::service::{
    Affinity, AffinityKey, RING_CHUNK_SLOTS, RingChunk, Service, ServiceKey, ServicePrefix,
    ServiceRef,
};
use proxy_common::settings::{AddressFilter, CpuState, FILTER_OCTETS};
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Environment variable that names the kernel object, instead of `target/ebpf/sluice`.
pub const OBJECT_VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// Where the kernel object is.
pub fn object_path() -> PathBuf {
    std::env::var_os(OBJECT_VARIABLE).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/sluice"),
        PathBuf::from,
    )
}

/// Sizes of the maps that a rig makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sets of the flow table per CPU, sixteen flows each.
    pub sets_per_cpu: u32,
    /// Entries of `backends` and its companions.
    pub backends: u32,
    /// Addresses of full-nat; each costs 9 MiB.
    pub snat_addrs: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            sets_per_cpu: 64,
            backends: 256,
            snat_addrs: 0,
        }
    }
}

/// A loaded data plane.
pub struct Plane {
    ebpf: Ebpf,
    sizes: Sizes,
    /// Highest generation that was ever in its settings: caches know the older ones.
    pub(super) generation: u32,
}

/// Planes that no rig uses at the moment.
static POOL: Mutex<Vec<Plane>> = Mutex::new(Vec::new());

/// Sets up to which a plane is kept: clearing larger ones takes longer than loading.
const KEPT_SETS: u32 = 4096;

impl Plane {
    /// A cleared plane with maps of these sizes: one that was put back, or a new one.
    ///
    /// # Errors
    ///
    /// When the object is not built, or privileges are missing.
    pub fn take(sizes: Sizes) -> Result<Self> {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool.iter().position(|plane| plane.sizes == sizes);
        let kept = kept.map(|index| pool.swap_remove(index));
        drop(pool);
        match kept {
            Some(plane) => Ok(plane),
            None => Self::load(sizes),
        }
    }

    /// Clears the plane and keeps it for the next rig. `services` and `backends` are the highest
    /// ids that were used.
    ///
    /// # Errors
    ///
    /// When a map cannot be cleared; the plane is then not kept.
    pub fn put_back(mut self, services: u16, backends: u16) -> Result<()> {
        if self.sizes.sets_per_cpu > KEPT_SETS {
            return Ok(());
        }
        self.clear_keyed()?;
        self.clear_tables(services, backends)?;
        self.clear_flows()?;
        POOL.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self);
        Ok(())
    }

    fn load(sizes: Sizes) -> Result<Self> {
        let path = object_path();
        ensure!(
            path.exists(),
            "{} is missing: run `cargo xtask build-ebpf`",
            path.display()
        );
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::FLOWS, sizes.sets_per_cpu * cpus()?)
            .map_max_entries(maps::FLOW_TAGS, sizes.sets_per_cpu * cpus()?)
            .map_max_entries(maps::SNAT_PORTS, ((sizes.snat_addrs * 2) << 16).max(1))
            .map_max_entries(maps::BACKENDS, sizes.backends)
            .map_max_entries(maps::LIVE_FLOWS, sizes.backends)
            .map_max_entries(maps::BACKEND_STATS, sizes.backends)
            .load_file(&path)
            .with_context(|| format!("loading {}", path.display()))?;
        for name in program::STAGES
            .into_iter()
            .chain([program::BALANCE, program::DECAP])
        {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no program {name}"))?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("loading program {name}"))?;
        }
        let probe: &mut SchedClassifier = ebpf
            .program_mut(program::PROBE)
            .with_context(|| format!("the object has no program {}", program::PROBE))?
            .try_into()?;
        probe
            .load()
            .with_context(|| format!("loading program {}", program::PROBE))?;
        let mut plane = Self {
            ebpf,
            sizes,
            generation: 0,
        };
        for (index, name) in (0..).zip(program::STAGES) {
            let stage = plane.program_named(name)?.fd()?.try_clone()?;
            let mut stages = ProgramArray::try_from(plane.map_mut(maps::STAGES)?)?;
            stages
                .set(index, &stage, 0)
                .with_context(|| format!("setting stage {name}"))?;
        }
        Ok(plane)
    }

    fn clear_keyed(&mut self) -> Result<()> {
        self.clear_hash::<ServiceKey, ServiceRef>(maps::SERVICES)?;
        self.clear_hash::<FragmentKey, Fragment>(maps::FRAGMENTS)?;
        self.clear_hash::<AffinityKey, Affinity>(maps::AFFINITY)?;
        self.clear_hash::<AffinityKey, u64>(maps::GUARD_BUDGETS)?;
        self.clear_trie::<ServicePrefix, ServiceRef>(maps::SERVICE_PREFIXES)?;
        self.clear_trie::<GuardKey, GuardRule>(maps::GUARD_RULES)
    }

    fn clear_tables(&mut self, services: u16, backends: u16) -> Result<()> {
        for id in 0..=u32::from(services) {
            self.set(maps::SERVICE_TABLE, id, Service::default())?;
            self.set_per_cpu(maps::SERVICE_STATS, id, ServiceStats::default())?;
        }
        for id in 0..=u32::from(backends) {
            self.set(maps::BACKENDS, id, Backend::default())?;
            self.set(maps::LIVE_FLOWS, id, LiveFlows::default())?;
            self.set_per_cpu(maps::BACKEND_STATS, id, BackendStats::default())?;
        }
        for index in 0..capacity::SNAT_ADDRS {
            self.set(maps::SNAT_ADDRS, index, Addr::default())?;
        }
        let filter = AddressFilter {
            words: [0; FILTER_OCTETS / 8],
        };
        self.set(maps::ADDRESS_FILTER, 0, filter)?;
        self.set(maps::DECAP_SETTINGS, 0, DecapSettings::default())?;
        self.set_per_cpu(maps::CPU_STATE, 0, CpuState::default())
    }

    fn clear_flows(&mut self) -> Result<()> {
        for index in 0..self.sizes.sets_per_cpu * cpus()? {
            self.set(maps::FLOWS, index, FlowSet::default())?;
            self.set(maps::FLOW_TAGS, index, SetTags::default())?;
        }
        self.set(maps::EXCEPTIONS, 0, NO_EXCEPTIONS)?;
        for index in 0..(self.sizes.snat_addrs * 2) << 16 {
            self.set(maps::SNAT_PORTS, index, SnatPort::default())?;
        }
        Ok(())
    }

    fn clear_hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<()> {
        let mut hash: HashMap<_, K, V> = HashMap::try_from(self.map_mut(name)?)?;
        let keys: Vec<K> = hash.keys().collect::<Result<_, _>>()?;
        for key in keys {
            hash.remove(&key)?;
        }
        Ok(())
    }

    fn clear_trie<K: Pod, V: Pod>(&mut self, name: &str) -> Result<()> {
        let mut trie: LpmTrie<_, K, V> = LpmTrie::try_from(self.map_mut(name)?)?;
        let keys: Vec<Key<K>> = trie.keys().collect::<Result<_, _>>()?;
        for key in keys {
            trie.remove(&key)?;
        }
        Ok(())
    }

    fn set_per_cpu<V: Pod>(&mut self, name: &str, index: u32, value: V) -> Result<()> {
        let mut array: PerCpuArray<_, V> = PerCpuArray::try_from(self.map_mut(name)?)?;
        let values = PerCpuValues::try_from(vec![value; cpus()? as usize])?;
        array
            .set(index, values, 0)
            .with_context(|| format!("writing {name}[{index}]"))
    }

    /// A program of the object, loaded.
    ///
    /// # Errors
    ///
    /// When the object has none of this name.
    pub fn program_named(&self, name: &str) -> Result<&Xdp> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    /// The program that aims health probes, loaded.
    ///
    /// # Errors
    ///
    /// When the object has none.
    pub fn probe_program(&self) -> Result<&SchedClassifier> {
        let program = self.ebpf.program(program::PROBE);
        Ok(program.context("no program for probes")?.try_into()?)
    }

    /// Writes an element of an array.
    ///
    /// # Errors
    ///
    /// When the index or the size of `V` does not fit the map.
    pub fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) -> Result<()> {
        let mut array: Array<_, V> = Array::try_from(self.map_mut(map)?)?;
        array
            .set(index, value, 0)
            .with_context(|| format!("writing {map}[{index}]"))
    }

    /// Reads an element of an array.
    ///
    /// # Errors
    ///
    /// As [`Self::set`].
    pub fn get<V: Pod>(&self, map: &str, index: u32) -> Result<V> {
        let array: Array<_, V> = Array::try_from(self.map(map)?)?;
        array
            .get(&index, 0)
            .with_context(|| format!("reading {map}[{index}]"))
    }

    /// Reads an element of a per-CPU array.
    ///
    /// # Errors
    ///
    /// As [`Self::set`].
    pub fn get_per_cpu<V: Pod>(&self, map: &str, index: u32) -> Result<Vec<V>> {
        let array: PerCpuArray<_, V> = PerCpuArray::try_from(self.map(map)?)?;
        let values = array
            .get(&index, 0)
            .with_context(|| format!("reading {map}[{index}]"))?;
        Ok(values.iter().copied().collect())
    }

    /// Writes an entry of a hash.
    ///
    /// # Errors
    ///
    /// When the map is full or the sizes do not fit.
    pub fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let mut hash: HashMap<_, K, V> = HashMap::try_from(self.map_mut(map)?)?;
        hash.insert(key, value, 0)
            .with_context(|| format!("writing {map}"))
    }

    /// Removes an entry of a hash.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn remove<K: Pod, V: Pod>(&mut self, map: &str, key: &K) -> Result<()> {
        let mut hash: HashMap<_, K, V> = HashMap::try_from(self.map_mut(map)?)?;
        hash.remove(key)
            .with_context(|| format!("removing from {map}"))
    }

    /// Writes an entry of a longest-prefix trie.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn insert_prefix<K: Pod, V: Pod>(
        &mut self,
        map: &str,
        bits: u32,
        key: K,
        value: V,
    ) -> Result<()> {
        let mut trie: LpmTrie<_, K, V> = LpmTrie::try_from(self.map_mut(map)?)?;
        trie.insert(&Key::new(bits, key), value, 0)
            .with_context(|| format!("writing {map}"))
    }

    /// Swaps in a ring with these backend ids as its slots, which is never settled: SYNs leave flows.
    ///
    /// # Errors
    ///
    /// When the inner map cannot be made or set.
    pub fn set_ring(&mut self, service: u16, slots: &[u16]) -> Result<()> {
        self.set_ring_until(service, slots, u32::MAX, None)
    }

    /// Swaps in a ring that is settled at a second, perhaps with the ring before and the second until
    /// which that leads.
    ///
    /// # Errors
    ///
    /// As [`Self::set_ring`].
    pub fn set_ring_until(
        &mut self,
        service: u16,
        slots: &[u16],
        until: u32,
        before: Option<(&[u16], u32)>,
    ) -> Result<()> {
        /// `BPF_F_INNER_MAP` (inner maps of different sizes fit one outer map) and `BPF_F_MMAPABLE`.
        const FLAGS: u32 = 1 << 12 | 1 << 10;
        let first = slots.len().div_ceil(RING_CHUNK_SLOTS).max(1);
        let (slots_before, until_before) = before.unwrap_or_default();
        let head = RingChunk {
            until,
            before_size: slots_before.len() as u32,
            before_first: first as u16,
            ..RingChunk::default()
        };
        let head_before = RingChunk {
            until: until_before,
            ..RingChunk::default()
        };
        let mut chunks = packed(slots, head);
        chunks.resize(first, head);
        chunks.extend(packed(slots_before, head_before));
        let mut ring: Array<MapData, RingChunk> = Array::create(chunks.len() as u32, FLAGS)?;
        for (index, chunk) in (0..).zip(chunks) {
            ring.set(index, chunk, 0)?;
        }
        let mut rings: ArrayOfMaps<_, Array<MapData, RingChunk>> =
            ArrayOfMaps::try_from(self.map_mut(maps::RINGS)?)?;
        rings
            .set(u32::from(service), &ring, 0)
            .context("setting the ring")
    }

    /// Octets of memory that the kernel accounts to a map.
    ///
    /// # Errors
    ///
    /// When the map is no array, or `/proc` does not tell.
    pub fn map_memory(&self, name: &str) -> Result<u64> {
        let Map::Array(map) = self.map(name)? else {
            bail!("{name} is no array")
        };
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(line
            .context("the kernel tells no memory of the map")?
            .trim()
            .parse()?)
    }

    /// A map of the object.
    ///
    /// # Errors
    ///
    /// When the object has no such map.
    pub fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf
            .map(name)
            .ok_or_else(|| anyhow!("the object has no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| anyhow!("the object has no map {name}"))
    }
}

/// CPUs that the kernel may use.
///
/// # Errors
///
/// When `/sys` is not mounted.
pub fn cpus() -> Result<u32> {
    let count = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
    Ok(count as u32)
}

/// No flow is an exception, and the table was last looked at in the first second.
pub const NO_EXCEPTIONS: Exceptions = Exceptions {
    state: 0,
    _pad: [0; 7],
    marks: [0; 2 * HALF_WORDS],
};

/// Packs slots into the elements of a ring's map.
fn packed(slots: &[u16], head: RingChunk) -> Vec<RingChunk> {
    let parts = slots.chunks(RING_CHUNK_SLOTS);
    let pack = |part: &[u16]| {
        let mut chunk = head;
        chunk.slots[..part.len()].copy_from_slice(part);
        chunk
    };
    parts.map(pack).collect()
}
