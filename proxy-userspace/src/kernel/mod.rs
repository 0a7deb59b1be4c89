//! The kernel data plane, seen from user space.
//!
//! ```text
//! model + health ──plan.rs (pure)──▶ Vec<MapEdit> ──apply──▶ MapStore (real maps, or a fake)
//! object ──load.rs──▶ maps, programs ──attach.rs──▶ links; all pinned, so a new process adopts them
//! maps ──stats.rs, sweep.rs, events.rs──▶ counters, live flows, sampled events, captures
//! ```

pub mod apply;
pub mod fake;
pub mod plan;
pub mod store;
pub mod tables;

#[cfg(test)]
mod testing;
