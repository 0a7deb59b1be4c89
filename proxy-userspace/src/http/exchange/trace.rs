//! The exchange's part in a trace: begun when the request has come, told to each backend that is
//! tried, recorded when all is over.
//!
//! Without `tracing` in the configuration, and while no flow is traced, this is two looks per request. What is recorded is made
//! only of exchanges that are sampled or whose flow is traced, and handed over without waiting.

use super::failure::Failure;
use super::run::Around;
use super::scratch::{Attempted, Scratch};
use crate::config::model::http::PathMatch;
use crate::message::{Name, Scheme, Version};
use crate::net::Nanos;
use crate::observe::access_log::Octets;
use crate::observe::flow::stages::Request;
use crate::observe::flow::{Noted, Stage};
use crate::observe::trace::{AttemptRecord, Exported, Flow, Incoming, Span, SpanRecord, kept};
use std::time::Duration;

/// Decides whether the exchange is sampled.
#[inline]
pub(super) fn begin(around: &Around<'_>, scratch: &mut Scratch) {
    scratch.facts.flow = around.worker.flow(&around.peer.live);
    if let Some(flow) = scratch.facts.flow {
        note_request(around, scratch, flow);
    }
    let Some(plan) = around.snapshot.tracing() else {
        return;
    };
    let random = || around.worker.random();
    let incoming = Incoming::read(&scratch.request.fields);
    let draw = (random() >> 11) as f64 / (1_u64 << 53) as f64;
    let share = around.listener.settings.trace_share;
    let ids = [random(), random(), random()];
    let mut span = Span::begin(incoming, plan.forms, share, draw, ids);
    if let Some(flow) = scratch.facts.flow {
        let (live, number) = (&around.peer.live, scratch.facts.number);
        span = span.within(&around.worker.traced(live, flow, number));
    }
    scratch.facts.span = Some(span);
}

/// As [`begin`], of a request whose head tells nothing.
#[inline]
pub(super) fn begin_refused(around: &Around<'_>, scratch: &mut Scratch) {
    scratch.facts.flow = around.worker.flow(&around.peer.live);
}

/// Tells whoever observes the flow that a request has come, before anything can hold it up.
#[cold]
fn note_request(around: &Around<'_>, scratch: &Scratch, flow: Flow) {
    let (request, facts) = (&scratch.request, &scratch.facts);
    let scheme = match around.peer.tls {
        Some(_) => Scheme::Https,
        None => request.scheme,
    };
    let stage = Request {
        listener: around.listener.settings.name.clone(),
        method: kept(request.method.as_bytes()),
        scheme: scheme.name().to_owned(),
        host: kept(request.host()),
        path: kept(path(request.target())),
        version: version(request.version).to_owned(),
        stream: Some(facts.stream).filter(|stream| *stream != 0),
    };
    let live = &around.peer.live;
    let number = Some(facts.number);
    around
        .worker
        .note(live, flow, number, Stage::Request(stage));
}

/// Tells whoever gets the request of the trace, with the exchange's own span as the parent.
pub(super) fn tell(scratch: &mut Scratch) {
    if let Some(span) = &scratch.facts.span {
        span.propagate(&mut scratch.request.fields);
    }
}

/// Gives the attempt that has just begun a span of its own, and tells its backend.
pub(super) fn begin_attempt(around: &Around<'_>, scratch: &mut Scratch) {
    let Some(span) = scratch.facts.span.filter(|span| span.sampled) else {
        return;
    };
    let child = span.child(around.worker.random());
    child.propagate(&mut scratch.request.fields);
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.span = child.id;
    }
}

/// Records an exchange that is over, if it is sampled.
pub(super) fn record(
    around: &Around<'_>,
    scratch: &Scratch,
    failure: &Failure,
    (received, sent): (Octets, Octets),
    now: Nanos,
) {
    let facts = &scratch.facts;
    let sampled = facts.span.filter(|span| span.sampled);
    if sampled.is_none() && facts.flow.is_none() {
        return;
    }
    let (worker, request, peer) = (around.worker, &scratch.request, around.peer);
    let ended_at = worker.wall(now);
    let route = facts.route.map(|route| around.snapshot.route(route));
    let matched = route.and_then(|route| route.settings.matches.get(facts.rule));
    let service = facts.service.and_then(|it| around.snapshot.service(it));
    let target = match &*facts.target {
        [] => request.target(),
        original => original,
    };
    let attempts = facts.attempts.iter();
    let record = SpanRecord {
        span: sampled.unwrap_or_else(Span::none),
        flow: facts
            .flow
            .map(|flow| worker.traced(&peer.live, flow, facts.number)),
        listener: around.listener.settings.name.clone(),
        route: route.map(|route| route.settings.name.clone()),
        pattern: matched.map(|matched| pattern(&matched.path)),
        service: service.map(|service| service.state.name().to_owned()),
        method: kept(request.method.as_bytes()),
        scheme: request.scheme.name(),
        host: kept(request.host()),
        path: kept(path(target)),
        path_sent: kept(request.path()),
        version: version(request.version),
        user_agent: request.fields.get(Name::UserAgent).map(kept),
        status: facts.status,
        grpc_status: facts.grpc_status,
        client: facts.client.unwrap_or_else(|| peer.ip()),
        peer: peer.client,
        server: peer.server,
        received,
        sent,
        request_id: kept(super::run::request_id(around, request)),
        queued: facts.queued.map(Duration::from_nanos),
        attempts: attempts
            .map(|attempt| attempt_record(attempt, now, ended_at))
            .collect(),
        began_at: before(ended_at, now, facts.began),
        ended_at,
        end: failure.end,
        phase: failure.phase,
        refusal: failure.refusal.map(|(_, refusal)| refusal.label()),
    };
    let record = Box::new(record);
    if record.flow.is_some() {
        worker.flows.note(Noted::Exchange(record.clone()));
    }
    if sampled.is_some() {
        worker.spans.push(Exported::Exchange(record));
    }
}

fn attempt_record(attempt: &Attempted, now: Nanos, ended_at: Duration) -> AttemptRecord {
    let began_at = before(ended_at, now, attempt.began);
    AttemptRecord {
        id: attempt.span,
        backend: attempt.backend.name().to_owned(),
        address: attempt.backend.address(),
        version: version(attempt.version),
        reused: attempt.reused,
        connect: attempt.connect.map(Duration::from_nanos),
        retry: attempt.retry.map(|reason| reason.label()),
        status: attempt.status,
        end: attempt.end,
        sent: attempt.sent,
        received: attempt.received,
        began_at,
        ended_at: began_at + Duration::from_nanos(attempt.total),
    }
}

/// The wall-clock time of `at`, when that of `now` is known.
fn before(wall: Duration, now: Nanos, at: Nanos) -> Duration {
    wall.saturating_sub(Duration::from_nanos(now.saturating_sub(at)))
}

/// What a rule says of paths, as configured: the conventions' `http.route`.
fn pattern(path: &PathMatch) -> String {
    let (PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::Regex(text)) = path;
    text.clone()
}

fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|&octet| octet == b'?');
    &target[..end.unwrap_or(target.len())]
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
    }
}
