//! The data plane on one frame at a time: loads the built object, fills its maps, runs frames.
//!
//! Each rig has its own namespace, its own maps and its own CPU, so tests run side by side. Maps
//! are written directly, not by way of the planner: a fault of the planner must not hide one of
//! the packet path, and some tests need states that no plan would make.

use super::netns::{Namespace, pin_to_cpu};
use super::service::Directory;
use super::wire::Link;
use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use proxy_common::flow::{FlowEntry, FlowSet, WAYS};
use proxy_common::guard::{GUARD_FIXED_BITS, GuardKey, GuardRule};
use proxy_common::maps::{self, program};
use proxy_common::reason::Reason;
use proxy_common::service::{RING_CHUNK_SLOTS, RingChunk};
use proxy_common::settings::Settings;
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Environment variable that names the kernel object, instead of `target/ebpf/sluice`.
pub const OBJECT_VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// Where the kernel object is.
pub fn object_path() -> PathBuf {
    std::env::var_os(OBJECT_VARIABLE).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/sluice"),
        PathBuf::from,
    )
}

/// What the XDP program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `XDP_ABORTED`: never right.
    Aborted,
    /// Dropped.
    Drop,
    /// Handed to the stack.
    Pass,
    /// Sent back out of the interface it came from.
    Tx,
    /// Sent out of another interface.
    Redirect,
}

impl Action {
    /// The action with this number (`bpf.h`).
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            _ => Self::Aborted,
        }
    }
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The XDP action.
    pub action: Action,
    /// The frame afterwards, also where it was dropped.
    pub frame: Vec<u8>,
    /// Every reason that was counted, as often as it was.
    pub reasons: Vec<Reason>,
}

impl Outcome {
    /// The one reason counted.
    ///
    /// # Panics
    ///
    /// When none or several were counted: each packet has exactly one.
    pub fn reason(&self) -> Reason {
        match self.reasons[..] {
            [reason] => reason,
            _ => panic!("a packet must have one reason, not {:?}", self.reasons),
        }
    }
}

/// Sizes of the maps that a rig makes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sets of the flow table per CPU, 15 flows each.
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
pub struct Rig {
    ebpf: Ebpf,
    reasons_before: Vec<u64>,
    /// What the `settings` map holds; change it with [`Self::settings`].
    settings: Settings,
    pub(super) directory: Directory,
    /// Index of the interface on which frames arrive.
    pub ingress: u32,
    /// Program that frames are given to.
    pub program: &'static str,
    /// The CPU that the test's thread is on.
    pub cpu: usize,
    /// Left when the rig is dropped, after the maps.
    pub namespace: Namespace,
}

static NEXT_CPU: AtomicUsize = AtomicUsize::new(0);

impl Rig {
    /// Loads the object with small maps.
    ///
    /// # Errors
    ///
    /// When the object is not built, or privileges are missing.
    pub fn new() -> Result<Self> {
        Self::with(Sizes::default())
    }

