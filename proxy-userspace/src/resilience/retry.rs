//! Whether another attempt may help, and when it is made.

use super::{Nanos, nanos};
use crate::config::model::http::{Retries, RetryOn};
use crate::message::Method;

/// Why a request was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetryReason {
    /// No connection.
    Connect,
    /// A kept connection turned out to be closed.
    Stale,
    /// The connection or stream was reset before any answer.
    Reset,
    /// The backend refused the stream unprocessed (HTTP/2).
    Refused,
    /// No answer in time.
    Timeout,
    /// A status that the configuration has retried.
    Status,
    /// A status of gRPC that the configuration has retried.
    Grpc,
}

impl RetryReason {
    /// All of them, in order of their numbers.
    pub const ALL: &[Self] = &[
        Self::Connect,
        Self::Stale,
        Self::Reset,
        Self::Refused,
        Self::Timeout,
        Self::Status,
        Self::Grpc,
    ];

    /// For metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Stale => "stale",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Grpc => "grpc",
        }
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is no answer, for this reason.
    Failed(RetryReason),
    /// There is one.
    Answer {
        /// Its status.
        status: u16,
        /// Its status of gRPC, if its head has one.
        grpc: Option<u16>,
    },
}

/// Which failures are met by another attempt, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// Attempts at most, the first among them.
    pub attempts: u32,
    /// Octets of a request's content that are kept.
    pub buffer: usize,
    /// Longest `Retry-After` that is waited for.
    pub retry_after: Nanos,
    /// Backends are told the attempt's number.
    pub announce: bool,
    /// Where there is no other backend, the same one is asked again. By default it is not: what is
    /// retried then are failures to reach a backend, which a moment does not mend.
    pub same_backend: bool,
    /// Bits by [`RetryOn`].
    on: u16,
    statuses: Vec<u16>,
    methods: Vec<Method>,
    base: Nanos,
    max: Nanos,
}

impl RetryPlan {
    /// Nothing is retried.
    pub const NONE: Self = Self {
        attempts: 1,
        buffer: 0,
        retry_after: 0,
        announce: false,
        same_backend: false,
        on: 0,
        statuses: Vec::new(),
        methods: Vec::new(),
        base: 0,
        max: 0,
    };

    /// As configured.
    pub fn new(retries: &Retries) -> Self {
        let methods = retries.methods.iter();
        Self {
            attempts: retries.attempts,
            buffer: usize::try_from(retries.buffer_bytes).unwrap_or(usize::MAX),
            retry_after: nanos(retries.retry_after),
            announce: retries.announce,
            same_backend: *retries != Retries::default(),
            on: bits(&retries.on),
            statuses: retries.statuses.clone(),
            methods: methods.map(|name| Method::of(name.as_bytes())).collect(),
            base: nanos(retries.backoff_base),
            max: nanos(retries.backoff_max),
        }
    }

    /// True if answers may be a reason to retry, not only their absence.
    #[inline]
    pub const fn looks_at_answers(&self) -> bool {
        self.on & ANSWERS != 0
    }

    /// Why another attempt may be made with a request of this method after what the last one came
    /// to; `None` if none may.
    ///
    /// Where nothing was sent, or the backend says that it did not begin, any request may be
    /// repeated. Else only what is idempotent may (RFC 9110 §9.2.2), and what the configuration
    /// names: a method, or a status of gRPC, whose calls all are `POST`.
    pub fn reason(&self, event: Event, method: &Method) -> Option<RetryReason> {
        let (reason, wanted) = match event {
            Event::Failed(reason) => (reason, failures(reason)),
            Event::Answer { status, grpc } => {
                if grpc.is_some_and(|code| self.on & of_grpc(code) != 0) {
                    return Some(RetryReason::Grpc);
                }
                let listed = self.statuses.contains(&status);
                (RetryReason::Status, of_status(status, listed))
            }
        };
        let is_unseen = matches!(reason, RetryReason::Connect | RetryReason::Refused);
        let may = self.on & wanted != 0 && (is_unseen || self.may_repeat(method));
        may.then_some(reason)
    }

    /// True for methods that may be repeated although the backend may have begun.
    pub fn may_repeat(&self, method: &Method) -> bool {
        method.is_idempotent() || self.methods.contains(method)
    }

