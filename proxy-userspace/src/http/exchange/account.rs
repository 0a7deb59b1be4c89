//! What an exchange was, told to the metrics and to the access log.

use super::Client;
use super::failure::Failure;
use super::run::Around;
use super::scratch::{Attempted, Facts, Scratch};
use crate::net::Nanos;
use crate::observe::access_log::{Attempt, Octets, Record, Times};
use std::time::Duration;

/// Counts and logs an exchange. `failure` says how it ended, well or not; `understood`: the
/// request's head was.
pub(super) fn account<C: Client>(
    around: &Around<'_>,
    scratch: &Scratch,
    client: &C,
    failure: &Failure,
    understood: bool,
) {
    let (worker, facts) = (around.worker, &scratch.facts);
    let now = worker.clock.read();
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
    if let Some(service) = facts.service {
        let service = around.snapshot.service(service);
        let name = service.map_or("", |service| service.state.name());
        for attempt in &facts.attempts {
            let status = attempt.status;
            worker.count_backend(name, &attempt.backend, |cells| cells.request(status));
        }
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
    record.service = service.map(|service| service.state.name());
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
    around.worker.log(around.listener_id, &record);
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
