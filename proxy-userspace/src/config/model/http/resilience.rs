//! What is done when a service is slow, fails, or has too much to do.

use super::FixedResponse;
use crate::config::defaults::http as defaults;
use std::time::Duration;

/// How requests to a service are protected, and the service from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resilience {
    /// Which failures are met by another attempt.
    pub retries: Retries,
    /// The part of all requests that may be retries or hedges.
    pub budget: Budget,
    /// From the begin of an attempt to the head of its response; `None`: as long as the other
    /// limits allow.
    pub per_try_timeout: Option<Duration>,
    /// The whole exchange; the route's limit and a gRPC client's hold as well.
    pub request_timeout: Option<Duration>,
    /// A second attempt beside one that is slow.
    pub hedge: Option<Hedge>,
    /// When requests are refused at once.
    pub circuit: Circuit,
    /// Requests at once.
    pub concurrency: Option<Concurrency>,
    /// What answers when the service cannot.
    pub fallback: Option<Fallback>,
}

/// Which failures are met by another attempt, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Attempts at most, the first among them; 1 for no retries.
    pub attempts: u32,
    /// Which failures.
    pub on: Vec<RetryOn>,
    /// Statuses of [`RetryOn::RetriableStatus`].
    pub statuses: Vec<u16>,
    /// Methods that may be repeated although they are not idempotent.
    pub methods: Vec<String>,
    /// The wait before a retry is drawn from zero to this, which doubles with each one.
    pub backoff_base: Duration,
    /// Most that it doubles to.
    pub backoff_max: Duration,
    /// Longest `Retry-After` that is waited for; with a longer one the answer is passed on.
    pub retry_after: Duration,
    /// Octets of a request's content that are kept for another attempt.
    pub buffer_bytes: u64,
    /// True: backends are told the attempt's number in `X-Sluice-Attempt-Count`.
    pub announce: bool,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: defaults::RETRY_ATTEMPTS,
            on: defaults::RETRY_ON.to_vec(),
            statuses: Vec::new(),
            methods: Vec::new(),
            backoff_base: defaults::BACKOFF_BASE,
            backoff_max: defaults::BACKOFF_MAX,
            retry_after: defaults::RETRY_AFTER,
            buffer_bytes: defaults::RETRY_BUFFER,
            announce: false,
        }
    }
}

/// A failure that may be met by another attempt, in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetryOn {
    /// Status 500 to 599, or no answer at all.
    ServerError,
    /// Status 502, 503 or 504, or no answer at all.
    GatewayError,
    /// No connection.
    ConnectFailure,
    /// The connection or stream ended before the head of an answer, or none came in time.
    Reset,
    /// The backend did not begin with the request, and says so.
    RefusedStream,
    /// Status 409.
    Retriable4xx,
    /// One of [`Retries::statuses`].
    RetriableStatus,
    /// gRPC status 1.
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

impl RetryOn {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ServerError,
        Self::GatewayError,
        Self::ConnectFailure,
        Self::Reset,
        Self::RefusedStream,
        Self::Retriable4xx,
        Self::RetriableStatus,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ServerError => "5xx",
            Self::GatewayError => "gateway-error",
            Self::ConnectFailure => "connect-failure",
            Self::Reset => "reset",
            Self::RefusedStream => "refused-stream",
            Self::Retriable4xx => "retriable-4xx",
            Self::RetriableStatus => "retriable-status",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The part of a service's requests that may be retries or hedges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Of the requests in progress, 0..=1.
    pub share: f64,
    /// So many are always allowed.
    pub min: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            share: defaults::RETRY_BUDGET,
            min: defaults::RETRY_BUDGET_MIN,
        }
    }
}

/// A second attempt beside one that is slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    /// When it is made.
    pub after: HedgeAfter,
}

/// When a hedge is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HedgeAfter {
    /// After this time.
    Fixed(Duration),
    /// After the time in which this share (0..=1) of the service's recent answers came, and not
    /// before the least.
    Percentile {
        /// The share.
        share: f64,
        /// The least time.
        min: Duration,
    },
}

/// When requests are refused at once; 0 means no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Circuit {
    /// Connections to all backends.
    pub connections: u32,
    /// Requests that wait for a backend.
    pub pending: u32,
    /// Requests in progress.
    pub requests: u32,
    /// Retries and hedges in progress.
    pub retries: u32,
    /// The breaker that looks at failures.
    pub errors: Option<CircuitErrors>,
}

/// A breaker that opens when too many attempts fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitErrors {
    /// Share of failed attempts from which on it opens, 0..=1.
    pub share: f64,
    /// Time that is looked at.
    pub window: Duration,
    /// With fewer attempts in the window it stays closed.
    pub min_requests: u32,
    /// How long it is open at first; doubled each time that the probes fail.
    pub open: Duration,
    /// Most that this grows to.
    pub max_open: Duration,
    /// Attempts that are let through to see whether the service is well again; all must succeed.
    pub probes: u32,
}

impl Default for CircuitErrors {
    fn default() -> Self {
        Self {
            share: defaults::CIRCUIT_SHARE,
            window: defaults::CIRCUIT_WINDOW,
            min_requests: defaults::CIRCUIT_MIN_REQUESTS,
            open: defaults::CIRCUIT_OPEN,
            max_open: defaults::CIRCUIT_MAX_OPEN,
            probes: defaults::CIRCUIT_PROBES,
        }
    }
}

/// Requests to a service at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concurrency {
    /// So many; with `adaptive` at most.
    pub max: u32,
    /// The limit is found by latency, and never below this.
    pub adaptive: Option<u32>,
    /// Requests that may wait; 0: none does.
    pub queue: u32,
    /// How long one waits.
    pub queue_timeout: Duration,
}

impl Concurrency {
    /// So many requests at once, and none waits.
    pub const fn fixed(max: u32) -> Self {
        Self {
            max,
            adaptive: None,
            queue: defaults::CONCURRENCY_QUEUE,
            queue_timeout: defaults::CONCURRENCY_QUEUE_TIMEOUT,
        }
    }
}

/// What answers when the service cannot: no backend, an open circuit, a limit, or attempts that all
/// ended without an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// A fixed answer.
    Respond(FixedResponse),
    /// Another service.
    Service(String),
}

/// How important the requests of a route are when a worker has too much to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Priority {
    /// Refused first.
    Low,
    /// As most.
    #[default]
    Normal,
    /// Refused when nothing else helps.
    High,
    /// Never refused.
    Critical,
}

impl Priority {
    /// The word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// When workers refuse requests because they have too much to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overload {
    /// Smoothed lag of a worker from which on requests of low priority are refused; at twice it
    /// normal ones, at four times it high ones.
    pub lag: Duration,
    /// How long the lag must be below half of a step's until the step is left.
    pub hold: Duration,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            lag: defaults::OVERLOAD_LAG,
            hold: defaults::OVERLOAD_HOLD,
        }
    }
}
