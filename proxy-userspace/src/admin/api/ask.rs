//! What is asked of the state, and answered, besides [`crate::observe::view`].

use crate::observe::view::{BackendView, ConnectionView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Query of `GET /api/v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HappeningQuery {
    /// Begin with the oldest event that is kept, not with what happens from now on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub past: bool,
    /// Begin after the event with this id. The field `Last-Event-ID` says the same, and has the last
    /// word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A backend with the name of its service, as `GET /api/v1/backends` lists them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendRow {
    /// The service.
    pub service: String,
    /// The backend.
    #[serde(flatten)]
    pub backend: BackendView,
}

/// Query of `GET /api/v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionQuery {
    /// Only connections of this listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Only connections of clients with this address or in this prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Connections at most; [`MAX_CONNECTIONS`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Connections in one answer at most.
pub const MAX_CONNECTIONS: usize = 10_000;

/// Connections in one answer when the query does not say.
pub const DEFAULT_CONNECTIONS: usize = 100;

/// Answer of `GET /api/v1/connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionsAnswer {
    /// The connections, the oldest first.
    pub connections: Vec<ConnectionView>,
    /// How many there are that the query wants.
    pub total: usize,
}

/// Query of `GET /stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatsQuery {
    /// Only metrics whose name, with its labels, matches this regular expression somewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// How to write them.
    pub format: StatsFormat,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StatsFormat {
    /// `name: value`, a line each.
    #[default]
    Text,
    /// A JSON list.
    Json,
}

/// Answer of `GET /stats?format=json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatsAnswer {
    /// The metrics.
    pub stats: Vec<Stat>,
}

/// A metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stat {
    /// Its name with its labels.
    pub name: String,
    /// Its value; `null` if that is no finite number.
    pub value: Option<f64>,
}
