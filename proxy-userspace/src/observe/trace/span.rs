//! Spans that are recorded, and the queue that takes them off the workers.

use super::Span;
use crate::observe::access_log::{End, Side};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;

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

/// A span as it is exported, one per exchange that is sampled. It owns what it says; only sampled
/// requests pay for that.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRecord {
    /// Ids and the parent.
    pub span: Span,
    /// The listener.
    pub listener: Arc<str>,
    /// The route, if one matched.
    pub route: Option<Arc<str>>,
    /// The service, if one was asked.
    pub service: Option<Arc<str>>,
    /// Method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host.
    pub host: String,
    /// Path, without the query: that may hold secrets.
    pub path: String,
    /// `1.1`, `2`.
    pub version: &'static str,
    /// Status; 0 for none.
    pub status: u16,
    /// The client.
    pub client: IpAddr,
    /// The backend that answered.
    pub backend: Option<SocketAddr>,
    /// Attempts after the first.
    pub retries: u32,
    /// Begin, since the Unix epoch.
    pub began_at: Duration,
    /// End, since the Unix epoch.
    pub ended_at: Duration,
    /// How it ended.
    pub end: End,
}

impl SpanRecord {
    /// The span's name: of low cardinality, as OpenTelemetry's conventions for HTTP ask.
    pub fn name(&self) -> String {
        match &self.route {
            Some(route) => format!("{} {route}", self.method),
            None => self.method.clone(),
        }
    }

    /// True if a server's span with this outcome counts as failed: 5xx, or ended by anybody but the
    /// client before its time.
    pub fn is_error(&self) -> bool {
        let early = matches!(self.end.side(), Side::Backend | Side::Proxy);
        self.status >= 500 || (early && self.end != End::Local && self.status < 400)
    }
}

/// A worker's end of the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SpanQueue {
    sender: mpsc::Sender<SpanRecord>,
    counters: Arc<SpanCounters>,
}

/// The exporter's end.
#[derive(Debug)]
pub struct SpanReceiver(mpsc::Receiver<SpanRecord>);

impl SpanQueue {
    /// A queue for this many spans.
    pub fn new(capacity: usize, counters: Arc<SpanCounters>) -> (Self, SpanReceiver) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self { sender, counters }, SpanReceiver(receiver))
    }

    /// Hands a span over, or counts that there was no room.
    pub fn push(&self, span: SpanRecord) {
        if self.sender.try_send(span).is_err() {
            self.counters.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl SpanReceiver {
    /// Appends up to `most` spans to `batch`, waiting for the first. False when all workers are
    /// gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: spans are taken only by a call that ends.
    pub async fn receive(&mut self, batch: &mut Vec<SpanRecord>, most: usize) -> bool {
        self.0.recv_many(batch, most).await > 0
    }
}
