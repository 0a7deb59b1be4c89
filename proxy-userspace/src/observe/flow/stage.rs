//! What is noted of a flow, and how it is told.

use crate::observe::access_log::{End, Phase};
use crate::observe::trace::{AttemptRecord, ConnectionTrace, Flow, SpanRecord};
use proxy_common::service::protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What somebody hands over about flows.
#[derive(Clone, Debug, PartialEq)]
pub enum Noted {
    /// A stage of a flow.
    Stage(Box<Note>),
    /// A request that is over: its route, its attempts, and its status.
    Exchange(Box<SpanRecord>),
}

/// One stage of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Which flow.
    pub flow: Flow,
    /// When it was over, since the Unix epoch.
    pub at: Duration,
    /// The client and our end, as the first packet had them.
    pub ends: (SocketAddr, SocketAddr),
    /// IP protocol.
    pub protocol: u8,
    /// The request on its connection, from 1; `None` for what is the connection's own.
    pub request: Option<u64>,
    /// What it was.
    pub stage: Stage,
    /// Its connection's part in a trace, if spans of it are exported.
    pub trace: Option<ConnectionTrace>,
}

/// One stage of a flow, as it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowStage {
    /// When, seconds since the epoch.
    pub time_seconds: f64,
    /// The flow's id: sixteen hexadecimal digits, the first half of its trace's id.
    pub id: String,
    /// `tcp`, `udp`, `icmp`, …
    pub protocol: String,
    /// The client's address and port, as the first packet had them.
    pub source: String,
    /// Where it went.
    pub destination: String,
    /// The request on its connection, from 1; absent for what is the connection's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// What it was.
    #[serde(flatten)]
    pub stage: Stage,
}

/// What became of a flow at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The packet path judged a packet.
    Packet(Packet),
    /// A listener took the connection.
    Accept(Accept),
    /// A PROXY header said whose connection it is.
    Proxy(Proxy),
    /// TLS with the client was agreed on, or was not.
    Tls(Tls),
    /// A request's head had come.
    Request(Request),
    /// A route was found for it.
    Route(Route),
    /// A backend was tried.
    Attempt(Attempt),
    /// A request was over.
    Status(Status),
    /// A connection that is passed on as it is, or a session of UDP, was over.
    Tunnel(Tunnel),
}

/// A packet's verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Packet {
    /// Interface on which it arrived.
    pub interface: String,
    /// `pass`, `forward` or `drop`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// Octets of IP packet.
    pub length: u32,
    /// TCP flags that open or end a connection, such as `syn`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// How the service's packets are forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The packet's own ends where they are not the flow's: an answer of a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between: Option<String>,
}

/// A connection that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accept {
    /// Name of the listener.
    pub listener: String,
    /// Number of the worker.
    pub worker: usize,
}

/// What a PROXY header said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proxy {
    /// The client.
    pub client: SocketAddr,
    /// Whom it had asked.
    pub server: SocketAddr,
}

/// TLS with the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tls {
    /// Name of the listener.
    pub listener: String,
    /// Such as `TLSv1.3`; empty if nothing was agreed on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The cipher suite.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cipher: String,
    /// The name that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The application's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// It went on with an earlier session.
    pub resumed: bool,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Name of the listener.
    pub listener: String,
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host without port.
    pub host: String,
    /// Path without the query, which may hold secrets.
    pub path: String,
    /// `1.0`, `1.1`, `2`.
    pub version: String,
    /// Stream of HTTP/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
}

