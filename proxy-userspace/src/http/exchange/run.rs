//! The course of an exchange: route, prepare, act, and give an account.

use super::failure::Failure;
use super::forward::forward;
use super::frames::Frames;
use super::grpc;
use super::hops::{self, Hops};
use super::memory::{FileParts, Octets};
use super::respond::{self, Fixed};
use super::scratch::Scratch;
use super::{Client, Reply as _, account, drive, mesh, trace};
use crate::config::model::http::{Redirect, SecurityHeaders};
use crate::files::{Body, Site};
use crate::filter::{Answer, RequestContext};
use crate::http::peer::Peer;
use crate::http::snapshot::{
    ActionPlan, FallbackPlan, ListenerId, ListenerPlan, RoutePlan, SharedSnapshot,
};
use crate::http::worker::Worker;
use crate::http::{admission, forwarded};
use crate::message::{Length, Method, Name, Refusal, RefusedBy, RequestHead, ResponseHead, Scheme};
use crate::net::body::Source;
use crate::net::{Nanos, Timer};
use crate::observe::access_log::{End, Phase, Side};
use crate::routing::{self, CompiledRewrite, Query};
use std::net::IpAddr;
use std::rc::Rc;

/// When a client may come back that is refused for want of room, in seconds, if nothing else is
/// known.
const SOON: u64 = 1;

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
    pub worker: &'x Rc<Worker>,
    /// The configuration in force when the request came.
    pub snapshot: &'x SharedSnapshot,
    /// The listener.
    pub listener: &'x ListenerPlan,
    /// Its number.
    pub listener_id: ListenerId,
    /// The client's connection.
    pub peer: &'x Peer,
    /// The one deadline of the task that runs this.
    pub timer: &'x Timer,
}

/// Serves the request in `scratch`, whose notes say when it came.
pub async fn run<C: Client>(around: &Around<'_>, scratch: &mut Scratch, client: &mut C) -> Outcome {
    let cells = around.listener.cells.at(around.worker.index);
    cells.requests_active.add(1);
    trace::begin(around, scratch);
    let (outcome, failure) = match serve(around, scratch, client).await {
        Ok(end) => (Outcome::Complete, Failure::new(end, Phase::Request)),
        Err(failure) => {
            let is_grpc = grpc::is_grpc(&scratch.request.fields);
            let outcome = fail(around, scratch, client, &failure, is_grpc).await;
            (outcome, failure)
        }
    };
    cells.requests_active.sub(1);
    account::account(around, scratch, client, &failure, true);
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
    trace::begin_refused(around, scratch);
    scratch.request.method = Method::Get;
    // What is left of a head tells nothing.
    let outcome = fail(around, scratch, client, &failure, false).await;
    account::account(around, scratch, client, &failure, false);
    outcome
}

