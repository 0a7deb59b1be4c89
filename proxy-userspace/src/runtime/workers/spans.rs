//! Spans on their way to a collector: OTLP over HTTP, in protobuf.
//!
//! One task on the house's thread takes them from the bounded queue in batches and sends one batch
//! at a time. While a collector is slow or away, the queue fills and workers drop spans, which are
//! counted; nothing else waits for a collector. What it asks to be sent again is, a few times, with
//! growing pauses; what it refuses is counted as failed (OTLP specification, "OTLP/HTTP").

use crate::config::model::tracing::Tracing;
use crate::observe::build::VERSION;
use crate::observe::trace::{Exported, SpanCounters, SpanReceiver, otlp};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Exchanges that may wait for the exporter.
pub(super) const WAITING: usize = 4096;

/// Exchanges of one request to the collector.
const BATCH: usize = 256;

/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);

/// How often a batch is sent at most.
const TRIES: u32 = 5;

/// Pause before a batch is sent again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Octets of an answer that are read.
const ANSWER: usize = 64 << 10;

/// Time between two reports of failures.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Where spans go now.
pub(super) type Settings = watch::Receiver<Option<Arc<Tracing>>>;

/// Sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    spans: SpanReceiver,
    settings: Settings,
    counters: Arc<SpanCounters>,
    /// What is to be sent next.
    batch: Vec<Exported>,
    /// A connection that is kept, and to whom.
    connection: Option<(String, SendRequest<Full<Bytes>>)>,
    reported: Option<Instant>,
}

