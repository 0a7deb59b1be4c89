//! The edits of the data plane's maps, and the trait that carries them out.
//!
//! Planning yields a list of [`MapEdit`]s in the order in which they are safe: what is referred
//! to comes before what refers to it, and removals come last. A store carries them out one by one.

use proxy_common::addr::Addr;
use proxy_common::backend::Backend;
use proxy_common::guard::{GuardKey, GuardRule};
use proxy_common::service::{Service, ServiceKey, ServicePrefix, ServiceRef};
use proxy_common::settings::{AddressFilter, Settings};
use std::io;

/// One change of one map.
#[derive(Clone, Debug, PartialEq)]
pub enum MapEdit {
    /// Replaces the settings.
    Settings(Settings),
    /// Replaces the address filter.
    AddressFilter(Box<AddressFilter>),
    /// Sets an entry of `service_table`.
    Service(u16, Service),
    /// Sets an entry of `backends`.
    Backend(u16, Backend),
    /// Builds a ring of these backend ids and swaps it in for the service; empty where no backend takes
    /// new flows. Flows that began under the ring before are still led by that for a while.
    Ring(u16, Vec<u16>),
    /// Removes the ring of a service that is removed.
    RemoveRing(u16),
    /// Sets an entry of `snat_addrs`.
    SnatAddr(u32, Addr),
    /// Sets an entry of `services`.
    SetKey(ServiceKey, ServiceRef),
    /// Removes an entry of `services`.
    RemoveKey(ServiceKey),
    /// Sets an entry of `service_prefix`; the number is the trie's prefix length.
    SetPrefix(u32, ServicePrefix, ServiceRef),
    /// Removes an entry of `service_prefix`.
    RemovePrefix(u32, ServicePrefix),
    /// Sets an entry of `guard_rules`; the number is the trie's prefix length.
    SetGuard(u32, GuardKey, GuardRule),
    /// Removes an entry of `guard_rules`.
    RemoveGuard(u32, GuardKey),
    /// Forgets every flow of this service, before its id is used for another.
    PurgeService(u16),
}

/// What a data plane holds: read at start to adopt one that is running, and kept by planning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelState {
    /// The settings; `abi` is 0 in fresh maps.
    pub settings: Settings,
    /// Entries of `services`.
    pub keys: Vec<(ServiceKey, ServiceRef)>,
    /// Entries of `service_prefix` with their trie prefix lengths.
    pub prefixes: Vec<(u32, ServicePrefix, ServiceRef)>,
    /// Used entries of `service_table`, by id.
    pub services: Vec<(u16, Service)>,
    /// Used entries of `backends` (state is not absent), by id.
    pub backends: Vec<(u16, Backend)>,
    /// Used entries of `snat_addrs`.
    pub snat_addrs: Vec<(u32, Addr)>,
    /// Entries of `guard_rules` with their trie prefix lengths.
    pub guard: Vec<(u32, GuardKey, GuardRule)>,
    /// Capacity of `backends`.
    pub backend_capacity: u32,
}

/// Carries out edits.
pub trait MapStore {
    /// Carries out one edit.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the kernel refuses; nothing of this edit is then in force.
    fn apply(&mut self, edit: &MapEdit) -> Result<(), StoreError>;

    /// Carries out edits in their order, and stops at the first that fails. A store may carry out
    /// neighbouring edits together where that is cheaper.
    ///
    /// # Errors
    ///
    /// [`StoreError`] with the number of edits before it, which are in force.
    fn apply_all(&mut self, edits: &[MapEdit]) -> Result<(), (usize, StoreError)> {
        for (done, edit) in edits.iter().enumerate() {
            self.apply(edit).map_err(|error| (done, error))?;
        }
        Ok(())
    }

    /// Reads what the maps hold.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a map cannot be read.
    fn state(&self) -> Result<KernelState, StoreError>;
}

/// A map operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {call} map `{map}`")]
pub struct StoreError {
    /// What was tried: `update`, `read`, …
    pub call: &'static str,
    /// The map's name.
    pub map: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Makes the error of a map of what the kernel said.
pub(crate) fn store_error(
    call: &'static str,
    map: &'static str,
) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError { call, map, source }
}
