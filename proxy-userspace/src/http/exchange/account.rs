//! What an exchange was, told to the metrics, to the trace and to the access log.

use super::failure::Failure;
use super::run::{Around, request_id};
use super::scratch::{Attempted, Facts, Scratch};
use super::{Client, blame, trace};
use crate::filter::Ended;
use crate::http::{forwarded, origins};
use crate::net::Nanos;
use crate::observe::access_log::{Attempt, Counts, Octets, Phase, Record, Side, Times};
use crate::observe::http::RouteCells;
use std::time::Duration;

/// Counts, records and logs an exchange. `failure` says how it ended, well or not; `understood`: the
/// request's head was.
pub(super) fn account<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &C,
    failure: &Failure,
    understood: bool,
) {
    let worker = around.worker;
    let now = worker.clock.read();
    if let Some(last) = scratch.facts.attempts.last_mut()
        && last.total == 0
    {
        // It did not end before the exchange did.
        last.total = now.saturating_sub(last.began);
    }
    let scratch = &*scratch;
    let facts = &scratch.facts;
    let took = span(facts.began, now);
    let (received, sent) = client.octets();
    let received = Octets {
        head: facts.request_head.min(received),
        body: received.saturating_sub(facts.request_head),
    };
    let sent = Octets {
        head: facts.response_head.min(sent),
        body: sent.saturating_sub(facts.response_head),
    };
    around.listener.cells.at(worker.index).ended(failure.end);
    let cells = around.listener.cells_of(facts.route).at(worker.index);
    cells.exchange(&scratch.request.method, facts.status, took, received, sent);
    around.peer.live.request(received.all(), sent.all());
    let is_plain = scratch.request.length.is_empty();
    if matches!(facts.status, 401 | 407 | 429) {
        worker.answered(&around.peer.live, &scratch.request, facts.status);
    }
    count_attempts(around, facts, cells, (failure.phase, is_plain), now);
    trace::record(around, scratch, failure, (received, sent), now);
    if let Some(route) = facts.route.map(|route| around.snapshot.route(route))
        && !route.filters.is_empty()
    {
        let ended = Ended {
            status: facts.status,
            took,
            received: received.all(),
            sent: sent.all(),
            is_complete: failure.end.side() == Side::Nobody,
        };
        route.filters.log(&scratch.states, &ended);
    }
    if around.listener.log.is_some() {
        let mut times = times(facts, now);
        times.ended_at = worker.wall(now);
        log(
            around,
            scratch,
            failure,
            understood,
            (received, sent),
            times,
        );
    }
}

/// Counts what backends were asked and have answered, and reports it to those who judge them.
/// `phase` is that of the last one, the others failed while they were waited for.
fn count_attempts(
    around: &Around<'_>,
    facts: &Facts,
    cells: &RouteCells,
    (phase, is_plain): (Phase, bool),
    now: Nanos,
) {
    for attempt in &facts.attempts {
        let service = attempt.service.and_then(|it| around.snapshot.service(it));
        let of_nobody = match &around.peer.mesh {
            Some(_) => origins::NAME,
            None => "",
        };
        let name = service.map_or(of_nobody, |service| service.state.name());
        if let Some(service) = service
            && let Some(outcome) = blame::outcome(attempt, phase, is_plain)
        {
            let random = || around.worker.random();
            let backend = &attempt.backend;
            service.state.report(backend, outcome, now, random);
        }
        let (sent, received) = (attempt.sent, attempt.received.all());
        cells.attempt(sent, received);
        let head = attempt.head.map(Duration::from_nanos);
        around
            .worker
            .count_backend(name, &attempt.backend, |cells| {
                cells.request(attempt.status, head, sent, received);
            });
    }
}

