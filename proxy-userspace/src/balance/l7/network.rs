//! What the kernel has told of all connections to one backend, counted by all workers.
//!
//! A worker looks at a connection about once a second (`net::watch`), so this is written seldom; it
//! stands on a line of its own nevertheless, apart from what each request reads.

use crate::health::outlier::Network;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the backend's state was made.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct NetworkCounts {
    segments: AtomicU64,
    retransmits: AtomicU64,
    disordered: AtomicU64,
    looks: AtomicU64,
    zero_windows: AtomicU64,
    timed: AtomicU64,
    rtt_ns: AtomicU64,
}

/// What the kernel has told of connections that are workloads' own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    /// What TCP counts.
    pub network: Network,
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that could not be opened.
    pub failed: u64,
}

/// Counts of those since the backend's state was made.
#[derive(Debug, Default)]
pub(super) struct WorkloadCounts {
    network: NetworkCounts,
    opened: AtomicU64,
    failed: AtomicU64,
}

impl WorkloadCounts {
    /// Adds what was seen since the last look.
    pub(super) fn add(&self, seen: &Workloads) {
        self.network.add(&seen.network);
        self.opened.fetch_add(seen.opened, Ordering::Relaxed);
        self.failed.fetch_add(seen.failed, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Workloads {
        Workloads {
            network: self.network.read(),
            opened: self.opened.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

impl NetworkCounts {
    /// Adds what was seen of a connection since it was last looked at.
    pub(super) fn add(&self, seen: &Network) {
        for (cell, more) in [
            (&self.segments, seen.segments),
            (&self.retransmits, seen.retransmits),
            (&self.disordered, seen.disordered),
            (&self.looks, seen.looks),
            (&self.zero_windows, seen.zero_windows),
            (&self.timed, seen.timed),
            (&self.rtt_ns, seen.rtt_ns),
        ] {
            if more > 0 {
                cell.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn read(&self) -> Network {
        let of = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Network {
            segments: of(&self.segments),
            retransmits: of(&self.retransmits),
            disordered: of(&self.disordered),
            looks: of(&self.looks),
            zero_windows: of(&self.zero_windows),
            timed: of(&self.timed),
            rtt_ns: of(&self.rtt_ns),
        }
    }
}
