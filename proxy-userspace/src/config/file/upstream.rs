//! What services mean to the proxy paths.

use super::scalar::{Name, Percent, Text, Time};
use crate::config::decode::Field;
use crate::config::defaults::{self, http as http_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// What backends speak.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BackendProtocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2, with prior knowledge.
    H2,
    /// HTTP/2 for gRPC and WebSockets that came by HTTP/2, and where the backend has shown that it
    /// can; else HTTP/1.1.
    Auto,
}

/// Who gets a request: the policy, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Balance", untagged)]
pub(crate) enum Balance {
    /// The policy.
    Policy(Policy),
    /// The policy and more.
    Keys(BalanceKeys),
}

/// Who gets a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BalanceKeys {
    /// The policy.
    #[serde(default)]
    #[schemars(extend("default" = "round-robin"))]
    pub(crate) policy: Field<Policy>,
    /// What `maglev` and `ring` hash. Requests that lack it are spread at random. By default
    /// `source`.
    #[serde(default)]
    pub(crate) hash_on: Field<HashOn>,
    /// If fewer backends than this share are healthy, all get requests: better some that fail than
    /// all of the load on the few. `0%` never does; without any healthy backend the answer is
    /// then 503.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(http_defaults::PANIC_THRESHOLD)))]
    pub(crate) panic_threshold: Field<Percent>,
    /// How long a backend's share grows after it came back, or joined a service that runs. Those that are
    /// there when the daemon starts have all of theirs from their first passed check on. `0s`: not at all.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::SLOW_START)))]
    pub(crate) slow_start: Field<Time>,
}

/// A balancing policy.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// In turn, by weight, smoothly.
    RoundRobin,
    /// The backend with the fewest requests in progress for its weight.
    LeastRequests,
    /// Of two drawn at random, the one with fewer requests in progress for its weight.
    TwoChoices,
    /// Of two drawn at random, the one with the lower product of recent latency and requests in
    /// progress.
    PeakEwma,
    /// Drawn by weight.
    Random,
    /// By hash, on a Maglev ring: even shares, and few keys move when backends change.
    Maglev,
    /// By hash, on a ring as ketama's.
    Ring,
}

/// What a hash is made of: `source` (the client's address), `path`, or a map with one of `field`,
/// `cookie` and `query`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "HashOn", untagged)]
pub(crate) enum HashOn {
    /// What every request has.
    Word(HashWord),
    /// What it may have.
    Keys(HashKeys),
}

/// What a hash is made of that every request has.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HashWord {
    /// The client's address.
    Source,
    /// The path.
    Path,
}

/// What a hash is made of: exactly one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HashKeys {
    /// Name of a field of the request.
    #[serde(default)]
    pub(crate) field: Field<Text>,
    /// Name of a cookie.
    #[serde(default)]
    pub(crate) cookie: Field<Text>,
    /// Name of a parameter of the query.
    #[serde(default)]
    pub(crate) query: Field<Text>,
}

/// A cookie that keeps a client with its backend: its name, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "StickyCookie", untagged)]
pub(crate) enum StickyCookie {
    /// The name.
    Name(Name),
    /// The name and more.
    Keys(StickyCookieKeys),
}

/// A cookie that keeps a client with its backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StickyCookieKeys {
    /// The name.
    pub(crate) name: Field<Name>,
    /// How long it is kept. Without it, until the browser is closed.
    #[serde(default)]
    pub(crate) max_age: Field<Time>,
    /// Path for which it is sent.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::COOKIE_PATH))]
    pub(crate) path: Field<super::scalar::UrlPath>,
    /// Sent over TLS only.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) secure: Field<bool>,
    /// Hidden from scripts.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) http_only: Field<bool>,
    /// Whether it is sent with requests that other sites cause.
    #[serde(default)]
    pub(crate) same_site: Field<SameSite>,
}

/// Whether a cookie is sent with requests that other sites cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SameSite {
    /// Never.
    Strict,
    /// When a link is followed.
    Lax,
    /// Always; browsers ask for `secure: true` then.
    None,
}

/// Connections to the backends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connections {
    /// Connections to one backend at once, of all workers; 0 for no limit. Requests beyond it wait
    /// in the queue.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::MAX_CONNECTIONS))]
    pub(crate) max: Field<u32>,
    /// Requests that may wait for a connection, of all workers; 0: none waits. More are answered
    /// with 503.
    #[serde(default)]
    #[schemars(range(max = 1_000_000), extend("default" = http_defaults::QUEUE))]
    pub(crate) queue: Field<u32>,
    /// How long a request waits; then 503.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::QUEUE_TIMEOUT)))]
    pub(crate) queue_timeout: Field<Time>,
    /// Unused connections to one backend that each worker keeps.
    #[serde(default)]
    #[schemars(range(max = 1_000_000), extend("default" = http_defaults::MAX_IDLE))]
    pub(crate) max_idle: Field<u32>,
    /// How long an unused connection is kept; less than the backends keep it. `0s`: not at all.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::KEEPALIVE)))]
    pub(crate) keepalive: Field<Time>,
    /// Requests at once on one HTTP/2 connection.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000), extend("default" = http_defaults::MAX_STREAMS))]
    pub(crate) max_streams: Field<u32>,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}
