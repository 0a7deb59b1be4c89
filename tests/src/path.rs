//! Which way packets take: a forwarding mode and the address families inside and outside.

use proxy_common::service::Mode;
use std::fmt;

/// Address families of a VIP and its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both IPv4.
    V4,
    /// Both IPv6.
    V6,
    /// An IPv4 VIP, and backends reached over IPv6 (`dsr-ipip` only).
    V4InV6,
}

/// A forwarding mode and the families it is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// How packets reach a backend.
    pub mode: Mode,
    /// Over which families.
    pub family: Family,
}

impl Path {
    /// `nat`, IPv4.
    pub const NAT_V4: Self = Self::new(Mode::Nat, Family::V4);
    /// `nat`, IPv6.
    pub const NAT_V6: Self = Self::new(Mode::Nat, Family::V6);
    /// `full-nat`, IPv4.
    pub const FULL_NAT_V4: Self = Self::new(Mode::FullNat, Family::V4);
    /// `full-nat`, IPv6.
    pub const FULL_NAT_V6: Self = Self::new(Mode::FullNat, Family::V6);
    /// `dsr-l2`, IPv4.
    pub const DSR_L2_V4: Self = Self::new(Mode::DsrL2, Family::V4);
    /// `dsr-l2`, IPv6.
    pub const DSR_L2_V6: Self = Self::new(Mode::DsrL2, Family::V6);
    /// `dsr-ipip`, IPv4 in IPv4.
    pub const DSR_IPIP_V4: Self = Self::new(Mode::DsrIpip, Family::V4);
    /// `dsr-ipip`, IPv6 in IPv6.
    pub const DSR_IPIP_V6: Self = Self::new(Mode::DsrIpip, Family::V6);
    /// `dsr-ipip`, IPv4 in IPv6.
    pub const DSR_IPIP_V4_IN_V6: Self = Self::new(Mode::DsrIpip, Family::V4InV6);
    /// `dsr-gue`, IPv4 in IPv4.
    pub const DSR_GUE_V4: Self = Self::new(Mode::DsrGue, Family::V4);
    /// `dsr-gue`, IPv6 in IPv6.
    pub const DSR_GUE_V6: Self = Self::new(Mode::DsrGue, Family::V6);
    /// `local`, IPv4.
    pub const LOCAL_V4: Self = Self::new(Mode::Local, Family::V4);
    /// `local`, IPv6.
    pub const LOCAL_V6: Self = Self::new(Mode::Local, Family::V6);

    /// A path.
    pub const fn new(mode: Mode, family: Family) -> Self {
        Self { mode, family }
    }

    /// True if clients use IPv6.
    pub fn client_is_v6(self) -> bool {
        self.family == Family::V6
    }

    /// True if backends are reached over IPv6.
    pub fn backend_is_v6(self) -> bool {
        self.family != Family::V4
    }

    /// True if backends must remove a tunnel header.
    pub fn is_tunnel(self) -> bool {
        matches!(self.mode, Mode::DsrIpip | Mode::DsrGue)
    }

    /// Octets that the mode adds to a packet on its way to a backend.
    pub fn overhead(self) -> u32 {
        let outer = if self.backend_is_v6() { 40 } else { 20 };
        match self.mode {
            Mode::DsrIpip => outer,
            Mode::DsrGue => outer + 8,
            _ => 0,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
            Family::V4InV6 => "IPv4 in IPv6",
        };
        write!(f, "{}, {family}", self.mode.name())
    }
}
