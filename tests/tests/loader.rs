//! The loader against the real kernel: open, adopt, replace, resize, attach, sweep, read.
//!
//! Needs root and the kernel object. Every test has a pin directory and a network namespace of
//! its own, so they run beside each other.

#[path = "loader/adopt.rs"]
mod adopt;

#[path = "loader/host.rs"]
mod host;

#[path = "loader/interfaces.rs"]
mod interfaces;

#[path = "loader/probes.rs"]
mod probes;

#[path = "loader/records.rs"]
mod records;

#[path = "loader/rings.rs"]
mod rings;

#[path = "loader/sweep.rs"]
mod sweep;

#[path = "loader/tables.rs"]
mod tables;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use nix::sched::{CloneFlags, unshare};
use proxy_common::ABI_VERSION;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::flow::{FlowEntry, FlowKey, FlowSet, Phase, Position, SetTags, slot};
use proxy_common::guard::{GuardKey, GuardRule, action};
use proxy_common::hash::{filter_bit, flow_hash};
use proxy_common::maps;
use proxy_common::service::{
    Mode, Selection, Service, ServiceKey, ServicePrefix, ServiceRef, kind,
};
use proxy_common::settings::{AddressFilter, FILTER_OCTETS, Settings};
use proxy_tests::wait;
use proxy_userspace::config::model::{AttachMode, Interface, L4};
use proxy_userspace::kernel::load::{Adoption, DataPlane, LoadError};
use proxy_userspace::kernel::netlink::{Netlink, XdpMode};
use proxy_userspace::kernel::pins::Pins;
use proxy_userspace::kernel::store::{MapEdit, MapStore};
use proxy_userspace::kernel::{attach, decap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

/// Flows that the tests' tables have room for.
const FLOWS: u32 = 1_024;

/// A pin directory of one test; taken away when it ends, whatever happened.
struct Place(PathBuf);

/// Takes away what tests that were killed have left: their pins would hold memory for ever.
fn clear_the_dead() {
    let Ok(entries) = std::fs::read_dir("/sys/fs/bpf") else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner = name
            .strip_prefix("sluice-loader-")
            .and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(Place(path));
        }
    }
}

impl Place {
    fn new(name: &str) -> Self {
        static CLEARED: Once = Once::new();
        CLEARED.call_once(clear_the_dead);
        let path = format!("/sys/fs/bpf/sluice-loader-{name}-{}", std::process::id());
        Self(path.into())
    }

    fn l4(&self) -> L4 {
        L4 {
            interfaces: Vec::new(),
            pin_dir: self.0.clone(),
            flow_capacity: FLOWS,
            backend_capacity: 64,
            tunnel_source_v4: None,
            tunnel_source_v6: None,
            gue_port: 6080,
            selection_seed: 0,
            route_ttl: Duration::from_secs(1),
            icmp_per_second: 100,
            sample_every: 0,
            kernel_log: proxy_userspace::config::model::KernelLog::Off,
        }
    }

