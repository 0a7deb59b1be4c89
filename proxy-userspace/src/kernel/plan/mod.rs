//! Planning: from a configuration to the edits that make the data plane follow it. Pure.
//!
//! [`plan`] works out what the maps should hold (`desired`), giving every listener and backend an
//! id (`ids`), and compares it with what they hold (`diff`). Nothing else is remembered: the maps
//! are the only state, so a process that adopts a running data plane, or one whose edits failed
//! half-way, plans in the very same way.
//!
//! # What holds at every moment
//!
//! The edits are carried out one by one under traffic, and may stop after any of them. After each
//! one:
//!
//! - a key refers to a service that is filled in;
//! - a service has a ring of at least `ring_size` slots, each with a backend of that service that
//!   is up (the packet path drops what a ring leads to any other);
//! - the address filter admits every VIP, NAT backend and full-nat source that the keys mention;
//! - an id stands for what it stood for, unless everything of the old meaning has been removed.
//!
//! # Interrupted plans
//!
//! Rings, the address filter and the forgetting of flows cannot be read back. While edits are
//! under way the settings' generation is therefore **odd**: it is raised once before the first
//! and once after the last edit. A plan that starts from an odd generation sends all rings and the
//! filter again. A plan that would change nothing else than the settings is one edit and skips
//! the odd generation.
//!
//! # Room
//!
//! Additions come before removals, so that traffic goes on. Where the maps have no room for both,
//! the plan has two stages: what is no longer wanted is removed first.

mod check;
mod desired;
mod diff;
mod entries;
mod error;
pub mod filter;
pub mod guard;
mod ids;
mod overlay;
mod retire;
mod rings;
mod snat;

pub use error::{PlanError, PlanErrors, PlanWarning};
pub use ids::{BackendName, Ids, ListenerIds};
pub use overlay::{BackendOverlay, Drain, Health, Overlay, Removed};

use crate::config::model::Config;
use crate::kernel::store::{KernelState, MapEdit};
use crate::kernel::tables::Tables;
use std::collections::HashMap;
use std::net::IpAddr;

/// All that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What is wanted.
    pub config: &'a Config,
    /// Health, drains and weights.
    pub overlay: &'a Overlay,
    /// What the maps hold: as adopted, or [`Plan::state`] of the plan before.
    pub kernel: &'a KernelState,
    /// Facts about this machine.
    pub host: &'a Host,
}

/// Facts about this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// CPUs that the flow table is divided among. Only for fresh maps, see [`plan`].
    pub cpus: u32,
    /// Sets of the flow table per CPU. Only for fresh maps.
    pub sets_per_cpu: u32,
    /// Random words. Only for fresh maps.
    pub secrets: [u64; 5],
    /// By a backend's address: the address that this machine sends from to reach it. Asked only
    /// for tunnel modes of a family for which the configuration gives no tunnel source.
    pub egress_sources: HashMap<IpAddr, IpAddr>,
}

/// What is to be done, and what will then be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The edits, to be carried out in this order. Empty if nothing changes.
    pub edits: Vec<MapEdit>,
    /// Which ids stand for which names once the edits are done.
    pub ids: Ids,
    /// What the maps hold once the edits are done.
    pub state: KernelState,
    /// What an operator should know.
    pub warnings: Vec<PlanWarning>,
}

/// Works out the edits that make the data plane follow the configuration.
///
/// Fresh maps (`abi` 0) get the sizes and secrets of `host`; running ones keep theirs, as flows
/// live by them. The capture flag and length are kept, they belong to `sluice capture`, and so
/// are the guard rules of operators and policies, except those of a listener that is removed.
///
/// # Errors
///
/// [`PlanErrors`] with everything that cannot be carried out; nothing is to be changed then.
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, PlanErrors> {
    let from = Tables::of(inputs.kernel);
    let desired = desired::build(inputs, &from)?;
    let between = (desired.two_stages)
        .then(|| desired::without_removed(&from, &desired.tables, &desired.kept));
    let (edits, to) = diff::edits(&from, between.as_ref(), desired.tables)
        .map_err(|error| PlanErrors(vec![error]))?;
    Ok(Plan {
        edits,
        ids: desired.ids,
        state: to.state(),
        warnings: desired.warnings,
    })
}

#[cfg(test)]
mod tests;
