//! The loader against the real kernel: open, adopt, replace, resize, attach, sweep, read.
//!
//! Needs root and the kernel object. Every test has a pin directory and a network namespace of
//! its own, so they run beside each other.

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, ArrayOfMaps, Map, MapData, ProgramArray};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use proxy_common::ABI_VERSION;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::exceptions::{self, Exceptions, HALF_WORDS, half, since};
use proxy_common::flow::{
    FlowEntry, FlowKey, FlowSet, Phase, Position, SetTags, WAYS, flow_flags, slot, ticks_from_ms,
};
use proxy_common::guard::{GuardKey, GuardRule, action};
use proxy_common::hash::{filter_bit, flow_hash, ring_slot, selection_hash};
use proxy_common::maps::{self, program};
use proxy_common::service::{
    Mode, RingChunk, Selection, Service, ServiceKey, ServicePrefix, ServiceRef, kind,
};
use proxy_common::settings::{AddressFilter, FILTER_OCTETS, Settings, second};
use proxy_common::trace::threshold;
use proxy_tests::wait;
use proxy_userspace::config::model::{AttachMode, Interface, L4};
use proxy_userspace::kernel::attach::AttachError;
use proxy_userspace::kernel::capture::{CaptureFilter, CaptureWriter, Names};
use proxy_userspace::kernel::host::{now_ns, now_tick};
use proxy_userspace::kernel::load::{Adoption, DataPlane, LoadError, MapSet};
use proxy_userspace::kernel::neighbours::{Neighbours, source_for};
use proxy_userspace::kernel::netlink::{Netlink, XdpMode};
use proxy_userspace::kernel::pins::Pins;
use proxy_userspace::kernel::steer::{self, SteerError};
use proxy_userspace::kernel::store::{MapEdit, MapStore};
use proxy_userspace::kernel::sweep::{self, FlowFilter};
use proxy_userspace::kernel::{attach, decap, features};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

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

#[test]
fn a_second_process_adopts_what_the_first_one_left() {
    in_netns("adopt", |place| {
        let plane = running(place)?;
        let before = plane.store()?.state()?;
        let (mode, program) = xdp_on("lb0")?.context("not attached")?;
        ensure!(mode == XdpMode::Native);
        plane.detach_all(true)?;
        ensure!(
            xdp_on("lb0")? == Some((mode, program)),
            "it must outlive us"
        );

        let (mut plane, adoption) = place.open()?;
        let interfaces = vec!["lb0".to_owned()];
        ensure!(adoption == Adoption::Adopted { interfaces }, "{adoption:?}");
        ensure!(plane.store()?.state()? == before);
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(attached[0].updated, "the link must be updated in place");
        let (_, now) = xdp_on("lb0")?.context("not attached")?;
        ensure!(now != program, "the new program must be behind the link");
        Ok(())
    });
}

/// Programs on what leaves an interface: id and name.
fn on_egress(interface: &str) -> Result<Vec<(u32, String)>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
    let named = programs.iter().map(|found| {
        let name = found.name_as_str().unwrap_or_default().to_owned();
        (found.id(), name)
    });
    Ok(named.collect())
}

/// How many rules and routes of probes there are, in both families.
fn routes_of_probes() -> Result<(usize, usize)> {
    let table = steer::TABLE.to_string();
    let count = |arguments: &[&str], wanted: &str| -> Result<usize> {
        let output = Command::new("ip").args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter(|line| line.contains(wanted)).count())
    };
    let mut found = (0, 0);
    for family in ["-4", "-6"] {
        found.0 += count(&[family, "rule", "show"], &table)?;
        found.1 += count(&[family, "route", "show", "table", &table], "dev lo")?;
    }
    Ok(found)
}

#[test]
fn probes_are_steered_while_it_is_wanted_and_nothing_is_left_behind() {
    in_netns("steer", |place| {
        let interfaces = [on("lb0", AttachMode::Auto)];
        ip("link set lo up")?;
        let mut plane = running(place)?;
        ensure!(on_egress("lo")?.is_empty() && routes_of_probes()? == (0, 0));
        plane.steer_probes(Some(&interfaces))?;
        let first = on_egress("lo")?;
        ensure!(
            first.len() == 1 && first[0].1 == program::PROBE,
            "{first:?}"
        );
        ensure!(on_egress("lb0")? == first);
        ensure!(routes_of_probes()? == (2, 2));
        ensure!(Pins::new(&place.0).program(program::PROBE).exists());

        // Again, and after somebody removed what is not theirs.
        plane.steer_probes(Some(&interfaces))?;
        ip(&format!("rule del pref {}", steer::RULE_PRIORITY))?;
        ip(&format!("-6 route flush table {}", steer::TABLE))?;
        ensure!(routes_of_probes()? == (1, 1));
        std::fs::remove_file(Pins::new(&place.0).probe_link("lo"))?;
        // A worker of the kernel frees a link whose last pin has gone.
        wait::until("the link has gone", || Ok(on_egress("lo")?.is_empty()))?;
        plane.steer_probes(Some(&interfaces))?;
        ensure!(routes_of_probes()? == (2, 2));
        ensure!(on_egress("lo")? == first && on_egress("lb0")? == first);

        // A restart leaves it alone; the next process puts its own program behind the links.
        plane.detach_all(true)?;
        ensure!(on_egress("lo")? == first && routes_of_probes()? == (2, 2));
        let (mut plane, _) = place.open()?;
        plane.attach(&interfaces)?;
        plane.steer_probes(Some(&interfaces))?;
        let second = on_egress("lo")?;
        ensure!(second.len() == 1 && second[0].0 != first[0].0, "{second:?}");
        ensure!(on_egress("lb0")? == second);

        let others = [on("lb1", AttachMode::Auto)];
        plane.attach(&others)?;
        plane.steer_probes(Some(&others))?;
        ensure!(on_egress("lb0")?.is_empty() && on_egress("lb1")? == second);

        plane.steer_probes(None)?;
        ensure!(on_egress("lo")?.is_empty() && on_egress("lb1")?.is_empty());
        ensure!(routes_of_probes()? == (0, 0));
        ensure!(xdp_on("lb1")?.is_some(), "balancing goes on");

        plane.steer_probes(Some(&others))?;
        drop(plane);
        attach::remove(&place.0)?;
        ensure!(on_egress("lo")?.is_empty() && routes_of_probes()? == (0, 0));
        ensure!(!place.0.join("probes").exists());
        Ok(())
    });
}