/// A batch was not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the exchange failed")]
    Exchange(#[source] Box<dyn Error + Send + Sync>),
    #[error("the collector answered {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("the settings make no request")]
    Request(#[source] http::Error),
}

impl SendError {
    /// How long to wait before it is tried again; `None` if that is of no use.
    fn pause(&self, tries: u32) -> Option<Duration> {
        let own = PAUSE * 2_u32.pow(tries.min(5));
        match self {
            Self::Request(_) => None,
            Self::Status(status, asked) => {
                let again = matches!(status.as_u16(), 429 | 502 | 503 | 504);
                again.then(|| asked.unwrap_or(own).min(LONGEST_PAUSE))
            }
            Self::Connect(_) | Self::Timeout | Self::Exchange(_) => Some(own),
        }
    }
}

impl Exporter {
    pub(super) fn new(
        spans: SpanReceiver,
        settings: Settings,
        counters: Arc<SpanCounters>,
    ) -> Self {
        Self {
            spans,
            settings,
            counters,
            batch: Vec::new(),
            connection: None,
            reported: None,
        }
    }

    /// Sends what comes. Ends when all workers have.
    ///
    /// # Cancel safety
    ///
    /// Spans whose request is under way are kept, and sent again by [`Exporter::finish`].
    pub(super) async fn run(&mut self) {
        loop {
            let is_first = self.batch.is_empty();
            if is_first && !self.spans.receive(&mut self.batch, BATCH).await {
                return;
            }
            let filled = async {
                while self.batch.len() < BATCH {
                    let room = BATCH - self.batch.len();
                    if !self.spans.receive(&mut self.batch, room).await {
                        return;
                    }
                }
            };
            // Not full in time: then it goes as it is.
            let _ = timeout(DELAY, filled).await;
            self.deliver(TRIES).await;
        }
    }

    /// Sends what is left, if that takes no longer than `limit`.
    pub(super) async fn finish(&mut self, limit: Duration) {
        let all = async {
            loop {
                let room = BATCH.saturating_sub(self.batch.len());
                self.spans.take(&mut self.batch, room);
                if self.batch.is_empty() {
                    return;
                }
                self.deliver(1).await;
            }
        };
        let _ = timeout(limit, all).await;
        let left = count(&self.batch);
        self.counters.failed.fetch_add(left, Relaxed);
    }

    /// Sends the batch, and counts what became of it.
    async fn deliver(&mut self, most: u32) {
        let spans = count(&self.batch);
        let mut tries = 0;
        let refused = loop {
            let Some(settings) = self.settings.borrow().clone() else {
                break spans;
            };
            let error = match self.send(&settings).await {
                Ok(refused) => break refused.min(spans),
                Err(error) => error,
            };
            tries += 1;
            match error.pause(tries - 1).filter(|_| tries < most) {
                Some(pause) => sleep(pause).await,
                None => {
                    self.report(&settings, &error, spans);
                    break spans;
                }
            }
        };
        self.counters.exported.fetch_add(spans - refused, Relaxed);
        self.counters.failed.fetch_add(refused, Relaxed);
        self.batch.clear();
    }

    /// Sends the batch once. Returns how many spans were refused.
    async fn send(&mut self, settings: &Tracing) -> Result<u64, SendError> {
        let attributes = settings.attributes.iter();
        let attributes: Vec<(&str, &str)> = [("service.name", &*settings.service_name)]
            .into_iter()
            .chain(attributes.map(|(key, value)| (&**key, &**value)))
            .collect();
        let body = Bytes::from(otlp::request(&attributes, &self.batch));
        let request = request(settings, body).map_err(SendError::Request)?;
        let exchange = async {
            let response = self.exchange(settings, request).await?;
            let (status, asked) = (response.status(), asked(&response));
            let answer = Limited::new(response.into_body(), ANSWER).collect();
            let answer = answer.await.map_err(SendError::Exchange)?.to_bytes();
            match status.is_success() {
                true => Ok(otlp::rejected(&answer).unwrap_or_default()),
                false => Err(SendError::Status(status, asked)),
            }
        };
        let ended = timeout(settings.timeout, exchange).await;
        let ended = ended.unwrap_or(Err(SendError::Timeout));
        if ended.is_err() {
            self.connection = None;
        }
        ended
    }

    /// One exchange, over the connection that is kept or a new one.
    async fn exchange(
        &mut self,
        settings: &Tracing,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        let authority = settings.endpoint.authority();
        let kept = self.connection.take().filter(|(to, _)| *to == authority);
        let mut sender = match kept {
            // A collector may have closed it since.
            Some((_, mut kept)) => match kept.ready().await {
                Ok(()) => kept,
                Err(_) => connect(&authority).await?,
            },
            None => connect(&authority).await?,
        };
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| SendError::Exchange(error.into()))?;
        self.connection = Some((authority, sender));
        Ok(response)
    }

    /// Says that spans are lost, if that was not said lately.
    fn report(&mut self, settings: &Tracing, error: &SendError, spans: u64) {
        let lately = |at: Instant| at.elapsed() < REPORT_EVERY;
        if self.reported.is_some_and(lately) {
            return;
        }
        self.reported = Some(Instant::now());
        let error = crate::admin::api::chain(error);
        warn!(collector = %settings.endpoint, error, spans, "spans are lost");
    }
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>, SendError> {
    let stream = TcpStream::connect(authority).await;
    let stream = stream.map_err(SendError::Connect)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| SendError::Exchange(error.into()))?;
    // Ends with the sender; how it ends, the sender is told as well.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(settings: &Tracing, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::post(&settings.endpoint.path)
        .header(header::HOST, settings.endpoint.authority())
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, format!("sluice/{VERSION}"));
    for (name, value) in &settings.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(body))
}

/// The pause that a collector asks for, in seconds.
fn asked(response: &Response<Incoming>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

fn count(batch: &[Exported]) -> u64 {
    batch.iter().map(Exported::spans).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_help_is_tried_again_with_growing_pauses() {
        let status = |code, asked| SendError::Status(StatusCode::from_u16(code).unwrap(), asked);
        for (error, tries, pause) in [
            (SendError::Timeout, 0, Some(PAUSE)),
            (SendError::Timeout, 3, Some(PAUSE * 8)),
            (status(503, None), 1, Some(PAUSE * 2)),
            (
                status(429, Some(Duration::from_secs(7))),
                0,
                Some(Duration::from_secs(7)),
            ),
            (
                status(429, Some(Duration::from_secs(9999))),
                0,
                Some(LONGEST_PAUSE),
            ),
            (status(400, None), 0, None),
            (status(401, Some(PAUSE)), 0, None),
        ] {
            assert_eq!(error.pause(tries), pause, "{error}");
        }
    }
}
