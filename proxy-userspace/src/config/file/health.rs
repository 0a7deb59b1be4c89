//! The key `services[].health`.

use super::backend_tls::BackendTls;
use super::scalar::{Percent, Statuses, Text, Time};
use crate::config::decode::Field;
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// An active health check: one of `tcp`, `http` and `grpc`, and when a backend counts as up or down.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    /// Succeeds when a TCP connection opens. Write `tcp: {}`.
    #[serde(default)]
    pub(crate) tcp: Field<TcpCheck>,
    /// Succeeds when an HTTP/1.1 request is answered as expected. Write `http: {}` for the
    /// defaults.
    #[serde(default)]
    pub(crate) http: Field<HttpCheck>,
    /// Succeeds when the server's health service (`grpc.health.v1.Health/Check`) answers `SERVING`,
    /// over HTTP/2 with prior knowledge. Write `grpc: {}` to ask for the server as a whole.
    #[serde(default)]
    pub(crate) grpc: Field<GrpcCheck>,
    /// Port to check. Without it, the backend's port, or the listener's if the backend has none.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) port: Field<u16>,
    /// Where the check is sent.
    #[serde(default)]
    #[schemars(extend("default" = "backend"))]
    pub(crate) target: Field<CheckTarget>,
    /// Time between checks of one backend.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::INTERVAL)))]
    pub(crate) interval: Field<Time>,
    /// Time that one check may take, less than `interval`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUT)))]
    pub(crate) timeout: Field<Time>,
    /// Share of the interval by which it varies at random, so that checks do not come in step.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(defaults::JITTER)))]
    pub(crate) jitter: Field<Percent>,
    /// Successes in a row that make a backend up.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::RISE))]
    pub(crate) rise: Field<u32>,
    /// Failures in a row that make a backend down.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000), extend("default" = defaults::FALL))]
    pub(crate) fall: Field<u32>,
    /// Keeps a backend down that goes up and down too often.
    #[serde(default)]
    pub(crate) damping: Field<Damping>,
    /// TLS of the check: `off`, or a map with settings of its own, as `tls` of the service has them.
    /// Without it as the service does. A check negotiates anew each time, and fails where a request
    /// would: an HTTP check then is HTTPS, a TCP check ends with the handshake.
    #[serde(default)]
    pub(crate) tls: Field<CheckTls>,
    /// Whose certificate a backend must show to the check, and what it is told in SNI. Without it
    /// the name that the service has; where that is `host`, the `host` or `authority` of the check.
    #[serde(default)]
    pub(crate) server_name: Field<Text>,
}

/// TLS of a check: `off`, or a map.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "CheckTls", untagged)]
pub(crate) enum CheckTls {
    /// The check speaks none, whatever the service does.
    Word(CheckTlsWord),
    /// The check speaks it, whatever the service does.
    Keys(Box<BackendTls>),
}

/// No TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CheckTlsWord {
    /// The check speaks none.
    Off,
}

/// A check that a TCP connection opens. It has no settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpCheck {}

/// A check by an HTTP/1.1 request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpCheck {
    /// Method of the request.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), extend("default" = defaults::METHOD))]
    pub(crate) method: Field<String>,
    /// Path and query of the request.
    #[serde(default)]
    #[schemars(regex(pattern = r"^/[!-~]*$"), extend("default" = defaults::PATH))]
    pub(crate) path: Field<String>,
    /// `Host` field of the request. Without it, the address that is checked.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!-~]+$"))]
    pub(crate) host: Field<String>,
    /// Status codes that count as success: numbers and ranges.
    #[serde(default)]
    #[schemars(length(min = 1), extend("default" = [defaults::status_text(defaults::STATUS)]))]
    pub(crate) status: Field<Vec<Field<Statuses>>>,
    /// Text that the first 64 KiB of the body must contain.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) body_contains: Field<String>,
}

/// A check by the protocol of gRPC health checks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcCheck {
    /// Name of the service that is asked about, such as `shop.v1.Cart`. Without it, the server as
    /// a whole.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!-~]+$"))]
    pub(crate) service: Field<String>,
    /// `:authority` of the request. Without it, the address that is checked.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!-~]+$"))]
    pub(crate) authority: Field<String>,
}

/// Where a check is sent.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CheckTarget {
    /// To the backend's own address.
    Backend,
    /// To the VIP, through the data path, to this one backend: also proves that the backend has
    /// the VIP and unwraps packets. Only in the DSR modes, and from Linux 6.6 on. Checks are routed
    /// by a rule that the daemon makes; the answers come to the balancer's own address, from the
    /// VIP (see "Checks through the VIP" in [operations](operations.md)).
    Vip,
}

/// Damping of backends that flap: each change to down adds 1 to a penalty that halves in
/// `half_life`. From `suppress` on the backend stays down until the penalty is below `reuse`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Damping {
    /// Time in which the penalty halves.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::DAMPING.half_life)))]
    pub(crate) half_life: Field<Time>,
    /// Penalty from which a backend is held down. A high number switches damping off.
    #[serde(default)]
    #[schemars(extend("default" = defaults::DAMPING.suppress, "exclusiveMinimum" = 0))]
    pub(crate) suppress: Field<f64>,
    /// Penalty below which it may rise again; less than `suppress`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::DAMPING.reuse, "exclusiveMinimum" = 0))]
    pub(crate) reuse: Field<f64>,
}