async fn serve<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
) -> Result<End, Failure> {
    let settings = &around.listener.settings;
    let Scratch { request, facts, .. } = &mut *scratch;
    if let Some(tls) = &around.peer.tls {
        request.scheme = Scheme::Https;
        let strict = settings.tls.as_ref().is_some_and(|tls| tls.strict_sni);
        if strict && !tls.covers(request.host()) {
            return Err(Failure::refused(Refusal::Misdirected));
        }
    }
    admission::check(request, settings.limits.body_bytes).map_err(Failure::refused)?;
    let from = forwarded::real_client(request, &settings.forwarded, around.peer);
    facts.client = Some(from);
    if settings.forwarded.request_id {
        let random = || around.worker.random();
        forwarded::identify(request, &settings.forwarded, around.peer, random);
    }
    let keep = |request: &RequestHead| facts.keep_target(request);
    admission::normalise(request, keep).map_err(Failure::refused)?;
    if let Some(text) = around.snapshot.challenges().answer(scratch.request.path()) {
        let fixed = Fixed::new(200, b"application/octet-stream", text.as_bytes());
        answer(around, scratch, client, None, &fixed, false).await?;
        return Ok(End::Local);
    }
    if let Some(to) = &around.listener.redirect {
        redirect(around, scratch, client, None, (to, None)).await?;
        return Ok(End::Local);
    }
    let asked = query(&scratch.request, from, around.peer.workload());
    let Some(found) = around.listener.find(&asked) else {
        return mesh::pass_on(around, scratch, client).await;
    };
    scratch.facts.route = Some(found.route);
    scratch.facts.rule = found.rule;
    scratch.facts.prefix_len = found.prefix_len;
    let route = around.snapshot.route(found.route);
    if around.worker.refuses(route.settings.priority) {
        return Err(Failure::new(End::Overloaded, Phase::Request));
    }
    if !route.filters.is_empty() {
        let context = RequestContext {
            listener: &around.listener.settings.name,
            client: from,
            random: around.worker.random(),
        };
        let head = &mut scratch.request;
        let ended = route
            .filters
            .request_head(&mut scratch.states, head, &context);
        let ended = ended.await;
        let faults = scratch.states.faults();
        scratch.facts.fault_delayed = faults.delay;
        if let Some(answer) = ended {
            filtered(around, scratch, client, route, *answer).await?;
            return Ok(match faults.abort {
                true => End::FaultInjected,
                false => End::Local,
            });
        }
    }
    act(around, scratch, client, route).await
}

/// A filter answers.
async fn filtered<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    answer: Answer,
) -> Result<(), Failure> {
    if answer.status >= 400 && grpc::is_grpc(&scratch.request.fields) {
        let said = (grpc::of_http(answer.status), answer.status);
        return grpc::answer(around, scratch, client, Some(route), said, false).await;
    }
    let to_head = scratch.request.method == Method::Head;
    let content = respond::filtered(answer, to_head, &mut scratch.response);
    let content = Octets::new(content);
    send(around, scratch, client, Some(route), content, false).await
}

/// The request's id, if requests have ids here.
pub(super) fn request_id<'r>(around: &Around<'_>, request: &'r RequestHead) -> &'r [u8] {
    let id = around.listener.settings.forwarded.request_id;
    let id = id.then(|| request.fields.get(Name::XRequestId)).flatten();
    id.unwrap_or_default()
}

/// What a request is routed and balanced by.
pub(super) fn query<'a>(
    request: &'a RequestHead,
    source: IpAddr,
    workload: Option<&'a str>,
) -> Query<'a> {
    Query {
        host: request.host(),
        path: request.path(),
        method: &request.method,
        fields: &request.fields,
        query: request.query(),
        source,
        workload,
    }
}

async fn act<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
) -> Result<End, Failure> {
    let service = match &route.action {
        ActionPlan::Service(service) => Some(*service),
        ActionPlan::Split {
            services,
            shares,
            sticky,
        } => {
            let source = scratch.facts.client.unwrap_or_else(|| around.peer.ip());
            let query = query(&scratch.request, source, None);
            let key = sticky.as_ref().and_then(|on| routing::hash_key(on, &query));
            let drawn = shares.choose(key.unwrap_or_else(|| around.worker.random()));
            drawn.map(|drawn| services[drawn])
        }
        ActionPlan::Respond(fixed) => {
            answer(around, scratch, client, Some(route), fixed, false).await?;
            return Ok(End::Local);
        }
        ActionPlan::Redirect(to, path) => {
            redirect(around, scratch, client, Some(route), (to, path.as_ref())).await?;
            return Ok(End::Local);
        }
        ActionPlan::Files(site) => {
            serve_file(around, scratch, client, route, site).await?;
            return Ok(End::Local);
        }
    };
    pass_on(around, scratch, client, route, service).await
}

/// Sends the client elsewhere.
async fn redirect<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: Option<&RoutePlan>,
    (to, path): (&Redirect, Option<&CompiledRewrite>),
) -> Result<(), Failure> {
    let Scratch {
        request,
        response,
        text,
        facts,
        ..
    } = scratch;
    text.clear();
    routing::location(to, path, request, request.path(), facts.prefix_len, text);
    let to_head = request.method == Method::Head;
    respond::redirect(to.status, text, to_head, response);
    let nothing = Octets::new([0_u8; 0]);
    send(around, scratch, client, route, nothing, false).await
}

