//! The data plane: interfaces, tables, counters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Records lost because a ring buffer was full, or its reader or a client too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// Sampled events.
    pub events: u64,
    /// Captured packets.
    pub capture: u64,
}

/// An interface with the balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index, 0 while it is missing.
    pub index: u32,
    /// `native` or `generic`; `detached` while the interface is missing.
    pub attached: String,
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowTable {
    /// Flows that it holds at most.
    pub capacity: u64,
    /// Entries in use, return paths included, as of the last complete sweep.
    pub entries: u64,
    /// Entries that the sweeper has cleared because they were idle.
    pub expired: u64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapUsage {
    /// Its name, as pinned.
    pub map: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
}

/// Counters of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Packets towards the backend.
    pub packets: u64,
    /// Octets of IP packet of those, before encapsulation.
    pub bytes: u64,
    /// Flows that got the backend.
    pub new_flows: u64,
    /// Packets back to clients (NAT modes).
    pub return_packets: u64,
    /// Octets of those.
    pub return_bytes: u64,
}

impl Traffic {
    /// The sum of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            new_flows: self.new_flows + other.new_flows,
            return_packets: self.return_packets + other.return_packets,
            return_bytes: self.return_bytes + other.return_bytes,
        }
    }

    /// What was added since `earlier`; 0 where the counters started anew.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            new_flows: self.new_flows.saturating_sub(earlier.new_flows),
            return_packets: self.return_packets.saturating_sub(earlier.return_packets),
            return_bytes: self.return_bytes.saturating_sub(earlier.return_bytes),
        }
    }
}

/// Packets of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// Its name.
    pub reason: String,
    /// `pass`, `forward` or `drop`.
    pub outcome: String,
    /// One sentence for people.
    pub text: String,
    /// Packets.
    pub packets: u64,
}

/// A guard rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuardView {
    /// Source prefix.
    pub source: String,
    /// Listener whose sources it judges; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// `allow` or `deny`.
    pub action: String,
    /// Who wrote it: `config`, `operator` or `policy`.
    pub owner: String,
    /// Why: `configured`, `manual`, `rate-limit`, …
    pub cause: String,
    /// Seconds until it expires; `None` never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<f64>,
    /// Of a condemned source: for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offence: Option<String>,
    /// Of a condemned source: for the how-manieth time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// A flow of the flow table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Client address and port.
    pub client: String,
    /// Address and port that the client sent to.
    pub vip: String,
    /// Name of the service, or its id where the configuration no longer has it.
    pub service: String,
    /// Name of the backend, or its id.
    pub backend: String,
    /// `syn`, `established`, `closing` or `udp`.
    pub phase: String,
    /// Seconds since its last packet.
    pub idle_seconds: f64,
    /// True once a second packet was seen.
    pub confirmed: bool,
}
