//! The key `tracing`.

use super::scalar::{CollectorUrl, Text, Time};
use crate::config::decode::{Field, Pairs};
use crate::config::defaults::{self, http as http_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// Export of traces. A request is traced if the client's trace context says so, or, where that
/// decides nothing, by the `trace_share` of its listener. Spans never hold up a request: if the
/// collector is too slow, they are dropped and counted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tracing {
    /// URL of the collector, which takes OTLP over HTTP (protobuf), such as
    /// `http://127.0.0.1:4318`. Without a path it is `/v1/traces`.
    pub(crate) endpoint: Field<CollectorUrl>,
    /// What the spans call this proxy: `service.name` of their resource.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::TRACE_SERVICE))]
    pub(crate) service_name: Field<Text>,
    /// More attributes of the resource, such as `deployment.environment.name`.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) attributes: Field<Pairs<Text>>,
    /// Fields of the requests to the collector, such as `Authorization`.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) headers: Field<Pairs<Text>>,
    /// One flow in this many is traced from its first packet to its status, whatever it asks for; 0
    /// traces none by itself.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::FLOW_EVERY))]
    pub(crate) flow_every: Field<u32>,
    /// Forms in which backends are told of the trace, besides the one in which the client told us.
    /// All of them are read.
    #[serde(default)]
    #[schemars(extend("default" = ["w3c"]))]
    pub(crate) propagation: Field<Vec<Field<Propagation>>>,
    /// How long the collector may take for one request.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::TRACE_TIMEOUT)))]
    pub(crate) timeout: Field<Time>,
}

/// A form of a trace context.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Propagation {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    W3c,
    /// One field `b3`.
    B3,
    /// `X-B3-TraceId`, `X-B3-SpanId`, `X-B3-ParentSpanId` and `X-B3-Sampled`.
    B3Multi,
}
