//! The kernel data plane, seen from user space.
//!
//! ```text
//! model + health ──plan.rs (pure)──▶ Vec<MapEdit> ──apply──▶ MapStore (real maps, or a fake)
//! object ──load.rs──▶ maps, programs ──attach.rs──▶ links; all pinned, so a new process adopts them
//! maps ──stats.rs, sweep.rs, events.rs──▶ counters, live flows, sampled events, captures
//! ```

pub mod aim;
pub mod apply;
pub mod attach;
pub mod capture;
pub mod decap;
pub mod events;
mod exceptions;
pub mod fake;
pub mod features;
pub(crate) mod handle;
pub mod host;
pub mod layout;
pub mod load;
mod log;
pub mod maps;
mod migrate;
pub mod neighbours;
pub mod netlink;
pub(crate) mod object;
pub mod pcapng;
pub mod pins;
pub mod plan;
mod ring;
mod set;
pub mod stats;
pub mod store;
pub mod sweep;
pub(crate) mod sys;
mod table;
pub mod tables;

#[cfg(test)]
mod testing;
