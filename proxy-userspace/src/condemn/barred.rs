//! Whose connections are reset as soon as they are accepted: condemned sources, and those for whom
//! an operator has written a rule. The longest prefix that matches decides, as in the kernel.

use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// A rule for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// True if its sources may not connect; false if they may, whatever a shorter prefix says.
    pub denies: bool,
    /// When it ends, in nanoseconds; `u64::MAX` for never.
    pub until: u64,
}

/// Rules by prefix. Immutable: a change makes another one.
#[derive(Clone, Debug, Default)]
pub struct Barred {
    rules: HashMap<IpNet, Bar>,
    /// Lengths of prefixes that there are, the longest first.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Barred {
    /// Of these rules.
    pub fn new(rules: impl IntoIterator<Item = (IpNet, Bar)>) -> Self {
        let rules: HashMap<IpNet, Bar> = rules.into_iter().collect();
        let lengths = |is_v4: bool| {
            let nets = rules
                .keys()
                .filter(|net| matches!(net, IpNet::V4(_)) == is_v4);
            let lengths: BTreeSet<u8> = nets.map(IpNet::prefix_len).collect();
            lengths.into_iter().rev().collect()
        };
        Self {
            v4: lengths(true),
            v6: lengths(false),
            rules,
        }
    }

    /// True if nobody is barred.
    pub fn is_empty(&self) -> bool {
        self.rules.values().all(|it| !it.denies)
    }

    /// True if connections of this address are not wanted at `now`.
    pub fn bars(&self, address: IpAddr, now: u64) -> bool {
        let address = address.to_canonical();
        let lengths = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let matching = lengths.iter().filter_map(|&length| {
            let net = IpNet::new(address, length).ok()?.trunc();
            self.rules.get(&net).filter(|it| it.until > now)
        });
        matching.map(|it| it.denies).next().unwrap_or(false)
    }
}
