//! Redirection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the kernel redirects to listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshView {
    /// Listeners that connections are redirected to, by name.
    pub listeners: Vec<MeshListenerView>,
    /// Cgroups that are to be redirected.
    pub cgroups: Vec<WorkloadView>,
    /// Connections of which one end is established and the other is not.
    pub under_way: u64,
    /// Ports of programs whose connections are redirected when they arrive.
    #[serde(default)]
    pub ports: u64,
    /// Ports of programs that found no room in the kernel's table: what arrives at them is not redirected.
    #[serde(default)]
    pub ports_without_room: u64,
    /// What went wrong when cgroups were last looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Directory of the pins.
    pub pin_dir: String,
}

/// What became of the connections of a listener's cgroups. The first six are counted by the kernel,
/// also while the daemon is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshListenerView {
    /// The listener.
    pub name: String,
    /// Redirected.
    pub redirected: u64,
    /// Went where they were to go, by a rule.
    pub excluded: u64,
    /// Refused, because they could not be redirected.
    pub refused: u64,
    /// Went where they were to go, because they could not be redirected.
    pub passed: u64,
    /// Could not be redirected, as there is no way from their network namespace.
    pub unreachable: u64,
    /// Could not be redirected for want of memory.
    pub full: u64,
    /// Connections accepted, by what was seen of them.
    pub protocols: BTreeMap<String, u64>,
    /// Connections accepted, by the cgroup of the program; further ones as `(others)`.
    pub workloads: BTreeMap<String, u64>,
}

/// A cgroup that is to be redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadView {
    /// Its path below the root of cgroups.
    pub path: String,
    /// Its id, if it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `redirected`, `waiting` for it to exist, or `failed`.
    pub state: String,
}
