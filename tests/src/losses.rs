//! Where packets were lost, if any were: what the balancer dropped, and what the client sent again.
//!
//! Whether a packet was lost cannot be told from how long a request took, because on a busy machine
//! everything takes long. The kernel counts both ends of it exactly.

use crate::kernel::Maps;
use crate::netns::Namespace;
use anyhow::{Context, Result};
use proxy_common::reason::{Outcome, Reason};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// What a namespace's TCP counted (`/proc/net/netstat` and `snmp`), by the kernel's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters(BTreeMap<String, u64>);

impl TcpCounters {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// `/proc` is not as expected.
    pub fn read(netns: &Namespace) -> Result<Self> {
        // `/proc/net` is that of the process; only this one is that of the thread.
        let files = [
            "/proc/thread-self/net/netstat",
            "/proc/thread-self/net/snmp",
        ];
        let texts = netns.run(|| files.map(fs::read_to_string));
        let mut counters = BTreeMap::new();
        for text in texts {
            counters.extend(parse(&text.context("reading the counters of TCP")?));
        }
        Ok(Self(counters))
    }

    /// SYNs that were sent again: one was lost, or its answer was, or took a second.
    pub fn syns_sent_again(&self) -> u64 {
        self.get("TcpExt.TCPSynRetrans")
    }

    /// One counter; 0 if this kernel does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Counters that hint at a loss.
const TELLING: &[&str] = &[
    "TcpExt.TCPSynRetrans",
    "TcpExt.TCPTimeouts",
    "TcpExt.TCPAbortOnTimeout",
    "Tcp.RetransSegs",
    "Tcp.AttemptFails",
    "Tcp.EstabResets",
    "Tcp.OutRsts",
    "Tcp.InErrs",
];

impl fmt::Display for TcpCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in TELLING {
            write!(f, " {name} {}", self.get(name))?;
        }
        Ok(())
    }
}

/// Pairs of lines, names and values, each after the name of its group.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<_> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (mut names, mut values) = (pair[0].split(' '), pair[1].split(' '));
        let (Some(group), Some(_)) = (names.next(), values.next()) else {
            continue;
        };
        for (name, value) in names.zip(values) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{}.{name}", group.trim_end_matches(':')), value);
            }
        }
    }
    counters
}

/// Packets that a data plane dropped or left to the stack's resolution, by reason.
///
/// # Errors
///
/// Nothing is pinned there.
pub fn lost(pin_dir: &Path) -> Result<BTreeMap<&'static str, u64>> {
    let maps = Maps::open(pin_dir)?;
    let mut lost = BTreeMap::new();
    for &reason in Reason::ALL {
        let is_loss = reason.outcome() == Outcome::Drop || reason == Reason::PassResolve;
        if is_loss && let count @ 1.. = maps.reason(reason)? {
            lost.insert(reason.name(), count);
        }
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_group_and_name() {
        let text = "TcpExt: SyncookiesSent TCPSynRetrans\nTcpExt: 0 3\nIpExt: InOctets\nIpExt: 7\n";
        let counters = TcpCounters(parse(text));
        assert_eq!(counters.syns_sent_again(), 3);
        assert_eq!(counters.get("IpExt.InOctets"), 7);
        assert_eq!(counters.get("TcpExt.NoSuchThing"), 0);
    }
}
