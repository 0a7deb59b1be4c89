//! The attempts of one request: how long they may take, and whether there is another one.

use super::Client;
use super::Reply as _;
use super::deadline;
use super::failure::{Failure, Retry};
use super::grpc;
use super::run::Around;
use super::scratch::Scratch;
use crate::balance::l7::Tried;
use crate::config::model::http::BackendProtocol;
use crate::http::snapshot::{RoutePlan, ServicePlan};
use crate::message::{Length, Method, Name, RequestHead, ResponseHead, Version};
use crate::net::Nanos;
use crate::observe::access_log::{End, Phase};
use crate::resilience::{Event, RetryPlan, RetryReason, Spent, Verdict, retry_after};
use std::future::poll_fn;
use std::io::Write as _;
use std::task::Poll;

/// The field that tells backends the number of the attempt.
const ATTEMPT_COUNT: &[u8] = b"X-Sluice-Attempt-Count";

/// Codes of gRPC by which a backend says that it is not well: deadline exceeded, internal,
/// unavailable.
const ILL: [u16; 3] = [4, 13, 14];

/// The attempts of one request with one service.
#[derive(Debug)]
pub(super) struct Course<'c> {
    pub(super) route: &'c RoutePlan,
    pub(super) service: &'c ServicePlan,
    pub(super) plan: &'c RetryPlan,
    /// When all must be over.
    pub(super) whole: Nanos,
    /// When the attempt under way must have its answer.
    pub(super) attempt_by: Nanos,
    /// The next attempt is made over a new connection.
    pub(super) fresh: bool,
    /// Backends that had the request.
    pub(super) tried: Tried,
    /// Attempts that count.
    made: u32,
    /// Attempts that are noted elsewhere.
    before: usize,
    /// The attempt under way, if it is a retry.
    spent: Option<Spent>,
}

/// Another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Why.
    pub reason: RetryReason,
    /// The wait before it in nanoseconds.
    pub wait: Nanos,
}

impl<'c> Course<'c> {
    pub(super) fn new(
        route: &'c RoutePlan,
        service: &'c ServicePlan,
        plan: &'c RetryPlan,
        whole: Nanos,
    ) -> Self {
        Self {
            route,
            service,
            plan,
            whole,
            attempt_by: whole,
            fresh: false,
            tried: Tried::default(),
            made: 0,
            before: 0,
            spent: None,
        }
    }

    /// A hedge of the attempt that the backend of this slot has.
    pub(super) fn beside(&self, slot: u32, before: usize) -> Self {
        let mut tried = self.tried;
        tried.add(slot);
        Self {
            tried,
            before,
            spent: None,
            ..*self
        }
    }

    /// An attempt begins: sets its limit, and tells the backend what it may know.
    pub(super) fn begin(&mut self, around: &Around<'_>, scratch: &mut Scratch) {
        let now = around.worker.clock.last();
        self.attempt_by = self
            .whole
            .min(now.saturating_add(self.service.limits.per_try));
        if self.whole != Nanos::MAX {
            tell_deadline(&mut scratch.request, self.whole.saturating_sub(now));
        }
        if self.plan.announce {
            let number = self.before + scratch.facts.attempts.len() + 1;
            scratch.text.clear();
            let _ = write!(scratch.text, "{number}");
            scratch
                .request
                .fields
                .set_named(ATTEMPT_COUNT, &scratch.text);
        }
        scratch.replay.rewind();
    }

    /// Whether another attempt follows on one that has failed so, and if so why and after which
    /// wait. `slot`: whose attempt it was.
    pub(super) fn after(
        &mut self,
        around: &Around<'_>,
        scratch: &Scratch,
        failure: &Failure,
        slot: u32,
    ) -> Option<Again> {
        if !matches!(failure.retry, Retry::Decided(_)) {
            self.spent = None;
        }
        if scratch.facts.status != 0 {
            return None;
        }
        let reason = match failure.retry {
            Retry::No => return None,
            Retry::Decided(again) => {
                self.count(slot);
                return Some(again);
            }
            Retry::Unseen(reason) | Retry::IfIdempotent(reason) => reason,
        };
        let event = Event::Failed(reason);
        let reason = self.plan.reason(event, &scratch.request.method)?;
        if !self.fresh && matches!(reason, RetryReason::Stale | RetryReason::Refused) {
            // The backend is well, as far as anybody knows: it only had closed the connection, or
            // is about to.
            self.fresh = true;
            return Some(Again { reason, wait: 0 });
        }
        self.count(slot);
        // Who could not be reached or has hung up costs nothing but another backend's time.
        let wait = match reason {
            RetryReason::Timeout => self.plan.backoff(self.made, around.worker.random()),
            _ => 0,
        };
        self.may(around, wait).then_some(Again { reason, wait })
    }

    /// Whether an answer is given up for another attempt, which is begun then as far as the budget
    /// goes.
    pub(super) fn replaces(
        &mut self,
        around: &Around<'_>,
        method: &Method,
        head: &ResponseHead,
    ) -> Option<Failure> {
        let event = Event::Answer {
            status: head.status,
            grpc: grpc::status(&head.fields),
        };
        let reason = self.plan.reason(event, method)?;
        let worker = around.worker;
        let mut wait = self.plan.backoff(self.made + 1, worker.random());
        if let Some(value) = head.fields.get(Name::RetryAfter) {
            let day = worker.wall(worker.clock.last()).as_secs();
            let told = retry_after(value, day).unwrap_or(0);
            if told > self.plan.retry_after {
                return None;
            }
            wait = wait.max(told);
        }
        self.made += 1;
        let may = self.may(around, wait);
        self.made -= 1;
        may.then(|| {
            let failure = Failure::new(End::RetryFailed, Phase::ResponseHead);
            failure.retry(Retry::Decided(Again { reason, wait }))
        })
    }

