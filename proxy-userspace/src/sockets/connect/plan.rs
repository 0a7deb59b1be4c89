//! What the maps should hold, and the steps from what they hold, in an order in which each is safe:
//! what is referred to before what refers to it, removals last. Pure.

use super::alias;
use crate::config::model::connect::{OnBackendLoss, WithoutBackend};
use crate::config::model::{Config, Listener, Service};
use crate::kernel::plan::{Drain, Overlay};
use crate::types::PortMatch;
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::backend::BackendState;
use proxy_common::connect::{
    BACKENDS, Backend, Element, Header, PREFIX_KEY_FIXED_BITS, PrefixKey, SERVICES, VipKey,
    VipPrefix, flag, kinds, state,
};
use proxy_common::flow::ticks_from_ms;
use proxy_common::service::Selection;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// What a configuration wants, with what is laid over it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) services: Vec<WantedService>,
    /// VIPs with the index of their service.
    pub(super) vips: Vec<(Vip, usize)>,
}

/// A service that is balanced at connect().
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WantedService {
    pub(super) name: String,
    /// Its flags and times; the slots are counted by the plan.
    pub(super) header: Header,
    pub(super) backends: Vec<WantedBackend>,
}

/// A server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WantedBackend {
    pub(super) name: String,
    /// Port 0 keeps the one that was dialled.
    pub(super) address: SocketAddr,
    /// One of [`state`].
    pub(super) state: u16,
    pub(super) weight: u16,
    pub(super) drain: Drain,
}

/// What workloads dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vip {
    pub(super) prefix: IpNet,
    /// Port 0 is all.
    pub(super) port: u16,
    pub(super) protocol: u8,
}

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tables {
    /// Services by number: the name, and the table if it is known.
    pub(super) services: BTreeMap<u32, (String, Option<Vec<Element>>)>,
    /// Backends by number, also those that have left a configuration and drain.
    pub(super) backends: BTreeMap<u32, Backend>,
    /// Epochs of numbers that nobody has.
    pub(super) epochs: BTreeMap<u32, u32>,
    pub(super) vips: BTreeMap<VipKey, u32>,
    pub(super) prefixes: BTreeMap<VipPrefix, u32>,
    pub(super) kinds: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Edit {
    /// Which kinds of VIPs there are.
    Kinds(u32),
    /// A number has this name.
    Name(u32, String),
    Backend(u32, Backend),
    /// A service's table is replaced.
    Table(u32, Vec<Element>),
    Vip(VipKey, u32),
    Prefix(VipPrefix, u32),
    NoVip(VipKey),
    NoPrefix(VipPrefix),
    /// Nobody has the number any more.
    NoService(u32),
    /// Nobody has the number any more; the next one to have it has another epoch.
    NoBackend(u32, u32),
}

/// What leads to what is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    /// What the maps hold afterwards.
    pub(super) tables: Tables,
    /// Backends of which no connection is to be expected any more, of services that tell sockets.
    pub(super) lost: Vec<(u32, Backend)>,
    /// Backends that have left the configuration and keep their sockets until they are released,
    /// with how long that may take.
    pub(super) retiring: Vec<(u32, Duration)>,
}

/// The wish is too large for the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No number is free for a service.
    #[error("more than {SERVICES} services are balanced at connect()")]
    Services,
    /// No number is free for a backend.
    #[error("more than {BACKENDS} backends are balanced at connect(), with those that drain")]
    Backends,
}

impl Wanted {
    /// What a configuration wants of sockets that dial.
    pub(super) fn of(config: &Config, overlay: &Overlay) -> Self {
        let mut wanted = Self::default();
        if config.connect.is_none() {
            return wanted;
        }
        for service in &config.services {
            let listeners = config.listeners.iter();
            let listeners = listeners.filter(|listener| listener.service == service.name);
            let vips: Vec<_> = listeners.map(Vip::of).collect();
            let Some(one) = WantedService::of(service, overlay).filter(|_| !vips.is_empty()) else {
                continue;
            };
            let index = wanted.services.len();
            wanted.services.push(one);
            wanted.vips.extend(vips.into_iter().map(|vip| (vip, index)));
        }
        wanted
    }
}

