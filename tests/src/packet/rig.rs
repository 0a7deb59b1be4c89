//! The data plane on one frame at a time: loads the built object, fills its maps, runs frames.
//!
//! Each rig has its own namespace, its own maps and its own CPU, so tests run side by side. Maps
//! are written directly, not by way of the planner: a fault of the planner must not hide one of
//! the packet path, and some tests need states that no plan would make.

use super::netns::{Namespace, pin_to_cpu};
use super::plane::Plane;
pub use super::plane::{Sizes, cpus, object_path};
use super::service::Directory;
use super::wire::Link;
use anyhow::{Context, Result};
use aya::maps::PerCpuArray;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use proxy_common::flow::{
    BARE_PERIOD_SHIFT, FlowEntry, FlowSet, PERIOD_SHIFT, Phase, SetTags, WAYS, flow_flags, slot,
};
use proxy_common::guard::{GUARD_FIXED_BITS, GuardKey, GuardRule};
use proxy_common::maps::{self, program};
use proxy_common::reason::Reason;
use proxy_common::settings::Settings;
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// A data plane in a namespace.
pub struct Rig {
    /// Taken only when the rig is dropped.
    plane: Option<Plane>,
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

impl Deref for Rig {
    type Target = Plane;

    fn deref(&self) -> &Plane {
        self.plane
            .as_ref()
            .expect("a rig has its plane until it is dropped")
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Plane {
        self.plane
            .as_mut()
            .expect("a rig has its plane until it is dropped")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let Some(plane) = self.plane.take() else {
            return;
        };
        if std::thread::panicking() {
            return;
        }
        let (services, backends) = self.directory.highest();
        if let Err(error) = plane.put_back(services, backends) {
            eprintln!("the data plane is not kept: {error:#}");
        }
    }
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
        let plane = Plane::take(sizes)?;
        let settings = Settings {
            abi: proxy_common::ABI_VERSION,
            generation: plane.generation,
            guard_generation: 1,
            sets_per_cpu: sizes.sets_per_cpu,
            cpus,
            icmp_per_second: 1_000_000,
            route_ttl_ns: 1_000_000_000,
            secrets: SECRETS,
            selection_seed: 42,
            ..Settings::default()
        };
        let mut rig = Self {
            plane: Some(plane),
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
        let reasons = self.counted()?;
        Ok(Outcome {
            action,
            frame,
            reasons,
        })
    }

    /// The reasons counted since the last look, each as often as it was.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn counted(&mut self) -> Result<Vec<Reason>> {
        let reasons = self.reasons()?;
        let mut counted = Vec::new();
        for (&reason, (now, before)) in Reason::ALL
            .iter()
            .zip(reasons.iter().zip(&self.reasons_before))
        {
            counted.extend(std::iter::repeat_n(reason, (now - before) as usize));
        }
        self.reasons_before = reasons;
        Ok(counted)
    }

    /// Runs one frame without looking at the reasons: for floods.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn run_uncounted(&mut self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        self.run_split(frame, frame.len())
    }

    /// As [`Self::run_uncounted`], with only the first `linear` octets in the first buffer: the
    /// one way in which a program can meet less than an Ethernet header.
    ///
    /// # Errors
    ///
    /// As [`Self::run`]; also before Linux 6.18, which splits no frames.
    pub fn run_split(&mut self, frame: &[u8], linear: usize) -> Result<(Action, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let context = XdpMd::new(linear as u32, self.ingress);
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
    /// When the object has none of this name.
    pub fn program(&self) -> Result<&Xdp> {
        self.program_named(self.program)
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
        self.generation = self.generation.max(settings.generation);
        self.set(maps::SETTINGS, 0, settings)
    }

    /// The settings in force.
    pub const fn current_settings(&self) -> &Settings {
        &self.settings
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
                entered: sum.entered + one.entered,
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

    /// Every flow in the table, with the CPU whose part holds it. Of a bare one only what its slot
    /// tells is filled in.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<(u32, FlowEntry)>> {
        let mut flows = Vec::new();
        for index in 0..self.settings.sets_per_cpu * self.settings.cpus {
            let set = self.get::<FlowSet>(maps::FLOWS, index)?;
            let tags = self.get::<SetTags>(maps::FLOW_TAGS, index)?;
            for way in 0..WAYS {
                let tag = tags.tags[way];
                let flow = if tag & slot::BARE == 0 {
                    set.ways[way]
                } else {
                    FlowEntry {
                        backend: tag as u16,
                        phase: Phase::Syn.code(),
                        flags: if tag & slot::BARE_RETURN == slot::BARE_RETURN {
                            flow_flags::RETURN
                        } else {
                            0
                        },
                        ..FlowEntry::default()
                    }
                };
                if tag != 0 {
                    flows.push((index / self.settings.sets_per_cpu, flow));
                }
            }
        }
        Ok(flows)
    }

    /// Makes every flow look idle for this many ticks longer; bare ones for whole periods.
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
            let mut tags = self.get::<SetTags>(maps::FLOW_TAGS, index)?;
            for tag in tags.tags.iter_mut().filter(|tag| **tag != 0) {
                let shift = if *tag & slot::BARE == 0 {
                    PERIOD_SHIFT
                } else {
                    BARE_PERIOD_SHIFT
                };
                let seen = (*tag & slot::PERIOD) >> slot::PERIOD_SHIFT;
                let then = seen.wrapping_sub(u64::from(ticks >> shift));
                *tag = *tag & !slot::PERIOD | then << slot::PERIOD_SHIFT & slot::PERIOD;
            }
            self.set(maps::FLOW_TAGS, index, tags)?;
        }
        Ok(())
    }
}

/// Secrets of the flow table: any odd numbers with well-spread bits.
const SECRETS: [u64; 5] = proxy_common::hash::secrets([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
]);

/// A frame from the clients' gateway to the balancer.
pub fn from_client() -> Link {
    Link::new(super::netns::NORTH, super::netns::GATEWAY)
}

/// A frame from a backend to the balancer.
pub fn from_backend(last: u8) -> Link {
    Link::new(super::netns::SOUTH, super::netns::backend(last))
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