#[test]
fn what_a_probe_needs_and_lacks_is_said() {
    in_netns("nolo", |place| {
        let mut plane = running(place)?;
        ip("link set lo down")?;
        let interfaces = [on("lb0", AttachMode::Auto)];
        match plane.steer_probes(Some(&interfaces)) {
            Err(error @ SteerError::Route(_)) => {
                let text = error.to_string();
                ensure!(text.contains("`lo` that is up"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ip("link set lo up")?;
        plane.steer_probes(Some(&interfaces))?;
        match plane.steer_probes(Some(&[on("nosuch", AttachMode::Auto)])) {
            Err(SteerError::NoInterface(name)) => ensure!(name == "nosuch"),
            other => bail!("{other:?}"),
        }
        Ok(())
    });
}

#[test]
fn state_is_what_was_written() {
    in_netns("state", |place| {
        let plane = running(place)?;
        let state = plane.store()?.state()?;
        ensure!(state.settings == settings(&plane));
        ensure!(state.services.len() == 1 && state.services[0].0 == 1);
        ensure!(state.backends.iter().map(|(id, _)| *id).eq([1, 2]));
        ensure!(state.keys.len() == 1 && state.prefixes.len() == 1);
        ensure!(state.guard.len() == 1 && state.guard[0].0 == 160);
        ensure!(state.snat_addrs == [(0, Addr::v4([10, 0, 0, 250]))]);
        ensure!(state.backend_capacity == 64);

        let mut store = plane.store()?;
        store.apply(&MapEdit::RemoveKey(state.keys[0].0))?;
        store.apply(&MapEdit::RemoveKey(state.keys[0].0))?;
        store.apply(&MapEdit::RemovePrefix(
            state.prefixes[0].0,
            state.prefixes[0].1,
        ))?;
        store.apply(&MapEdit::RemoveGuard(160, state.guard[0].1))?;
        store.apply(&MapEdit::Ring(1, vec![]))?;
        store.apply(&MapEdit::Ring(1, vec![]))?;
        let state = store.state()?;
        ensure!(state.keys.is_empty() && state.prefixes.is_empty() && state.guard.is_empty());
        Ok(())
    });
}

#[test]
fn a_pin_directory_in_use_names_its_user() {
    in_netns("lock", |place| {
        let _plane = place.open()?;
        match DataPlane::open(&place.l4(), 0) {
            Err(error @ LoadError::Locked { .. }) => {
                let pid = std::process::id().to_string();
                ensure!(error.to_string().contains(&pid), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened twice"),
        }
        Ok(())
    });
}

#[test]
fn maps_of_another_abi_are_replaced_when_the_links_are_updated() {
    in_netns("abi", |place| {
        let plane = running(place)?;
        let old = Settings {
            abi: 99,
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(old))?;
        let (_, old_program) = xdp_on("lb0")?.context("not attached")?;
        drop(plane);

        let (mut plane, adoption) = place.open()?;
        match adoption {
            Adoption::Replaced {
                old_abi: 99,
                copied: false,
                ..
            } => {}
            other => bail!("{other:?}"),
        }
        ensure!(
            plane.store()?.state()?.keys.is_empty(),
            "new maps are empty"
        );
        let in_force = MapSet::open(&Pins::new(&place.0))?.settings()?.abi;
        ensure!(in_force == 99, "the old maps must be in force still");
        ensure!(xdp_on("lb0")?.context("gone")?.1 == old_program);

        apply(&plane)?;
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(attached[0].updated, "no packet may be lost");
        let in_force = MapSet::open(&Pins::new(&place.0))?.settings()?.abi;
        ensure!(in_force == ABI_VERSION);
        ensure!(!place.0.join("next").exists());
        Ok(())
    });
}

#[test]
fn growing_the_flow_table_keeps_services_and_flows() {
    in_netns("grow", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let flows: Vec<_> = (1_000..1_200).map(|port| flow(port, now)).collect();
        let written = write_flows(place, &plane, &flows)?;
        ensure!(written > 100, "{written}");
        let before = plane.store()?.state()?;
        let counts = live(&plane)?;
        drop(plane);

        let mut l4 = place.l4();
        l4.flow_capacity = FLOWS * 2;
        l4.backend_capacity = 128;
        let (mut plane, adoption) = DataPlane::open(&l4, 1)?;
        ensure!(
            matches!(adoption, Adoption::Replaced { copied: true, .. }),
            "{adoption:?}"
        );
        let after = plane.store()?.state()?;
        ensure!(after.keys == before.keys && after.services == before.services);
        ensure!(after.settings.secrets == before.settings.secrets);
        ensure!(after.settings.sets_per_cpu == plane.capacities().sets_per_cpu);
        ensure!(after.backend_capacity == 128);
        plane.attach(&[on("lb0", AttachMode::Auto)])?;
        let kept = sweep::list(plane.maps(), &FlowFilter::default(), 10_000, now)?;
        ensure!(kept.len() == written, "{} of {written}", kept.len());
        ensure!(live(&plane)? == counts);

        // And each is where the packet path will look for it.
        let table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        let tags = pinned::<SetTags>(&place.0, maps::FLOW_TAGS)?;
        for entry in &flows {
            let hash = flow_hash(entry.key.words(), &after.settings.secrets);
            let position = Position::of(hash, after.settings.sets_per_cpu);
            let set = table.get(&position.set, 0)?;
            let tags = tags.get(&position.set, 0)?.tags;
            let ids = slot::ids(entry.backend, entry.service);
            let slot = position.tag | slot::CONFIRMED | ids | slot::at(entry.last_seen);
            let found = (0..WAYS).any(|way| set.ways[way].key == entry.key && tags[way] == slot);
            let known = kept
                .iter()
                .any(|flow| flow.source.port() == u16::from_be(entry.key.src_port_be));
            ensure!(found == known, "{entry:?}");
        }
        Ok(())
    });
}

#[test]
fn the_sweep_forgets_expired_flows_and_corrects_drift() {
    in_netns("sweep", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let fresh: Vec<_> = (1_000..1_050).map(|port| flow(port, now)).collect();
        let stale: Vec<_> = (2_000..2_050)
            .map(|port| flow(port, now.wrapping_sub(200_000)))
            .collect();
        let fresh = write_flows(place, &plane, &fresh)?;
        let stale = write_flows(place, &plane, &stale)?;
        ensure!(stale > 20);

        let mut sweeper = plane.sweeper()?;
        let report = sweeper.finish_pass(now)?;
        ensure!(report.flows_expired == stale as u64, "{report:?}");
        ensure!(report.occupancy.used == fresh as u64, "{report:?}");
        ensure!(report.occupancy.confirmed == fresh as u64, "{report:?}");
        ensure!(report.occupancy.capacity >= u64::from(FLOWS), "{report:?}");
        ensure!(report.drift_corrected == 0, "{report:?}");
        ensure!(live(&plane)?.iter().sum::<i64>() == fresh as i64);

        // A count that a crash left wrong.
        let mut counts = pinned::<i64>(&place.0, maps::LIVE_FLOWS)?;
        let right = counts.get(&1, 0)?;
        counts.set(1, right + 7, 0)?;
        let report = sweeper.finish_pass(now)?;
        ensure!(report.drift_corrected == 7, "{report:?}");
        ensure!(counts.get(&1, 0)? == right);
        Ok(())
    });
}

#[test]
fn a_pass_over_a_million_flows_never_holds_a_core_for_long() {
    in_netns("million", |place| {
        let mut l4 = place.l4();
        l4.flow_capacity = 1_000_000;
        let (mut plane, _) = DataPlane::open(&l4, 0)?;
        apply(&plane)?;
        plane.attach(&[])?;
        // Eight flows in every set, as planned.
        let now = now_tick();
        let mut table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        let mut tags = pinned::<SetTags>(&place.0, maps::FLOW_TAGS)?;
        let (mut set, mut set_tags) = (FlowSet::default(), SetTags::default());
        for way in 0..8u16 {
            let hash = u64::from(way + 1) << slot::HASH_SHIFT;
            set_tags.tags[usize::from(way)] = hash | slot::CONFIRMED | slot::at(now);
            set.ways[usize::from(way)] = flow(way, now);
        }
        for index in 0..table.len() {
            table.set(index, set, 0)?;
            tags.set(index, set_tags, 0)?;
        }
        // The thread's own time: others use this machine too.
        let cpu_time = || -> Result<Duration> {
            let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
            Ok(Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32))
        };
        let mut sweeper = plane.sweeper()?;
        let (mut longest, begin) = (Duration::ZERO, cpu_time()?);
        let report = loop {
            let before = cpu_time()?;
            let report = sweeper.step(now)?;
            longest = longest.max(cpu_time()? - before);
            if let Some(report) = report {
                break report;
            }
        };
        let (whole, flows) = (cpu_time()? - begin, report.occupancy.used);
        ensure!(flows >= 1_000_000, "{report:?}");
        eprintln!("a pass over {flows} flows: {whole:?}, longest step {longest:?}");
        ensure!(longest < Duration::from_millis(50), "{longest:?}");
        ensure!(whole < Duration::from_secs(2), "{whole:?}");
        Ok(())
    });
}

#[test]
fn purging_a_service_forgets_its_flows_only() {
    in_netns("purge", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let own: Vec<_> = (1_000..1_040).map(|port| flow(port, now)).collect();
        let other: Vec<_> = (2_000..2_040)
            .map(|port| FlowEntry {
                service: 2,
                ..flow(port, now)
            })
            .collect();
        write_flows(place, &plane, &own)?;
        let others = write_flows(place, &plane, &other)?;
        plane.store()?.apply(&MapEdit::PurgeService(1))?;
        let left = sweep::list(plane.maps(), &FlowFilter::default(), 1_000, now)?;
        ensure!(left.len() == others && left.iter().all(|flow| flow.service == 2));

        // A process that ends between the two steps of a removal leaves the slot: the tuple must be
        // gone.
        let table = pinned::<FlowSet>(&place.0, maps::FLOWS)?;
        for set in table.iter() {
            let set = set?;
            let leftover = set
                .ways
                .iter()
                .any(|entry| entry.service == 1 && entry.key.protocol != 0);
            ensure!(!leftover);
        }
        Ok(())
    });
}

#[test]
fn a_ring_of_65537_slots_is_swapped_in_milliseconds() {
    in_netns("ring", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let (ring, mut turned) = (ring(), ring());
        turned.rotate_left(1);
        let mut fastest = Duration::MAX;
        for ring in [&turned, &ring, &turned, &ring, &turned] {
            let edit = MapEdit::Ring(1, ring.clone());
            let begin = Instant::now();
            store.apply(&edit)?;
            fastest = fastest.min(begin.elapsed());
        }
        // Most of it is the grace period that the kernel waits for after the swap.
        ensure!(fastest < Duration::from_millis(50), "{fastest:?}");
        eprintln!("swapped a ring in {fastest:?}");
        Ok(())
    });
}

/// The elements of service 1's ring map, as they are pinned.
fn ring_chunks(place: &Path) -> Result<Vec<RingChunk>> {
    let data = MapData::from_pin(Pins::new(place).map(maps::RINGS))?;
    let rings = ArrayOfMaps::<_, Array<MapData, RingChunk>>::try_from(Map::from_map_data(data)?)?;
    let ring = rings.get(&1, 0)?;
    Ok(ring.iter().collect::<Result<_, _>>()?)
}

/// The slots of the ring in force and of the one before, as many as were asked for.
fn slots_of(chunks: &[RingChunk], count: usize) -> Vec<u16> {
    let slots = chunks.iter().flat_map(|chunk| chunk.slots);
    slots.take(count).collect()
}

#[test]
fn the_ring_before_outlives_the_process_and_further_changes() {
    in_netns("before", |place| {
        let plane = running(place)?;
        let first = slots_of(&ring_chunks(&place.0)?, 65_537);
        ensure!(first == ring());
        // A window that outlasts the test on the slowest machine.
        let mut service = plane.store()?.state()?.services[0].1;
        service.syn_ticks = ticks_from_ms(240_000);
        plane.store()?.apply(&MapEdit::Service(1, service))?;
        plane.store()?.apply(&MapEdit::Ring(1, vec![1; 251]))?;
        let changed = ring_chunks(&place.0)?;
        plane.detach_all(true)?;

        // The next process changes it again within the window; and again says what it is.
        let (plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        ensure!(
            ring_chunks(&place.0)? == changed,
            "adopting changes nothing"
        );
        let mut store = plane.store()?;
        for slots in [vec![2; 251], vec![2; 251], vec![]] {
            store.apply(&MapEdit::Ring(1, slots.clone()))?;
            let chunks = ring_chunks(&place.0)?;
            let head = chunks[0];
            ensure!(slots_of(&chunks, slots.len()) == slots);
            ensure!(head.before_size == 65_537, "{head:?}");
            let before = &chunks[usize::from(head.before_first)..];
            ensure!(slots_of(before, 65_537) == first);
            ensure!(before[0].until == changed[0].until, "its window is its own");
            ensure!(head.until >= changed[0].until);
        }
        // A removed one is gone, and a service that gets its id begins anew.
        store.apply(&MapEdit::RemoveRing(1))?;
        store.apply(&MapEdit::Ring(1, vec![1; 251]))?;
        ensure!(ring_chunks(&place.0)?[0].before_size == 0);
        Ok(())
    });
}

#[test]
fn a_new_seed_unsettles_the_rings() {
    in_netns("seed", |place| {
        let plane = running(place)?;
        let before = ring_chunks(&place.0)?[0];
        let seeded = Settings {
            selection_seed: 7,
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(seeded))?;
        let after = ring_chunks(&place.0)?[0];
        ensure!(after.until > before.until, "{before:?} {after:?}");
        ensure!(after.slots == before.slots && after.before_size == 0);
        Ok(())
    });
}

#[test]
fn the_sweep_marks_the_flows_that_are_not_where_the_ring_leads() {
    in_netns("marks", |place| {
        let plane = running(place)?;
        let now = now_tick();
        let slots = ring();
        let led_to = |flow: &FlowEntry| {
            slots[ring_slot(selection_hash(&flow.key, 0), slots.len() as u32) as usize]
        };
        let ruled = |port| {
            let flow = flow(port, now);
            let backend = led_to(&flow);
            FlowEntry { backend, ..flow }
        };
        let astray = |port| {
            let flow = ruled(port);
            let backend = 3 - flow.backend;
            FlowEntry { backend, ..flow }
        };
        let closing = |port| FlowEntry {
            phase: Phase::Closing.code(),
            ..ruled(port)
        };
        let back = |port| FlowEntry {
            flags: flow_flags::RETURN,
            ..astray(port)
        };
        let marked: Vec<_> = (1_000..1_020)
            .map(astray)
            .chain((2_000..2_020).map(closing))
            .collect();
        let unmarked: Vec<_> = (3_000..3_020)
            .map(ruled)
            .chain((4_000..4_020).map(back))
            .collect();
        // All in one go: it skips those whose way is taken, and tells not which.
        let all: Vec<_> = marked.iter().chain(&unmarked).copied().collect();
        write_flows(place, &plane, &all)?;
        let mut sweeper = plane.sweeper()?;
        let second = || second(now_ns());
        let secrets = settings(&plane).secrets;
        for pass in 0..3u64 {
            let begin = second();
            sweeper.finish_pass(now)?;
            let exceptions = pinned::<Exceptions>(&place.0, maps::EXCEPTIONS)?.get(&0, 0)?;
            ensure!(
                half(exceptions.state) == (pass + 1) % 2,
                "the halves take turns"
            );
            ensure!((begin..=second()).contains(&since(exceptions.state)));
            let first = half(exceptions.state) as usize * HALF_WORDS;
            let is_marked = |flow: &FlowEntry| {
                let (word, mask) = exceptions::place(flow_hash(flow.key.words(), &secrets));
                exceptions.marks[first + word] & mask != 0
            };
            let kept = sweep::list(
                plane.maps(),
                &FlowFilter {
                    returns: true,
                    ..FlowFilter::default()
                },
                10_000,
                now,
            )?;
            let is_kept = |flow: &&FlowEntry| {
                let port = u16::from_be(flow.key.src_port_be);
                kept.iter().any(|kept| kept.source.port() == port)
            };
            ensure!(marked.iter().filter(is_kept).count() > 20);
            ensure!(marked.iter().filter(is_kept).all(is_marked), "pass {pass}");
            ensure!(unmarked.iter().filter(is_kept).count() > 20);
            // The secrets are fixed, so that no two of these share a mark by chance.
            let wrong = unmarked.iter().filter(|flow| is_marked(flow)).count();
            ensure!(wrong == 0, "{wrong} in pass {pass}");
        }
        Ok(())
    });
}

#[test]
fn many_rings_are_swapped_in_together() {
    in_netns("rings", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let edits: Vec<_> = (1..=200)
            .map(|id| MapEdit::Ring(id, vec![id; 251]))
            .collect();
        let begin = Instant::now();
        let result = store.apply_all(&edits);
        ensure!(result.is_ok(), "{result:?}");
        eprintln!("swapped 200 rings in {:?}", begin.elapsed());
        ensure!(begin.elapsed() < Duration::from_secs(1));

        // One beyond the map fails, and it is known which.
        let edits = [1, 2, 5_000, 3].map(|id| MapEdit::Ring(id, vec![1]));
        match store.apply_all(&edits) {
            Err((2, error)) => ensure!(error.map == maps::RINGS),
            other => bail!("{other:?}"),
        }
        Ok(())
    });
}

/// Has `lb1` send a SYN to the VIP; it arrives at `lb0`.
fn send_a_syn() -> Result<()> {
    ip("addr replace 203.0.113.1/24 dev lb1")?;
    ip("route replace 192.0.2.1/32 dev lb1")?;
    ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev lb1")?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let vip: std::net::SocketAddr = "192.0.2.1:80".parse()?;
    // Nobody answers; the attempt is all that is wanted.
    let _ = socket.connect(&vip.into());
    Ok(())
}

/// Waits for a future, for at most two seconds.
fn wait_for<T>(runtime: &Runtime, future: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    let limited = async { tokio::time::timeout(Duration::from_secs(2), future).await };
    Ok(runtime.block_on(limited).context("nothing came")??)
}

#[test]
fn packets_are_counted_and_sampled() {
    in_netns("events", |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _entered = runtime.enter();
        let plane = running(place)?;
        let sampling = Settings {
            trace_below: threshold(1),
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(sampling))?;
        let mut events = plane.events()?;
        let before: u64 = plane.stats()?.reasons()?.iter().map(|(_, n)| n).sum();
        send_a_syn()?;
        let event = wait_for(&runtime, events.next())?;
        ensure!(event.length > 0 && event.flow != 0, "{event:?}");
        let after: u64 = plane.stats()?.reasons()?.iter().map(|(_, n)| n).sum();
        ensure!(after > before, "{before} {after}");
        Ok(())
    });
}

