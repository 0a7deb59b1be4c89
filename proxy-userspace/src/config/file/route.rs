//! The key `routes`: which requests, and what happens to them.

use super::action::{Edits, Fault, Files, Mirror, PathRewrite, Redirect, Respond, Rewrite, Split};
use super::http::{Compression, SecurityHeaders};
use super::resilience::{Priority, Retries};
use super::scalar::{CgroupPath, Host, Name, Network, Text, Time, UrlPath};
use crate::config::decode::{Field, Pairs};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which requests, and what happens to them: exactly one of `service`, `split`, `redirect`,
/// `respond` and `files`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Name of the route, unique among routes; shown in logs and metrics.
    pub(crate) name: Field<Name>,
    /// Names of the HTTP listeners for which it holds. Without it, all.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) listeners: Field<Vec<Field<Name>>>,
    /// Hosts, any of which matches: names such as `www.example.com`, or `"*.example.com"` for all
    /// names below one. Without it, all hosts.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) hosts: Field<Vec<Field<Host>>>,
    /// Conditions, any of which matches. Without it, all requests.
    #[serde(default, rename = "match")]
    #[schemars(length(min = 1))]
    pub(crate) matches: Field<Vec<Field<Match>>>,
    /// The service that answers.
    #[serde(default)]
    pub(crate) service: Field<Name>,
    /// Several services with shares of the requests.
    #[serde(default)]
    pub(crate) split: Field<Split>,
    /// Sends the client elsewhere.
    #[serde(default)]
    pub(crate) redirect: Field<Redirect>,
    /// A fixed answer: its status, or a map with more.
    #[serde(default)]
    pub(crate) respond: Field<Respond>,
    /// Files of this host: the folder, or a map with more.
    #[serde(default)]
    pub(crate) files: Field<Files>,
    /// Path and host that the backend sees. With `service` and `split`.
    #[serde(default)]
    pub(crate) rewrite: Field<Rewrite>,
    /// Changes to the fields that the backend gets. With `service` and `split`.
    #[serde(default)]
    pub(crate) request_headers: Field<Edits>,
    /// Changes to the fields that the client gets.
    #[serde(default)]
    pub(crate) response_headers: Field<Edits>,
    /// Overrides `security_headers` of the listener.
    #[serde(default)]
    pub(crate) security_headers: Field<SecurityHeaders>,
    /// Overrides `compression` of the listener; `{codings: []}` turns it off.
    #[serde(default)]
    pub(crate) compression: Field<Compression>,
    /// Sends copies of requests to another service; its answers are dropped. With `service` and
    /// `split`.
    #[serde(default)]
    pub(crate) mirror: Field<Mirror>,
    /// Delays or fails requests on purpose, to see what clients do then.
    #[serde(default)]
    pub(crate) fault: Field<Fault>,
    /// Longest time from a request's head to its response's end. Without it, no limit but those
    /// of the service.
    #[serde(default)]
    pub(crate) timeout: Field<Time>,
    /// Stands in the place of `retries` of the service, as a whole. With `service` and `split`.
    #[serde(default)]
    pub(crate) retries: Field<Retries>,
    /// How important the requests are when a worker has too much to do (see `overload`).
    #[serde(default)]
    #[schemars(extend("default" = "normal"))]
    pub(crate) priority: Field<Priority>,
}

/// Conditions, all of which must hold: a path prefix alone, or a map.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Match", untagged)]
pub(crate) enum Match {
    /// The path begins so.
    Prefix(UrlPath),
    /// Path and more.
    Keys(Box<MatchKeys>),
}

/// Conditions, all of which must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatchKeys {
    /// The path: a prefix, or a map with one of `exact`, `prefix` and `regex`. Without it, all.
    #[serde(default)]
    pub(crate) path: Field<PathTest>,
    /// The method, such as `GET`. Without it, all.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub(crate) method: Field<String>,
    /// Fields of the request by name: the value, or a map with a test. Of several values of a
    /// name, any may match.
    #[serde(default)]
    pub(crate) headers: Field<Pairs<ValueTest>>,
    /// Parameters of the query by name, decoded: the value, or a map with a test.
    #[serde(default)]
    pub(crate) query: Field<Pairs<ValueTest>>,
    /// Cookies by name: the value, or a map with a test.
    #[serde(default)]
    pub(crate) cookies: Field<Pairs<ValueTest>>,
    /// The client's address, or, behind a trusted proxy, the one that it tells.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) sources: Field<Vec<Field<Network>>>,
    /// Cgroups of the program that asks, or cgroups above it, by their paths below the root of the
    /// host's cgroups. The kernel tells them, of connections that were redirected (`mesh` of the
    /// listener); others are of none.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) workloads: Field<Vec<Field<CgroupPath>>>,
}

/// Which paths: a prefix, or a map with one test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "PathTest", untagged)]
pub(crate) enum PathTest {
    /// This path and all below it.
    Prefix(UrlPath),
    /// One test.
    Keys(PathTestKeys),
}

/// Which paths: exactly one test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathTestKeys {
    /// This path alone.
    #[serde(default)]
    pub(crate) exact: Field<UrlPath>,
    /// This path and all below it: `/a` matches `/a` and `/a/b`, not `/ab`.
    #[serde(default)]
    pub(crate) prefix: Field<UrlPath>,
    /// Paths that the regular expression matches as a whole.
    #[serde(default)]
    pub(crate) regex: Field<String>,
}

/// What a value must be: this text, or a map with one test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "ValueTest", untagged)]
pub(crate) enum ValueTest {
    /// This.
    Exact(Text),
    /// One test.
    Keys(ValueTestKeys),
}

/// What a value must be: exactly one test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValueTestKeys {
    /// This text.
    #[serde(default)]
    pub(crate) exact: Field<Text>,
    /// Text that begins so.
    #[serde(default)]
    pub(crate) prefix: Field<Text>,
    /// Text that the regular expression matches as a whole.
    #[serde(default)]
    pub(crate) regex: Field<String>,
    /// `true`: any value; `false`: none, the name must be absent.
    #[serde(default)]
    pub(crate) present: Field<bool>,
}

/// The kind of path rewrite that both `rewrite` and `redirect` have.
pub(crate) type NewPath = Field<PathRewrite>;
