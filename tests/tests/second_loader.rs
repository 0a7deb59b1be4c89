//! The built object through libbpf, a loader that shares no code with ours: what the object says
//! of itself must be right, not merely what our loader makes of it.

use libbpf_rs::{
    AsRawLibbpf as _, MapCore as _, MapFlags, MapType, ObjectBuilder, OpenObject, ProgramInput,
};
use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::event::CaptureRecord;
use proxy_common::exceptions::Exceptions;
use proxy_common::flow::{FlowSet, Fragment, FragmentKey, SetTags, SnatPort};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::maps::{self, DecapSettings, capacity, program};
use proxy_common::reason::{REASON_SLOTS, Reason};
use proxy_common::service::{
    Affinity, AffinityKey, Service, ServiceKey, ServicePrefix, ServiceRef,
};
use proxy_common::settings::{
    AddressFilter, Adjacency, CachedRoute, CachedService, CpuState, Settings,
};
use proxy_common::stats::{BackendStats, LiveFlows, ServiceStats};
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, from_client, object_path};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// A map as the contract wants it.
struct Wanted {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// 0 where the loader decides.
    entries: u32,
}

const fn wanted<K, V>(name: &'static str, kind: MapType, entries: u32) -> Wanted {
    Wanted {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

/// A longest-prefix trie: its key starts with the length of the prefix.
const fn trie<K, V>(name: &'static str, entries: u32) -> Wanted {
    Wanted {
        name,
        kind: MapType::LpmTrie,
        key: 4 + size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

const fn ring(name: &'static str, octets: u32) -> Wanted {
    Wanted {
        name,
        kind: MapType::RingBuf,
        key: 0,
        value: 0,
        entries: octets,
    }
}

fn all_wanted() -> Vec<Wanted> {
    use MapType::{Array, ArrayOfMaps, Hash, LruHash, PercpuArray, ProgArray};
    vec![
        wanted::<u32, Settings>(maps::SETTINGS, Array, 1),
        wanted::<u32, AddressFilter>(maps::ADDRESS_FILTER, Array, 1),
        wanted::<ServiceKey, ServiceRef>(maps::SERVICES, Hash, capacity::SERVICE_KEYS),
        trie::<ServicePrefix, ServiceRef>(maps::SERVICE_PREFIXES, capacity::SERVICE_PREFIXES),
        wanted::<u32, Service>(maps::SERVICE_TABLE, Array, capacity::SERVICES),
        wanted::<u32, u32>(maps::RINGS, ArrayOfMaps, capacity::SERVICES),
        wanted::<u32, Backend>(maps::BACKENDS, Array, 0),
        wanted::<u32, LiveFlows>(maps::LIVE_FLOWS, Array, 0),
        wanted::<u32, FlowSet>(maps::FLOWS, Array, 0),
        wanted::<u32, SetTags>(maps::FLOW_TAGS, Array, 0),
        wanted::<u32, Exceptions>(maps::EXCEPTIONS, Array, 1),
        wanted::<u32, Addr>(maps::SNAT_ADDRS, Array, capacity::SNAT_ADDRS),
        wanted::<u32, SnatPort>(maps::SNAT_PORTS, Array, 0),
        wanted::<FragmentKey, Fragment>(maps::FRAGMENTS, LruHash, capacity::FRAGMENTS),
        wanted::<AffinityKey, Affinity>(maps::AFFINITY, LruHash, 0),
        trie::<GuardKey, GuardRule>(maps::GUARD_RULES, 0),
        wanted::<AffinityKey, u64>(maps::GUARD_BUDGETS, LruHash, 0),
        wanted::<u32, CpuState>(maps::CPU_STATE, PercpuArray, 1),
        wanted::<u32, CachedService>(maps::SERVICE_CACHE, PercpuArray, capacity::SERVICE_CACHE),
        wanted::<u32, CachedRoute>(maps::ROUTE_CACHE, PercpuArray, capacity::ROUTE_CACHE),
        wanted::<u32, Adjacency>(maps::ADJACENCIES, PercpuArray, capacity::ADJACENCIES),
        wanted::<u32, u64>(maps::REASONS, PercpuArray, REASON_SLOTS),
        wanted::<u32, BackendStats>(maps::BACKEND_STATS, PercpuArray, 0),
        wanted::<u32, ServiceStats>(maps::SERVICE_STATS, PercpuArray, capacity::SERVICES),
        ring(maps::EVENTS, capacity::EVENTS_OCTETS),
        ring(maps::CAPTURE, capacity::CAPTURE_OCTETS),
        wanted::<u32, DecapSettings>(maps::DECAP_SETTINGS, Array, 1),
        wanted::<u32, u32>(maps::STAGES, ProgArray, maps::stage::COUNT),
    ]
}

fn open() -> OpenObject {
    let path = object_path();
    ObjectBuilder::default()
        .open_file(&path)
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error:?} (build it with `cargo xtask build-ebpf`)",
                path.display()
            )
        })
}

