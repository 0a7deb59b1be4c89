//! How the configuration is read and changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Answer of a change of the configuration, or of a dry run of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadAnswer {
    /// The generation now in force.
    pub generation: u64,
    /// Entity tag of the configuration now in force; in a dry run, of what would be.
    #[serde(default)]
    pub etag: String,
    /// What changed, one sentence each; empty if nothing did.
    pub changes: Vec<String>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
    /// Map entries that were written, or would be.
    pub edits: u64,
    /// True if nothing was changed, because that was asked for.
    #[serde(default)]
    pub dry_run: bool,
    /// Edits of the kernel's maps in their order, in a dry run only; the first thousand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_edits: Vec<String>,
    /// True if the configuration file now says the same.
    #[serde(default)]
    pub saved: bool,
}

/// Query of everything that changes the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeQuery {
    /// Say what would change, down to the edits of the kernel's maps, and change nothing.
    pub dry_run: bool,
    /// Write the file, too. Without it the change holds until the file is read again, which then
    /// says what it has undone.
    pub save: bool,
}

/// Query of `GET /api/v1/config`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigQuery {
    /// How to write it.
    pub format: ConfigFormat,
    /// Which one.
    pub source: ConfigSource,
}

/// How a configuration is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// As the file is.
    #[default]
    Yaml,
    /// JSON of the same shape.
    Json,
}

/// Which configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigSource {
    /// The one in force, with every default filled in.
    #[default]
    Running,
    /// What the file says now, with every default filled in: what a reload would put in force.
    File,
    /// The file's own text.
    Text,
}

/// Body of `POST /api/v1/config/rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The generation to put in force again, see `GET /api/v1/config/history`.
    pub generation: u64,
}

/// A backend, listener, route or service as the configuration file has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BackendEntry(pub Map<String, Value>);

/// A configuration that was in force, or is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// Its generation.
    pub generation: u64,
    /// Its entity tag.
    pub etag: String,
    /// When it was put in force, seconds since the epoch.
    pub at_seconds: f64,
    /// Who did it.
    pub by: String,
    /// How: `start`, `reload`, `put`, `patch`, `rollback`, …
    pub how: String,
    /// What it changed, one sentence each; of many the first hundred.
    pub changes: Vec<String>,
    /// True if the configuration file said the same then.
    pub saved: bool,
}
