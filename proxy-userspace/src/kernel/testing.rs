//! Short ways to write configurations in the tests of this module.

use crate::config::model::{Admin, Backend, Config, Guard, L4, Listener, Service, Timeouts};
use crate::kernel::apply::{Target, apply, follow};
use crate::kernel::fake::FakeStore;
use crate::kernel::plan::{Host, Inputs, Overlay, Plan, PlanErrors, plan};
use crate::kernel::store::{KernelState, MapEdit, MapStore};
use crate::types::{PortMatch, Protocol};
use proxy_common::service::{Mode, Selection};
use std::time::Duration;

/// A small prime, so that tests need not build large rings.
pub(crate) const RING_SIZE: u32 = 251;

pub(crate) fn config(listeners: Vec<Listener>, services: Vec<Service>) -> Config {
    Config {
        l4: Some(L4 {
            interfaces: Vec::new(),
            pin_dir: "/sys/fs/bpf/test".into(),
            flow_capacity: 1024,
            backend_capacity: 1024,
            tunnel_source_v4: Some("198.51.100.0/24".parse().unwrap()),
            tunnel_source_v6: Some("2001:db8:ffff::/64".parse().unwrap()),
            gue_port: 6080,
            selection_seed: 7,
            route_ttl: Duration::from_secs(1),
            icmp_per_second: 100,
            sample_every: 0,
            kernel_log: crate::config::model::KernelLog::Off,
        }),
        admin: Admin {
            socket: "/run/test.sock".into(),
            listen: None,
            api: None,
        },
        listeners,
        services,
        ..Config::default()
    }
}

/// A TCP listener. `vip` is an address or a prefix; port 0 stands for all.
pub(crate) fn listener(name: &str, vip: &str, port: u16, service: &str) -> Listener {
    let address = vip.parse().map(|ip: std::net::IpAddr| ip.into());
    Listener {
        name: name.to_owned(),
        vip: address.unwrap_or_else(|_| vip.parse().unwrap()),
        port: if port == 0 {
            PortMatch::All
        } else {
            PortMatch::One(port)
        },
        protocol: Protocol::Tcp,
        service: service.to_owned(),
        guard: Guard::default(),
    }
}

/// A service whose backends listen on port 80 and are named after their addresses.
pub(crate) fn service(name: &str, mode: Mode, backends: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        mode,
        selection: Selection::Maglev,
        ring_size: RING_SIZE,
        source_addresses: Vec::new(),
        timeouts: Timeouts {
            syn: Duration::from_secs(5),
            established: Duration::from_secs(300),
            closing: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            affinity: Duration::from_secs(600),
        },
        drain_timeout: Duration::from_secs(30),
        backends: backends.iter().map(|address| backend(address, 1)).collect(),
        health: None,
        ..Service::new("")
    }
}

pub(crate) fn backend(address: &str, weight: u16) -> Backend {
    Backend {
        name: address.to_owned(),
        address: address.parse().unwrap(),
        port: Some(80),
        weight,
    }
}

pub(crate) fn host() -> Host {
    Host {
        cpus: 2,
        sets_per_cpu: 64,
        secrets: [1, 2, 3, 4, 5],
        ..Host::default()
    }
}

/// Plans from what a store holds.
pub(crate) fn plan_on(
    store: &FakeStore,
    config: &Config,
    overlay: &Overlay,
) -> Result<Plan, PlanErrors> {
    plan(&Inputs {
        config,
        overlay,
        kernel: &store.state().unwrap(),
        host: &host(),
    })
}

/// Makes a store follow a configuration. Checks the invariants after every edit, and that the
/// plan foretold the outcome.
pub(crate) fn follow_on(store: &mut FakeStore, config: &Config, overlay: &Overlay) -> Plan {
    let plan = plan_on(store, config, overlay).unwrap();
    for (i, edit) in plan.edits.iter().enumerate() {
        apply(store, std::slice::from_ref(edit)).unwrap();
        if let Err(what) = store.check_invariants() {
            panic!(
                "after edit {i}, {}: {what}\n{}",
                brief(edit),
                outline(&plan.edits)
            );
        }
    }
    assert_eq!(store.state().unwrap(), plan.state);
    plan
}

/// As [`follow_on`], but checks the invariants only at the end: for large configurations.
pub(crate) fn follow_with_few_checks(store: &mut FakeStore, config: &Config) -> Plan {
    let plan = plan_on(store, config, &Overlay::default()).unwrap();
    apply(store, &plan.edits).unwrap();
    store.check_invariants().unwrap();
    assert_eq!(store.state().unwrap(), plan.state);
    plan
}

/// Makes fresh maps follow a configuration.
pub(crate) fn fresh(config: &Config) -> (FakeStore, Plan) {
    let mut store = FakeStore::new(config.data_plane().backend_capacity);
    let plan = follow_on(&mut store, config, &Overlay::default());
    (store, plan)
}

