//! A second attempt beside one that is slow: the first answer wins, the other attempt is cancelled.
//!
//! ```text
//!  attempt ───────────────────────────────▶ head ──▶ client
//!     └── late ──▶ budget ──▶ another backend ──────▶ (cancelled)
//! ```
//!
//! Both attempts run in the client's own task, side by side in one future, each with its own copy
//! of the request's head and its own notes, up to the head of the response. From there on the one
//! that won goes on as any other. Only for idempotent requests without content, and boxed: whoever
//! does not ask for hedges does not carry their weight.
//!
//! A failure of the first attempt before the second has begun is one as any other: whether it is
//! retried is not decided here. Dropping the future cancels both.

use super::Client;
use super::Reply as _;
use super::admit::Trial;
use super::choose::lease;
use super::converse::{ask, proceed};
use super::course::{Course, spend, verdict_of};
use super::failure::Failure;
use super::forward::{keep, note_attempt, note_octets};
use super::reach;
use super::run::Around;
use super::scratch::Scratch;
use crate::balance::l7::Lease;
use crate::http::snapshot::{RoutePlan, ServicePlan};
use crate::message::{Length, RequestHead, Version};
use crate::net::{Nanos, Timer};
use crate::observe::access_log::{End, Phase};
use crate::observe::http::HedgeResult;
use crate::upstream::{Backend as _, h1, h2};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// How long the first attempt has before there is a second, in nanoseconds; `None` for requests
/// that are not hedged.
pub(super) fn after(
    route: &RoutePlan,
    service: &ServicePlan,
    request: &RequestHead,
) -> Option<Nanos> {
    let protection = &service.protection;
    protection.settings.hedge?;
    // A client that is kept with a backend must not be moved by its slowness.
    let is_fit = service.settings.sticky_cookie.is_none()
        && request.method.is_idempotent()
        && request.length == Length::None
        && request.protocol.is_empty()
        && route.settings.mirror.is_none();
    is_fit.then(|| protection.hedge_after()).flatten()
}

/// An attempt that has a head.
struct Reached {
    way: Way,
    /// The backend has the request until this is dropped.
    _lease: Lease,
}

enum Way {
    H1(Box<h1::Connection>),
    H2(Box<h2::Exchange>),
}

/// Who won.
enum Won {
    First(Reached),
    Second(Reached),
}

/// Speaks with one backend, and after `delay` with another one.
pub(super) async fn attempt<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    course: &mut Course<'_>,
    lease: Lease,
    delay: Nanos,
) -> Result<(), Failure> {
    let worker = around.worker;
    let began = worker.clock.last();
    let mut notes = [worker.take_scratch(), worker.take_scratch()];
    for notes in &mut notes {
        begin(notes, scratch);
    }
    notes[0].facts.trial = scratch.facts.trial.take();
    let [first, second] = &mut notes;
    let before = scratch.facts.attempts.len() + 1;
    let mut beside = course.beside(lease.backend().slot(), before);
    let courses = (&*course, &mut beside);
    let raced = race(around, [first, second], client, courses, lease, delay).await;
    let now = worker.clock.read();
    let (reached, winner) = match raced {
        Ok(Won::First(reached)) => (Ok(reached), 0),
        Ok(Won::Second(reached)) => (Ok(reached), 1),
        Err(failure) => (Err(failure), 0),
    };
    let [mut winner, mut other] = match winner {
        0 => notes,
        _ => {
            notes.reverse();
            notes
        }
    };
    cancel(&mut other, now);
    // The winner's, or the first one's, are the last.
    let attempts = &mut scratch.facts.attempts;
    attempts.append(&mut other.facts.attempts);
    attempts.append(&mut winner.facts.attempts);
    scratch.facts.trial = winner.facts.trial.take();
    std::mem::swap(&mut scratch.response, &mut winner.response);
    worker.put_scratch(winner);
    worker.put_scratch(other);
    let reached = reached?;
    let begun = attempts.last().map_or(began, |last| last.began);
    let took = [now.saturating_sub(begun), now.saturating_sub(began)];
    match reached.way {
        Way::H1(mut connection) => {
            let spoken = proceed(around, scratch, client, course, &mut *connection, took).await;
            note_octets(scratch, connection.octets());
            keep(around, course.service, connection, spoken.is_ok());
            spoken
        }
        Way::H2(mut stream) => {
            let spoken = proceed(around, scratch, client, course, &mut *stream, took).await;
            note_octets(scratch, stream.octets());
            spoken
        }
    }
}

/// Notes that an attempt was cancelled, if it has not ended by itself.
fn cancel(notes: &mut Scratch, now: Nanos) {
    if let Some(cancelled) = notes.facts.attempts.last_mut()
        && cancelled.total == 0
    {
        // To its backend it looks as if the client had gone.
        cancelled.end = End::ClientClosed;
        cancelled.total = now.saturating_sub(cancelled.began);
        // It is as slow as that at least.
        cancelled.backend.latency().observe(cancelled.total, now);
    }
}

