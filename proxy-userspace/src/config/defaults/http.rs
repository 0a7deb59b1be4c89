//! Defaults of the proxy paths.
//!
//! Where users of nginx, HAProxy and Envoy have one expectation, it is met; where they differ, the
//! choice and its reason stand beside the value.

use crate::config::model::http::{Http2, HttpTimeouts, Limits, RetryOn};
use std::time::Duration;

pub(crate) const LIMITS: Limits = Limits {
    // As HAProxy and Envoy.
    fields: 100,
    // As nginx's four buffers of 8 KiB.
    head_bytes: 32 << 10,
    // RFC 9110 §4.1 asks for 8000 at least.
    target_bytes: 8 << 10,
    // Content is passed on as it comes, not kept, so its length costs nothing here; nginx's 1 MiB
    // is known for uploads that fail with 413. Slow senders are met by the time limits.
    body_bytes: None,
    connections: 0,
};

pub(crate) const HTTP_TIMEOUTS: HttpTimeouts = HttpTimeouts {
    // A head is one or two packets; nginx's 60 s are what slowloris lives on.
    head: Duration::from_secs(10),
    body_idle: Duration::from_secs(30),
    // As Kestrel: below any link in use, above a trickle.
    body_rate: 240,
    idle: Duration::from_secs(60),
    write: Duration::from_secs(60),
    linger: Duration::from_secs(2),
};

pub(crate) const HTTP2: Http2 = Http2 {
    enabled: true,
    only: false,
    // As nginx; RFC 9113 §6.5.2 asks for 100 at least.
    max_streams: 128,
    stream_window_bytes: 256 << 10,
    connection_window_bytes: 1 << 20,
    // The least that RFC 9113 §4.2 allows; larger frames only delay other streams.
    max_frame_bytes: 16 << 10,
    // Some four pages that are left while they load.
    max_resets: 500,
    max_control_frames: 1000,
    abuse_window: Duration::from_secs(10),
};

/// Requests of one connection; 0 for no limit: a long connection costs no more than a short one.
pub(crate) const MAX_REQUESTS: u32 = 0;
/// Share of requests that are traced.
pub(crate) const TRACE_SHARE: f64 = 0.0;
/// One flow in this many is traced; 0 for none.
pub(crate) const FLOW_EVERY: u32 = 0;
/// What spans call this proxy.
pub(crate) const TRACE_SERVICE: &str = "sluice";
/// One request to a collector; the default of OpenTelemetry.
pub(crate) const TRACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Share of requests that are logged.
pub(crate) const LOG_SHARE: f64 = 1.0;

/// A TCP connection on which nothing moves: as [`super::TIMEOUTS`], for databases and shells.
pub(crate) const TCP_IDLE: Duration = Duration::from_secs(3600);
/// A UDP session on which nothing moves.
pub(crate) const UDP_IDLE: Duration = Duration::from_secs(60);
/// UDP sessions at once. Sources can be forged, so there must be a limit.
pub(crate) const UDP_SESSIONS: u32 = 65_536;

pub(crate) const PANIC_THRESHOLD: f64 = 0.0;
pub(crate) const SLOW_START: Duration = Duration::ZERO;
/// No limit: backends have limits of their own.
pub(crate) const MAX_CONNECTIONS: u32 = 0;
pub(crate) const MAX_STREAMS: u32 = 100;
pub(crate) const QUEUE: u32 = 1024;
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Long enough for WebSockets with the usual pings each half minute, and for server-sent events.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Less than the 75 s of nginx and the 60 s and more of most servers.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(55);
/// Each is little memory and a descriptor; with fewer than there are requests at once, connections
/// would be closed and opened again all the time.
pub(crate) const MAX_IDLE: u32 = 1024;
pub(crate) const COOKIE_PATH: &str = "/";

pub(crate) const REDIRECT_STATUS: u16 = 302;
pub(crate) const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
pub(crate) const INDEX: &str = "index.html";
pub(crate) const STRIP_PREFIX: &str = "/";
/// Requests with more content are not mirrored: a copy must be kept until it is sent.
pub(crate) const MIRROR_BODY: u64 = 64 << 10;
/// For stopping workers.
pub(crate) const WORKER_DRAIN: Duration = Duration::from_secs(30);
/// Whoever waits longer does not notice that a CPU had to be woken.
pub(crate) const LONGEST_BUSY_POLL: Duration = Duration::from_millis(10);

/// Content that is shorter gains less than a packet.
pub(crate) const COMPRESSED_BYTES: u64 = 1 << 10;
/// Text in all its forms. What is compressed already (pictures, video, archives, WOFF fonts) is not
/// here, and no streams of events: those are flushed so often that little is gained.
pub(crate) const COMPRESSED_TYPES: &[&str] = &[
    "text/html",
    "text/plain",
    "text/css",
    "text/csv",
    "text/javascript",
    "text/markdown",
    "text/xml",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/problem+json",
    "application/xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/xhtml+xml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/svg+xml",
    "image/x-icon",
    "image/bmp",
];

/// With the first one: two more backends get a chance, as with Envoy's `num_retries: 2` and nginx's
/// usual three servers.
pub(crate) const RETRY_ATTEMPTS: u32 = 3;
/// What is safe: nothing was sent, or what was sent may be repeated. Statuses are answers, and
/// whoever made them may have done something; so they are retried only if somebody says so.
pub(crate) const RETRY_ON: &[RetryOn] = &[
    RetryOn::ConnectFailure,
    RetryOn::Reset,
    RetryOn::RefusedStream,
];
/// As Envoy.
pub(crate) const BACKOFF_BASE: Duration = Duration::from_millis(25);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// The client waits meanwhile; one that is told to come back later can do so itself.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Most calls of gRPC and most JSON; longer content is passed on and not kept.
pub(crate) const RETRY_BUFFER: u64 = 64 << 10;
/// As Finagle, Linkerd and Envoy, where budgets are used: at worst a fifth more load.
pub(crate) const RETRY_BUDGET: f64 = 0.2;
pub(crate) const RETRY_BUDGET_MIN: u32 = 3;
/// A service that answers so slowly is helped by no second request at once.
pub(crate) const HEDGE_MIN: Duration = Duration::from_millis(5);
pub(crate) const CIRCUIT_SHARE: f64 = 0.5;
pub(crate) const CIRCUIT_WINDOW: Duration = Duration::from_secs(10);
/// As Hystrix.
pub(crate) const CIRCUIT_MIN_REQUESTS: u32 = 20;
pub(crate) const CIRCUIT_OPEN: Duration = Duration::from_secs(5);
pub(crate) const CIRCUIT_MAX_OPEN: Duration = Duration::from_secs(60);
pub(crate) const CIRCUIT_PROBES: u32 = 3;
/// The queue of `connections` is the one that most mean; this one is for those who ask for it.
pub(crate) const CONCURRENCY_QUEUE: u32 = 0;
pub(crate) const CONCURRENCY_QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most that an adaptive limit grows to.
pub(crate) const CONCURRENCY_MAX: u32 = 1000;
/// Least that an adaptive limit falls to.
pub(crate) const CONCURRENCY_MIN: u32 = 8;
/// A loop that is so late has some hundred requests before each new one.
pub(crate) const OVERLOAD_LAG: Duration = Duration::from_millis(50);
pub(crate) const OVERLOAD_HOLD: Duration = Duration::from_secs(1);
