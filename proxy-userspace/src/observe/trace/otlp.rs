//! Spans in OTLP's words: the attributes of OpenTelemetry's semantic conventions for HTTP, and
//! `sluice.*` for what these do not know.
//!
//! The messages are those of the standard's own definitions, so that a collector reads what is
//! meant. Pure: [`request`] makes one message of a batch; sending is for others.

use super::{AttemptRecord, ConnectionSpan, Exported, Fact, SpanKind as Kind, SpanRecord};
use crate::observe::access_log::End;
use crate::observe::build::VERSION;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use std::time::Duration;

/// The conventions whose names are used.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Flags of a span (`SpanFlags`): sampled; it is known whether the parent is remote; it is.
const SAMPLED: u32 = 1;
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// One request to a collector with all spans of a batch, encoded. `attributes` are those of the
/// resource, `service.name` among them.
pub fn request(attributes: &[(&str, &str)], batch: &[Exported]) -> Vec<u8> {
    let attributes = attributes.iter();
    let attributes = attributes.map(|(key, value)| text(key, *value)).collect();
    let scope = InstrumentationScope {
        name: "sluice".to_owned(),
        version: VERSION.to_owned(),
        ..InstrumentationScope::default()
    };
    let mut spans = Vec::new();
    for exported in batch {
        match exported {
            Exported::Exchange(record) => {
                spans.push(server(record));
                let attempts = record.attempts.iter().enumerate();
                spans.extend(attempts.map(|(index, attempt)| client(record, attempt, index)));
            }
            Exported::Connection(span) => spans.push(connection(span)),
        }
    }
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes,
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }],
    };
    request.encode_to_vec()
}

