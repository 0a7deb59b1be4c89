//! What becomes of a flow when a workload of this host dials it: balancing at connect().

use crate::config::model::{Config, Service};
use proxy_common::service::Selection;
use serde::Serialize;

/// What a workload of the cgroups gets that dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DialExplained {
    /// Whose sockets are meant, with those of all cgroups below.
    pub cgroups: Vec<String>,
    /// How a backend is chosen.
    pub choice_by: String,
    /// What becomes of connected sockets whose backend goes away: `keep` or `reset`.
    pub on_backend_loss: String,
    /// What becomes of who dials while there is no backend: `refuse` or `pass`.
    pub without_backend: String,
}

/// What becomes of a socket that dials a VIP of a service; `None` if nothing does before its packets
/// leave.
pub(super) fn dialled(config: &Config, service: &Service) -> Option<DialExplained> {
    let (connect, at) = (config.connect.as_ref()?, service.at_connect?);
    let cgroups = connect.cgroups.iter();
    let choice_by = match service.selection {
        Selection::Maglev => "at random, by weight",
        Selection::SourceAffinity => "at random, by weight; the cgroup keeps its backend",
        Selection::TwoChoices => "of two drawn at random, the one with fewer open sockets",
    };
    Some(DialExplained {
        cgroups: cgroups.map(|path| path.display().to_string()).collect(),
        choice_by: choice_by.to_owned(),
        on_backend_loss: at.on_backend_loss.name().to_owned(),
        without_backend: at.without_backend.name().to_owned(),
    })
}
