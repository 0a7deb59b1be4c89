//! One server of one service.

use crate::addr::Addr;
use core::mem::size_of;

/// Whether a backend may take packets. The codes are stored in maps.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// The slot is free.
    Absent = 0,
    /// Takes new flows and keeps its own.
    Up = 1,
    /// Keeps its flows, takes no new ones. User space turns it [`Self::Down`] at the deadline.
    Draining = 2,
    /// Takes nothing: its flows are selected anew.
    Down = 3,
}

impl BackendState {
    /// The state with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Absent),
            1 => Some(Self::Up),
            2 => Some(Self::Draining),
            3 => Some(Self::Down),
            _ => None,
        }
    }

    /// The code stored in maps.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name used in logs, metrics and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// Value of `backends`, indexed by backend id. Index 0 is never used.
///
/// A backend that serves two services has two entries, so that counters, state and weight are
/// per service and backend. All that the packet path needs for a known flow is in this one entry:
/// it does not have to read the service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address of the server.
    pub addr: Addr,
    /// Source of the outer header (tunnel modes); low 32 bits are mixed with the flow's hash
    /// under `encap_src_mask`, so that receivers spread flows over their queues.
    pub encap_src: Addr,
    /// Bits of the last 32 (as a big-endian number) of `encap_src` that the flow's hash fills.
    pub encap_src_mask: u32,
    /// Weight, for the selection by two choices.
    pub weight: u16,
    /// Port in network byte order (as in the packet); 0 keeps the client's destination port.
    pub port_be: u16,
    /// Destination port of GUE in network byte order.
    pub gue_port_be: u16,
    /// Service id that this entry belongs to.
    pub service: u16,
    /// One of [`BackendState`].
    pub state: u8,
    /// One of [`crate::service::Mode`], as in the service.
    pub mode: u8,
    /// IP protocol of the service.
    pub protocol: u8,
    /// One of [`drain`]. For user space only: `state` alone does not tell a drained backend from
    /// one that fails its checks, and a restarted daemon must not let the former take flows again.
    pub drain: u8,
    /// Zero.
    pub _pad: [u8; 8],
}

const _: () = assert!(size_of::<Backend>() == 16 + 16 + 4 + 2 + 2 + 2 + 2 + 1 + 1 + 1 + 1 + 8);

/// How far an operator's drain of a backend is. The codes are stored in maps.
pub mod drain {
    /// Not drained.
    pub const NO: u8 = 0;
    /// Keeps its flows, takes no new ones.
    pub const DRAINING: u8 = 1;
    /// The deadline has passed.
    pub const EXPIRED: u8 = 2;
}

/// High half of the mark (`SO_MARK`) of a health probe to a VIP; the low half is the id of the
/// backend that it is for.
pub const PROBE_MARK: u32 = 0x5105_0000;

/// The mark of probes for the backend with this id.
pub const fn probe_mark(backend: u16) -> u32 {
    PROBE_MARK | backend as u32
}

crate::map_value!(Backend);