/// The request as the client saw it.
fn server(record: &SpanRecord) -> Span {
    let mut attributes = vec![
        text("http.request.method", record.known_method()),
        text("url.scheme", record.scheme),
        text("url.path", &*record.path),
        text("network.protocol.version", record.version),
        text("client.address", record.client.to_string()),
        text("network.peer.address", record.peer.ip().to_string()),
        number("network.peer.port", record.peer.port()),
        text("network.local.address", record.server.ip().to_string()),
        number("network.local.port", record.server.port()),
        text("sluice.listener", &*record.listener),
    ];
    let mut more = Attributes(&mut attributes);
    more.original_method(record);
    more.text("server.address", nonempty(&record.host));
    more.text("http.route", record.pattern.as_deref());
    more.text("user_agent.original", record.user_agent.as_deref());
    more.text("sluice.route", record.route.as_deref());
    more.text("sluice.service", record.service.as_deref());
    more.text("sluice.request_id", nonempty(&record.request_id));
    more.text("sluice.refusal", record.refusal);
    if let Some(traced) = &record.flow {
        let id = format!("{:016x}", traced.flow.id);
        more.text("sluice.flow.id", Some(&id));
        more.number("sluice.flow.request", traced.number);
    }
    let last = record.attempts.last().map(|last| &*last.backend);
    more.text("sluice.backend", last);
    more.result(record.status, record.grpc_status, record.end);
    more.sizes(record.received.body, record.sent.body);
    if let Some(queued) = record.queued {
        more.seconds("sluice.queue_time", queued);
    }
    if record.attempts.len() > 1 {
        more.number("sluice.retries", record.attempts.len() as u64 - 1);
    }
    let error = record.error();
    more.text("error.type", error.as_deref());
    let connection = record.flow.and_then(|traced| traced.connection);
    let is_child = connection.is_some_and(|it| record.span.parent == Some(it.span));
    let remote = match record.span.parent {
        Some(_) if !is_child => IS_REMOTE,
        _ => 0,
    };
    // A request of another trace, or of a later one, refers to its connection.
    let link = connection.filter(|_| !is_child).map(|connection| Link {
        trace_id: connection.trace.to_vec(),
        span_id: connection.span.to_vec(),
        flags: SAMPLED | KNOWS_REMOTE,
        ..Link::default()
    });
    Span {
        trace_id: record.span.trace.to_vec(),
        span_id: record.span.id.to_vec(),
        parent_span_id: record.span.parent.map_or(Vec::new(), |id| id.to_vec()),
        flags: SAMPLED | KNOWS_REMOTE | remote,
        name: record.name(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(record.began_at),
        end_time_unix_nano: nanos(record.ended_at),
        attributes,
        links: link.into_iter().collect(),
        status: status(error, record.end),
        ..Span::default()
    }
}

/// What a backend was asked.
fn client(record: &SpanRecord, attempt: &AttemptRecord, index: usize) -> Span {
    let is_last = index + 1 == record.attempts.len();
    let grpc = record.grpc_status.filter(|_| is_last);
    let mut attributes = vec![
        text("http.request.method", record.known_method()),
        text(
            "url.full",
            format!("http://{}{}", attempt.address, record.path_sent),
        ),
        text("server.address", attempt.address.ip().to_string()),
        number("server.port", attempt.address.port()),
        text("network.peer.address", attempt.address.ip().to_string()),
        number("network.peer.port", attempt.address.port()),
        text("network.protocol.version", attempt.version),
        text("sluice.backend", &*attempt.backend),
        boolean("sluice.connection_reused", attempt.reused),
    ];
    let mut more = Attributes(&mut attributes);
    more.original_method(record);
    more.text("sluice.service", record.service.as_deref());
    more.text("sluice.retry", attempt.retry);
    if index > 0 {
        more.number("http.request.resend_count", index as u64);
    }
    if let Some(connect) = attempt.connect.filter(|_| !attempt.reused) {
        more.seconds("sluice.connect_time", connect);
    }
    more.result(attempt.status, grpc, attempt.end);
    more.number("http.response.body.size", attempt.received.body);
    let error = attempt.error(grpc);
    more.text("error.type", error.as_deref());
    Span {
        trace_id: record.span.trace.to_vec(),
        span_id: attempt.id.to_vec(),
        parent_span_id: record.span.id.to_vec(),
        flags: SAMPLED | KNOWS_REMOTE,
        name: record.method_name().to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: nanos(attempt.began_at),
        end_time_unix_nano: nanos(attempt.ended_at),
        attributes,
        status: status(error, attempt.end),
        ..Span::default()
    }
}

/// A part of a connection's life.
fn connection(span: &ConnectionSpan) -> Span {
    let attributes = span.attributes.iter().map(|(key, fact)| match fact {
        Fact::Text(value) => text(key, value.as_str()),
        Fact::Number(value) => number(key, *value),
        Fact::Bool(value) => boolean(key, *value),
    });
    let kind = match span.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
    };
    Span {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map_or(Vec::new(), |id| id.to_vec()),
        flags: SAMPLED | KNOWS_REMOTE,
        name: span.name.clone(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.began_at),
        end_time_unix_nano: nanos(span.ended_at),
        attributes: attributes.collect(),
        status: span.error.as_ref().map(|error| Status {
            code: StatusCode::Error.into(),
            message: error.clone(),
        }),
        ..Span::default()
    }
}

/// A failed span says how it ended.
fn status(error: Option<String>, end: End) -> Option<Status> {
    error.map(|_| Status {
        code: StatusCode::Error.into(),
        message: match end {
            End::Complete => String::new(),
            end => end.label().to_owned(),
        },
    })
}

struct Attributes<'a>(&'a mut Vec<KeyValue>);