    /// Loads the object with maps of these sizes.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with(sizes: Sizes) -> Result<Self> {
        let namespace = Namespace::enter()?;
        let cpus = cpus()?;
        let cpu = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % cpus as usize;
        pin_to_cpu(cpu)?;
        let path = object_path();
        ensure!(
            path.exists(),
            "{} is missing: run `cargo xtask build-ebpf`",
            path.display()
        );
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::FLOWS, sizes.sets_per_cpu * cpus)
            .map_max_entries(maps::SNAT_PORTS, ((sizes.snat_addrs * 2) << 16).max(1))
            .map_max_entries(maps::BACKENDS, sizes.backends)
            .map_max_entries(maps::LIVE_FLOWS, sizes.backends)
            .map_max_entries(maps::BACKEND_STATS, sizes.backends)
            .load_file(&path)
            .with_context(|| format!("loading {}", path.display()))?;
        for name in [program::BALANCE, program::DECAP] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no program {name}"))?
                .try_into()?;
            program
                .load()
                .with_context(|| format!("loading program {name}"))?;
        }
        let settings = Settings {
            abi: proxy_common::ABI_VERSION,
            generation: 1,
            guard_generation: 1,
            sets_per_cpu: sizes.sets_per_cpu,
            cpus,
            icmp_per_second: 1_000_000,
            route_ttl_ns: 1_000_000_000,
            secrets: [0x5ec7e7; 5],
            selection_seed: 42,
            ..Settings::default()
        };
        let mut rig = Self {
            ebpf,
            reasons_before: Vec::new(),
            settings,
            directory: Directory::default(),
            ingress: namespace.north,
            program: program::BALANCE,
            cpu,
            namespace,
        };
        rig.settings(|_| ())?;
        rig.reasons_before = rig.reasons()?;
        Ok(rig)
    }

    /// Runs one frame that arrives on the ingress interface.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run (a frame of less than 14 octets, say).
    pub fn run(&mut self, frame: &[u8]) -> Result<Outcome> {
        let (action, frame) = self.run_uncounted(frame)?;
        let reasons = self.reasons()?;
        let mut counted = Vec::new();
        for (&reason, (now, before)) in Reason::ALL
            .iter()
            .zip(reasons.iter().zip(&self.reasons_before))
        {
            counted.extend(std::iter::repeat_n(reason, (now - before) as usize));
        }
        self.reasons_before = reasons;
        Ok(Outcome {
            action,
            frame,
            reasons: counted,
        })
    }

    /// Runs one frame without looking at the reasons: for floods.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_uncounted(&mut self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let context = XdpMd::new(frame.len() as u32, self.ingress);
        let result = self.program()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context.octets()),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((Action::from_code(result.return_value), out))
    }

    /// Runs the program on frames without taking their output: the fastest way to make flows.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn flood(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let ingress = self.ingress;
        let program = self.program()?;
        for frame in frames {
            let context = XdpMd::new(frame.len() as u32, ingress).octets();
            program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })?;
        }
        Ok(())
    }

    /// The program that frames are given to.
    ///
    /// # Errors
    ///
    /// Never, once the rig has been made.
    pub fn program(&self) -> Result<&Xdp> {
        let program = self
            .ebpf
            .program(self.program)
            .context("the program is loaded")?;
        Ok(program.try_into()?)
    }

    /// Packets per reason so far, in the order of [`Reason::ALL`], over all CPUs.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(maps::REASONS)?)?;
        let count = |reason: &Reason| -> Result<u64> {
            Ok(map.get(&u32::from(*reason as u16), 0)?.iter().sum())
        };
        Reason::ALL.iter().map(count).collect()
    }

    /// Forgets what was counted outside of [`Self::run`].
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn forget_reasons(&mut self) -> Result<()> {
        self.reasons_before = self.reasons()?;
        Ok(())
    }

    /// Changes the settings and raises their generation.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let mut settings = self.settings;
        settings.generation += 1;
        change(&mut settings);
        self.settings = settings;
        self.set(maps::SETTINGS, 0, settings)
    }

    /// The settings in force.
    pub const fn current_settings(&self) -> &Settings {
        &self.settings
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

    /// Swaps in a ring with these backend ids as its slots.
    ///
    /// # Errors
    ///
    /// When the inner map cannot be made or set.
    pub fn set_ring(&mut self, service: u16, slots: &[u16]) -> Result<()> {
        /// `BPF_F_INNER_MAP`: inner maps of different sizes fit one outer map.
        const INNER_MAP: u32 = 1 << 12;
        let chunks = slots.len().div_ceil(RING_CHUNK_SLOTS).max(1) as u32;
        let mut ring: Array<MapData, RingChunk> = Array::create(chunks, INNER_MAP)?;
        for (index, part) in slots.chunks(RING_CHUNK_SLOTS).enumerate() {
            let mut chunk = RingChunk {
                slots: [0; RING_CHUNK_SLOTS],
            };
            chunk.slots[..part.len()].copy_from_slice(part);
            ring.set(index as u32, chunk, 0)?;
        }
        let mut rings: ArrayOfMaps<_, Array<MapData, RingChunk>> =
            ArrayOfMaps::try_from(self.map_mut(maps::RINGS)?)?;
        rings
            .set(u32::from(service), &ring, 0)
            .context("setting the ring")
    }

    /// Writes a guard rule for a source prefix; scope 0 is global.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub fn set_guard(&mut self, scope: u16, source: &str, rule: GuardRule) -> Result<()> {
        let (address, bits) = source.split_once('/').context("a prefix")?;
        let address: IpAddr = address.parse()?;
        let bits: u32 = bits.parse()?;
        let bits = if address.is_ipv4() { 96 + bits } else { bits };
        let key = GuardKey::new(
            u32::from(scope),
            proxy_common::addr::Addr::from(address).octets,
        );
        self.insert_prefix(maps::GUARD_RULES, GUARD_FIXED_BITS + bits, key, rule)
    }

    /// Live flows of a backend.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn live(&self, backend: u16) -> Result<i64> {
        Ok(self
            .get::<LiveFlows>(maps::LIVE_FLOWS, u32::from(backend))?
            .count)
    }

    /// Counters of a backend over all CPUs.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn backend_stats(&self, backend: u16) -> Result<BackendStats> {
        let per_cpu = self.get_per_cpu::<BackendStats>(maps::BACKEND_STATS, u32::from(backend))?;
        Ok(per_cpu
            .iter()
            .fold(BackendStats::default(), |sum, one| BackendStats {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
                new_flows: sum.new_flows + one.new_flows,
                return_packets: sum.return_packets + one.return_packets,
                return_bytes: sum.return_bytes + one.return_bytes,
            }))
    }

    /// Counters of a service over all CPUs.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn service_stats(&self, service: u16) -> Result<ServiceStats> {
        let per_cpu = self.get_per_cpu::<ServiceStats>(maps::SERVICE_STATS, u32::from(service))?;
        Ok(per_cpu
            .iter()
            .fold(ServiceStats::default(), |sum, one| ServiceStats {
                local_packets: sum.local_packets + one.local_packets,
                local_bytes: sum.local_bytes + one.local_bytes,
                local_new_flows: sum.local_new_flows + one.local_new_flows,
                dropped: sum.dropped + one.dropped,
                untracked_flows: sum.untracked_flows + one.untracked_flows,
                replaced_flows: sum.replaced_flows + one.replaced_flows,
            }))
    }

    /// Every flow in the table, with the CPU whose part holds it.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<(u32, FlowEntry)>> {
        let mut flows = Vec::new();
        for index in 0..self.settings.sets_per_cpu * self.settings.cpus {
            let set = self.get::<FlowSet>(maps::FLOWS, index)?;
            for way in 0..WAYS {
                if set.header.tags[way] != 0 {
                    flows.push((index / self.settings.sets_per_cpu, set.ways[way]));
                }
            }
        }
        Ok(flows)
    }

    /// Makes every flow look idle for this many ticks longer.
    ///
    /// # Errors
    ///
    /// When the map cannot be read or written.
    pub fn age_flows(&mut self, ticks: u32) -> Result<()> {
        for index in 0..self.settings.sets_per_cpu * self.settings.cpus {
            let mut set = self.get::<FlowSet>(maps::FLOWS, index)?;
            for way in &mut set.ways {
                way.last_seen = way.last_seen.wrapping_sub(ticks);
            }
            self.set(maps::FLOWS, index, set)?;
        }
        Ok(())
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

/// A frame from the clients' gateway to the balancer.
pub fn from_client() -> Link {
    Link::new(super::netns::NORTH, super::netns::GATEWAY)
}

/// A frame from a backend to the balancer.
pub fn from_backend(last: u8) -> Link {
    Link::new(super::netns::SOUTH, super::netns::backend(last))
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

/// `struct xdp_md` as the kernel takes it for a test run.
pub(crate) struct XdpMd {
    length: u32,
    ingress: u32,
}

impl XdpMd {
    pub(crate) const fn new(length: u32, ingress: u32) -> Self {
        Self { length, ingress }
    }

    /// data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    pub(crate) fn octets(&self) -> [u8; 24] {
        let mut octets = [0; 24];
        octets[4..8].copy_from_slice(&self.length.to_ne_bytes());
        octets[12..16].copy_from_slice(&self.ingress.to_ne_bytes());
        octets
    }
}