fn log(
    around: &Around<'_>,
    scratch: &Scratch,
    failure: &Failure,
    understood: bool,
    (received, sent): (Octets, Octets),
    times: Times,
) {
    let (peer, facts) = (around.peer, &scratch.facts);
    let name = &around.listener.settings.name;
    let mut record = Record::new(name, peer.client, peer.server);
    // Nearly always there is one, which then needs no list.
    let one;
    let several: Vec<Attempt<'_>>;
    record.attempts = match facts.attempts.as_slice() {
        [] => &[],
        [only] => {
            one = attempt(only);
            std::slice::from_ref(&one)
        }
        all => {
            several = all.iter().map(attempt).collect();
            &several
        }
    };
    record.route = facts
        .route
        .map(|route| around.snapshot.route(route).settings.name.as_str());
    let service = facts
        .service
        .and_then(|index| around.snapshot.service(index));
    let is_origin = peer.mesh.is_some() && !facts.attempts.is_empty();
    let origin = is_origin.then_some(origins::NAME);
    record.service = service.map(|service| service.state.name()).or(origin);
    record.workload = peer.workload();
    record.real_client = facts.client.unwrap_or_else(|| peer.ip());
    record.connection = peer.number;
    record.connection_requests = facts.number;
    if understood {
        record.request = Some(&scratch.request);
        record.original_target = Some(&*facts.target).filter(|target| !target.is_empty());
    } else {
        record.first_line = &facts.first_line;
    }
    record.status = facts.status;
    record.response = (facts.status != 0).then_some(&scratch.response);
    (record.received, record.sent) = (received, sent);
    record.times = times;
    record.end = failure.end;
    record.phase = failure.phase;
    record.refusal = failure.refusal;
    (record.sticky_request, record.sticky_response) = facts.sticky;
    record.tls = peer.tls.as_ref().map(|tls| tls.record());
    record.fault_delayed = facts.fault_delayed;
    record.trace = facts.span.map(|span| span.ids());
    record.request_id = request_id(around, &scratch.request);
    let made_for_the_log;
    if let Some(plan) = &around.listener.log {
        if plan.format.wants_counts() {
            record.counts = counts(around, facts);
        }
        if record.request_id.is_empty() && plan.format.wants_request_id() {
            made_for_the_log = forwarded::hex(around.worker.random(), around.worker.random());
            record.request_id = &made_for_the_log;
        }
    }
    around.worker.log(around.listener_id, &record);
}

/// How busy the proxy is.
fn counts(around: &Around<'_>, facts: &Facts) -> Counts {
    let [listener, process] = around.listener.open_connections();
    let service = facts.service.and_then(|it| around.snapshot.service(it));
    let (service_queue, backend_queue) = facts.ahead;
    Counts {
        process,
        listener,
        service: service.map_or(0, |service| {
            let in_flight = service.state.selection().in_flight();
            in_flight.saturating_add(service.state.waiting())
        }),
        backend: facts
            .attempts
            .last()
            .map_or(0, |last| last.backend.in_flight()),
        backend_queue,
        service_queue,
    }
}

fn times(facts: &Facts, now: Nanos) -> Times {
    let last = facts.attempts.last();
    let waited = last.and_then(|last| Some((last.head?, last.connect.unwrap_or(0))));
    Times {
        ended_at: Duration::ZERO,
        total: span(facts.began, now),
        idle: span(facts.free, facts.began),
        request_head: (facts.head > 0).then(|| span(facts.began, facts.head)),
        queue: last.map(|_| Duration::from_nanos(facts.queued.unwrap_or(0))),
        connect: last.and_then(|last| {
            let connect = if last.reused { Some(0) } else { last.connect };
            connect.map(Duration::from_nanos)
        }),
        response_head: waited
            .map(|(head, connect)| Duration::from_nanos(head.saturating_sub(connect))),
    }
}

fn attempt(attempt: &Attempted) -> Attempt<'_> {
    Attempt {
        backend: attempt.backend.name(),
        address: attempt.backend.address(),
        reused: attempt.reused,
        status: attempt.status,
        end: attempt.end,
        connect: attempt.connect.map(Duration::from_nanos),
        head: attempt.head.map(Duration::from_nanos),
        total: Duration::from_nanos(attempt.total),
        sent: attempt.sent,
        received: attempt.received,
    }
}

fn span(from: Nanos, to: Nanos) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}
