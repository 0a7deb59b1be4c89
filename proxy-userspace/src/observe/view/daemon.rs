//! The daemon and its configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The daemon itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What it is doing.
    pub phase: Phase,
    /// Since when it runs, seconds since the epoch.
    pub started_at_seconds: f64,
    /// True if it took over a data plane that was already forwarding.
    pub adopted: bool,
    /// Directory of the pins.
    pub pin_dir: String,
    /// What the process may do: its user, its capabilities and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privileges: BTreeMap<String, String>,
}

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Setting up: not ready.
    #[default]
    Starting,
    /// Balancing.
    Serving,
    /// On the way out: not ready.
    Stopping,
}

impl Phase {
    /// The word used in the API and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stopping => "stopping",
        }
    }
}

/// The configuration in force, and how the last attempt to replace it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigState {
    /// The file.
    pub path: String,
    /// Raised by each successful reload; 1 at start.
    pub generation: u64,
    /// When the configuration in force was loaded, seconds since the epoch.
    pub loaded_at_seconds: f64,
    /// True unless the last reload was refused.
    pub last_reload_successful: bool,
    /// Why the last reload was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// Entity tag of the configuration in force: equal for those that mean the same.
    #[serde(default)]
    pub etag: String,
    /// What was changed through the API and is not in the file: a reload undoes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<String>,
}
