//! What the process may do once it has started.

use std::path::PathBuf;

/// What the process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The user that it becomes.
    pub user: Option<String>,
    /// The group that goes with it.
    pub group: Option<String>,
    /// Which capabilities are kept.
    pub capabilities: CapabilityPolicy,
    /// Programs that it starts gain no privileges.
    pub no_new_privs: bool,
    /// Files that nobody has named are out of reach.
    pub landlock: bool,
    /// Paths that are within reach besides.
    pub paths: Vec<PathBuf>,
}

/// Which capabilities are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapabilityPolicy {
    /// All.
    Keep,
    /// Those that some configuration may need.
    #[default]
    Usable,
    /// Those that this one needs.
    Needed,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            user: None,
            group: None,
            capabilities: CapabilityPolicy::default(),
            no_new_privs: true,
            landlock: false,
            paths: Vec::new(),
        }
    }
}

impl CapabilityPolicy {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Usable => "usable",
            Self::Needed => "needed",
        }
    }
}
