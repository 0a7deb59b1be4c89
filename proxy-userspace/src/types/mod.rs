//! Ids, ports, protocols and patterns: parsing and `Display`, nothing else.

mod decimal;
mod pattern;
mod substitution;
pub mod tls;

pub use decimal::push_decimal;
pub use pattern::{Pattern, PatternError, PatternSet};
pub use substitution::Substitution;

use std::fmt;

/// A transport protocol that services speak.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proxy_common::service::protocol::TCP,
            Self::Udp => proxy_common::service::protocol::UDP,
        }
    }

    /// The name used in configuration, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of a listener: one, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Every port.
    All,
    /// This port, never 0.
    One(u16),
}

impl PortMatch {
    /// The number stored in maps: 0 for all.
    pub const fn number(self) -> u16 {
        match self {
            Self::All => 0,
            Self::One(port) => port,
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(port) => write!(f, "{port}"),
        }
    }
}
