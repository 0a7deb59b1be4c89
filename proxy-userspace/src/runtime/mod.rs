//! The life of the daemon: start, signals, reload, drain, stop.
//!
//! ```text
//!  signals ─┐                      ┌───────────────┐  edits   ┌────────────┐
//!  admin ───┼── commands (mpsc) ──▶│ control task  │─────────▶│ data plane │
//!  health ──┤                      │ owns the plane│◀─────────│ (kernel)   │
//!  timers ──┘                      └──────┬────────┘ counters └─────┬──────┘
//!                                         │ one snapshot           │ rings
//!                                         ▼                        ▼
//!                                    names (ArcSwap) ────────▶ pumps: events, capture
//! ```
//!
//! **One owner.** The control task alone plans and writes maps, so there is no lock around the data
//! plane and no order of events to reason about: what happens first is what arrives first. Its
//! work is a few system calls per command; building the rings of a large configuration takes
//! longer, and meanwhile only commands wait: packets, probes and `/livez` do not.
//!
//! **The kernel is the state.** The daemon keeps nothing on disk. What it needs after a crash
//! (which backends are down or drained, operators' guard rules, ids, flows) is read back from the
//! maps, so starting after SIGKILL and starting after a stop with `--keep-dataplane` are the same.
//!
//! **Failures.** A reload either takes effect as a whole or leaves the old configuration in force.
//! An edit that the kernel refuses in between reloads (a health change, say) leaves the control
//! task *behind*: it tries again with each tick, from what the maps then hold, and `/readyz` says
//! so meanwhile.

pub mod alone;
mod bystanders;
mod capture;
mod certificates;
mod change;
mod commands;
mod condemn;
mod connections;
mod control;
mod drains;
mod forwarding;
mod guard;
mod health;
mod health_view;
mod history;
mod logging;
mod mesh;
mod names;
mod observe;
mod on_demand;
mod overlay;
mod plane;
mod probing;
mod proxies;
mod proxy_view;
mod real;
mod reload;
mod signals;
mod socket_balancing;
mod source;
mod start;
mod steering;
mod successor;
mod upgrade;
mod view;
mod watch;
pub mod workers;
pub use control::BeginError;
pub use plane::PlaneError;
pub use source::{FileSource, Source};
pub use start::{Options, StartError, run};
pub use upgrade::predecessor;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
