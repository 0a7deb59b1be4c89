//! The key `process`.

use super::scalar::{Path, Text};
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// What the daemon may do once it has started. What it gives up it gets back only by a restart: a
/// reload that would need it is refused, and says so.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    /// User that a daemon which was started as root becomes. Low ports can still be bound, also by
    /// a reload; files must be readable, and logs writable, by this user. Not with `l4`, whose pins
    /// belong to root.
    #[serde(default)]
    pub(crate) user: Field<Text>,
    /// Group that goes with `user`; without it, the user's own.
    #[serde(default)]
    pub(crate) group: Field<Text>,
    /// Which capabilities are kept.
    #[serde(default)]
    #[schemars(extend("default" = "usable"))]
    pub(crate) capabilities: Field<Capabilities>,
    /// Programs that the daemon starts, which are only those that take over from it, gain no
    /// privileges that it has not.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) no_new_privs: Field<bool>,
    /// Keeps all files out of reach but those that the configuration names, the system's own and
    /// `paths` (landlock, Linux 5.13 or later; without it nothing happens). Files that are named
    /// may be replaced by others in the same folder.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) landlock: Field<bool>,
    /// Files and folders that landlock leaves within reach besides, for what reloads may bring.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) paths: Field<Vec<Field<Path>>>,
}

/// Which capabilities are kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Capabilities {
    /// All that the daemon was started with.
    Keep,
    /// Those that some configuration may need, so that any reload works.
    Usable,
    /// Those that this configuration needs: those of the kernel part with `l4`, one for ports below
    /// 1024, else none.
    Needed,
}