/// As [`follow_on`], by way of [`follow`].
pub(crate) fn try_follow(
    store: &mut FakeStore,
    config: &Config,
) -> Result<Plan, crate::kernel::apply::FollowError> {
    follow(
        store,
        &Target {
            config,
            overlay: &Overlay::default(),
            host: &host(),
        },
    )
}

/// An edit in a few words: kind and id, without contents.
pub(crate) fn brief(edit: &MapEdit) -> String {
    match edit {
        MapEdit::Settings(s) if s.generation % 2 == 1 => "settings: busy".to_owned(),
        MapEdit::Settings(_) => "settings: at rest".to_owned(),
        MapEdit::AddressFilter(_) => "filter".to_owned(),
        MapEdit::Service(id, s) if *s == Default::default() => format!("service {id}: empty"),
        MapEdit::Service(id, s) => format!("service {id}: {} slots", s.ring_size),
        MapEdit::Backend(id, b) => {
            let state = proxy_common::backend::BackendState::from_code(b.state).unwrap();
            format!("backend {id}: {}", state.name())
        }
        MapEdit::Ring(id, slots) => {
            let members: std::collections::BTreeSet<_> = slots.iter().collect();
            format!("ring {id}: {members:?}")
        }
        MapEdit::RemoveRing(id) => format!("no ring {id}"),
        MapEdit::SnatAddr(index, addr) => {
            format!("source {index}: {}", std::net::IpAddr::from(*addr))
        }
        MapEdit::SetKey(key, target) => {
            format!(
                "key {}: {target}",
                place(key.addr, key.port),
                target = kind_of(target)
            )
        }
        MapEdit::RemoveKey(key) => format!("no key {}", place(key.addr, key.port)),
        MapEdit::SetPrefix(length, ..) => format!("prefix /{length}"),
        MapEdit::RemovePrefix(length, ..) => format!("no prefix /{length}"),
        MapEdit::SetGuard(length, key, rule) => {
            format!("guard {} /{length}: {}", key.scope[3], rule.action)
        }
        MapEdit::RemoveGuard(length, key) => format!("no guard {} /{length}", key.scope[3]),
        MapEdit::PurgeService(id) => format!("purge {id}"),
    }
}

fn place(addr: proxy_common::addr::Addr, port: u16) -> String {
    format!("{}:{port}", std::net::IpAddr::from(addr))
}

fn kind_of(target: &proxy_common::service::ServiceRef) -> String {
    format!(
        "{}#{}",
        ["?", "balance", "echo", "snat"][usize::from(target.kind)],
        target.id
    )
}

/// Edits in a few words, one a line.
pub(crate) fn outline(edits: &[MapEdit]) -> String {
    edits.iter().map(brief).collect::<Vec<_>>().join("\n")
}

/// The contents that fresh maps would have, with ids replaced by what they stand for: two states
/// with equal images serve alike.
pub(crate) fn image(state: &KernelState) -> Vec<String> {
    let vip = |id: u16| {
        let known = state.services.iter().find(|(known, _)| *known == id);
        known.map_or_else(
            || format!("service {id}?"),
            |(_, s)| format!("{}/{}", place(s.vip, s.port), s.protocol),
        )
    };
    let snat = |first: u8, count: u8| -> Vec<String> {
        let range = u32::from(first)..u32::from(first) + u32::from(count);
        let held = state
            .snat_addrs
            .iter()
            .filter(|(index, _)| range.contains(index));
        let mut addrs: Vec<String> = held.map(|(_, addr)| format!("{addr:?}")).collect();
        addrs.sort();
        addrs
    };
    let mut lines = Vec::new();
    for (key, target) in &state.keys {
        let target = match target.kind {
            proxy_common::service::kind::BALANCE => vip(target.id),
            kind => format!("kind {kind}"),
        };
        lines.push(format!("{key:?} -> {target}"));
    }
    for (length, prefix, target) in &state.prefixes {
        lines.push(format!("{length} {prefix:?} -> kind {}", target.kind));
    }
    for (_, s) in &state.services {
        let sources = (
            snat(s.snat4_first, s.snat4_count),
            snat(s.snat6_first, s.snat6_count),
        );
        let without = proxy_common::service::Service {
            snat4_first: 0,
            snat6_first: 0,
            ..*s
        };
        lines.push(format!("{without:?} {sources:?}"));
    }
    for (_, b) in &state.backends {
        let without = proxy_common::backend::Backend { service: 0, ..*b };
        lines.push(format!("{without:?} of {}", vip(b.service)));
    }
    for (length, key, rule) in &state.guard {
        let scope = u32::from_be_bytes(key.scope) as u16;
        let scope = if scope == 0 {
            "all".to_owned()
        } else {
            vip(scope)
        };
        lines.push(format!("{length} {:?} {scope} {rule:?}", key.addr));
    }
    let settings = proxy_common::settings::Settings {
        generation: 0,
        guard_generation: 0,
        ..state.settings
    };
    lines.push(format!("{settings:?}"));
    lines.sort();
    lines
}