/// Gives an attempt what it has to know of the request.
fn begin(notes: &mut Scratch, of: &Scratch) {
    notes.request.clone_from(&of.request);
    let (to, from) = (&mut notes.facts, &of.facts);
    to.client = from.client;
    to.head = from.head;
    to.route = from.route;
    to.service = from.service;
    to.retry = from.retry;
    to.span = from.span;
}

/// Lets two attempts run until one has an answer.
async fn race<C: Client>(
    around: &Around<'_>,
    [first, second]: [&mut Scratch; 2],
    client: &mut C,
    (course, beside): (&Course<'_>, &mut Course<'_>),
    lease: Lease,
    delay: Nanos,
) -> Result<Won, Failure> {
    let (worker, service) = (around.worker, course.service);
    let timers = [worker.timers.timer(), worker.timers.timer()];
    let is_begun = Cell::new(false);
    let one = reach_head(with(around, &timers[0]), first, course, lease);
    let two = hedge(with(around, &timers[1]), second, beside, delay, &is_begun);
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut failed, mut is_over) = (None, false);
    let can_tell = C::Reply::IS_TOLD_ALWAYS || client.is_request_done();
    let result = poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(reached) = one.as_mut().poll(cx)
        {
            match reached {
                Ok(reached) => return Poll::Ready(Ok(Won::First(reached))),
                Err(failure) => failed = Some(failure),
            }
        }
        if !is_over && let Poll::Ready(reached) = two.as_mut().poll(cx) {
            match reached {
                Ok(reached) => return Poll::Ready(Ok(Won::Second(reached))),
                Err(_) => is_over = true,
            }
        }
        if let Some(failure) = failed
            && (is_over || !is_begun.get())
        {
            return Poll::Ready(Err(failure));
        }
        if can_tell && client.parts().1.poll_gone(cx).is_ready() {
            let gone = Failure::new(End::ClientClosed, Phase::ResponseHead);
            return Poll::Ready(Err(gone));
        }
        Poll::Pending
    });
    let result = result.await;
    let cells = service.cells.at(worker.index);
    if is_begun.get() {
        cells.hedged(match &result {
            Ok(Won::First(_)) => HedgeResult::Lost,
            Ok(Won::Second(_)) => HedgeResult::Won,
            Err(_) => HedgeResult::Failed,
        });
    } else if is_over {
        cells.hedged(HedgeResult::Denied);
    }
    result
}

/// The same exchange with a timer of its own.
fn with<'x>(around: &Around<'x>, timer: &'x Timer) -> Around<'x> {
    Around { timer, ..*around }
}

/// The second attempt, from its delay on. `is_begun`: a backend was asked.
async fn hedge(
    around: Around<'_>,
    notes: &mut Scratch,
    course: &mut Course<'_>,
    delay: Nanos,
    is_begun: &Cell<bool>,
) -> Result<Reached, Failure> {
    let denied = Failure::new(End::NoBackend, Phase::Connect);
    around.timer.set_after(delay);
    around.timer.expired().await;
    around.worker.clock.read();
    let _spent = spend(&around, course.service).ok_or(denied)?;
    Trial::begin(&around, notes, course.service)?;
    let (service, whole) = (course.service, course.whole);
    let lease = lease(&around, notes, service, &course.tried, whole).await?;
    is_begun.set(true);
    course.begin(&around, notes);
    reach_head(around, notes, course, lease).await
}

/// Asks a backend, and waits for the head of its answer.
async fn reach_head(
    around: Around<'_>,
    notes: &mut Scratch,
    course: &Course<'_>,
    lease: Lease,
) -> Result<Reached, Failure> {
    let reached = try_head(&around, notes, course, &lease).await;
    if let Err(failure) = &reached {
        let now = around.worker.clock.read();
        if let Some(attempt) = notes.facts.attempts.last_mut() {
            attempt.end = failure.end;
            attempt.total = now.saturating_sub(attempt.began);
        }
        if let Some(trial) = notes.facts.trial.take() {
            let verdict = verdict_of(failure);
            trial.end(verdict, now);
        }
    }
    reached.map(|way| Reached { way, _lease: lease })
}

async fn try_head(
    around: &Around<'_>,
    notes: &mut Scratch,
    course: &Course<'_>,
    lease: &Lease,
) -> Result<Way, Failure> {
    let (worker, service) = (around.worker, course.service);
    note_attempt(around, notes, lease.backend());
    if reach::speaks_h2(around, notes, course, lease).await? {
        if let Some(attempt) = notes.facts.attempts.last_mut() {
            attempt.version = Version::Http2;
        }
        let fresh = course.fresh;
        let claim = reach::claim(around, notes, course, lease, fresh).await?;
        let mut stream = Box::new(h2::Exchange::new(claim, fresh));
        ask(around, notes, course, &mut *stream).await?;
        return Ok(Way::H2(stream));
    }
    let is_shared = service.settings.send_proxy.is_none();
    let kept = if course.fresh || !is_shared {
        None
    } else {
        worker
            .pools
            .take(lease.backend(), service.seal(notes.request.host()))
    };
    let mut connection = match kept {
        Some(connection) => connection,
        None => reach::open_h1(around, notes, course, lease, is_shared).await?,
    };
    ask(around, notes, course, &mut *connection).await?;
    Ok(Way::H1(connection))
}
