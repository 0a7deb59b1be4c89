//! The contents of the data plane's maps, held in order.
//!
//! [`KernelState`] is a list as it is read from the kernel; [`Tables`] is the same with keys, for
//! planning (which compares two of them) and for the in-memory store.

use crate::kernel::store::{KernelState, MapEdit};
use proxy_common::addr::Addr;
use proxy_common::backend::{Backend, BackendState};
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::service::{Service, ServiceKey, ServicePrefix, ServiceRef};
use proxy_common::settings::Settings;
use std::collections::BTreeMap;

/// What [`KernelState`] lists, by key. Unused entries are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// The settings.
    pub settings: Settings,
    /// `services`.
    pub keys: BTreeMap<ServiceKey, ServiceRef>,
    /// `service_prefix`, with the trie's prefix lengths.
    pub prefixes: BTreeMap<(u32, ServicePrefix), ServiceRef>,
    /// `service_table`, by id.
    pub services: BTreeMap<u16, Service>,
    /// `backends`, by id.
    pub backends: BTreeMap<u16, Backend>,
    /// `snat_addrs`, by index.
    pub snat_addrs: BTreeMap<u32, Addr>,
    /// `guard_rules`, with the trie's prefix lengths.
    pub guard: BTreeMap<(u32, GuardKey), GuardRule>,
    /// Capacity of `backends`.
    pub backend_capacity: u32,
}

impl Tables {
    /// Sorts what a data plane holds.
    pub fn of(state: &KernelState) -> Self {
        Self {
            settings: state.settings,
            keys: state.keys.iter().copied().collect(),
            prefixes: (state.prefixes.iter())
                .map(|&(length, prefix, target)| ((length, prefix), target))
                .collect(),
            services: state.services.iter().copied().collect(),
            backends: state.backends.iter().copied().collect(),
            snat_addrs: state.snat_addrs.iter().copied().collect(),
            guard: (state.guard.iter())
                .map(|&(length, key, rule)| ((length, key), rule))
                .collect(),
            backend_capacity: state.backend_capacity,
        }
    }

    /// Lists the contents, in the order of the keys.
    pub fn state(&self) -> KernelState {
        KernelState {
            settings: self.settings,
            keys: self
                .keys
                .iter()
                .map(|(&key, &target)| (key, target))
                .collect(),
            prefixes: (self.prefixes.iter())
                .map(|(&(length, prefix), &target)| (length, prefix, target))
                .collect(),
            services: self.services.iter().map(|(&id, &s)| (id, s)).collect(),
            backends: self.backends.iter().map(|(&id, &b)| (id, b)).collect(),
            snat_addrs: self
                .snat_addrs
                .iter()
                .map(|(&i, &addr)| (i, addr))
                .collect(),
            guard: (self.guard.iter())
                .map(|(&(length, key), &rule)| (length, key, rule))
                .collect(),
            backend_capacity: self.backend_capacity,
        }
    }

    /// Follows one edit. Edits of what is not listed here (rings, filter, flows) change nothing.
    pub fn record(&mut self, edit: &MapEdit) {
        match *edit {
            MapEdit::Settings(settings) => self.settings = settings,
            MapEdit::AddressFilter(_)
            | MapEdit::Ring(..)
            | MapEdit::RemoveRing(_)
            | MapEdit::PurgeService(_) => {}
            MapEdit::Service(id, service) => {
                put(&mut self.services, id, service, is_used_service(&service));
            }
            MapEdit::Backend(id, backend) => {
                put(&mut self.backends, id, backend, is_used_backend(&backend));
            }
            MapEdit::SnatAddr(index, addr) => {
                put(&mut self.snat_addrs, index, addr, addr != Addr::UNSPECIFIED);
            }
            MapEdit::SetKey(key, target) => put(&mut self.keys, key, target, true),
            MapEdit::RemoveKey(key) => drop(self.keys.remove(&key)),
            MapEdit::SetPrefix(length, prefix, target) => {
                put(&mut self.prefixes, (length, prefix), target, true);
            }
            MapEdit::RemovePrefix(length, prefix) => drop(self.prefixes.remove(&(length, prefix))),
            MapEdit::SetGuard(length, key, rule) => {
                put(&mut self.guard, (length, key), rule, true);
            }
            MapEdit::RemoveGuard(length, key) => drop(self.guard.remove(&(length, key))),
        }
    }
}

/// True for an entry of `service_table` that some service has: a mode is never 0.
pub fn is_used_service(service: &Service) -> bool {
    service.mode != 0
}

/// True for an entry of `backends` that some backend has.
pub fn is_used_backend(backend: &Backend) -> bool {
    backend.state != BackendState::Absent.code()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, used: bool) {
    if used {
        map.insert(key, value);
    } else {
        map.remove(&key);
    }
}
