//! What the maps should hold for a configuration.

use super::check::{backend_capacity, check, snat_lists};
use super::entries::{TunnelSource, configured_source, is_tunnel, service_entry};
use super::error::{PlanErrors, PlanWarning};
use super::ids::{Allocation, Ids, ListenerIds, Place, Recovered, allocate, services_by_name};
use super::rings::in_ring;
use super::{Inputs, filter, guard, retire, snat};
use crate::config::model::{Backend, Listener, Service};
use crate::kernel::tables::Tables;
use proxy_common::ABI_VERSION;
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend as BackendEntry, BackendState};
use proxy_common::maps::capacity;
use proxy_common::service::{Mode, ServiceKey, ServiceRef, kind};
use proxy_common::settings::{Settings, settings_flags};
use proxy_common::trace;
use std::collections::BTreeSet;

/// What is wanted, and how it relates to what there is.
pub(super) struct Desired {
    pub(super) tables: Tables,
    pub(super) ids: Ids,
    pub(super) warnings: Vec<PlanWarning>,
    /// Ids that stand for the same before and after.
    pub(super) kept: Kept,
    /// Additions have no room beside what is to be removed.
    pub(super) two_stages: bool,
}

/// Ids that stand for the same before and after.
pub(super) struct Kept {
    services: BTreeSet<u16>,
    backends: BTreeSet<u16>,
}

/// Works out what the maps should hold, starting from what they hold.
pub(super) fn build(inputs: &Inputs<'_>, from: &Tables) -> Result<Desired, PlanErrors> {
    let config = inputs.config;
    let found = Recovered::new(config, from);
    let (mut guard, unplaced) = guard::wanted(config, &found.services, &from.guard);
    let mut errors = check(config, from, &found, guard.len() + unplaced);
    let snat_addrs = snat::layout(&snat_lists(config), &from.snat_addrs)
        .map_err(|error| errors.push(error))
        .unwrap_or_default();
    if !errors.is_empty() {
        return Err(PlanErrors(errors));
    }
    let retiring = retire::retiring(config, inputs.overlay, from, &found);
    let rooms = (capacity::SERVICES, backend_capacity(from));
    let allocation =
        allocate(&found, &retiring, from, rooms).map_err(|error| PlanErrors(vec![error]))?;
    guard::place(&mut guard, config, &found.services, &allocation.services);
    let mut builder = Builder {
        inputs,
        from,
        allocation: &allocation,
        tables: Tables {
            snat_addrs,
            guard,
            backend_capacity: from.backend_capacity,
            ..Tables::default()
        },
        warnings: Vec::new(),
    };
    let mut listeners = builder.fill();
    for (&id, &listener) in &retiring {
        let before = &from.backends[&id];
        builder.tables.backends.insert(id, retire::entry(before));
        listeners[listener]
            .retiring
            .push((retire::name(before), id));
    }
    builder.tables.settings = builder.settings();
    let Builder {
        tables, warnings, ..
    } = builder;
    Ok(Desired {
        two_stages: allocation.reuses || !fits_beside(from, &tables),
        tables,
        ids: Ids::new(listeners),
        warnings,
        kept: Kept {
            services: allocation.kept_services,
            backends: allocation.kept_backends,
        },
    })
}

/// The contents of `from` without what is not wanted any more: the first of two stages.
pub(super) fn without_removed(from: &Tables, wanted: &Tables, kept: &Kept) -> Tables {
    let mut tables = from.clone();
    let refers =
        |target: &ServiceRef| target.kind != kind::BALANCE || kept.services.contains(&target.id);
    (tables.keys).retain(|key, target| wanted.keys.contains_key(key) && refers(target));
    (tables.prefixes).retain(|key, target| wanted.prefixes.contains_key(key) && refers(target));
    tables.services.retain(|id, _| kept.services.contains(id));
    (tables.backends)
        .retain(|id, b| kept.backends.contains(id) && kept.services.contains(&b.service));
    tables.guard.retain(|key, _| {
        let scope = guard::scope_of(&key.1);
        let lives = scope == guard::GLOBAL_SCOPE || kept.services.contains(&scope);
        lives && wanted.guard.contains_key(key)
    });
    let served: BTreeSet<u16> = (tables.backends.values())
        .filter(|backend| in_ring(backend))
        .map(|backend| backend.service)
        .collect();
    for (id, service) in &mut tables.services {
        if !served.contains(id) {
            service.ring_size = 0;
        }
    }
    tables.settings.flags = flags(&tables, &from.settings);
    tables
}

