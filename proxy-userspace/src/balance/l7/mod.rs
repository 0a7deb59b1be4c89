//! Who gets a request: policies of the proxy paths, and the counts that all workers share.
//!
//! Three things with three lifetimes make this up:
//!
//! - A [`BackendState`] is what is counted about one server: requests in progress, connections,
//!   latency, health. It lives as long as anybody holds it and is the *same* one after a reload,
//!   so that limits hold and averages go on.
//! - A [`Selection`] is an immutable table of who may be chosen right now, with all that can be
//!   computed beforehand: order of turns, alias table, hash ring. A change of health, weight or
//!   membership makes a new one, which replaces the old by a swap of one pointer. **A pick reads
//!   only this table and the counters**: no lock, no allocation.
//! - A [`ServiceState`] owns the members, publishes selections, and holds the queue of those
//!   who wait while every backend is at its limit. A [`Registry`] has one for each service of a
//!   configuration.
//!
//! # Who is eligible
//!
//! Backends are put in groups, best first; a group is left only when it has nobody for this
//! request.
//!
//! 1. **Tiers.** The first tier in which enough are healthy (at least one, and at least the panic
//!    threshold) comes first. If no tier has enough, health is ignored (*panic*): when most seem
//!    down, the fault is more likely with the checks or the load than with every server, and the
//!    few that are up would fall next. A threshold of 0 means that this never happens.
//! 2. **Zones.** Within a tier, backends of our own zone come first as long as 5/7 of their weight
//!    is healthy; below that the rest of the traffic is shared with the other zones in proportion,
//!    so that the step is never all or nothing.
//! 3. **Limits.** A backend with as many requests as it may have is skipped. If those of the zone
//!    are full, the others get the request. A full *tier* is not left as long as requests may
//!    wait, because backups are often only good for an apology; without a queue it is.
//!
//! Draining backends and those of weight 0 are in no group. A client whose cookie names one keeps
//! it nevertheless, as long as it is healthy: that is what tells a drain from an outage. Hash
//! policies have no such memory: the keys of a draining backend move at once.
//!
//! # Passive health
//!
//! What becomes of each attempt is reported ([`ServiceState::report`]); [`crate::health::outlier`]
//! decides who is ejected for it. An ejected backend is as good as one that is down: panic, tiers
//! and zones make no difference.
//!
//! # Slow start
//!
//! A backend that becomes healthy begins with a tenth of its weight, which grows linearly. Not so
//! with the hash policies, where each step would move keys from one server to another.

mod alias;
mod backend;
mod carried;
mod hash_ring;
mod latency;
mod network;
mod news;
mod outcomes;
mod outliers;
mod pick;
mod queue;
mod registry;
mod selection;
mod service;
mod spec;
pub mod sticky;
mod table;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;

pub use backend::{BackendState, Slot, Slots};
pub use carried::CarriedBackend;
pub use network::Workloads;
pub use news::{News, Note, What};
pub use outliers::{KnownDelay, KnownLatency};
pub use pick::{Ask, Tried, Unavailable};
pub use queue::QueueFull;
pub use registry::Registry;
pub use selection::Selection;
pub use service::{Lease, Resolved, ServiceState};
pub use spec::{BackendSpec, NamedSpec, ServiceSpec};
pub use waiting::{WaitError, Waiting};

/// Time on a monotonic clock whose origin does not matter, in nanoseconds.
pub type Nanos = u64;

/// Most backends of a service that take part; the tables hold 16-bit indices.
pub const MAX_BACKENDS: usize = 1 << 15;

/// Hash of what a request is balanced by, for the hash policies. The same in every release and on
/// every machine, so that balancers of a fleet agree.
pub fn hash_key(octets: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(octets)
}