/// A network namespace with a name, taken away at the end.
struct NamedNetns(String);

impl NamedNetns {
    fn new() -> Result<Self> {
        let name = format!("sluice-loader-{}", std::process::id());
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.0));
    }
}

#[test]
fn next_hops_are_resolved_without_traffic() {
    in_netns("neighbours", |_| {
        let backend = NamedNetns::new()?;
        let name = &backend.0;
        ip(&format!("link set lb1 netns {name}"))?;
        ip(&format!("-n {name} addr add 10.9.0.2/24 dev lb1"))?;
        ip(&format!("-n {name} link set lb1 up"))?;
        ip("addr add 10.9.0.1/24 dev lb0")?;
        let [here, there, nowhere] = ["10.9.0.1", "10.9.0.2", "10.10.0.1"].map(str::parse);
        let (here, there, nowhere) = (here?, there?, nowhere?);
        ensure!(source_for(there)? == Some(here));

        let mut neighbours = Neighbours::default();
        neighbours.set([here, there, nowhere]);
        let report = neighbours.refresh()?;
        ensure!(report.unroutable == [nowhere], "{report:?}");
        ensure!(report.pending == [there], "{report:?}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !neighbours.refresh()?.pending.is_empty() {
            ensure!(Instant::now() < deadline, "not resolved");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
}

/// Names for a capture file.
struct NoNames;

impl Names for NoNames {
    fn interface(&self, _: u32) -> Option<String> {
        Some("lb0".to_owned())
    }
    fn service(&self, _: u16) -> Option<String> {
        None
    }
    fn backend(&self, _: u16) -> Option<String> {
        None
    }
}

#[test]
fn a_capture_shows_what_arrived_and_what_became_of_it() {
    in_netns("pcap", |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _entered = runtime.enter();
        let plane = running(place)?;
        let mut captures = plane.captures()?;
        plane.store()?.set_capture(Some(200))?;
        send_a_syn()?;

        let file = tempfile::NamedTempFile::new()?;
        let filter = CaptureFilter::parse("host 192.0.2.1 and port 80", |_| None)?;
        let mut writer = CaptureWriter::new(file.reopen()?, filter)?;
        // Each packet makes two records; the first packets may be of the kernel's own making.
        loop {
            let packet = wait_for(&runtime, captures.next())?;
            let is_syn = packet.header.service == 1;
            writer.push(packet, &NoNames)?;
            if is_syn {
                break;
            }
        }
        ensure!(writer.finish(&NoNames)? >= 1);
        let tcpdump = Command::new("tcpdump")
            .args(["-nn", "-r"])
            .arg(file.path())
            .output()
            .context("tcpdump")?;
        let text = String::from_utf8_lossy(&tcpdump.stdout);
        ensure!(text.contains("> 192.0.2.1.80: Flags [S]"), "{tcpdump:?}");
        Ok(())
    });
}

#[test]
fn a_missing_interface_changes_nothing_and_lists_the_others() {
    in_netns("missing", |place| {
        let mut plane = running(place)?;
        let before = xdp_on("lb0")?;
        let both = [on("lb0", AttachMode::Auto), on("nosuch", AttachMode::Auto)];
        match plane.attach(&both) {
            Err(error @ AttachError::NoInterface { .. }) => {
                let text = error.to_string();
                ensure!(text.contains("nosuch") && text.contains("lb0"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ensure!(xdp_on("lb0")? == before);
        Ok(())
    });
}

#[test]
fn a_broken_object_leaves_the_running_one_alone() {
    in_netns("broken", |place| {
        drop(running(place)?);
        let before = xdp_on("lb0")?;
        match DataPlane::open_object(&[0; 64], &place.l4(), 0) {
            Err(LoadError::Object(_)) => {}
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened"),
        }
        ensure!(xdp_on("lb0")? == before);
        let (_plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        Ok(())
    });
}

#[test]
fn a_full_map_refuses_by_name_and_keeps_what_it_has() {
    in_netns("full", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        let target = ServiceRef {
            id: 1,
            kind: kind::BALANCE,
            _pad: 0,
        };
        let room = maps::capacity::SERVICE_PREFIXES;
        let edits: Vec<_> = (0..=room)
            .map(|number| {
                let [.., high, low] = number.to_be_bytes();
                let prefix = ServicePrefix {
                    protocol: 6,
                    _pad: 0,
                    port: [0, 0],
                    addr: Addr::v4([198, 18, high, low]).octets,
                };
                MapEdit::SetPrefix(32 + 128, prefix, target)
            })
            .collect();
        match store.apply_all(&edits) {
            Err((done, error)) => {
                ensure!(done as u32 >= room - 1, "{done}");
                ensure!(error.map == maps::SERVICE_PREFIXES, "{error:?}");
            }
            Ok(()) => bail!("more entries than there is room for"),
        }
        ensure!(store.state()?.prefixes.len() as u32 == room);
        Ok(())
    });
}

#[test]
fn a_refusal_repeats_the_kernels_own_sentence() {
    in_netns("refused", |place| {
        // The loopback device's driver has no XDP.
        ip("link set lo up")?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        match plane.attach(&[on("lo", AttachMode::Native)]) {
            Err(error @ AttachError::Refused { .. }) => {
                let text = error.to_string();
                ensure!(text.contains("does not support XDP"), "{text}");
                ensure!(text.contains("attach: generic"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        let attached = plane.attach(&[on("lo", AttachMode::Auto)])?;
        ensure!(attached[0].mode == XdpMode::Generic);
        Ok(())
    });
}

#[test]
fn a_bpffs_is_mounted_on_an_empty_directory_and_on_no_other() {
    use nix::mount::{MsFlags, mount};
    in_netns("bpffs", |place| {
        // The mounts of this test vanish with its thread.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let directory = tempfile::tempdir()?;
        let mut l4 = place.l4();
        l4.pin_dir = directory.path().join("pins");
        drop(DataPlane::open(&l4, 0)?);
        ensure!(l4.pin_dir.join("next/settings").exists());

        let other = tempfile::tempdir()?;
        std::fs::write(other.path().join("precious"), "")?;
        l4.pin_dir = other.path().to_owned();
        match DataPlane::open(&l4, 0) {
            Err(error @ LoadError::NotBpffs(_)) => {
                ensure!(error.to_string().contains("/sys/fs/bpf"), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("mounted over files"),
        }
        nix::mount::umount(&directory.path().join("pins"))?;
        Ok(())
    });
}

#[test]
fn missing_capabilities_are_named() {
    in_netns("caps", |place| {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        /// `_LINUX_CAPABILITY_VERSION_3`.
        const VERSION: u32 = 0x2008_0522;
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let none = [0u32; 6];
        // SAFETY: both pointers are to live values of the kernel's layout. Only this thread loses
        // its capabilities.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
        ensure!(result == 0, "capset");
        match DataPlane::open(&place.l4(), 0) {
            Err(error @ LoadError::NoPrivilege { .. }) => {
                ensure!(error.to_string().contains("CAP_BPF"), "{error}");
            }
            Err(error) => bail!("{error:?}"),
            Ok(_) => bail!("opened"),
        }
        Ok(())
    });
}

#[test]
fn the_stages_behind_the_program_outlive_the_daemon() {
    in_netns("stages", |place| {
        let stages = place.0.join("stages");
        let pinned = || -> Result<Vec<String>> {
            std::fs::read_dir(&stages)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let filled = |id: &str| -> Result<usize> {
            let data = MapData::from_pin(stages.join(id))?;
            let array = ProgramArray::try_from(Map::from_map_data(data)?)?;
            Ok(array.indices().filter(Result::is_ok).count())
        };
        running(place)?.detach_all(true)?;
        let (_, program) = xdp_on("lb0")?.context("not attached")?;
        ensure!(pinned()? == [program.to_string()]);

        // The old stages must be there until the link has the new program, however often a
        // daemon dies before it gets so far.
        drop(place.open()?);
        drop(place.open()?);
        let (mut plane, _) = place.open()?;
        ensure!(pinned()? == [program.to_string()]);
        ensure!(filled(&program.to_string())? == program::STAGES.len());
        plane.attach(&[on("lb0", AttachMode::Auto)])?;
        let (_, now) = xdp_on("lb0")?.context("not attached")?;
        ensure!(now != program && pinned()? == [now.to_string()]);
        plane.attach(&[on("lb0", AttachMode::Auto), on("lb1", AttachMode::Auto)])?;
        ensure!(pinned()? == [now.to_string()]);
        Ok(())
    });
}

#[test]
fn an_interface_with_another_program_is_refused_by_name() {
    in_netns("occupied", |place| {
        let other = Place::new("occupied-other");
        let _other = running(&other)?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        let both = [on("lb1", AttachMode::Auto), on("lb0", AttachMode::Auto)];
        match plane.attach(&both) {
            Err(error @ AttachError::Occupied(_)) => {
                let text = error.to_string();
                ensure!(text.contains("sluice_balance"), "{text}");
                ensure!(text.contains("ip link set dev lb0"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ensure!(
            xdp_on("lb1")?.is_none(),
            "what was attached before must be undone"
        );
        Ok(())
    });
}

#[test]
fn modes_are_obeyed_and_can_be_changed() {
    in_netns("modes", |place| {
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        for (wanted, got) in [
            (AttachMode::Generic, XdpMode::Generic),
            (AttachMode::Auto, XdpMode::Generic),
            (AttachMode::Native, XdpMode::Native),
            (AttachMode::Auto, XdpMode::Native),
        ] {
            plane.attach(&[on("lb0", wanted)])?;
            let mode = xdp_on("lb0")?.map(|(mode, _)| mode);
            ensure!(mode == Some(got), "{wanted:?}: {mode:?}");
        }
        Ok(())
    });
}

#[test]
fn an_interface_that_is_not_configured_any_more_is_left_alone() {
    in_netns("unconfigured", |place| {
        let mut plane = running(place)?;
        plane.attach(&[on("lb1", AttachMode::Auto)])?;
        ensure!(xdp_on("lb0")?.is_none() && xdp_on("lb1")?.is_some());
        ensure!(Pins::new(&place.0).linked_interfaces()? == ["lb1"]);
        Ok(())
    });
}

#[test]
fn a_namesake_of_a_vanished_interface_gets_a_new_link() {
    in_netns("namesake", |place| {
        let mut plane = running(place)?;
        ip("link del lb0")?;
        ip("link add lb0 type veth peer name lb1")?;
        let attached = plane.attach(&[on("lb0", AttachMode::Auto)])?;
        ensure!(!attached[0].updated);
        ensure!(xdp_on("lb0")?.is_some());
        Ok(())
    });
}

#[test]
fn an_interface_with_a_dot_in_its_name_can_be_pinned() {
    in_netns("dot", |place| {
        // As VLAN devices have; bpffs refuses dots.
        ip("link add lb.100 type veth peer name other")?;
        let (mut plane, _) = place.open()?;
        apply(&plane)?;
        plane.attach(&[on("lb.100", AttachMode::Auto)])?;
        drop(plane);
        let (mut plane, adoption) = place.open()?;
        let interfaces = vec!["lb.100".to_owned()];
        ensure!(adoption == Adoption::Adopted { interfaces }, "{adoption:?}");
        ensure!(plane.attach(&[on("lb.100", AttachMode::Auto)])?[0].updated);
        Ok(())
    });
}

#[test]
fn detaching_leaves_nothing_behind() {
    in_netns("detach", |place| {
        running(place)?.detach_all(false)?;
        ensure!(xdp_on("lb0")?.is_none());
        ensure!(!place.0.exists());
        Ok(())
    });
}

#[test]
fn an_unfinished_replacement_is_forgotten() {
    in_netns("unfinished", |place| {
        let plane = running(place)?;
        drop(plane);
        let mut l4 = place.l4();
        l4.flow_capacity = FLOWS * 4;
        drop(DataPlane::open(&l4, 0)?);
        ensure!(place.0.join("next").exists());
        let (_plane, adoption) = place.open()?;
        ensure!(matches!(adoption, Adoption::Adopted { .. }), "{adoption:?}");
        ensure!(!place.0.join("next").exists());
        Ok(())
    });
}

#[test]
fn a_capture_survives_planning_but_not_a_restart() {
    in_netns("capture", |place| {
        let plane = running(place)?;
        let mut store = plane.store()?;
        store.set_capture(Some(96))?;
        store.apply(&MapEdit::Settings(settings(&plane)))?;
        ensure!(plane.maps().settings()?.capture_octets == 96);
        ensure!(store.state()?.settings == settings(&plane));
        drop(plane);
        let (plane, _) = place.open()?;
        ensure!(plane.maps().settings()?.capture_octets == 0);
        ensure!(plane.maps().settings()?.flags == 0);
        Ok(())
    });
}

#[test]
fn the_decapsulator_has_pins_of_its_own() {
    in_netns("decap", |place| {
        let sources = ["10.0.0.0/8".parse()?];
        let accepted = decap::settings(6080, &sources);
        let interfaces = [on("lb1", AttachMode::Auto)];
        let decapsulator = decap::Decap::attach(&place.0, &interfaces, &accepted)?;
        ensure!(xdp_on("lb1")?.is_some());
        let balancer = running(place)?;
        drop(decapsulator);
        let again = decap::Decap::attach(&place.0, &interfaces, &accepted)?;
        ensure!(again.attached[0].updated);
        again.detach()?;
        ensure!(xdp_on("lb1")?.is_none() && xdp_on("lb0")?.is_some());
        balancer.detach_all(false)?;
        Ok(())
    });
}

#[test]
fn the_check_of_this_host_finds_nothing_fatal() {
    in_netns("check", |place| {
        let mut l4 = place.l4();
        l4.interfaces = vec![on("lb0", AttachMode::Auto), on("nosuch", AttachMode::Auto)];
        let findings = features::check(&l4, &[]);
        for finding in &findings {
            eprintln!("{finding:?}");
        }
        let failed: Vec<_> = findings
            .iter()
            .filter(|finding| finding.status == features::Status::Fail)
            .map(|finding| finding.name.as_str())
            .collect();
        ensure!(failed == ["interface nosuch"], "{failed:?}");
        let native = findings.iter().find(|finding| finding.name == "xdp on lb0");
        ensure!(native.is_some_and(|finding| finding.detail == "native XDP works"));
        ensure!(xdp_on("lb0")?.is_none(), "the probe must leave nothing");

        let about_veth = |findings: &[features::Finding]| {
            let names = findings.iter().map(|finding| finding.name.clone());
            names
                .filter(|name| name.starts_with("checksums") || name.starts_with("peer"))
                .count()
        };
        ensure!(about_veth(&findings) == 2);
        let ethtool = Command::new("ethtool")
            .args(["-K", "lb1", "gro", "on", "tx", "off"])
            .stdout(std::process::Stdio::null())
            .status();
        if ethtool.is_ok_and(|status| status.success()) {
            // Finished checksums are one thing; the peer still has no program of its own.
            ensure!(about_veth(&features::check(&l4, &[])) == 1);
        }
        Ok(())
    });
}
