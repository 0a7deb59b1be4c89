//! What holds in a data plane after every edit of a plan, see [`crate::kernel::plan`].

use super::FakeStore;
use crate::kernel::plan::{filter, guard};
use proxy_common::addr::Addr;
use proxy_common::backend::BackendState;
use proxy_common::service::{Mode, Service, ServiceRef, kind, service_flags};
use std::collections::{BTreeMap, BTreeSet};

type Checked = Result<(), String>;

pub(super) fn check(store: &FakeStore) -> Checked {
    check_keys(store)?;
    check_rings(store)?;
    check_filter(store)?;
    if store.tables.settings.generation.is_multiple_of(2) {
        check_at_rest(store)?;
    }
    Ok(())
}

fn holds(condition: bool, what: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(what()) }
}

/// Every key refers to a service that is filled in, and that is the one it names.
fn check_keys(store: &FakeStore) -> Checked {
    let tables = &store.tables;
    for (key, target) in &tables.keys {
        check_target(store, target, key.addr, key.port, key.protocol)?;
    }
    for ((_, prefix), target) in &tables.prefixes {
        let (addr, port) = (Addr::v6(prefix.addr), u16::from_be_bytes(prefix.port));
        check_target(store, target, addr, port, prefix.protocol)?;
    }
    Ok(())
}

fn check_target(
    store: &FakeStore,
    target: &ServiceRef,
    addr: Addr,
    port: u16,
    protocol: u8,
) -> Checked {
    if target.kind != kind::BALANCE {
        return holds((port, protocol) == (0, 0), || {
            format!("a key of kind {} has a port", target.kind)
        });
    }
    let id = target.id;
    let service = (store.tables.services.get(&id))
        .ok_or_else(|| format!("a key refers to service {id}, which is empty"))?;
    holds(
        (service.vip, service.port, service.protocol) == (addr, port, protocol),
        || format!("a key for {addr:?} port {port} refers to service {id}: {service:?}"),
    )?;
    let denies = service.flags & service_flags::DEFAULT_DENY != 0;
    let guarded = service.flags & service_flags::GUARDED != 0;
    holds(!denies || guarded, || {
        format!("service {id} denies by default, but is not guarded")
    })
}

/// Every ring has the slots that its service counts on, all with backends of the service that are
/// up: the packet path drops what a ring leads to any other.
fn check_rings(store: &FakeStore) -> Checked {
    for (id, service) in &store.tables.services {
        let slots = store.rings.get(id).map_or(0, Vec::len);
        holds(service.ring_size as usize <= slots, || {
            format!(
                "service {id} counts on {} slots of {slots}",
                service.ring_size
            )
        })?;
    }
    for (id, ring) in &store.rings {
        for backend_id in ring.iter().collect::<BTreeSet<_>>() {
            let backend = (store.tables.backends.get(backend_id))
                .ok_or_else(|| format!("ring {id} has backend {backend_id}, which is empty"))?;
            holds(backend.service == *id, || {
                format!(
                    "ring {id} has backend {backend_id} of service {}",
                    backend.service
                )
            })?;
            holds(backend.state == BackendState::Up.code(), || {
                format!("ring {id} has backend {backend_id}, which is not up")
            })?;
        }
    }
    Ok(())
}

/// The filter and the flags hide nothing that the maps hold.
fn check_filter(store: &FakeStore) -> Checked {
    let needed = filter::address_filter(&store.tables);
    holds(
        filter::union(&needed, &store.filter) == *store.filter,
        || "the address filter hides an address".to_owned(),
    )?;
    let (flags, needed) = (
        store.tables.settings.flags,
        filter::derived_flags(&store.tables),
    );
    holds(flags & needed == needed, || {
        format!("the settings have flags {flags:#x} of {needed:#x}")
    })
}

/// What holds besides when no plan is under way.
fn check_at_rest(store: &FakeStore) -> Checked {
    let tables = &store.tables;
    holds(filter::address_filter(tables) == *store.filter, || {
        "the address filter admits too much".to_owned()
    })?;
    let scopes: BTreeSet<u16> = (tables.guard.keys())
        .map(|(_, key)| guard::scope_of(key))
        .collect();
    for scope in &scopes {
        holds(*scope == 0 || tables.services.contains_key(scope), || {
            format!("guard rules of service {scope}, which is empty")
        })?;
    }
    let mut names: BTreeMap<u16, usize> = BTreeMap::new();
    let targets = tables.keys.values().chain(tables.prefixes.values());
    for target in targets.filter(|target| target.kind == kind::BALANCE) {
        *names.entry(target.id).or_default() += 1;
    }
    let mut members: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
    for (&id, b) in tables.backends.iter() {
        if b.weight > 0 && b.state == BackendState::Up.code() {
            members.entry(b.service).or_default().insert(id);
        }
    }
    for (&id, service) in &tables.services {
        let names = names.get(&id).copied().unwrap_or_default();
        holds(names == 1, || format!("service {id} has {names} keys"))?;
        let members = members.remove(&id).unwrap_or_default();
        check_ring_at_rest(store, id, service, &members)?;
        check_service_at_rest(store, id, service, scopes.contains(&id))?;
    }
    for (id, backend) in &tables.backends {
        let service = (tables.services.get(&backend.service)).ok_or_else(|| {
            format!(
                "backend {id} is of service {}, which is empty",
                backend.service
            )
        })?;
        holds(
            (backend.mode, backend.protocol) == (service.mode, service.protocol),
            || format!("backend {id} differs from its service: {backend:?}"),
        )?;
    }
    for (key, target) in tables
        .keys
        .iter()
        .filter(|(_, target)| target.kind == kind::SNAT)
    {
        let addr = tables.snat_addrs.get(&u32::from(target.id));
        holds(addr == Some(&key.addr), || {
            format!("the key of source {:?} refers to {addr:?}", key.addr)
        })?;
    }
    Ok(())
}

/// The ring leads to all backends that take new flows, and to no others.
fn check_ring_at_rest(
    store: &FakeStore,
    id: u16,
    service: &Service,
    members: &BTreeSet<u16>,
) -> Checked {
    let ring = store.rings.get(&id).map_or(&[][..], Vec::as_slice);
    holds(ring.len() == service.ring_size as usize, || {
        format!(
            "service {id} has {} slots of {}",
            service.ring_size,
            ring.len()
        )
    })?;
    let led_to: BTreeSet<u16> = ring.iter().copied().collect();
    let all_have_slots = ring.len() < members.len() || led_to == *members;
    holds(all_have_slots && led_to.is_subset(members), || {
        format!("ring {id} leads to {led_to:?}, not to {members:?}")
    })
}

fn check_service_at_rest(store: &FakeStore, id: u16, service: &Service, guarded: bool) -> Checked {
    let tables = &store.tables;
    let has_flag = service.flags & service_flags::GUARDED != 0;
    holds(has_flag == guarded, || {
        format!("service {id}: guarded is {has_flag}, but rules: {guarded}")
    })?;
    let ranges = [
        (service.snat4_first, service.snat4_count, true),
        (service.snat6_first, service.snat6_count, false),
    ];
    for (first, count, v4) in ranges {
        let fits = (first..first + count).all(|i| {
            tables
                .snat_addrs
                .get(&u32::from(i))
                .is_some_and(|a| a.is_v4() == v4)
        });
        holds(fits, || format!("service {id} names {count} empty sources"))?;
        holds(count == 0 || service.mode == Mode::FullNat.code(), || {
            format!("service {id} has sources without full-nat")
        })?;
    }
    Ok(())
}