impl Attributes<'_> {
    fn text(&mut self, key: &str, value: Option<&str>) {
        self.0.extend(value.map(|value| text(key, value)));
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0
            .push(number(key, i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn seconds(&mut self, key: &str, value: Duration) {
        let value = Value::DoubleValue(value.as_secs_f64());
        self.0.push(attribute(key, value));
    }

    fn original_method(&mut self, record: &SpanRecord) {
        if record.known_method() == "_OTHER" {
            self.text("http.request.method_original", Some(&record.method));
        }
    }

    fn result(&mut self, status: u16, grpc: Option<u16>, end: End) {
        if status != 0 {
            self.number("http.response.status_code", status.into());
        }
        if let Some(grpc) = grpc {
            self.text("rpc.system", Some("grpc"));
            self.number("rpc.grpc.status_code", grpc.into());
        }
        if end != End::Complete {
            self.text("sluice.end", Some(end.label()));
        }
    }

    fn sizes(&mut self, request: u64, response: u64) {
        self.number("http.request.body.size", request);
        self.number("http.response.body.size", response);
    }
}

fn nonempty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn boolean(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How many spans of a request the collector has refused, by its answer; `None` if that is no
/// answer of the standard.
pub fn rejected(answer: &[u8]) -> Option<u64> {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    let answer = ExportTraceServiceResponse::decode(answer).ok()?;
    let partial = answer.partial_success.unwrap_or_default();
    Some(u64::try_from(partial.rejected_spans).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::trace::span::testing::record;
    use std::collections::BTreeMap;

    fn spans(record: SpanRecord) -> Vec<Span> {
        let exported = Exported::Exchange(Box::new(record));
        let octets = request(&[("service.name", "edge")], &[exported]);
        let mut decoded = ExportTraceServiceRequest::decode(&*octets).expect("protobuf");
        let resource = decoded.resource_spans[0].resource.clone().expect("one");
        assert_eq!(resource.attributes, [text("service.name", "edge")]);
        decoded.resource_spans.remove(0).scope_spans.remove(0).spans
    }

    fn attributes(span: &Span) -> BTreeMap<String, String> {
        let shown = |value: &AnyValue| match value.value.as_ref().expect("a value") {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        let each = span.attributes.iter();
        let all = each.map(|it| (it.key.clone(), shown(it.value.as_ref().expect("a value"))));
        let map: BTreeMap<_, _> = all.collect();
        assert_eq!(map.len(), span.attributes.len(), "a key stands twice");
        map
    }

    #[test]
    fn an_exchange_is_a_tree_of_a_server_and_its_attempts() {
        let spans = spans(record());
        let [server, failed, served] = spans.as_slice() else {
            panic!("{spans:?}");
        };
        assert_eq!(
            (server.kind(), failed.kind()),
            (SpanKind::Server, SpanKind::Client)
        );
        assert_eq!((&*server.name, &*served.name), ("GET /items", "GET"));
        assert!(server.parent_span_id.is_empty());
        for attempt in [failed, served] {
            assert_eq!(attempt.parent_span_id, server.span_id);
            assert_eq!(attempt.trace_id, server.trace_id);
        }
        assert_eq!(
            server.end_time_unix_nano - server.start_time_unix_nano,
            500_000_000
        );
        assert_eq!(server.status, None);
        let code = |span: &Span| span.status.as_ref().map(Status::code);
        assert_eq!(code(failed), Some(StatusCode::Error));
        assert_eq!(code(served), None);
        let of = attributes(server);
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/items/7"),
            ("http.route", "/items"),
            ("http.response.status_code", "200"),
            ("server.address", "a.example"),
            ("client.address", "192.0.2.7"),
            ("network.peer.address", "10.0.0.9"),
            ("network.protocol.version", "2"),
            ("sluice.route", "all"),
            ("sluice.service", "web"),
            ("sluice.backend", "b"),
            ("sluice.retries", "1"),
        ] {
            assert_eq!(of.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!of.contains_key("error.type"));
        let of = attributes(failed);
        assert_eq!(of["error.type"], "connect_failed");
        assert!(!of.contains_key("http.response.status_code"));
        let of = attributes(served);
        assert_eq!(of["sluice.retry"], "connect");
        assert_eq!(of["http.request.resend_count"], "1");
        assert_eq!(of["url.full"], "http://10.0.0.1:80/7");
    }

    #[test]
    fn a_method_that_nobody_knows_makes_no_name_of_its_own() {
        let mut record = record();
        record.method = "BREW".to_owned();
        record.pattern = None;
        let server = spans(record).remove(0);
        assert_eq!(server.name, "HTTP");
        let of = attributes(&server);
        assert_eq!(of["http.request.method"], "_OTHER");
        assert_eq!(of["http.request.method_original"], "BREW");
    }

    #[test]
    fn a_partial_success_tells_what_was_refused() {
        assert_eq!(rejected(b""), Some(0));
        // partial_success (1) with rejected_spans (1) of 3.
        assert_eq!(rejected(&[0x0a, 2, 0x08, 3]), Some(3));
        assert_eq!(rejected(b"<html>"), None);
    }
}