    /// All backends have had the request: whether they may have it once more, and after which wait.
    pub(super) fn once_more(&mut self, around: &Around<'_>) -> Option<Nanos> {
        let may = self.plan.same_backend && self.tried.count() > 0;
        self.tried = Tried::default();
        may.then(|| self.plan.backoff(self.made, around.worker.random()))
    }

    /// How long opening a connection may take from now on, in nanoseconds.
    pub(super) fn connect_limit(&self, now: Nanos) -> Nanos {
        let limit = self.service.limits.connect;
        limit.min(self.attempt_by.saturating_sub(now))
    }

    /// True if the service has as many connections as its circuit's threshold says.
    pub(super) fn has_all_connections(&self) -> bool {
        let most = self.service.settings.resilience.circuit.connections;
        // The place of the one that is about to be opened is counted already.
        most > 0 && self.service.state.selection().connections() > most
    }

    fn count(&mut self, slot: u32) {
        self.tried.add(slot);
        self.made += 1;
    }

    /// Whether there may be another attempt after so long; if so it is begun.
    fn may(&mut self, around: &Around<'_>, wait: Nanos) -> bool {
        let by = around.worker.clock.last().saturating_add(wait);
        if self.made >= self.plan.attempts || by >= self.whole {
            return false;
        }
        self.spent = None;
        self.spent = spend(around, self.service);
        self.spent.is_some()
    }
}

/// Takes a retry or a hedge out of the budget.
pub(super) fn spend(around: &Around<'_>, service: &ServicePlan) -> Option<Spent> {
    let state = &service.state;
    let in_progress = state.selection().in_flight() + state.waiting();
    let spent = Spent::begin(&service.protection, in_progress);
    if spent.is_none() {
        let cells = service.cells.at(around.worker.index);
        cells.budget_exhausted.add(1);
    }
    spent
}

/// The moment at which an exchange must be over, by the route, the service, and a client of gRPC.
pub(super) fn whole_by(scratch: &Scratch, route: &RoutePlan, service: &ServicePlan) -> Nanos {
    let mut span = route.timeout.min(service.limits.request);
    if let Some(value) = scratch.request.fields.get(Name::GrpcTimeout) {
        span = span.min(deadline::read(value).unwrap_or(Nanos::MAX));
    }
    scratch.facts.head.saturating_add(span)
}

/// Octets of a request's content that are kept for another attempt.
pub(super) fn kept(request: &RequestHead, plan: &RetryPlan, service: &ServicePlan) -> usize {
    // Of `auto`, a request by HTTP/1 seldom goes on by HTTP/2, and its content would be copied.
    let may_refuse = match service.settings.protocol {
        BackendProtocol::H1 => false,
        BackendProtocol::H2 => true,
        BackendProtocol::Auto => request.version == Version::Http2,
    };
    let is_wanted =
        plan.may_need_content(&request.method, may_refuse) || service.fallback.is_some();
    let fits = match request.length {
        Length::None => false,
        Length::Exact(octets) => octets <= plan.buffer as u64,
        Length::Unknown => true,
    };
    if is_wanted && fits && request.protocol.is_empty() {
        plan.buffer
    } else {
        0
    }
}

/// Waits before another attempt.
pub(super) async fn pause<C: Client>(
    around: &Around<'_>,
    client: &mut C,
    wait: Nanos,
) -> Result<(), Failure> {
    if wait == 0 {
        return Ok(());
    }
    let timer = around.timer;
    timer.set_after(wait);
    let can_tell = C::Reply::IS_TOLD_ALWAYS || client.is_request_done();
    poll_fn(|cx| {
        if can_tell && client.parts().1.poll_gone(cx).is_ready() {
            let failure = Failure::new(End::ClientClosed, Phase::ResponseHead);
            return Poll::Ready(Err(failure));
        }
        if timer.poll_expired(cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// What an answer says of a service's health.
pub(super) fn verdict(head: &ResponseHead) -> Verdict {
    let is_ill =
        head.status >= 500 || grpc::status(&head.fields).is_some_and(|code| ILL.contains(&code));
    if is_ill { Verdict::Bad } else { Verdict::Good }
}

/// What it says of a service's health that there is no answer.
pub(super) fn verdict_of(failure: &Failure) -> Verdict {
    use crate::observe::access_log::Side;
    match (failure.end, failure.end.side()) {
        // It had time, and has not used it.
        (End::RouteTimeout, _) if failure.phase == Phase::ResponseHead => Verdict::Bad,
        (_, Side::Backend) => Verdict::Bad,
        _ => Verdict::None,
    }
}

/// Tells a gRPC server how much time is left.
fn tell_deadline(request: &mut RequestHead, left: Nanos) {
    if !request.fields.contains(Name::GrpcTimeout) && !grpc::is_grpc(&request.fields) {
        return;
    }
    let mut room = [0; deadline::LONGEST];
    let told = deadline::write(left, &mut room);
    request.fields.set(Name::GrpcTimeout, told);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_to_grpc_only() {
        let mut plain = RequestHead::default();
        tell_deadline(&mut plain, 1_000_000_000);
        assert!(!plain.fields.contains(Name::GrpcTimeout));
        let mut request = RequestHead::default();
        request
            .fields
            .append(Name::ContentType, b"application/grpc+proto");
        tell_deadline(&mut request, 1_999);
        assert_eq!(request.fields.get(Name::GrpcTimeout), Some(&b"1u"[..]));
    }
}
