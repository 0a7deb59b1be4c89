//! Which sources are condemned for what they do to the proxies, and for how long.

use crate::config::defaults::condemn as defaults;
use ipnet::IpNet;
use std::time::Duration;

/// When a source is condemned: it can then open no connections for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Condemn {
    /// Offences of each kind within [`Condemn::within`] that condemn, by [`Offence::index`]; 0: not
    /// looked at.
    pub offences: [u32; Offence::ALL.len()],
    /// Over what time they are counted.
    pub within: Duration,
    /// How long a first condemnation lasts; each further one takes twice as long.
    pub duration: Duration,
    /// None takes longer.
    pub max_duration: Duration,
    /// For how long after its end a condemnation makes the next one longer.
    pub remember: Duration,
    /// Share of well-behaved connections, 0..=1, above which a source is taken for an address that
    /// many share, and is not condemned.
    pub spare_above: f64,
    /// Sources that are never condemned, besides trusted proxies.
    pub exempt: Vec<IpNet>,
    /// Bits of an IPv6 address that make a source.
    pub ipv6_prefix: u8,
    /// Sources condemned at a time, at most.
    pub max_entries: u32,
    /// What would be done is counted and logged, and not done.
    pub dry_run: bool,
}

impl Default for Condemn {
    fn default() -> Self {
        Self {
            offences: Offence::ALL.map(defaults::offences),
            within: defaults::WITHIN,
            duration: defaults::DURATION,
            max_duration: defaults::MAX_DURATION,
            remember: defaults::REMEMBER,
            spare_above: defaults::SPARE_ABOVE,
            exempt: defaults::exempt(),
            ipv6_prefix: defaults::IPV6_PREFIX,
            max_entries: defaults::MAX_ENTRIES,
            dry_run: false,
        }
    }
}

/// What a source does that it should not, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Offence {
    /// A message that no honest client sends: request lines, fields, framing, frames.
    Malformed,
    /// A flood of resets, pings, settings or continuations.
    Flood,
    /// What should have been TLS was not, or broke its rules.
    Handshake,
    /// A head, a content or a handshake that had begun did not come in time.
    Slow,
    /// A request was answered with 429: its sender had been told to slow down.
    Limited,
    /// Credentials were answered with 401 or 407.
    Unauthorized,
}

impl Offence {
    /// All kinds, in order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Flood,
        Self::Handshake,
        Self::Slow,
        Self::Limited,
        Self::Unauthorized,
    ];

    /// Its number, below the number of kinds.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// For metrics, logs and the file.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Flood => "flood",
            Self::Handshake => "handshake",
            Self::Slow => "slow",
            Self::Limited => "limited",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// The kind with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.label() == label)
    }
}
