//! Which id in the kernel's maps stands for which name in the configuration.
//!
//! The kernel knows no names. An id is recognised by what clients address (VIP, port, protocol)
//! and by which server it leads to (service id, address, port, mode), so ids, and with them flows
//! and counters, outlive a restart of the daemon and a renaming in the configuration. The mode
//! belongs to the identity because a flow's entry means different things in different modes: a
//! service whose mode changes gets new backend ids and its old flows end with the old ones.
//!
//! An id that becomes free is taken again as late as possible, since idle flows may still name
//! it: new ids come after the highest one in use, then from the gaps, and only when there is
//! nothing else from what this very plan frees.

use super::error::PlanError;
use crate::config::model::{Backend, Config, Listener, Service};
use crate::kernel::tables::Tables;
use proxy_common::addr::Addr;
use proxy_common::service::{self, ServiceKey, ServicePrefix, ServiceRef, kind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Names and ids, both ways.
///
/// A kernel service is one listener; a kernel backend is one backend of one listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ids {
    listeners: Vec<ListenerIds>,
    by_name: HashMap<String, usize>,
    by_id: HashMap<u16, usize>,
    by_backend: HashMap<u16, (usize, usize)>,
}

/// The ids of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerIds {
    /// Name of the listener.
    pub name: String,
    /// Name of its configured service.
    pub service: String,
    /// Id in `service_table`.
    pub id: u16,
    /// Names and ids of the backends, in the order of the configuration.
    pub backends: Vec<(String, u16)>,
    /// Backends that the configuration no longer has, and that keep their flows until they are
    /// released (see [`super::Removed`]). Their names are `ADDRESS:PORT`.
    pub retiring: Vec<(String, u16)>,
}

impl ListenerIds {
    /// Names and ids of all backends, the retiring ones last.
    pub fn all_backends(&self) -> impl Iterator<Item = &(String, u16)> {
        self.backends.iter().chain(&self.retiring)
    }
}

/// What a backend id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendName<'a> {
    /// Name of the listener.
    pub listener: &'a str,
    /// Name of the configured service.
    pub service: &'a str,
    /// Name of the backend in that service.
    pub backend: &'a str,
}

impl Ids {
    /// Indexes the ids of listeners.
    pub fn new(listeners: Vec<ListenerIds>) -> Self {
        let mut ids = Self::default();
        for (i, listener) in listeners.iter().enumerate() {
            ids.by_name.insert(listener.name.clone(), i);
            ids.by_id.insert(listener.id, i);
            for (j, (_, id)) in listener.all_backends().enumerate() {
                ids.by_backend.insert(*id, (i, j));
            }
        }
        ids.listeners = listeners;
        ids
    }

    /// Finds the ids that a running data plane already has for this configuration, and no others.
    pub fn recover(config: &Config, kernel: &crate::kernel::store::KernelState) -> Self {
        let tables = Tables::of(kernel);
        let found = Recovered::new(config, &tables);
        let listeners = config
            .listeners
            .iter()
            .zip(found.services)
            .zip(found.backends);
        Self::new(
            listeners
                .filter_map(|((listener, id), backends)| {
                    let service = config.service(&listener.service)?;
                    let named = service.backends.iter().zip(backends);
                    Some(ListenerIds {
                        name: listener.name.clone(),
                        service: listener.service.clone(),
                        id: id?,
                        backends: named
                            .filter_map(|(backend, id)| Some((backend.name.clone(), id?)))
                            .collect(),
                        retiring: Vec::new(),
                    })
                })
                .collect(),
        )
    }

    /// Every listener, in the order of the configuration.
    pub fn listeners(&self) -> &[ListenerIds] {
        &self.listeners
    }

    /// The ids of the listener with this name.
    pub fn listener(&self, name: &str) -> Option<&ListenerIds> {
        self.by_name.get(name).map(|&i| &self.listeners[i])
    }

    /// The listener that this service id stands for.
    pub fn listener_of(&self, service_id: u16) -> Option<&ListenerIds> {
        self.by_id.get(&service_id).map(|&i| &self.listeners[i])
    }

