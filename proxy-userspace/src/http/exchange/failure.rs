//! Why an exchange failed, whose fault it is, and whether trying again may help.

use super::course::Again;
use crate::message::{Refusal, RefusedBy};
use crate::net::body::BodyError;
use crate::observe::access_log::{End, Phase};
use crate::observe::http::RetryReason;
use crate::upstream::AnswerError;
use crate::upstream::tls::TlsFailure;

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why; says the side, too.
    pub end: End,
    /// How far it had come.
    pub phase: Phase,
    /// The message that was refused, if that is why.
    pub refusal: Option<(RefusedBy, Refusal)>,
    /// Whether another attempt may be made.
    pub retry: Retry,
}

/// Whether another attempt may be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// It would not help, or might do something twice.
    #[default]
    No,
    /// The backend has seen nothing of the request.
    Unseen(RetryReason),
    /// The backend may have begun with the request: only what may be repeated is.
    IfIdempotent(RetryReason),
    /// There was an answer, which was given up for another attempt.
    Decided(Again),
}

impl Failure {
    /// A failure that no other attempt makes up for.
    pub const fn new(end: End, phase: Phase) -> Self {
        Self {
            end,
            phase,
            refusal: None,
            retry: Retry::No,
        }
    }

    /// The client's message is refused.
    pub const fn refused(refusal: Refusal) -> Self {
        let end = match refusal {
            Refusal::HeadTimeout | Refusal::BodyTimeout => End::ClientTimeout,
            // It has ended its sending, and may still read an answer.
            Refusal::Truncated => End::ClientClosed,
            _ => End::ClientProtocol,
        };
        Self {
            end,
            phase: Phase::Request,
            refusal: Some((RefusedBy::Client, refusal)),
            retry: Retry::No,
        }
    }

    /// With another attempt.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The request's content could not be read.
    pub(super) const fn of_request(error: &BodyError, phase: Phase) -> Self {
        match error {
            BodyError::Refused(refusal) => Self {
                phase,
                ..Self::refused(*refusal)
            },
            _ => Self::new(End::ClientClosed, phase),
        }
    }

    /// The response could not be written.
    pub(super) const fn of_reply() -> Self {
        Self::new(End::ClientClosed, Phase::Data)
    }

    /// The response's content could not be read.
    pub(super) const fn of_response(error: &BodyError) -> Self {
        match error {
            BodyError::Refused(refusal) => Self {
                refusal: Some((RefusedBy::Backend, *refusal)),
                ..Self::new(End::BackendProtocol, Phase::Data)
            },
            BodyError::Truncated | BodyError::Stopped => Self::new(End::BackendClosed, Phase::Data),
            BodyError::Io(_) => Self::new(End::BackendReset, Phase::Data),
        }
    }

    /// There is no head of a response. `reused`: the connection had served before.
    pub(super) fn of_answer(error: &AnswerError, reused: bool) -> Self {
        let reason = if reused {
            RetryReason::Stale
        } else {
            RetryReason::Reset
        };
        let failure = |end| Self::new(end, Phase::ResponseHead);
        match error {
            AnswerError::Closed => failure(End::BackendClosed).retry(Retry::IfIdempotent(reason)),
            AnswerError::Io(error) if let Some(tls) = TlsFailure::of_io(error) => {
                failure(tls.end()).retry(Retry::IfIdempotent(reason))
            }
            AnswerError::Io(_) => failure(End::BackendReset).retry(Retry::IfIdempotent(reason)),
            AnswerError::Truncated => failure(End::BackendClosed),
            AnswerError::Refused(refusal) => Self {
                refusal: Some((RefusedBy::Backend, *refusal)),
                ..failure(End::BackendProtocol)
            },
            AnswerError::Unprocessed => {
                failure(End::BackendReset).retry(Retry::Unseen(RetryReason::Refused))
            }
        }
    }

    /// Status with which the client is answered, if it can be.
    pub const fn status(&self) -> u16 {
        match (self.end, self.refusal) {
            (_, Some((RefusedBy::Client, refusal))) => refusal.status(),
            (End::ClientTimeout, _) => 408,
            (End::ClientProtocol | End::ClientClosed, _) => 400,
            (End::Denied, _) => 403,
            (End::RateLimited, _) => 429,
            (End::NoRoute, _) => 404,
            (
                End::NoBackend
                | End::QueueFull
                | End::QueueTimeout
                | End::CircuitOpen
                | End::ConcurrencyLimit
                | End::Overloaded
                | End::RetryFailed
                | End::Stopped
                | End::Exhausted,
                _,
            ) => 503,
            (
                End::ConnectFailed
                | End::TlsUnknownAuthority
                | End::TlsExpired
                | End::TlsWrongName
                | End::TlsCertificate
                | End::TlsAlert
                | End::TlsFailed
                | End::BackendClosed
                | End::BackendReset
                | End::BackendProtocol,
                _,
            ) => 502,
            (End::ConnectTimeout | End::BackendTimeout | End::RouteTimeout, _) => 504,
            (End::Complete | End::Local | End::FaultInjected | End::Internal, _) => 500,
        }
    }
}