impl WantedService {
    fn of(service: &Service, overlay: &Overlay) -> Option<Self> {
        let at = service.at_connect?;
        let flags = [
            (flag::PASS, at.without_backend == WithoutBackend::Pass),
            (flag::TELL, at.on_backend_loss == OnBackendLoss::Reset),
            (
                flag::AFFINITY,
                service.selection == Selection::SourceAffinity,
            ),
            (
                flag::TWO_CHOICES,
                service.selection == Selection::TwoChoices,
            ),
            (flag::WATCH, service.watches_sockets()),
        ];
        let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
        let backends = service.backends.iter().map(|backend| WantedBackend {
            name: backend.name.clone(),
            address: SocketAddr::new(backend.address, backend.port.unwrap_or(0)),
            state: match overlay.get(&service.name, &backend.name).state() {
                BackendState::Up => state::UP,
                BackendState::Draining => state::DRAINING,
                BackendState::Absent | BackendState::Down => state::DOWN,
            },
            weight: overlay.weight(service, backend),
            drain: overlay.get(&service.name, &backend.name).drain,
        });
        Some(Self {
            name: service.name.clone(),
            header: Header {
                slots: 0,
                flags: flags.map(|(flag, _)| flag).sum(),
                affinity_ticks: ticks(service.timeouts.affinity),
                udp_ticks: ticks(service.timeouts.udp),
                _pad: [0; 2],
            },
            backends: backends.collect(),
        })
    }
}

/// Whole milliseconds, rounded up, as ticks.
fn ticks(time: Duration) -> u32 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    ticks_from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
}

impl Vip {
    fn of(listener: &Listener) -> Self {
        Self {
            prefix: listener.vip,
            port: match listener.port {
                PortMatch::One(port) => port,
                PortMatch::All => 0,
            },
            protocol: listener.protocol.number(),
        }
    }

    fn is_one_address(&self) -> bool {
        self.prefix.prefix_len() == self.prefix.max_prefix_len()
    }

    fn key(&self) -> VipKey {
        let addr = Addr::from(self.prefix.addr());
        VipKey::new(addr, self.port.to_be(), self.protocol)
    }

    fn prefix_key(&self) -> VipPrefix {
        let addr = Addr::from(self.prefix.network());
        let mapped = match self.prefix {
            IpNet::V4(_) => 96,
            IpNet::V6(_) => 0,
        };
        let mut key = PrefixKey::new(addr, self.port.to_be(), self.protocol);
        // `::/0` has the address of no mapped one, and is no IPv4 prefix either.
        key.family = if self.prefix.addr().is_ipv4() { 4 } else { 6 };
        VipPrefix {
            bits: PREFIX_KEY_FIXED_BITS + mapped + u32::from(self.prefix.prefix_len()),
            key,
        }
    }

    const fn kind(&self, is_one: bool) -> u32 {
        match (is_one, self.port) {
            (true, 0) => kinds::ALL_PORTS,
            (true, _) => kinds::PORT,
            (false, 0) => kinds::PREFIX_ALL_PORTS,
            (false, _) => kinds::PREFIX_PORT,
        }
    }
}

/// The way from what the maps hold to what is wanted. `drains` tells how long a backend that has left
/// its service keeps its sockets, `released` of which backends that time is over.
///
/// # Errors
///
/// [`PlanError`].
pub(super) fn plan(
    wanted: &Wanted,
    from: &Tables,
    drains: &dyn Fn(&str) -> Duration,
    released: &BTreeSet<u32>,
) -> Result<Plan, PlanError> {
    let ids = service_ids(wanted, from)?;
    let mut backends = Backends::new(from);
    let mut plan = Plan::default();
    let mut tables = Vec::new();
    for (service, &id) in wanted.services.iter().zip(&ids) {
        tables.push((id, backends.of_service(service, id)?));
    }
    backends.retire(wanted, &ids, drains, released, &mut plan);
    plan.lost = lost(wanted, &ids, from, &backends.to);
    edits(wanted, &ids, from, &backends, tables, &mut plan);
    Ok(plan)
}