    /// What this backend id stands for.
    pub fn backend_of(&self, backend_id: u16) -> Option<BackendName<'_>> {
        let &(i, j) = self.by_backend.get(&backend_id)?;
        let listener = &self.listeners[i];
        Some(BackendName {
            listener: &listener.name,
            service: &listener.service,
            backend: &listener.all_backends().nth(j)?.0,
        })
    }

    /// The listeners of a configured service.
    pub fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a ListenerIds> {
        self.listeners.iter().filter(move |l| l.service == service)
    }

    /// The ids of one backend of a configured service, with the service id of each.
    pub fn of_backend<'a>(
        &'a self,
        service: &'a str,
        backend: &'a str,
    ) -> impl Iterator<Item = (u16, u16)> + 'a {
        self.of_service(service).flat_map(move |listener| {
            let named = listener
                .backends
                .iter()
                .filter(move |(name, _)| name == backend);
            named.map(move |(_, id)| (listener.id, *id))
        })
    }
}

/// Where an entry of a listener lives: `services`, or `service_prefix` with the trie's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// One address.
    Exact(ServiceKey),
    /// A prefix.
    Prefix(u32, ServicePrefix),
}

impl Place {
    /// Where packets for this listener are looked up.
    pub(super) fn of(listener: &Listener) -> Self {
        Self::new(listener, listener.port.number(), listener.protocol.number())
    }

    /// Where echo requests for its VIP are looked up.
    pub(super) fn echo(listener: &Listener) -> Self {
        Self::new(listener, 0, 0)
    }

    fn new(listener: &Listener, port: u16, protocol: u8) -> Self {
        let vip = listener.vip.trunc();
        let addr = Addr::from(vip.addr());
        if vip.prefix_len() == vip.max_prefix_len() {
            return Self::Exact(ServiceKey::new(addr, port, protocol));
        }
        let mapped = 128 - u32::from(vip.max_prefix_len());
        Self::Prefix(
            service::SERVICE_PREFIX_FIXED_BITS + mapped + u32::from(vip.prefix_len()),
            ServicePrefix {
                protocol,
                _pad: 0,
                port: port.to_be_bytes(),
                addr: addr.octets,
            },
        )
    }

    /// What the tables hold there.
    pub(super) fn get(self, tables: &Tables) -> Option<ServiceRef> {
        match self {
            Self::Exact(key) => tables.keys.get(&key),
            Self::Prefix(length, prefix) => tables.prefixes.get(&(length, prefix)),
        }
        .copied()
    }

    /// Puts an entry there; returns what was there before.
    pub(super) fn set(self, tables: &mut Tables, target: ServiceRef) -> Option<ServiceRef> {
        match self {
            Self::Exact(key) => tables.keys.insert(key, target),
            Self::Prefix(length, prefix) => tables.prefixes.insert((length, prefix), target),
        }
    }
}

/// What identifies a backend within a data plane: service id, address, port, mode.
type BackendIdentity = (u16, Addr, u16, u8);

fn identity(service_id: u16, service: &Service, backend: &Backend) -> BackendIdentity {
    (
        service_id,
        Addr::from(backend.address),
        backend.port.unwrap_or(0).to_be(),
        service.mode.code(),
    )
}

/// Ids that exist already, per listener of the configuration and per backend of its service.
pub(super) struct Recovered {
    pub(super) services: Vec<Option<u16>>,
    pub(super) backends: Vec<Vec<Option<u16>>>,
}

impl Recovered {
    pub(super) fn new(config: &Config, tables: &Tables) -> Self {
        let services = recover_services(config, tables);
        let known: HashMap<BackendIdentity, u16> = (tables.backends.iter())
            .map(|(&id, b)| ((b.service, b.addr, b.port_be, b.mode), id))
            .collect();
        let by_name = services_by_name(config);
        let backends = config
            .listeners
            .iter()
            .zip(&services)
            .map(|(listener, id)| {
                let Some(service) = by_name.get(listener.service.as_str()) else {
                    return Vec::new();
                };
                let find = |backend| known.get(&identity((*id)?, service, backend)).copied();
                service.backends.iter().map(find).collect()
            })
            .collect();
        Self { services, backends }
    }
}

/// The configured services by name.
pub(super) fn services_by_name(config: &Config) -> HashMap<&str, &Service> {
    config
        .services
        .iter()
        .map(|s| (s.name.as_str(), s))
        .collect()
}

fn recover_services(config: &Config, tables: &Tables) -> Vec<Option<u16>> {
    let addressed: HashSet<u16> = tables
        .keys
        .values()
        .chain(tables.prefixes.values())
        .filter(|target| target.kind == kind::BALANCE)
        .map(|target| target.id)
        .collect();
    // Filled, but not addressed by any key: a plan was interrupted. Its listener takes it up.
    let orphans: HashMap<(Addr, u16, u8), u16> = (tables.services.iter())
        .filter(|(id, _)| !addressed.contains(id))
        .map(|(&id, s)| ((s.vip, s.port, s.protocol), id))
        .collect();
    let mut taken = HashSet::new();
    config
        .listeners
        .iter()
        .map(|listener| {
            let id = match Place::of(listener).get(tables) {
                Some(target) if target.kind == kind::BALANCE => Some(target.id),
                _ => {
                    let vip = Addr::from(listener.vip.network());
                    let (port, protocol) = (listener.port.number(), listener.protocol.number());
                    orphans.get(&(vip, port, protocol)).copied()
                }
            };
            id.filter(|&id| id != 0 && taken.insert(id))
        })
        .collect()
}

