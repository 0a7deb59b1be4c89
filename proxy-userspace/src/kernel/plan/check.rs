//! What rules a configuration out, found before anything is worked out.

use super::error::PlanError;
use super::ids::{Place, Recovered, services_by_name};
use super::{guard, snat};
use crate::balance::maglev;
use crate::config::model::{Config, Service};
use crate::kernel::tables::Tables;
use proxy_common::ABI_VERSION;
use proxy_common::addr::Addr;
use proxy_common::maps::capacity;
use proxy_common::service::{Mode, ServiceKey};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Everything that is wrong. `guard_rules` is how many rules the guard needs.
pub(super) fn check(
    config: &Config,
    from: &Tables,
    found: &Recovered,
    guard_rules: usize,
) -> Vec<PlanError> {
    let mut errors = Vec::new();
    let abi = from.settings.abi;
    if abi != 0 && abi != ABI_VERSION {
        errors.push(PlanError::Layout {
            found: abi,
            expected: ABI_VERSION,
        });
    }
    check_services(config, &mut errors);
    check_listeners(config, &mut errors);
    check_room(config, from, found, guard_rules, &mut errors);
    errors
}

/// Room for backends; maps whose capacity is not told have the default one.
pub(super) fn backend_capacity(tables: &Tables) -> u32 {
    match tables.backend_capacity {
        0 => capacity::BACKENDS,
        capacity => capacity,
    }
}

/// The lists of source addresses, by family, that each need a contiguous range.
pub(super) fn snat_lists(config: &Config) -> BTreeSet<BTreeSet<Addr>> {
    (config.services.iter())
        .flat_map(|service| [true, false].map(|v4| snat_list(service, v4)))
        .filter(|list| !list.is_empty())
        .collect()
}

/// The source addresses of a service for backends of one family.
pub(super) fn snat_list(service: &Service, v4: bool) -> BTreeSet<Addr> {
    (service.source_addresses.iter())
        .filter(|addr| service.mode == Mode::FullNat && addr.is_ipv4() == v4)
        .map(|&addr| Addr::from(addr))
        .collect()
}

fn check_services(config: &Config, errors: &mut Vec<PlanError>) {
    for service in &config.services {
        if service.mode == Mode::Local {
            continue;
        }
        if let Err(source) = maglev::check_size(service.ring_size) {
            errors.push(PlanError::Ring {
                service: service.name.clone(),
                source,
            });
        }
        let mut seen = HashMap::new();
        for backend in &service.backends {
            let server = (backend.address, backend.port);
            if let Some(first) = seen.insert(server, &backend.name) {
                errors.push(PlanError::DuplicateBackend {
                    service: service.name.clone(),
                    first: first.clone(),
                    second: backend.name.clone(),
                });
            }
        }
    }
}

fn check_listeners(config: &Config, errors: &mut Vec<PlanError>) {
    let services = services_by_name(config);
    let sources: BTreeSet<IpAddr> = (config.services.iter())
        .filter(|service| service.mode == Mode::FullNat)
        .flat_map(|service| service.source_addresses.iter().copied())
        .collect();
    let mut places: HashMap<Place, &str> = HashMap::new();
    for listener in &config.listeners {
        let name = listener.name.clone();
        if !services.contains_key(listener.service.as_str()) {
            errors.push(PlanError::UnknownService {
                listener: name.clone(),
                service: listener.service.clone(),
            });
        }
        if let Some(first) = places.insert(Place::of(listener), &listener.name) {
            errors.push(PlanError::DuplicateListener {
                first: first.to_owned(),
                second: name.clone(),
            });
        }
        if guard::covers_mapped(&listener.vip) {
            errors.push(PlanError::VipCoversIpv4 {
                listener: name.clone(),
            });
        }
        for &address in sources
            .iter()
            .filter(|address| listener.vip.contains(*address))
        {
            errors.push(PlanError::SnatIsVip {
                address,
                listener: name.clone(),
            });
        }
    }
}

fn check_room(
    config: &Config,
    from: &Tables,
    found: &Recovered,
    guard_rules: usize,
    errors: &mut Vec<PlanError>,
) {
    let mut check = |what, wanted: usize, capacity: u32, remedy| {
        if wanted > capacity as usize {
            errors.push(PlanError::TooMany {
                what,
                wanted,
                capacity: capacity as usize,
                remedy,
            });
        }
    };
    // Index 0 of the tables by id is never used.
    check(
        "listeners",
        config.listeners.len(),
        capacity::SERVICES - 1,
        "use prefix VIPs or all ports to join listeners",
    );
    let backends = found.backends.iter().map(Vec::len).sum();
    check(
        "backends (of each listener)",
        backends,
        backend_capacity(from) - 1,
        "raise `backend_capacity` and start afresh, or join listeners",
    );
    let (keys, prefixes) = count_places(config);
    check(
        "service keys",
        keys,
        capacity::SERVICE_KEYS,
        "use prefix VIPs or all ports to join listeners",
    );
    check(
        "prefix VIPs",
        prefixes,
        capacity::SERVICE_PREFIXES,
        "use shorter prefixes to join listeners",
    );
    check(
        "guard rules",
        guard_rules,
        capacity::GUARD_RULES,
        "join neighbouring prefixes, or move rules of all listeners to the global guard",
    );
}

/// Entries of `services` and of `service_prefix` that the configuration needs.
fn count_places(config: &Config) -> (usize, usize) {
    let places: HashSet<Place> = (config.listeners.iter())
        .flat_map(|listener| [Place::of(listener), Place::echo(listener)])
        .chain(
            snat::addresses(&snat_lists(config))
                .map(|addr| Place::Exact(ServiceKey::new(addr, 0, 0))),
        )
        .collect();
    let exact = places
        .iter()
        .filter(|place| matches!(place, Place::Exact(_)))
        .count();
    (exact, places.len() - exact)
}
