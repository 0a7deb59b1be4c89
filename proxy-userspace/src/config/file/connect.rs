//! The keys `connect` and `services[].at_connect`.

use super::scalar::Path;
use crate::config::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// Whose sockets are balanced at connect().
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    /// The cgroups (version 2) of the workloads, with all below them, as `/proc/PID/cgroup` names
    /// them: `/system.slice/app.service`. `/` is every process of this host but the daemon itself.
    /// One that is not there yet, or is made anew, is taken up within a second.
    #[schemars(length(min = 1))]
    pub(crate) cgroups: Field<Vec<Field<Path>>>,
    /// Where programs, maps and links are pinned: an absolute path in a BPF file system that nobody
    /// else uses. Without it, `connect` in `l4.pin_dir`.
    #[serde(default)]
    pub(crate) pin_dir: Field<Path>,
}

/// Has sockets that dial the service's VIPs given a backend by the kernel, before their first packet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AtConnect {
    /// What becomes of connected sockets when their backend fails its checks, or is removed and its
    /// drain is over. Only sockets that were given the backend here are meant.
    #[serde(default)]
    #[schemars(extend("default" = "keep"))]
    pub(crate) on_backend_loss: Field<OnBackendLoss>,
    /// What becomes of sockets that dial while no backend takes new ones.
    #[serde(default)]
    #[schemars(extend("default" = "refuse"))]
    pub(crate) without_backend: Field<WithoutBackend>,
}

/// What becomes of connected sockets when their backend goes away.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnBackendLoss {
    /// They are left alone.
    Keep,
    /// They are ended: the workload's next call fails, with `ECONNABORTED` at a TCP socket, so that it
    /// dials anew.
    Reset,
}

/// What becomes of sockets that dial while no backend takes new ones.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WithoutBackend {
    /// connect() fails at once with `ECONNREFUSED`.
    Refuse,
    /// They dial the VIP itself, over the network.
    Pass,
}