/// Passes the request on to a service, if there is one and the request may go further.
async fn pass_on<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: Option<usize>,
) -> Result<End, Failure> {
    scratch.facts.service = service;
    let Some(service) = service.and_then(|index| around.snapshot.service(index)) else {
        return Err(Failure::new(End::NoBackend, Phase::Request));
    };
    if hops::count(&mut scratch.request) == Hops::Last {
        return last_hop(around, scratch, client, route).await;
    }
    let failure = match forward(around, scratch, client, route, service).await {
        Ok(()) => return Ok(End::Complete),
        Err(failure) => failure,
    };
    match &service.fallback {
        Some(fallback) if scratch.facts.status == 0 && is_helped(&failure) => {
            fall_back(around, scratch, client, route, fallback, failure).await
        }
        _ => Err(failure),
    }
}

/// True for failures of a service that something else may make up for.
fn is_helped(failure: &Failure) -> bool {
    let is_refused = matches!(failure.refusal, Some((RefusedBy::Client, _)));
    let is_refusal = matches!(
        failure.end,
        End::NoBackend
            | End::QueueFull
            | End::QueueTimeout
            | End::CircuitOpen
            | End::ConcurrencyLimit
            | End::RetryFailed
            | End::RouteTimeout
    );
    !is_refused && (is_refusal || failure.end.side() == Side::Backend)
}

/// Something else answers, because the service cannot.
async fn fall_back<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    fallback: &FallbackPlan,
    failure: Failure,
) -> Result<End, Failure> {
    match fallback {
        FallbackPlan::Respond(fixed) => {
            around.worker.clock.read();
            answer(around, scratch, client, Some(route), fixed, false).await?;
            // What has happened to the service is what logs are to say.
            Ok(failure.end)
        }
        FallbackPlan::Service(name) => {
            let index = around.snapshot.service_named(name);
            let service = index.and_then(|index| around.snapshot.service(index));
            let Some(service) = service.filter(|_| is_whole(scratch)) else {
                return Err(failure);
            };
            scratch.facts.service = index;
            scratch.facts.retry = None;
            forward(around, scratch, client, route, service).await?;
            Ok(End::Complete)
        }
    }
}

/// True if another service can be given the request from its beginning.
fn is_whole(scratch: &Scratch) -> bool {
    let is_kept = scratch.replay.is_active() && scratch.replay.is_whole();
    scratch.request.length == Length::None || scratch.facts.attempts.is_empty() || is_kept
}

/// Answers a request that must not be passed on any further.
pub(super) async fn last_hop<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
) -> Result<End, Failure> {
    let target = match scratch.facts.target.as_slice() {
        [] => scratch.request.target(),
        as_it_came => as_it_came,
    };
    let fixed = hops::answer(&scratch.request, target);
    let content = Octets::new(fixed.write(false, &mut scratch.response));
    if scratch.request.method == Method::Options {
        scratch.response.fields.append(Name::Allow, hops::ALLOW);
    }
    send(around, scratch, client, Some(route), content, false).await?;
    Ok(End::Local)
}

/// Answers with a file of this host.
async fn serve_file<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    site: &Site,
) -> Result<(), Failure> {
    let worker = around.worker;
    let now = worker.wall(worker.clock.last()).as_secs();
    let answer = site.answer(&scratch.request, now, worker.random());
    let status = answer.head.status;
    scratch.response = answer.head;
    let head = &mut scratch.response;
    respond::name_server(head);
    match answer.body {
        Body::File(file, parts) => {
            let content = FileParts::new(file, parts, &worker.buffers);
            send(around, scratch, client, Some(route), content, false).await
        }
        Body::Octets(octets) => {
            let content = Octets::new(octets);
            send(around, scratch, client, Some(route), content, false).await
        }
        Body::ErrorPage => {
            let page = Fixed::of_status(status);
            let to_head = scratch.request.method == Method::Head;
            let content = Octets::new(page.content(to_head, head));
            send(around, scratch, client, Some(route), content, false).await
        }
        Body::None => {
            let content = Octets::new([0_u8; 0]);
            send(around, scratch, client, Some(route), content, false).await
        }
    }
}

