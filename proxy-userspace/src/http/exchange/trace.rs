//! The exchange's part in a trace: begun when the request has come, told to each backend that is
//! tried, recorded when all is over.
//!
//! Without `tracing` in the configuration this is one look per request. What is recorded is made
//! only of exchanges that are sampled, and handed over without waiting.

use super::failure::Failure;
use super::run::Around;
use super::scratch::{Attempted, Scratch};
use crate::config::model::http::PathMatch;
use crate::message::{Name, Version};
use crate::net::Nanos;
use crate::observe::access_log::Octets;
use crate::observe::trace::{AttemptRecord, Incoming, Span, SpanRecord, kept};
use std::time::Duration;

/// Decides whether the exchange is sampled.
pub(super) fn begin(around: &Around<'_>, scratch: &mut Scratch) {
    let Some(plan) = around.snapshot.tracing() else {
        return;
    };
    let random = || around.worker.random();
    let incoming = Incoming::read(&scratch.request.fields);
    let draw = (random() >> 11) as f64 / (1_u64 << 53) as f64;
    let share = around.listener.settings.trace_share;
    let ids = [random(), random(), random()];
    scratch.facts.span = Some(Span::begin(incoming, plan.forms, share, draw, ids));
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
    let Some(span) = facts.span.filter(|span| span.sampled) else {
        return;
    };
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
        span,
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
        refusal: failure.refusal.map(|(_, refusal)| refusal.label()),
    };
    worker.spans.push(record);
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
