//! The key `mesh` of a listener.

use super::passthrough::Names;
use super::scalar::{Address, CgroupPath, Network, PortRange, Time};
use super::steer::OnFailure;
use crate::config::decode::Field;
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// Has the kernel send here what programs of some cgroups open to elsewhere, or what others open to
/// them, without a change to anybody and without a packet filter. Where each connection was to go,
/// and whose it is, is known here: requests are routed as at any listener, and what no route is for
/// goes where it was to go. The listener's own address says which family it is for; for both there
/// are two listeners, and so for both directions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mesh {
    /// Cgroups whose programs are meant, with all below them: paths below the root of the host's
    /// cgroups (version 2), such as `/system.slice/shop.service`. One that does not exist yet is
    /// waited for.
    #[schemars(length(min = 1))]
    pub(crate) cgroups: Field<Vec<Field<CgroupPath>>>,
    /// Which connections: `outbound` are those that the programs open, `inbound` those that others
    /// open to ports at which the programs listen, in the daemon's network namespace.
    #[serde(default)]
    #[schemars(extend("default" = "outbound"))]
    pub(crate) direction: Field<Direction>,
    /// Which destinations, of what is outbound. The longest prefix that has one decides. Without `only`, all but
    /// loopback and link-local addresses.
    #[serde(default)]
    pub(crate) destinations: Field<Destinations>,
    /// Who opens what is inbound. The longest prefix that has one decides. Without `only`, everybody.
    #[serde(default)]
    pub(crate) sources: Field<Sources>,
    /// Which ports of destinations; of what is inbound, those of the programs.
    #[serde(default)]
    pub(crate) ports: Field<Ports>,
    /// Which users run the programs, by number; for what is outbound.
    #[serde(default)]
    pub(crate) users: Field<Users>,
    /// For what is outbound: the address at which other network namespaces reach the listener. Without it, what is opened
    /// there cannot be sent here, and `on_failure` holds.
    #[serde(default)]
    pub(crate) reach: Field<Address>,
    /// What becomes of new connections while nobody serves the listener, because the daemon was
    /// killed: `closed` refuses them at once; `open` has them go where they were to go.
    #[serde(default)]
    #[schemars(extend("default" = "closed"))]
    pub(crate) on_failure: Field<OnFailure>,
    /// What becomes of requests and connections that no route or name is for: `passthrough` has
    /// them go where they were to go; `refuse` does not.
    #[serde(default)]
    #[schemars(extend("default" = "passthrough"))]
    pub(crate) unmatched: Field<Unmatched>,
    /// How long a client may be silent before its connection is passed on as it is, for perhaps the
    /// server speaks first.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::mesh::DETECT)))]
    pub(crate) detect: Field<Time>,
    /// Ports at which nothing is looked at: connections are passed on as they are, at once. For
    /// protocols in which the server speaks first.
    #[serde(default)]
    #[schemars(extend("default" = defaults::mesh::OPAQUE))]
    pub(crate) opaque: Field<Vec<Field<PortRange>>>,
    /// Services for connections by TLS, by what the client says before anything is encrypted. What
    /// nobody is named for goes by `unmatched`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) names: Field<Vec<Field<Names>>>,
}

/// Which way connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// The programs open them.
    Outbound,
    /// Others open them to the programs.
    Inbound,
}

/// Who opens connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sources {
    /// These, and nobody else.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) only: Field<Vec<Field<Network>>>,
    /// Not these.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) except: Field<Vec<Field<Network>>>,
}

/// Which destinations.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Destinations {
    /// These, and no others.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) only: Field<Vec<Field<Network>>>,
    /// Not these.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) except: Field<Vec<Field<Network>>>,
}

/// Which ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    /// These, and no others.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) only: Field<Vec<Field<PortRange>>>,
    /// Not these; they come before `only`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) except: Field<Vec<Field<PortRange>>>,
}

/// Which users.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Users {
    /// These, and no others.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) only: Field<Vec<Field<u32>>>,
    /// Not these.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) except: Field<Vec<Field<u32>>>,
}

/// What becomes of what no route or name is for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unmatched {
    /// It goes where it was to go.
    Passthrough,
    /// Requests are answered with 404, connections are closed.
    Refuse,
}
