//! Spans that are recorded, and the queue that takes them off the workers.

use super::{ConnectionSpan, Span, Traced};
use crate::observe::access_log::{End, Octets, Phase, Side};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;

/// Octets of a client's text that a span keeps: the queue must not hold a client's longest targets.
const KEPT: usize = 1024;

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounters {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Dropped because the queue was full or nobody reads it any more.
    pub dropped: AtomicU64,
    /// Not taken by the collector.
    pub failed: AtomicU64,
}

/// What is told of one exchange that is sampled, or whose flow is traced: the server's span, and a
/// client's for each attempt. It owns what it says; only such requests pay for that.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRecord {
    /// Ids and the parent. Where it is not sampled, none of this is exported.
    pub span: Span,
    /// The flow, if that is traced.
    pub flow: Option<Traced>,
    /// The listener.
    pub listener: String,
    /// Name of the route, if one matched.
    pub route: Option<String>,
    /// The path that the route matches, as configured.
    pub pattern: Option<String>,
    /// The service, if one was asked.
    pub service: Option<String>,
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host without port, as the client sent it.
    pub host: String,
    /// Path as the client sent it, without the query: that may hold secrets.
    pub path: String,
    /// Path as backends see it.
    pub path_sent: String,
    /// `1.1`, `2`.
    pub version: &'static str,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// Status; 0 for none.
    pub status: u16,
    /// Status of gRPC, if the backend gave one.
    pub grpc_status: Option<u16>,
    /// The client, behind trusted proxies.
    pub client: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Our end of it.
    pub server: SocketAddr,
    /// Octets of the request.
    pub received: Octets,
    /// Octets of the response.
    pub sent: Octets,
    /// The request's id; empty for none.
    pub request_id: String,
    /// The wait for a place at a backend.
    pub queued: Option<Duration>,
    /// Backends that were tried.
    pub attempts: Vec<AttemptRecord>,
    /// Begin, since the Unix epoch.
    pub began_at: Duration,
    /// End, since the Unix epoch.
    pub ended_at: Duration,
    /// How it ended.
    pub end: End,
    /// How far it had come.
    pub phase: Phase,
    /// Why a message was refused.
    pub refusal: Option<&'static str>,
}

/// One backend that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// Id of its span.
    pub id: [u8; 8],
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    pub address: SocketAddr,
    /// `1.1`, `2`.
    pub version: &'static str,
    /// The connection was there already.
    pub reused: bool,
    /// Until the connection was there.
    pub connect: Option<Duration>,
    /// Why this attempt was made, if it is not the first.
    pub retry: Option<&'static str>,
    /// Status; 0 for none.
    pub status: u16,
    /// How it ended.
    pub end: End,
    /// Octets sent to it.
    pub sent: u64,
    /// Octets received from it.
    pub received: Octets,
    /// Begin, since the Unix epoch.
    pub began_at: Duration,
    /// End, since the Unix epoch.
    pub ended_at: Duration,
}

impl SpanRecord {
    /// The span's name: of low cardinality, as OpenTelemetry's conventions for HTTP ask.
    pub fn name(&self) -> String {
        match &self.pattern {
            Some(pattern) => format!("{} {pattern}", self.method_name()),
            None => self.method_name().to_owned(),
        }
    }

    /// The method in a span's name; `HTTP` for methods that are not known.
    pub(super) fn method_name(&self) -> &str {
        match self.known_method() {
            "_OTHER" => "HTTP",
            method => method,
        }
    }

    /// The method, or what stands for all that are not known.
    pub(super) fn known_method(&self) -> &str {
        match self.method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS"
            | "TRACE" | "PATCH") => known,
            _ => "_OTHER",
        }
    }

    /// Why the server's span counts as failed, if it does: a status of 5xx, a status of gRPC that
    /// is the server's fault, or an end before its time that was not the client's doing.
    pub fn error(&self) -> Option<String> {
        let grpc = self.grpc_status.filter(|status| is_servers_fault(*status));
        error(self.status, 500, self.end, grpc)
    }

    /// Number of spans in it.
    pub fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}

impl AttemptRecord {
    /// Why the client's span counts as failed, if it does. `grpc`: the status of gRPC that the
    /// backend gave.
    pub fn error(&self, grpc: Option<u16>) -> Option<String> {
        error(
            self.status,
            400,
            self.end,
            grpc.filter(|status| *status != 0),
        )
    }
}