    /// True if another attempt may be made after the content of a request of this method was taken:
    /// else there is no need to keep it. `may_refuse`: backends can say that they did not begin.
    pub fn may_need_content(&self, method: &Method, may_refuse: bool) -> bool {
        let refused = may_refuse && self.on & failures(RetryReason::Refused) != 0;
        self.attempts > 1 && (refused || self.on & OF_GRPC != 0 || self.may_repeat(method))
    }

    /// The wait before the `retry`th retry, from 1: drawn evenly from zero to a bound that doubles
    /// (full jitter: M. Brooker, "Exponential Backoff And Jitter", 2015). `random`: 64 bits.
    pub fn backoff(&self, retry: u32, random: u64) -> Nanos {
        let factor = 1_u64.checked_shl(retry.saturating_sub(1));
        let bound = self.base.saturating_mul(factor.unwrap_or(u64::MAX));
        let bound = bound.min(self.max);
        let drawn = (u128::from(random) * (u128::from(bound) + 1)) >> 64;
        drawn as Nanos
    }
}

/// The value of `Retry-After` in nanoseconds (RFC 9110 §10.2.3): seconds, or a moment. `now`: the
/// time of day in seconds. `None` if it is neither.
pub fn retry_after(value: &[u8], now: u64) -> Option<Nanos> {
    let text = std::str::from_utf8(value).ok()?.trim_ascii();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) => u64::MAX,
        Err(_) => {
            let moment = httpdate::parse_http_date(text).ok()?;
            let since = moment.duration_since(std::time::UNIX_EPOCH).ok()?;
            since.as_secs().saturating_sub(now)
        }
    };
    Some(seconds.saturating_mul(1_000_000_000))
}

const fn bit(on: RetryOn) -> u16 {
    1 << on as u16
}

fn bits(all: &[RetryOn]) -> u16 {
    all.iter().fold(0, |bits, on| bits | bit(*on))
}

/// Conditions that look at answers.
const ANSWERS: u16 = bit(RetryOn::ServerError)
    | bit(RetryOn::GatewayError)
    | bit(RetryOn::Retriable4xx)
    | bit(RetryOn::RetriableStatus)
    | bit(RetryOn::Cancelled)
    | bit(RetryOn::DeadlineExceeded)
    | bit(RetryOn::ResourceExhausted)
    | bit(RetryOn::Internal)
    | bit(RetryOn::Unavailable);

/// Conditions that statuses of gRPC meet, whatever the method.
const OF_GRPC: u16 = bit(RetryOn::Cancelled)
    | bit(RetryOn::DeadlineExceeded)
    | bit(RetryOn::ResourceExhausted)
    | bit(RetryOn::Internal)
    | bit(RetryOn::Unavailable);

/// Conditions that no answer at all meets, whatever the reason.
const NO_ANSWER: u16 = bit(RetryOn::ServerError) | bit(RetryOn::GatewayError);

const fn failures(reason: RetryReason) -> u16 {
    NO_ANSWER
        | match reason {
            RetryReason::Connect => bit(RetryOn::ConnectFailure),
            RetryReason::Refused => bit(RetryOn::RefusedStream),
            RetryReason::Stale | RetryReason::Reset | RetryReason::Timeout => bit(RetryOn::Reset),
            RetryReason::Status | RetryReason::Grpc => 0,
        }
}

const fn of_status(status: u16, listed: bool) -> u16 {
    let class = match status {
        502..=504 => bit(RetryOn::ServerError) | bit(RetryOn::GatewayError),
        500..=599 => bit(RetryOn::ServerError),
        409 => bit(RetryOn::Retriable4xx),
        _ => 0,
    };
    if listed {
        class | bit(RetryOn::RetriableStatus)
    } else {
        class
    }
}

/// Codes of gRPC: `grpc/grpc: doc/statuscodes.md`.
const fn of_grpc(code: u16) -> u16 {
    match code {
        1 => bit(RetryOn::Cancelled),
        4 => bit(RetryOn::DeadlineExceeded),
        8 => bit(RetryOn::ResourceExhausted),
        13 => bit(RetryOn::Internal),
        14 => bit(RetryOn::Unavailable),
        _ => 0,
    }
}