/// True if the maps have room for both contents at once.
fn fits_beside(from: &Tables, to: &Tables) -> bool {
    fn both<K: Ord, V>(
        a: &std::collections::BTreeMap<K, V>,
        b: &std::collections::BTreeMap<K, V>,
    ) -> usize {
        a.len() + b.keys().filter(|key| !a.contains_key(key)).count()
    }
    both(&from.keys, &to.keys) <= capacity::SERVICE_KEYS as usize
        && both(&from.prefixes, &to.prefixes) <= capacity::SERVICE_PREFIXES as usize
        && both(&from.guard, &to.guard) <= capacity::GUARD_RULES as usize
}

/// The derived flags, and those that are not the plan's.
fn flags(tables: &Tables, before: &Settings) -> u32 {
    filter::derived_flags(tables) | before.flags & settings_flags::CAPTURE
}

/// Fills the wanted contents, listener by listener.
struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    from: &'a Tables,
    allocation: &'a Allocation,
    tables: Tables,
    warnings: Vec<PlanWarning>,
}

impl Builder<'_> {
    fn fill(&mut self) -> Vec<ListenerIds> {
        let config = self.inputs.config;
        let guarded: BTreeSet<u16> = (self.tables.guard.keys())
            .map(|(_, key)| guard::scope_of(key))
            .collect();

        let services = services_by_name(config);
        let ids = self
            .allocation
            .services
            .iter()
            .zip(&self.allocation.backends);
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for (listener, (&id, backend_ids)) in config.listeners.iter().zip(ids) {
            let Some(service) = services.get(listener.service.as_str()) else {
                continue;
            };
            let is_guarded = guarded.contains(&id);
            self.add_listener(listener, service, id, backend_ids, is_guarded);
            let names = service.backends.iter().map(|backend| backend.name.clone());
            listeners.push(ListenerIds {
                name: listener.name.clone(),
                service: service.name.clone(),
                id,
                backends: names.zip(backend_ids.iter().copied()).collect(),
                retiring: Vec::new(),
            });
        }
        for (&index, &addr) in &self.tables.snat_addrs {
            let target = reference(kind::SNAT, index as u16);
            self.tables.keys.insert(ServiceKey::new(addr, 0, 0), target);
        }
        listeners
    }

    fn add_listener(
        &mut self,
        listener: &Listener,
        service: &Service,
        id: u16,
        backend_ids: &[u16],
        guarded: bool,
    ) {
        let mut takes_flows = false;
        for (backend, &backend_id) in service.backends.iter().zip(backend_ids) {
            let entry = self.backend_entry(listener, service, id, backend, backend_id);
            takes_flows |= in_ring(&entry);
            self.tables.backends.insert(backend_id, entry);
        }
        let ring_size = if takes_flows { service.ring_size } else { 0 };
        let snat_addrs = &self.tables.snat_addrs;
        let entry = service_entry(listener, service, ring_size, guarded, snat_addrs);
        self.tables.services.insert(id, entry);
        Place::of(listener).set(&mut self.tables, reference(kind::BALANCE, id));
        Place::echo(listener).set(&mut self.tables, reference(kind::ECHO, 0));
    }

    fn backend_entry(
        &mut self,
        listener: &Listener,
        service: &Service,
        service_id: u16,
        backend: &Backend,
        backend_id: u16,
    ) -> BackendEntry {
        let facts = self.inputs.overlay.get(&service.name, &backend.name);
        let mut state = facts.state();
        let source = if is_tunnel(service.mode) {
            let source = self.tunnel_source(backend, backend_id);
            if source.is_none() {
                self.warn_unreachable(service, backend);
                state = BackendState::Down;
            }
            source.unwrap_or_default()
        } else {
            TunnelSource::default()
        };
        let gue_port = match service.mode {
            Mode::DsrGue => self.inputs.config.data_plane().gue_port,
            _ => 0,
        };
        BackendEntry {
            addr: Addr::from(backend.address),
            encap_src: source.addr,
            encap_src_mask: source.mask,
            weight: self.inputs.overlay.weight(service, backend),
            port_be: backend.port.unwrap_or(0).to_be(),
            gue_port_be: gue_port.to_be(),
            service: service_id,
            state: state.code(),
            mode: service.mode.code(),
            protocol: listener.protocol.number(),
            drain: facts.drain.code(),
            _pad: [0; 8],
        }
    }

    /// The configured source; else the address that this machine would send from; else, as a
    /// route may be missing just now, the one that the backend had.
    fn tunnel_source(&self, backend: &Backend, backend_id: u16) -> Option<TunnelSource> {
        let unmasked = |addr| TunnelSource { addr, mask: 0 };
        let egress = self.inputs.host.egress_sources.get(&backend.address);
        let before = || {
            let known = (self.allocation.kept_backends.contains(&backend_id))
                .then(|| self.from.backends.get(&backend_id))??;
            (known.encap_src != Addr::UNSPECIFIED && known.encap_src_mask == 0)
                .then_some(known.encap_src)
        };
        configured_source(self.inputs.config.data_plane(), backend.address)
            .or_else(|| egress.map(|&addr| unmasked(Addr::from(addr))))
            .or_else(|| before().map(unmasked))
    }

    /// Warns once for all listeners of a service.
    fn warn_unreachable(&mut self, service: &Service, backend: &Backend) {
        let warning = PlanWarning::NoTunnelSource {
            service: service.name.clone(),
            backend: backend.name.clone(),
            address: backend.address,
        };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The threshold of the flows that are traced: for observers, or for their spans.
    fn traced(&self) -> u32 {
        let config = self.inputs.config;
        let exported = config.tracing.as_ref().map_or(0, |it| it.flow_every);
        let observed = config.data_plane().sample_every;
        trace::threshold(exported).max(trace::threshold(observed))
    }

    /// The settings, apart from the generations, which count what is done.
    fn settings(&self) -> Settings {
        let (before, host) = (&self.from.settings, self.inputs.host);
        let l4 = self.inputs.config.data_plane();
        let is_fresh = before.abi == 0;
        Settings {
            abi: ABI_VERSION,
            flags: flags(&self.tables, before),
            generation: before.generation,
            guard_generation: before.guard_generation,
            sets_per_cpu: if is_fresh {
                host.sets_per_cpu
            } else {
                before.sets_per_cpu
            },
            cpus: if is_fresh { host.cpus } else { before.cpus },
            sample_every: l4.sample_every.max(QUIET),
            capture_octets: before.capture_octets,
            icmp_per_second: l4.icmp_per_second,
            trace_below: self.traced(),
            route_ttl_ns: u64::try_from(l4.route_ttl.as_nanos()).unwrap_or(u64::MAX),
            secrets: if is_fresh {
                host.secrets
            } else {
                before.secrets
            },
            selection_seed: l4.selection_seed,
        }
    }
}

/// Of the packets of traced flows that tell nothing new, at most one in this many is told of:
/// whoever wants all of them captures.
const QUIET: u32 = 32;

fn reference(kind: u8, id: u16) -> ServiceRef {
    ServiceRef { id, kind, _pad: 0 }
}
