//! The proxies: listeners, routes, connections, and what they know of services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A listener that speaks HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpListenerView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Connections taken.
    pub connections: u64,
    /// Those that are open.
    pub connections_active: u64,
    /// Requests that were answered, or not answered.
    pub requests: u64,
    /// Requests in progress.
    pub requests_active: u64,
    /// Requests by the class of the status that the client was sent: `2xx`, …; `none` if there was
    /// none.
    pub responses: BTreeMap<String, u64>,
    /// Messages that were refused, of clients and of backends.
    pub refused: u64,
    /// Octets received.
    pub received_bytes: u64,
    /// Octets sent.
    pub sent_bytes: u64,
    /// How long requests took.
    #[serde(default)]
    pub durations: DurationsView,
}

/// A listener that passes TCP or UDP on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamListenerView {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it listens.
    pub address: String,
    /// Connections or sessions taken.
    pub connections: u64,
    /// Those that are open.
    pub connections_active: u64,
    /// Those that ended early because of a backend, or because there was none.
    pub failed: u64,
    /// Clients that were refused: what they sent first was not as it must be, or nobody is
    /// configured for the server name that they asked for.
    #[serde(default)]
    pub refused: u64,
    /// Datagrams that were not passed on.
    pub dropped: u64,
    /// Octets received from clients.
    pub received_bytes: u64,
    /// Octets sent to clients.
    pub sent_bytes: u64,
}

impl HttpListenerView {
    /// Responses of class 5xx.
    pub fn errors(&self) -> u64 {
        self.responses.get("5xx").copied().unwrap_or(0)
    }
}

/// How the proxies use a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyServiceView {
    /// How a request gets a backend.
    pub policy: String,
    /// Requests that wait for a place at a backend.
    pub waiting: u32,
    /// Attempts after a request's first.
    pub retries: u64,
    /// True while so few backends are healthy that health is ignored.
    pub panic: bool,
    /// Retries and hedges in progress.
    #[serde(default)]
    pub retrying: u32,
    /// Its circuit breaker, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<CircuitView>,
    /// Its limit of requests at once, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyView>,
}

/// A circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CircuitView {
    /// `closed`, `half-open` or `open`.
    pub state: String,
    /// Times that it was opened.
    pub opens: u64,
}

/// A limit of requests at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConcurrencyView {
    /// As it is now.
    pub limit: u32,
    /// Requests in progress.
    pub active: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// What the proxies know of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyBackendView {
    /// Requests in progress.
    pub in_flight: u32,
    /// Open connections, in use or not.
    pub connections: u32,
    /// Those that wait for a request.
    pub idle: u32,
    /// Requests, connections and UDP sessions given to it.
    pub requests: u64,
    /// Those that it answered with a status of 500 and above, or not at all.
    pub errors: u64,
    /// Connections that could not be opened.
    pub connect_failures: u64,
    /// How long it took to the heads of its responses.
    #[serde(default)]
    pub durations: DurationsView,
}

/// A client's connection with the proxies, or a session of UDP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionView {
    /// Its number, unique in the life of the process; access logs have it, too.
    pub number: u64,
    /// Name of the listener; empty if that is gone.
    pub listener: String,
    /// `h1`, `h2`, `tcp` or `udp`.
    pub protocol: String,
    /// The client's address; behind a PROXY header, what that says.
    pub client: String,
    /// Our end.
    pub server: String,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
    /// Requests that have ended.
    pub requests: u64,
    /// Octets received from the client, of requests that have ended.
    pub received_bytes: u64,
    /// Octets sent to the client, of requests that have ended.
    pub sent_bytes: u64,
    /// The worker that serves it.
    pub worker: usize,
}

/// How long things took, in buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DurationsView {
    /// How many there were.
    pub count: u64,
    /// The sum of all, in seconds.
    pub sum_seconds: f64,
    /// How many by bucket, not cumulative; the last bucket has what is above every bound.
    pub buckets: Vec<u64>,
}

/// A route at an HTTP listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// The listener.
    pub listener: String,
    /// Requests that were answered, or not answered.
    pub requests: u64,
    /// Requests by the class of the status that the client was sent.
    pub responses: BTreeMap<String, u64>,
    /// Octets received.
    pub received_bytes: u64,
    /// Octets sent.
    pub sent_bytes: u64,
    /// How long requests took.
    pub durations: DurationsView,
}