/// An id for every listener and every backend of it.
pub(super) struct Allocation {
    pub(super) services: Vec<u16>,
    pub(super) backends: Vec<Vec<u16>>,
    /// Service ids that existed before.
    pub(super) kept_services: BTreeSet<u16>,
    /// Backend ids that existed before.
    pub(super) kept_backends: BTreeSet<u16>,
    /// Some new id was in use before: what it stood for must be removed first.
    pub(super) reuses: bool,
}

/// Keeps the ids that exist, those of retiring backends too, and finds new ones.
///
/// `rooms` are the capacities of the tables of services and of backends. Fails if there are not enough ids, which the caller has ruled out by counting.
pub(super) fn allocate(
    found: &Recovered,
    retiring: &BTreeMap<u16, usize>,
    tables: &Tables,
    rooms: (u32, u32),
) -> Result<Allocation, PlanError> {
    let (service_capacity, backend_capacity) = rooms;
    let kept_services: BTreeSet<u16> = found.services.iter().flatten().copied().collect();
    let kept_backends: BTreeSet<u16> = (found.backends.iter().flatten().flatten().copied())
        .chain(retiring.keys().copied())
        .collect();
    let mut services = Pool::new(used_service_ids(tables), &kept_services, service_capacity);
    let used_backends = tables.backends.keys().copied().collect();
    let mut backends = Pool::new(used_backends, &kept_backends, backend_capacity);
    let service_ids: Option<Vec<u16>> = (found.services.iter())
        .map(|id| id.or_else(|| services.take()))
        .collect();
    let backend_ids: Option<Vec<Vec<u16>>> = (found.backends.iter())
        .map(|ids| {
            ids.iter()
                .map(|id| id.or_else(|| backends.take()))
                .collect()
        })
        .collect();
    let exhausted = |what, wanted, capacity: u32| PlanError::TooMany {
        what,
        wanted,
        capacity: capacity as usize - 1,
        remedy: "remove some",
    };
    let wanted = found.backends.iter().map(Vec::len).sum();
    Ok(Allocation {
        services: service_ids
            .ok_or_else(|| exhausted("listeners", found.services.len(), service_capacity))?,
        backends: backend_ids.ok_or_else(|| exhausted("backends", wanted, backend_capacity))?,
        reuses: services.reuses || backends.reuses,
        kept_services,
        kept_backends,
    })
}

/// Every service id that some map mentions.
fn used_service_ids(tables: &Tables) -> BTreeSet<u16> {
    let keys = tables.keys.values().chain(tables.prefixes.values());
    let guarded = tables
        .guard
        .keys()
        .map(|(_, key)| super::guard::scope_of(key));
    tables
        .services
        .keys()
        .copied()
        .chain(
            keys.filter(|target| target.kind == kind::BALANCE)
                .map(|target| target.id),
        )
        .chain(tables.backends.values().map(|backend| backend.service))
        .chain(guarded)
        .filter(|&id| id != 0)
        .collect()
}

/// Hands out ids: first those above all used ones, then gaps, then what is being freed.
struct Pool {
    fresh: Box<dyn Iterator<Item = u16>>,
    freed: std::vec::IntoIter<u16>,
    reuses: bool,
}

impl Pool {
    fn new(used: BTreeSet<u16>, kept: &BTreeSet<u16>, capacity: u32) -> Self {
        let end = capacity.min(1 << 16);
        let after = used.last().map_or(1, |&highest| u32::from(highest) + 1);
        let freed: Vec<u16> = used.difference(kept).copied().collect();
        let fresh = (after..end)
            .chain(1..after.min(end))
            .filter_map(|id| u16::try_from(id).ok())
            .filter(move |id| !used.contains(id));
        Self {
            fresh: Box::new(fresh),
            freed: freed.into_iter(),
            reuses: false,
        }
    }

    fn take(&mut self) -> Option<u16> {
        self.fresh.next().or_else(|| {
            self.reuses = true;
            self.freed.next()
        })
    }
}