/// A number for each service: its own one, or a free one. Numbers that are given up are not taken at
/// once: what refers to them is removed last.
fn service_ids(wanted: &Wanted, from: &Tables) -> Result<Vec<u32>, PlanError> {
    let known: BTreeMap<&str, u32> = (from.services.iter())
        .map(|(id, (name, _))| (name.as_str(), *id))
        .collect();
    let mut free = (0..SERVICES).filter(|id| !from.services.contains_key(id));
    let id = |service: &WantedService| known.get(service.name.as_str()).copied();
    (wanted.services.iter())
        .map(|service| {
            id(service)
                .or_else(|| free.next())
                .ok_or(PlanError::Services)
        })
        .collect()
}

/// Numbers of backends.
struct Backends<'a> {
    from: &'a Tables,
    /// Those of a service by address and port.
    known: BTreeMap<(u16, Addr, u16), u32>,
    to: BTreeMap<u32, Backend>,
    next: u32,
}

impl<'a> Backends<'a> {
    fn new(from: &'a Tables) -> Self {
        let known = from.backends.iter().map(|(id, backend)| {
            let place = (backend.service, backend.addr, backend.port_be);
            (place, *id)
        });
        Self {
            from,
            known: known.collect(),
            to: BTreeMap::new(),
            next: 1,
        }
    }

    /// Gives numbers to the backends of a service; its table.
    fn of_service(&mut self, service: &WantedService, id: u32) -> Result<Vec<Element>, PlanError> {
        let mut members = Vec::new();
        for backend in &service.backends {
            let place = (
                id as u16,
                Addr::from(backend.address.ip()),
                backend.address.port().to_be(),
            );
            let (number, epoch) = match self.known.get(&place) {
                Some(number) => (*number, self.from.backends[number].epoch),
                None => self.free()?,
            };
            let entry = Backend {
                addr: place.1,
                port_be: place.2,
                state: backend.state,
                service: place.0,
                weight: backend.weight,
                epoch,
                drain: backend.drain.code().into(),
            };
            self.to.insert(number, entry);
            if backend.state == state::UP && backend.weight > 0 {
                members.push((number, backend.weight));
            }
        }
        let slots = alias::table(&members);
        let header = Header {
            slots: slots.len() as u32,
            ..service.header
        };
        let slots = slots.into_iter().map(proxy_common::connect::Slot::element);
        Ok([header.element()].into_iter().chain(slots).collect())
    }

    /// A number that nobody has or had until now.
    fn free(&mut self) -> Result<(u32, u32), PlanError> {
        while self.from.backends.contains_key(&self.next) {
            self.next += 1;
        }
        let number = self.next;
        if number >= BACKENDS {
            return Err(PlanError::Backends);
        }
        self.next += 1;
        let before = self.from.epochs.get(&number).copied().unwrap_or_default();
        Ok((number, before.wrapping_add(1)))
    }

    /// Those that have left a service which is still there drain until they are released.
    fn retire(
        &mut self,
        wanted: &Wanted,
        ids: &[u32],
        drains: &dyn Fn(&str) -> Duration,
        released: &BTreeSet<u32>,
        plan: &mut Plan,
    ) {
        for (number, backend) in &self.from.backends {
            if self.to.contains_key(number) || released.contains(number) {
                continue;
            }
            let index = ids.iter().position(|id| *id == u32::from(backend.service));
            if let Some(index) = index {
                let left = Backend {
                    state: backend.state.max(state::DRAINING),
                    ..*backend
                };
                self.to.insert(*number, left);
                let time = drains(&wanted.services[index].name);
                plan.retiring.push((*number, time));
            }
        }
    }
}

