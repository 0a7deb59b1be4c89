//! The course of an exchange: route, prepare, act, and give an account.

use super::failure::Failure;
use super::forward::forward;
use super::respond::{self, Fixed};
use super::scratch::Scratch;
use super::{Client, Reply as _, drive};
use crate::config::model::http::HashOn;
use crate::filter::RequestContext;
use crate::http::forwarded;
use crate::http::peer::Peer;
use crate::http::snapshot::{ActionPlan, ListenerPlan, RoutePlan, Snapshot};
use crate::http::worker::Worker;
use crate::message::{Length, Method, Refusal};
use crate::net::{Nanos, Timer};
use crate::observe::access_log::{End, Octets};
use crate::observe::http::RouteCells;
use std::time::Duration;

/// How an exchange left the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response was sent.
    Complete,
    /// There is no response, or only a part of it, and there will be no more: the client must be
    /// able to see that.
    Cut,
}

/// What an exchange is about, besides its messages.
#[derive(Clone, Copy, Debug)]
pub struct Around<'x> {
    /// The worker.
    pub worker: &'x Worker,
    /// The configuration in force when the request came.
    pub snapshot: &'x Snapshot,
    /// The listener.
    pub listener: &'x ListenerPlan,
    /// The client's connection.
    pub peer: &'x Peer,
    /// The one deadline of the task that runs this.
    pub timer: &'x Timer,
}

/// Serves the request in `scratch`, whose notes say when it came.
pub async fn run<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
) -> Outcome {
    let cells = around.listener.cells.at(around.worker.index);
    cells.requests_active.add(1);
    let (outcome, end) = match serve(around, scratch, client).await {
        Ok(end) => (Outcome::Complete, end),
        Err(failure) => (fail(around, scratch, client, &failure).await, failure.end),
    };
    cells.requests_active.sub(1);
    if outcome == Outcome::Cut {
        // Nothing to be told apart yet.
    }
    account(around, scratch, client, end);
    outcome
}

/// Answers a request that could not be read: there is no head to speak of.
pub async fn refuse<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    refusal: Refusal,
) -> Outcome {
    let failure = Failure::refused(refusal);
    scratch.request.method = Method::Get;
    let outcome = fail(around, scratch, client, &failure).await;
    account(around, scratch, client, failure.end);
    outcome
}

async fn serve<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
) -> Result<End, Failure> {
    let settings = &around.listener.settings;
    check(scratch, settings.limits.body_bytes)?;
    let from = forwarded::real_client(&scratch.request, &settings.forwarded, around.peer);
    scratch.facts.client = Some(from);
    let Some((index, _)) = around.listener.route(&scratch.request, from) else {
        return Err(Failure::new(End::NoRoute, Default::default()));
    };
    scratch.facts.route = Some(index);
    let route = around.snapshot.route(index);
    if !route.filters.is_empty() {
        let context = RequestContext {
            client: from,
            random: around.worker.random(),
        };
        let head = &mut scratch.request;
        let ended = route.filters.request_head(&mut scratch.states, head, &context);
        if let Some(status) = ended.await {
            let fixed = Fixed::of_status(status);
            answer(around, scratch, client, Some(route), &fixed, false).await?;
            return Ok(End::FaultInjected);
        }
    }
    act(around, scratch, client, route).await
}

/// What must hold for every request, and what is never passed on.
fn check(scratch: &mut Scratch, body_bytes: Option<u64>) -> Result<(), Failure> {
    let request = &mut scratch.request;
    if let (Length::Exact(length), Some(most)) = (request.length, body_bytes)
        && length > most
    {
        return Err(Failure::refused(Refusal::ContentTooLong));
    }
    if request.method == Method::Connect && request.protocol.is_empty() {
        return Err(Failure::refused(Refusal::MethodNotAllowed));
    }
    // An upgrade to HTTP/2 is between the client and us (RFC 9110 §7.8): passed on, it would open
    // a way to the backend that nobody looks into.
    if request.protocol.eq_ignore_ascii_case(b"h2c") || request.protocol.eq_ignore_ascii_case(b"h2")
    {
        request.protocol.clear();
    }
    Ok(())
}