    /// Opens it. A program that another test starts holds a copy of the last one's lock for a moment,
    /// between fork and exec.
    fn open(&self) -> Result<(DataPlane, Adoption)> {
        let mut opened = None;
        wait::until("the lock is free", || {
            match DataPlane::open(&self.l4(), 0) {
                Ok(plane) => opened = Some(plane),
                Err(LoadError::Locked { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            Ok(true)
        })?;
        opened.context("it was opened")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = decap::remove(&self.0);
        let _ = attach::remove(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Runs a test on a thread in a network namespace of its own, with a veth pair `lb0` and `lb1`.
fn in_netns(name: &str, test: impl FnOnce(&Place) -> Result<()> + Send + 'static) {
    let place = Place::new(name);
    let result = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("these tests need root")?;
        ip("link add lb0 type veth peer name lb1")?;
        ip("link set lb0 up")?;
        ip("link set lb1 up")?;
        test(&place)
    })
    .join();
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn ip(arguments: &str) -> Result<()> {
    let words = arguments.split_whitespace();
    let output = Command::new("ip").args(words).output().context("ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {error}");
    Ok(())
}

fn on(name: &str, attach: AttachMode) -> Interface {
    Interface {
        name: name.into(),
        attach,
    }
}

fn xdp_on(name: &str) -> Result<Option<(XdpMode, u32)>> {
    let found = Netlink::open()?.interface(name)?.context("gone")?;
    Ok(found.xdp.map(|xdp| (xdp.mode, xdp.program_id)))
}

/// Settings as planning would write them.
fn settings(plane: &DataPlane) -> Settings {
    Settings {
        abi: ABI_VERSION,
        cpus: plane.capacities().cpus,
        sets_per_cpu: plane.capacities().sets_per_cpu,
        secrets: [1, 2, 3, 4, 5],
        generation: 1,
        ..Settings::default()
    }
}

/// A ring of the default size, for two backends.
fn ring() -> Vec<u16> {
    (0..65_537u32).map(|slot| 1 + (slot % 2) as u16).collect()
}

/// Service 1 at 192.0.2.1:80 with backends 1 and 2.
fn edits(plane: &DataPlane) -> Vec<MapEdit> {
    let vip = Addr::v4([192, 0, 2, 1]);
    let service = Service {
        vip,
        ring_size: 65_537,
        syn_ticks: 1_000,
        established_ticks: 100_000,
        closing_ticks: 1_000,
        udp_ticks: 10_000,
        port: 80,
        mode: Mode::DsrIpip.code(),
        selection: Selection::Maglev.code(),
        protocol: 6,
        ..Service::default()
    };
    let backend = |last| Backend {
        addr: Addr::v4([10, 0, 0, last]),
        weight: 1,
        service: 1,
        state: BackendState::Up.code(),
        mode: Mode::DsrIpip.code(),
        protocol: 6,
        ..Backend::default()
    };
    let target = ServiceRef {
        id: 1,
        kind: kind::BALANCE,
        _pad: 0,
    };
    let prefix = ServicePrefix {
        protocol: 17,
        _pad: 0,
        port: [0, 0],
        addr: Addr::v4([198, 51, 100, 0]).octets,
    };
    let rule = GuardRule {
        action: action::DENY,
        ..GuardRule::default()
    };
    let mut filter = AddressFilter {
        words: [0; FILTER_OCTETS / 8],
    };
    let (word, bit) = filter_bit(&vip);
    filter.words[word] |= bit;
    vec![
        MapEdit::AddressFilter(Box::new(filter)),
        MapEdit::Backend(1, backend(1)),
        MapEdit::Backend(2, backend(2)),
        MapEdit::Ring(1, ring()),
        MapEdit::Service(1, service),
        MapEdit::SetKey(ServiceKey::new(vip, 80, 6), target),
        MapEdit::SetPrefix(32 + 96 + 24, prefix, target),
        MapEdit::SetGuard(
            32 + 128,
            GuardKey::new(0, Addr::v4([203, 0, 113, 9]).octets),
            rule,
        ),
        MapEdit::SnatAddr(0, Addr::v4([10, 0, 0, 250])),
        MapEdit::Settings(settings(plane)),
    ]
}

fn apply(plane: &DataPlane) -> Result<()> {
    let mut store = plane.store()?;
    for edit in edits(plane) {
        store.apply(&edit)?;
    }
    Ok(())
}

/// Opens, fills and attaches to `lb0`.
fn running(place: &Place) -> Result<DataPlane> {
    let (mut plane, adoption) = place.open()?;
    ensure!(adoption == Adoption::Fresh, "{adoption:?}");
    apply(&plane)?;
    plane.attach(&[on("lb0", AttachMode::Auto)])?;
    Ok(plane)
}

fn pinned<V: aya::Pod>(place: &Path, name: &str) -> Result<Array<MapData, V>> {
    let data = MapData::from_pin(Pins::new(place).map(name))?;
    Ok(Array::try_from(Map::from_map_data(data)?)?)
}

/// The flow from port `port`, as the packet path would write it.
fn flow(port: u16, last_seen: u32) -> FlowEntry {
    FlowEntry {
        key: FlowKey::new(
            Addr::v4([203, 0, 113, 1]),
            Addr::v4([192, 0, 2, 1]),
            port.to_be(),
            80u16.to_be(),
            6,
        ),
        last_seen,
        counted: 1,
        backend: 1 + port % 2,
        service: 1,
        phase: Phase::Established.code(),
        ..FlowEntry::default()
    }
}

/// Writes flows into CPU 0's part of the table; skips those whose preferred way is taken.
fn write_flows(place: &Place, plane: &DataPlane, flows: &[FlowEntry]) -> Result<usize> {
    let mut table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
    let mut tags = pinned::<SetTags>(&place.0, maps::FLOW_TAGS)?;
    let mut live = pinned::<i64>(&place.0, maps::LIVE_FLOWS);
    let secrets = settings(plane).secrets;
    let mut written = 0;
    for entry in flows {
        let hash = flow_hash(entry.key.words(), &secrets);
        let position = Position::of(hash, plane.capacities().sets_per_cpu);
        let mut set = table.get(&position.set, 0)?;
        let mut set_tags = tags.get(&position.set, 0)?;
        let way = position.way as usize;
        if set_tags.tags[way] != 0 {
            continue;
        }
        let ids = slot::ids(entry.backend, entry.service);
        let seen = slot::at(entry.last_seen);
        set_tags.tags[way] = position.tag | slot::CONFIRMED | ids | seen;
        set.ways[way] = *entry;
        table.set(position.set, set, 0)?;
        tags.set(position.set, set_tags, 0)?;
        if let Ok(live) = &mut live {
            let index = u32::from(entry.backend);
            let count = live.get(&index, 0)?;
            live.set(index, count + 1, 0)?;
        }
        written += 1;
    }
    Ok(written)
}

fn live(plane: &DataPlane) -> Result<[i64; 2]> {
    let stats = plane.stats()?.snapshot(&[], &[1, 2])?;
    Ok([1, 2].map(|id| stats.backends[&id].live_flows))
}