#[test]
fn maps_have_the_names_types_and_sizes_of_the_contract() {
    let object = open();
    let found: BTreeMap<String, _> = object
        .maps()
        .map(|map| (map.name().to_string_lossy().into_owned(), map))
        .collect();
    let mut problems = Vec::new();
    for wanted in all_wanted() {
        let Some(map) = found.get(wanted.name) else {
            problems.push(format!("{} is missing", wanted.name));
            continue;
        };
        let sizes = (map.key_size() as usize, map.value_size() as usize);
        if map.map_type() != wanted.kind {
            problems.push(format!("{} is a {:?}", wanted.name, map.map_type()));
        }
        if sizes != (wanted.key, wanted.value) {
            problems.push(format!(
                "{} has sizes {sizes:?}, not {:?}",
                wanted.name,
                (wanted.key, wanted.value)
            ));
        }
        if wanted.entries != 0 && map.max_entries() != wanted.entries {
            problems.push(format!("{} has {} entries", wanted.name, map.max_entries()));
        }
        if wanted.name.len() > 15 {
            problems.push(format!("the kernel cuts the name {}", wanted.name));
        }
    }
    for name in found.keys().filter(|name| !name.starts_with('.')) {
        let known = name == maps::SCRATCH || all_wanted().iter().any(|wanted| wanted.name == name);
        if !known {
            problems.push(format!("the contract knows no map {name}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // The record is told by its type, not by the ring buffer.
    assert_eq!(
        size_of::<CaptureRecord>(),
        32 + proxy_common::event::CAPTURE_OCTETS
    );
}

#[test]
fn programs_have_the_names_of_the_contract() {
    let object = open();
    let names: Vec<String> = object
        .progs()
        .map(|program| program.name().to_string_lossy().into_owned())
        .collect();
    let own = [
        program::BALANCE,
        program::DECAP,
        program::PASS,
        program::PROBE,
    ];
    for name in own.into_iter().chain(program::STAGES) {
        assert!(
            names.iter().any(|found| found == name),
            "{name} is not among {names:?}"
        );
    }
}

#[test]
fn the_object_carries_its_types() {
    let object = open();
    // SAFETY: the object lives until the end of the function, and the call only reads it.
    let btf = unsafe { libbpf_rs::libbpf_sys::bpf_object__btf(object.as_libbpf_object().as_ptr()) };
    assert!(
        !btf.is_null(),
        "the object has no BTF: `bpftool map dump` would show only octets"
    );
}

#[test]
fn libbpf_loads_the_object_and_a_packet_passes() {
    let mut object = open();
    for mut map in object.maps_mut() {
        let small = match map.name().to_string_lossy().as_ref() {
            maps::FLOWS | maps::FLOW_TAGS | maps::SNAT_PORTS => Some(16),
            _ => None,
        };
        if let Some(entries) = small {
            map.set_max_entries(entries).unwrap();
        }
    }
    let object = object
        .load()
        .unwrap_or_else(|error| panic!("libbpf cannot load it: {error:?}"));
    let stages = object
        .maps()
        .find(|map| map.name() == maps::STAGES)
        .expect("the later programs' array");
    for (index, name) in (0u32..).zip(program::STAGES) {
        let stage = object
            .progs()
            .find(|found| found.name() == name)
            .expect("a later program");
        let fd = stage.as_fd().as_raw_fd();
        stages
            .update(&index.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
            .unwrap();
    }
    let balance = object
        .progs_mut()
        .find(|found| found.name() == program::BALANCE)
        .expect("the balancer's program");
    let frame = Packet::tcp("198.51.100.7:40000", "203.0.113.1:80")
        .syn()
        .frame(&from_client());
    let mut out = vec![0; 256];
    let input = ProgramInput {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        repeat: 1,
        ..ProgramInput::default()
    };
    let output = balance.test_run(input).unwrap();
    assert_eq!(
        Action::from_code(output.return_value),
        Action::Pass,
        "nothing is configured"
    );
    assert_eq!(output.data.as_deref(), Some(&frame[..]));
    let reasons = object
        .maps()
        .find(|map| map.name() == maps::REASONS)
        .expect("the counters");
    let key = u32::from(Reason::PassNotService as u16).to_ne_bytes();
    let per_cpu = reasons
        .lookup_percpu(&key, libbpf_rs::MapFlags::ANY)
        .unwrap()
        .expect("an element");
    let sum: u64 = per_cpu
        .iter()
        .map(|octets| u64::from_ne_bytes(octets[..8].try_into().expect("eight octets")))
        .sum();
    assert_eq!(sum, 1);
}