async fn act<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
) -> Result<End, Failure> {
    let service = match &route.action {
        ActionPlan::Service(service) => Some(*service),
        ActionPlan::Split { shares, sticky } => choose(around, scratch, shares, sticky.as_ref()),
        ActionPlan::Respond(fixed) => {
            answer(around, scratch, client, Some(route), fixed, false).await?;
            return Ok(End::Local);
        }
        ActionPlan::Redirect(redirect) => {
            let path = redirect.path.as_ref();
            let path = path.and_then(|path| respond::rewritten_path(path, scratch.request.path(), None));
            respond::redirect(redirect, &scratch.request, path.as_deref(), &mut scratch.response);
            send(around, scratch, client, Some(route), &[], false).await?;
            return Ok(End::Local);
        }
    };
    let Some(service) = service else {
        return Err(Failure::new(End::NoBackend, Default::default()));
    };
    scratch.facts.service = Some(service);
    forward(around, scratch, client, route, around.snapshot.service(service)).await?;
    Ok(End::Complete)
}

/// The service of a split: by a draw, or by what keeps a client with one.
fn choose(
    around: &Around<'_>,
    scratch: &Scratch,
    shares: &[(usize, u64)],
    sticky: Option<&HashOn>,
) -> Option<usize> {
    let sum = shares.last()?.1;
    let key = sticky.and_then(|on| super::forward::key(on, &scratch.request, scratch.facts.client));
    let random = key.unwrap_or_else(|| around.worker.random());
    let drawn = ((u128::from(random) * u128::from(sum)) >> 64) as u64;
    let found = shares.iter().find(|(_, until)| drawn < *until)?;
    Some(found.0)
}

/// Answers a failure, if that is still possible and anybody is there to be answered.
async fn fail<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    failure: &Failure,
) -> Outcome {
    if let Some((by, refusal)) = failure.refusal {
        around.listener.cells.at(around.worker.index).refused(by, refusal);
    }
    if scratch.facts.status != 0 || failure.end == End::ClientClosed {
        return Outcome::Cut;
    }
    around.worker.clock.read();
    let fixed = respond::to_failure(failure);
    let last = failure.refusal.is_some_and(|(by, _)| by == crate::message::RefusedBy::Client);
    match answer(around, scratch, client, None, &fixed, last).await {
        Ok(()) => Outcome::Complete,
        Err(_) => Outcome::Cut,
    }
}

async fn answer<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: Option<&RoutePlan>,
    fixed: &Fixed,
    last: bool,
) -> Result<(), Failure> {
    let to_head = scratch.request.method == Method::Head;
    let content = fixed.write(to_head, &mut scratch.response);
    send(around, scratch, client, route, content, last).await
}

/// Sends a response that was made here.
async fn send<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: Option<&RoutePlan>,
    content: &[u8],
    last: bool,
) -> Result<(), Failure> {
    let head = &mut scratch.response;
    around.worker.date(|date| head.fields.append(crate::message::Name::Date, date));
    if let Some(route) = route.filter(|route| !route.filters.is_empty()) {
        route.filters.response_head(&mut scratch.states, head);
    }
    // What the client still sends is not wanted.
    let last = last || !client.is_request_done();
    scratch.facts.status = head.status;
    client.parts().1.send_head(head, last);
    let write = around.listener.timeouts.write;
    drive::reply(client, content, around.timer, write).await
}

/// Counts what the exchange was.
fn account<C: Client>(around: &Around<'_>, scratch: &Scratch, client: &C, end: End) {
    let worker = around.worker;
    let now = worker.clock.read();
    let facts = &scratch.facts;
    around.listener.cells.at(worker.index).ended(end);
    let cells: &RouteCells = around.listener.cells_of(facts.route).at(worker.index);
    let (received, sent) = client.octets();
    let took = Duration::from_nanos(now.saturating_sub(facts.began));
    cells.exchange(
        &scratch.request.method,
        facts.status,
        took,
        split(received, facts.request_head),
        split(sent, 0),
    );
}

fn split(all: u64, head: u64) -> Octets {
    Octets {
        head: head.min(all),
        body: all.saturating_sub(head),
    }
}

/// The moment at which an exchange that began now must be over.
pub(super) fn whole_by(now: Nanos, route: &RoutePlan) -> Nanos {
    now.saturating_add(route.timeout)
}
