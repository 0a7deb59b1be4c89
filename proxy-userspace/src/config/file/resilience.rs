//! What is done when a service is slow, fails, or has too much to do.

use super::action::Respond;
use super::scalar::{Name, Percent, Size, Status, Text, Time};
use crate::config::decode::Field;
use crate::config::defaults::{self, http as http_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// Which failures are met by another attempt, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retries {
    /// Attempts at most, the first among them; 1 for no retries.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8), extend("default" = http_defaults::RETRY_ATTEMPTS))]
    pub(crate) attempts: Field<u32>,
    /// Which failures. Requests that are not idempotent are only repeated if nothing of them was
    /// sent, if their method is among `methods`, or if a call of gRPC ended with a status that is
    /// listed here.
    #[serde(default)]
    #[schemars(extend("default" = ["connect-failure", "reset", "refused-stream"]))]
    pub(crate) on: Field<Vec<Field<RetryOn>>>,
    /// Statuses that `retriable-status` means.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) statuses: Field<Vec<Field<Status>>>,
    /// Methods that may be repeated although they are not idempotent, such as `POST`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) methods: Field<Vec<Field<Text>>>,
    /// The wait before a retry. There is none where another backend is tried because the first one
    /// could not be reached or had closed its connection.
    #[serde(default)]
    pub(crate) backoff: Field<Backoff>,
    /// Longest `Retry-After` that is waited for; an answer with a longer one is passed on.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::RETRY_AFTER)))]
    pub(crate) retry_after: Field<Time>,
    /// Content of a request that is kept for another attempt. A request with more is not repeated
    /// once some of it was sent.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::RETRY_BUFFER)))]
    pub(crate) buffer: Field<Size>,
    /// The part of all requests that may be retries or hedges. Of a service only, not of a route.
    #[serde(default)]
    pub(crate) budget: Field<Budget>,
    /// Tells backends the number of the attempt in `X-Sluice-Attempt-Count`, from 1.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) announce: Field<bool>,
}

/// A failure that may be met by another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RetryOn {
    /// Status 500 to 599, or no answer at all: as `reset`, `connect-failure` and `refused-stream`.
    #[serde(rename = "5xx")]
    ServerError,
    /// Status 502, 503 or 504, or no answer at all.
    GatewayError,
    /// No connection, or none in time.
    ConnectFailure,
    /// The connection or stream ended before the head of an answer, or none came within
    /// `timeouts.per_try`.
    Reset,
    /// The backend did not begin with the request, and says so (HTTP/2).
    RefusedStream,
    /// Status 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// One of `statuses`.
    RetriableStatus,
    /// gRPC status 1. As all of gRPC: in an answer without content.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
}

/// The wait before a retry: drawn evenly from zero to a bound that doubles (full jitter).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backoff {
    /// The first bound.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::BACKOFF_BASE)))]
    pub(crate) base: Field<Time>,
    /// The last bound.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::BACKOFF_MAX)))]
    pub(crate) max: Field<Time>,
}

/// The part of all requests that may be retries or hedges: the larger of both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RetryBudget")]
pub(crate) struct Budget {
    /// Share of the requests in progress.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(http_defaults::RETRY_BUDGET)))]
    pub(crate) share: Field<Percent>,
    /// So many at once are always allowed.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::RETRY_BUDGET_MIN))]
    pub(crate) min: Field<u32>,
}

/// A second attempt beside one that is slow, at another backend: exactly one of `after` and
/// `percentile`. Only for idempotent requests without content. The first answer wins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hedge {
    /// After this time.
    #[serde(default)]
    pub(crate) after: Field<Time>,
    /// After the time in which this share of the service's recent answers came, such as `95%`.
    #[serde(default)]
    pub(crate) percentile: Field<Percent>,
    /// With `percentile`: not before this time.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HEDGE_MIN)))]
    pub(crate) min: Field<Time>,
}

/// When requests to a service are refused at once, with 503; 0 means no limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Circuit {
    /// Connections to all backends.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub(crate) connections: Field<u32>,
    /// Requests that wait for a backend.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub(crate) pending: Field<u32>,
    /// Requests in progress.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub(crate) requests: Field<u32>,
    /// Retries and hedges in progress.
    #[serde(default)]
    #[schemars(extend("default" = 0))]
    pub(crate) retries: Field<u32>,
    /// Opens when too many attempts fail: status 500 and above, or no answer. Without it, failures
    /// do not open the circuit.
    #[serde(default)]
    pub(crate) errors: Field<CircuitErrors>,
}

/// When failures open a circuit, and when it is closed again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CircuitErrors {
    /// Share of failed attempts from which on it opens.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(http_defaults::CIRCUIT_SHARE)))]
    pub(crate) share: Field<Percent>,
    /// Time that is looked at.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::CIRCUIT_WINDOW)))]
    pub(crate) window: Field<Time>,
    /// With fewer attempts in the window it stays closed.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = http_defaults::CIRCUIT_MIN_REQUESTS))]
    pub(crate) min_requests: Field<u32>,
    /// How long it is open at first; doubled each time that the probes fail.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::CIRCUIT_OPEN)))]
    pub(crate) open: Field<Time>,
    /// Most that this grows to.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::CIRCUIT_MAX_OPEN)))]
    pub(crate) max_open: Field<Time>,
    /// Requests that are then let through to see whether the service is well again. If all succeed,
    /// it is closed.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000), extend("default" = http_defaults::CIRCUIT_PROBES))]
    pub(crate) probes: Field<u32>,
}

/// Requests at once: a number, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Concurrency", untagged)]
pub(crate) enum Concurrency {
    /// The number.
    Max(u32),
    /// The number and more.
    Keys(ConcurrencyKeys),
}

/// Requests at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConcurrencyKeys {
    /// So many; with `adaptive` at most, then by default 1000.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) max: Field<u32>,
    /// Finds the limit by latency: it falls while answers take longer than they use to, and grows
    /// while they do not and the limit is used.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) adaptive: Field<bool>,
    /// With `adaptive`: never fewer.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = http_defaults::CONCURRENCY_MIN))]
    pub(crate) min: Field<u32>,
    /// Requests that may wait; 0: none does.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::CONCURRENCY_QUEUE))]
    pub(crate) queue: Field<u32>,
    /// How long one waits; then 503.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::CONCURRENCY_QUEUE_TIMEOUT)))]
    pub(crate) queue_timeout: Field<Time>,
}

/// What answers when the service cannot, because it has no backend, its circuit is open, it has too
/// many requests, or no attempt brought an answer: exactly one of `respond` and `service`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fallback {
    /// A fixed answer: its status, or a map with more.
    #[serde(default)]
    pub(crate) respond: Field<Respond>,
    /// Another service. Its own fallback is not used.
    #[serde(default)]
    pub(crate) service: Field<Name>,
}

/// How important the requests of a route are when a worker has too much to do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Priority {
    /// Refused first.
    Low,
    /// As most.
    Normal,
    /// Refused when nothing else helps.
    High,
    /// Never refused.
    Critical,
}

/// When workers refuse requests because they have too much to do. What a worker's event loop comes
/// late by is measured all the time, and smoothed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overload {
    /// Lag from which on requests of routes with `priority: low` are refused, with 503; at twice it
    /// those with `normal`, at four times it those with `high`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::OVERLOAD_LAG)))]
    pub(crate) lag: Field<Time>,
    /// How long the lag must have been below half of that before they are served again.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::OVERLOAD_HOLD)))]
    pub(crate) hold: Field<Time>,
}
