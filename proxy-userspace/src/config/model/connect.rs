//! Balancing at connect().

use std::path::PathBuf;

/// Whose sockets are balanced at connect().
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Cgroups of version 2 by their paths below the root cgroup, which is `/`.
    pub cgroups: Vec<PathBuf>,
    /// Where programs, maps and links are pinned, if not below the packet path's directory.
    pub pin_dir: Option<PathBuf>,
}

/// A service's sockets are given a backend at connect().
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtConnect {
    /// What becomes of those whose backend goes away.
    pub on_backend_loss: OnBackendLoss,
    /// What becomes of those for which there is none.
    pub without_backend: WithoutBackend,
}

/// What becomes of connected sockets when their backend goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBackendLoss {
    /// They are left alone.
    #[default]
    Keep,
    /// They are ended.
    Reset,
}

impl OnBackendLoss {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Reset => "reset",
        }
    }
}

/// What becomes of sockets that dial while no backend takes new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutBackend {
    /// They are refused.
    #[default]
    Refuse,
    /// They dial the VIP.
    Pass,
}

impl WithoutBackend {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Pass => "pass",
        }
    }
}
