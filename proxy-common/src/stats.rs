//! Counters. Each CPU has its own copy; user space adds them up.

use core::mem::size_of;

/// Value of the per-CPU `backend_stats`, indexed by backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendStats {
    /// Packets sent to the backend.
    pub packets: u64,
    /// Octets of IP packet, before encapsulation.
    pub bytes: u64,
    /// Flows that got this backend: TCP connections with their SYN, UDP flows with their first packet.
    pub new_flows: u64,
    /// Packets of the backend that were sent to clients (NAT modes).
    pub return_packets: u64,
    /// Octets of those.
    pub return_bytes: u64,
    /// TCP flows that entered the flow table with another packet than a SYN: with the second one, where
    /// the SYN has left nothing, or in their midst.
    pub entered: u64,
}

const _: () = assert!(size_of::<BackendStats>() == 6 * 8);

/// Value of the per-CPU `service_stats`, indexed by service id.
///
/// Packets that reached a backend are counted there and not again here: a service's total is the
/// sum over its backends plus these.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Packets handed to this host's stack (`local`).
    pub local_packets: u64,
    /// Octets of those.
    pub local_bytes: u64,
    /// New flows of `local`.
    pub local_new_flows: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// New flows that found no room in the flow table and are forwarded by the ring alone.
    pub untracked_flows: u64,
    /// Flows that took the place of another one, unconfirmed or expired.
    pub replaced_flows: u64,
}

const _: () = assert!(size_of::<ServiceStats>() == 6 * 8);

/// Value of `live_flows`, indexed by backend id, shared by all CPUs, changed atomically.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveFlows {
    /// Confirmed flows that are not closing. May be off by a few after a crash of user space; corrected by
    /// the next sweep.
    pub count: i64,
}

const _: () = assert!(size_of::<LiveFlows>() == 8);

crate::map_value!(BackendStats, ServiceStats, LiveFlows);