/// Backends that had sockets and are down or gone now, of services that tell sockets.
fn lost(
    wanted: &Wanted,
    ids: &[u32],
    from: &Tables,
    to: &BTreeMap<u32, Backend>,
) -> Vec<(u32, Backend)> {
    let tells = |backend: &Backend| {
        let index = ids.iter().position(|id| *id == u32::from(backend.service));
        index.is_some_and(|index| wanted.services[index].header.flags & flag::TELL != 0)
    };
    let serves = |backend: &Backend| [state::UP, state::DRAINING].contains(&backend.state);
    (from.backends.iter())
        .filter(|(number, before)| {
            serves(before) && tells(before) && !to.get(number).is_some_and(serves)
        })
        .map(|(number, before)| (*number, *before))
        .collect()
}

/// The steps, in their order.
fn edits(
    wanted: &Wanted,
    ids: &[u32],
    from: &Tables,
    backends: &Backends<'_>,
    tables: Vec<(u32, Vec<Element>)>,
    plan: &mut Plan,
) {
    let mut to = after(wanted, ids, from, backends);
    let edits = &mut plan.edits;
    let both = from.kinds | to.kinds;
    if both != from.kinds {
        edits.push(Edit::Kinds(both));
    }
    for ((id, table), service) in tables.into_iter().zip(&wanted.services) {
        if !from.services.contains_key(&id) {
            edits.push(Edit::Name(id, service.name.clone()));
        }
        to.services.insert(id, (service.name.clone(), Some(table)));
    }
    for (number, backend) in &to.backends {
        if from.backends.get(number) != Some(backend) {
            edits.push(Edit::Backend(*number, *backend));
        }
        to.epochs.insert(*number, backend.epoch);
    }
    for (id, (_, table)) in &to.services {
        let before = from.services.get(id).and_then(|(_, table)| table.as_ref());
        if let Some(table) = table
            && before != Some(table)
        {
            edits.push(Edit::Table(*id, table.clone()));
        }
    }
    let news = changed(&from.vips, &to.vips);
    edits.extend(news.map(|(key, id)| Edit::Vip(*key, *id)));
    let news = changed(&from.prefixes, &to.prefixes);
    edits.extend(news.map(|(key, id)| Edit::Prefix(*key, *id)));
    let gone = |key: &&VipKey| !to.vips.contains_key(key);
    edits.extend(from.vips.keys().filter(gone).map(|key| Edit::NoVip(*key)));
    let gone = |key: &&VipPrefix| !to.prefixes.contains_key(key);
    let gone = from.prefixes.keys().filter(gone);
    edits.extend(gone.map(|key| Edit::NoPrefix(*key)));
    let gone = from.services.keys();
    let gone = gone.filter(|id| !to.services.contains_key(id));
    edits.extend(gone.map(|id| Edit::NoService(*id)));
    let gone = from.backends.iter();
    let gone = gone.filter(|(number, _)| !to.backends.contains_key(number));
    edits.extend(gone.map(|(number, backend)| Edit::NoBackend(*number, backend.epoch)));
    if to.kinds != both {
        edits.push(Edit::Kinds(to.kinds));
    }
    plan.tables = to;
}

/// What the maps hold afterwards, but for the tables of services.
fn after(wanted: &Wanted, ids: &[u32], from: &Tables, backends: &Backends<'_>) -> Tables {
    let mut to = Tables {
        backends: backends.to.clone(),
        epochs: from.epochs.clone(),
        ..Tables::default()
    };
    for (vip, index) in &wanted.vips {
        let is_one = vip.is_one_address();
        to.kinds |= vip.kind(is_one);
        match is_one {
            true => drop(to.vips.insert(vip.key(), ids[*index])),
            false => drop(to.prefixes.insert(vip.prefix_key(), ids[*index])),
        }
    }
    to
}

fn changed<'a, K: Ord>(
    from: &'a BTreeMap<K, u32>,
    to: &'a BTreeMap<K, u32>,
) -> impl Iterator<Item = (&'a K, &'a u32)> {
    to.iter().filter(|(key, id)| from.get(key) != Some(id))
}

#[cfg(test)]
mod tests;