/// Answers a failure, if that is still possible and anybody is there to be answered.
async fn fail<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    failure: &Failure,
    is_grpc: bool,
) -> Outcome {
    if let Some((by, refusal)) = failure.refusal {
        around
            .listener
            .cells
            .at(around.worker.index)
            .refused(by, refusal);
        if by == RefusedBy::Client {
            around.worker.refused(&around.peer.live, refusal);
        }
    }
    let is_gone = failure.end == End::ClientClosed && failure.refusal.is_none();
    if scratch.facts.status != 0 || is_gone {
        return Outcome::Cut;
    }
    around.worker.clock.read();
    scratch.facts.retry_after = match failure.end {
        End::CircuitOpen | End::ConcurrencyLimit | End::Overloaded => {
            scratch.facts.retry_after.max(SOON)
        }
        _ => 0,
    };
    let last = failure
        .refusal
        .is_some_and(|(by, _)| by == RefusedBy::Client);
    let answered = if is_grpc {
        let said = (grpc::of_failure(failure), failure.status());
        grpc::answer(around, scratch, client, None, said, last).await
    } else {
        let fixed = respond::to_failure(failure);
        answer(around, scratch, client, None, &fixed, last).await
    };
    match answered {
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
    if route.is_none() && scratch.facts.retry_after > 0 {
        let seconds = scratch.facts.retry_after.to_string();
        let fields = &mut scratch.response.fields;
        fields.append(Name::RetryAfter, seconds.as_bytes());
    }
    if route.is_none() && scratch.response.status == 405 {
        // RFC 9110 §15.5.6 asks for it.
        scratch.response.fields.append(Name::Allow, hops::ALLOW);
    }
    send(around, scratch, client, route, Octets::new(content), last).await
}

/// Sends a response that was made here.
pub(super) async fn send<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: Option<&RoutePlan>,
    mut content: impl Source,
    last: bool,
) -> Result<(), Failure> {
    let head = &mut scratch.response;
    around
        .worker
        .date(|date| head.fields.append(Name::Date, date));
    secure(around, scratch.facts.route, head);
    let filters = route.map(|route| &route.filters);
    let filters = filters.filter(|filters| !filters.is_empty());
    let mut frames = filters.map(|chain| Frames::new(chain, &mut scratch.states, Length::None));
    if let Some(frames) = &mut frames {
        frames.response_head(head);
    }
    // What the client still sends is not wanted.
    let last = last || !client.is_request_done() || around.worker.is_draining();
    scratch.facts.status = head.status;
    scratch.facts.response_head = client.parts().1.send_head(head, last);
    let write = around.listener.timeouts.write;
    match frames.filter(Frames::sees_response) {
        None => drive::reply(client, content, around.timer, write).await,
        Some(mut frames) => {
            let content = frames.response(&mut content);
            drive::reply(client, content, around.timer, write).await
        }
    }
}

/// Adds what tells browsers to be careful.
pub(super) fn secure(around: &Around<'_>, route: Option<usize>, head: &mut ResponseHead) {
    let of_route = route.and_then(|route| around.snapshot.route(route).settings.security_headers);
    let preset = of_route.unwrap_or(around.listener.settings.security_headers);
    if preset != SecurityHeaders::Off {
        crate::filter::secure(preset, &mut head.fields);
    }
}

/// The moment at which an exchange that began now must be over.
pub(super) fn whole_by(now: Nanos, route: &RoutePlan) -> Nanos {
    now.saturating_add(route.timeout)
}