/// Where a request was led.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// Name of the route.
    pub route: String,
    /// The path that it matches, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The service that was asked, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A backend that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    pub address: SocketAddr,
    /// The connection was there already.
    pub reused: bool,
    /// How long it took to open one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
    /// Why this attempt was made after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Status of the response, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended, in the access log's words.
    pub end: String,
    /// How long it took.
    pub seconds: f64,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Name of the listener.
    pub listener: String,
    /// The client behind trusted proxies.
    pub client: IpAddr,
    /// Status that was sent, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended, in the access log's words.
    pub end: String,
    /// HAProxy's letters for who ended it and how far it had come.
    pub flags: String,
    /// Why a message was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Octets from the client.
    pub received_bytes: u64,
    /// Octets to it.
    pub sent_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Id of its trace, if its spans are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// What was passed on as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tunnel {
    /// Name of the listener.
    pub listener: String,
    /// The service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The name that the client asked for in TLS that is passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// How it ended, in the access log's words.
    pub end: String,
    /// A backend or this proxy ended it before its time.
    #[serde(default)]
    pub is_failure: bool,
    /// HAProxy's letters for who ended it and how far it had come.
    pub flags: String,
    /// Why what the client sent was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Octets from the client.
    pub received_bytes: u64,
    /// Octets to it.
    pub sent_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Stage {
    /// True if what it belongs to, a request or a connection without any, is over.
    pub(super) fn is_last(&self) -> bool {
        match self {
            Self::Status(_) | Self::Tunnel(_) => true,
            Self::Tls(tls) => tls.error.is_some(),
            _ => false,
        }
    }

    /// The listener that it names.
    pub(super) fn listener(&self) -> Option<&str> {
        match self {
            Self::Accept(it) => Some(&it.listener),
            Self::Tls(it) => Some(&it.listener),
            Self::Request(it) => Some(&it.listener),
            Self::Status(it) => Some(&it.listener),
            Self::Tunnel(it) => Some(&it.listener),
            Self::Packet(_) | Self::Proxy(_) | Self::Route(_) | Self::Attempt(_) => None,
        }
    }
}

/// HAProxy's letters for who ended something and how far it had come.
pub(crate) fn end_flags(end: End, phase: Phase) -> String {
    let letters = end.termination(phase).map(char::from);
    letters.iter().collect()
}

impl FlowStage {
    /// A note, told.
    pub fn of(note: Note) -> Self {
        Self {
            time_seconds: note.at.as_secs_f64(),
            id: hex(&note.flow.id.to_be_bytes()),
            protocol: protocol_name(note.protocol),
            source: end(note.ends.0),
            destination: end(note.ends.1),
            request: note.request,
            stage: note.stage,
        }
    }
}

/// An end of a flow, as it is written.
fn end(end: SocketAddr) -> String {
    match end.port() {
        0 => end.ip().to_canonical().to_string(),
        port => SocketAddr::new(end.ip().to_canonical(), port).to_string(),
    }
}

/// Name of an IP protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => format!("proto-{other}"),
    }
}

/// Octets as hexadecimal digits.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The stages of a request that is over: its route, its attempts, its status. Empty if its flow is
/// not traced.
pub fn exchange(record: &SpanRecord) -> Vec<Note> {
    let Some(traced) = record.flow else {
        return Vec::new();
    };
    let note = |at: Duration, stage: Stage| Note {
        flow: traced.flow,
        at,
        ends: traced.ends,
        protocol: protocol::TCP,
        request: Some(traced.number),
        stage,
        trace: None,
    };
    let service = || record.service.clone();
    let first = record.attempts.first();
    let route = record.route.as_ref().map(|route| {
        let at = first.map_or(record.ended_at, |first| first.began_at);
        let stage = Route {
            route: route.clone(),
            pattern: record.pattern.clone(),
            service: service(),
        };
        note(at, Stage::Route(stage))
    });
    let attempts = record.attempts.iter().map(|attempt| {
        let stage = Stage::Attempt(attempt_stage(attempt, service()));
        note(attempt.ended_at.min(record.ended_at), stage)
    });
    let status = note(record.ended_at, Stage::Status(status_stage(record)));
    route.into_iter().chain(attempts).chain([status]).collect()
}

fn attempt_stage(attempt: &AttemptRecord, service: Option<String>) -> Attempt {
    Attempt {
        service,
        backend: attempt.backend.clone(),
        address: attempt.address,
        reused: attempt.reused,
        connect_seconds: attempt
            .connect
            .filter(|_| !attempt.reused)
            .map(|it| it.as_secs_f64()),
        retry: attempt.retry.map(str::to_owned),
        status: Some(attempt.status).filter(|status| *status != 0),
        end: attempt.end.label().to_owned(),
        seconds: attempt
            .ended_at
            .saturating_sub(attempt.began_at)
            .as_secs_f64(),
    }
}

fn status_stage(record: &SpanRecord) -> Status {
    let is_exported = record.span.sampled;
    Status {
        listener: record.listener.clone(),
        client: record.client,
        status: Some(record.status).filter(|status| *status != 0),
        end: record.end.label().to_owned(),
        flags: end_flags(record.end, record.phase),
        refusal: record.refusal.map(str::to_owned),
        received_bytes: record.received.all(),
        sent_bytes: record.sent.all(),
        seconds: record
            .ended_at
            .saturating_sub(record.began_at)
            .as_secs_f64(),
        trace_id: is_exported.then(|| hex(&record.span.trace)),
    }
}
