//! What is asked and answered over the admin API, besides [`crate::observe::view`].

mod ask;
mod change;
mod validate;

pub use ask::{
    BackendRow, ConnectionQuery, ConnectionsAnswer, DEFAULT_CONNECTIONS, HappeningQuery,
    MAX_CONNECTIONS, Stat, StatsAnswer, StatsFormat, StatsQuery,
};
pub use change::{
    BackendEntry, ChangeQuery, ConfigFormat, ConfigQuery, ConfigSource, HistoryEntry, ReloadAnswer,
    RollbackRequest,
};
pub use validate::{FaultView, ValidateAnswer};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where everything but health and metrics lives.
pub const PREFIX: &str = "/api/v1";

/// A backend of a service, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendName {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
}

/// Body of `POST /api/v1/drain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// Seconds after which its flows are selected anew; the service's drain timeout if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// Answer of `drain` and `undrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendAnswer {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// Its state now: `up`, `draining` or `down`.
    pub state: String,
    /// Flows that it still has.
    pub live_flows: u64,
    /// Seconds until the drain ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_remaining_seconds: Option<f64>,
}

/// Body of `POST /api/v1/guard` and `POST /api/v1/guard/remove`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardRequest {
    /// Source address or prefix.
    pub source: String,
    /// Listener whose sources it judges; absent is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// What happens to the source. Not used by `remove`.
    #[serde(default)]
    pub action: GuardAction,
    /// Seconds until the rule expires; absent never does. Not used by `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<f64>,
}

/// What a guard rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuardAction {
    /// New flows of the source pass.
    Allow,
    /// Packets of the source are dropped.
    #[default]
    Deny,
}

/// Query of `GET /api/v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowQuery {
    /// Only flows of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only flows of this backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Only flows of clients in this prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Flows at most; [`MAX_FLOWS`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Flows in one answer at most: the table may hold millions.
pub const MAX_FLOWS: usize = 10_000;

/// Flows in one answer when the query does not say.
pub const DEFAULT_FLOWS: usize = 100;

/// Answer of `GET /api/v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsAnswer {
    /// The flows, in no particular order.
    pub flows: Vec<crate::observe::view::FlowView>,
    /// True if there were more than the limit.
    pub truncated: bool,
}

/// Query of `POST /api/v1/capture`, whose answer is a pcapng stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureQuery {
    /// Octets of each packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
    /// End after this many records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// End after this many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Only packets that arrived on this interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Which packets, such as `host 192.0.2.1 and port 80 and service web and reason denied`;
    /// empty is all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
}

/// Body of `PUT /api/v1/log`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogRequest {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as
    /// `info,proxy_userspace::health=debug`; absent is that of the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Seconds after which that of the command line holds again; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<f64>,
}

/// The log level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogView {
    /// The one in force.
    pub level: String,
    /// That of the command line.
    pub default: String,
    /// Seconds until that holds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<f64>,
}

/// Body of `POST /api/v1/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Leave the kernel part forwarding.
    pub keep_dataplane: bool,
    /// Do not wait for readiness to be noticed.
    pub now: bool,
}

/// Body of `POST /api/v1/upgrade`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeRequest {
    /// Absolute path of the binary that is to take over; without it, the one that has the name of
    /// the one that runs. Nobody but root and the daemon's user may be able to change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// Seconds until the new process must be ready; 60 if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// Answer to `POST /api/v1/upgrade`: the new process serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradeAnswer {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Process id of the one that has handed over, and now ends with its connections.
    pub old_pid: u32,
    /// Its version.
    pub old_version: String,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// Whose fault it is, roughly.
    pub kind: RefusalKind,
    /// One sentence.
    pub message: String,
    /// Every single fault, already rendered for people, with the place in the file where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// Kinds of [`Refusal`], each with a status of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The request cannot be read (400).
    Malformed,
    /// The caller has not shown who it is (401).
    Unauthenticated,
    /// The caller may not (403).
    Forbidden,
    /// The request makes no sense (422).
    Invalid,
    /// It names something that does not exist (404).
    NotFound,
    /// The path does not know the method (405).
    Method,
    /// It does not fit the present state (409).
    Conflict,
    /// Somebody else has changed the configuration since it was read (412).
    Stale,
    /// The content is too large (413).
    TooLarge,
    /// The content is of a type that is not understood here (415).
    Unsupported,
    /// A change of the configuration says which one it is based on (428).
    Unconditional,
    /// The kernel or the daemon failed (500).
    Internal,
    /// The daemon is stopping, or has no room for more (503).
    Stopping,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The daemon is stopping.
    pub fn stopping() -> Self {
        Self::new(RefusalKind::Stopping, "the daemon is stopping")
    }

    /// The daemon failed at something; the chain of causes becomes the message.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(RefusalKind::Internal, chain(error))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for detail in &self.details {
            write!(f, "\n{detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// An error and all its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let levels: Vec<String> = causes.map(ToString::to_string).collect();
    levels.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_refused_rather_than_ignored() {
        let body = r#"{"service":"web","backend":"b1","timeout":30}"#;
        let error = serde_json::from_str::<DrainRequest>(body).expect_err("`timeout` is unknown");
        assert!(error.to_string().contains("timeout"), "{error}");
    }

    #[test]
    fn a_chain_names_every_level_once() {
        let error = std::io::Error::other(Refusal::new(RefusalKind::Invalid, "no"));
        assert_eq!(chain(&error), "no");
    }
}
