//! The keys `l4`, `admin` and `guard`.

use super::scalar::{InterfaceName, Network, Path, Time};
use crate::config::decode::Field;
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of the kernel data plane.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct L4 {
    /// The interfaces on which packets for the listeners arrive (in the NAT modes also those on
    /// which the backends answer). Needed, and at least one, where a listener has `kind: l4`, but
    /// for those that are served at connect() alone. The XDP program is attached to all that are
    /// named, whichever listeners there are: without any, no program looks at packets.
    #[serde(default)]
    pub(crate) interfaces: Field<Vec<Field<Interface>>>,
    /// Where programs, maps and links are pinned: an absolute path in a BPF file system. Two
    /// daemons on one host need two directories. A change takes effect when the daemon is started
    /// anew.
    #[serde(default)]
    #[schemars(extend("default" = defaults::PIN_DIR))]
    pub(crate) pin_dir: Field<Path>,
    /// How many flows the flow table is made for, on all CPUs together. A flow takes 132 octets
    /// of kernel memory. A change takes effect when the data plane is made anew.
    #[serde(default)]
    #[schemars(range(min = 64, max = 67_108_864), extend("default" = defaults::FLOW_CAPACITY))]
    pub(crate) flow_capacity: Field<u32>,
    /// How many backends the data plane can hold. A backend counts once for each listener of its
    /// service. A change takes effect when the data plane is made anew.
    #[serde(default)]
    #[schemars(range(min = 2, max = 65_536), extend("default" = defaults::BACKEND_CAPACITY))]
    pub(crate) backend_capacity: Field<u32>,
    /// How packets are wrapped in the modes `dsr-ipip` and `dsr-gue`.
    #[serde(default)]
    pub(crate) tunnel: Field<Tunnel>,
    /// Seed of the hash that selects backends. Give all balancers of a fleet the same, so that a
    /// flow that moves to another balancer keeps its backend. Connections that are being opened while it
    /// changes may fail.
    #[serde(default)]
    #[schemars(extend("default" = defaults::SELECTION_SEED))]
    pub(crate) selection_seed: Field<u64>,
    /// How long a next hop is used before the kernel's routing table is asked again.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::ROUTE_TTL)))]
    pub(crate) route_ttl: Field<Time>,
    /// How many ICMP errors each CPU may send in a second; 0 sends none.
    #[serde(default)]
    #[schemars(extend("default" = defaults::ICMP_PER_SECOND))]
    pub(crate) icmp_per_second: Field<u32>,
    /// One flow in this many is noted for `sluice observe` although nobody has asked for it yet; 0
    /// notes none.
    #[serde(default)]
    #[schemars(extend("default" = defaults::SAMPLE_EVERY))]
    pub(crate) sample_every: Field<u32>,
    /// Which packets the kernel programs tell the daemon's log of: to see why a packet goes a way
    /// that it should not. Costs the packets that it concerns. A change takes effect when the daemon
    /// is started anew.
    #[serde(default)]
    #[schemars(extend("default" = "off"))]
    pub(crate) kernel_log: Field<KernelLog>,
}

/// Which packets the kernel programs tell the daemon's log of.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KernelLog {
    /// None.
    Off,
    /// Those that are dropped, each with its reason.
    Drops,
    /// All but plain packets of established flows, and plain SYNs of services whose ring is settled.
    All,
}

/// An interface: its name, or the name and how to attach there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Interface", untagged)]
pub(crate) enum Interface {
    /// The name, as `ip link` shows it.
    Name(InterfaceName),
    /// The name and more.
    Keys(InterfaceKeys),
}

/// An interface and how the program is attached to it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InterfaceKeys {
    /// The name, as `ip link` shows it.
    pub(crate) name: Field<InterfaceName>,
    /// How the XDP program is attached.
    #[serde(default)]
    #[schemars(extend("default" = "auto"))]
    pub(crate) attach: Field<Attach>,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attach {
    /// Native where the driver can, else generic with a warning.
    Auto,
    /// In the driver; fail where it cannot.
    Native,
    /// In the network stack: works with every driver, costs more.
    Generic,
}

/// How packets are wrapped in the tunnel modes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// Source of outer IPv4 headers. Of a prefix, the host bits carry the flow's hash, so that
    /// receivers spread flows over their queues and CPUs. Without it, the address of the
    /// interface towards the backend is used for all flows.
    #[serde(default)]
    pub(crate) source_v4: Field<Network>,
    /// As `source_v4` for outer IPv6 headers; at most the last 32 bits carry the hash.
    #[serde(default)]
    pub(crate) source_v6: Field<Network>,
    /// UDP port of GUE at the backends.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = defaults::GUE_PORT))]
    pub(crate) gue_port: Field<u16>,
}

/// Which sources may reach any listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GlobalGuard {
    /// Sources that may, even if a shorter prefix in `deny` covers them.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) allow: Field<Vec<Field<Network>>>,
    /// Sources that may not. Of both lists the longest prefix that matches decides.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) deny: Field<Vec<Field<Network>>>,
}