fn error(status: u16, least: u16, end: End, grpc: Option<u16>) -> Option<String> {
    let early = matches!(end.side(), Side::Backend | Side::Proxy) && end != End::Local;
    match (status, grpc) {
        (status, _) if status >= least => Some(status.to_string()),
        (_, Some(grpc)) => Some(grpc.to_string()),
        (0 | 200..=299, _) if early => Some(end.label().to_owned()),
        _ => None,
    }
}

/// Which of gRPC's statuses are a server's fault (OpenTelemetry's conventions for RPC).
const fn is_servers_fault(status: u16) -> bool {
    // Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
    matches!(status, 2 | 4 | 12..=15)
}

/// Text of a client, cut where it is too long.
pub fn kept(octets: &[u8]) -> String {
    String::from_utf8_lossy(&octets[..octets.len().min(KEPT)]).into_owned()
}

/// What is exported at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Exported {
    /// An exchange.
    Exchange(Box<SpanRecord>),
    /// A part of a connection's life.
    Connection(Box<ConnectionSpan>),
}

impl Exported {
    /// Number of spans in it.
    pub fn spans(&self) -> u64 {
        match self {
            Self::Exchange(record) => record.spans(),
            Self::Connection(_) => 1,
        }
    }
}

/// A worker's end of the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpanQueue {
    sender: mpsc::Sender<Exported>,
    counters: Arc<SpanCounters>,
}

/// The exporter's end.
#[derive(Debug)]
pub struct SpanReceiver(mpsc::Receiver<Exported>);

impl SpanQueue {
    /// A queue for the spans of this many exchanges.
    pub fn new(capacity: usize, counters: Arc<SpanCounters>) -> (Self, SpanReceiver) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { sender, counters }, SpanReceiver(receiver))
    }

    /// Hands spans over, or counts that there was no room. Never waits.
    pub fn push(&self, exported: Exported) {
        let spans = exported.spans();
        if self.sender.try_send(exported).is_err() {
            self.counters.dropped.fetch_add(spans, Relaxed);
        }
    }

    /// What became of spans so far.
    pub fn counters(&self) -> &Arc<SpanCounters> {
        &self.counters
    }
}

impl SpanReceiver {
    /// Appends up to `most` exchanges to `batch`, waiting for the first. False when all workers are
    /// gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: spans are taken only by a call that ends.
    pub async fn receive(&mut self, batch: &mut Vec<Exported>, most: usize) -> bool {
        self.0.recv_many(batch, most).await > 0
    }

    /// Appends up to `most` exchanges that are there to `batch`.
    pub fn take(&mut self, batch: &mut Vec<Exported>, most: usize) {
        let there = std::iter::from_fn(|| self.0.try_recv().ok());
        batch.extend(there.take(most));
    }
}

#[cfg(test)]
pub(in crate::observe) mod testing {
    use super::*;
    use crate::observe::trace::Forms;

    /// A request that was retried: `GET /items/7`, sampled.
    pub(in crate::observe) fn record() -> SpanRecord {
        let attempt = AttemptRecord {
            id: [1; 8],
            backend: "a".to_owned(),
            address: ([10, 0, 0, 1], 80).into(),
            version: "1.1",
            reused: false,
            connect: None,
            retry: None,
            status: 0,
            end: End::ConnectFailed,
            sent: 0,
            received: Octets::default(),
            began_at: Duration::from_millis(1_001),
            ended_at: Duration::from_millis(1_002),
        };
        SpanRecord {
            span: Span::begin(None, Forms::W3C, 1.0, 0.0, [1, 2, 3]),
            flow: None,
            listener: "in".to_owned(),
            route: Some("all".to_owned()),
            pattern: Some("/items".to_owned()),
            service: Some("web".to_owned()),
            method: "GET".to_owned(),
            scheme: "http",
            host: "a.example".to_owned(),
            path: "/items/7".to_owned(),
            path_sent: "/7".to_owned(),
            version: "2",
            user_agent: Some("curl".to_owned()),
            status: 200,
            grpc_status: None,
            client: [192, 0, 2, 7].into(),
            peer: ([10, 0, 0, 9], 4711).into(),
            server: ([10, 0, 0, 2], 8080).into(),
            received: Octets { head: 10, body: 0 },
            sent: Octets { head: 20, body: 5 },
            request_id: String::new(),
            queued: None,
            attempts: vec![
                attempt.clone(),
                AttemptRecord {
                    id: [2; 8],
                    backend: "b".to_owned(),
                    retry: Some("connect"),
                    status: 200,
                    end: End::Complete,
                    connect: Some(Duration::from_millis(1)),
                    ..attempt
                },
            ],
            began_at: Duration::from_secs(1),
            ended_at: Duration::from_millis(1_500),
            end: End::Complete,
            phase: Phase::Data,
            refusal: None,
        }
    }
}
