//! A backend answers: choose one, speak with it, and try another if that may help.

use super::drive::{Drive, Limits};
use super::failure::{Failure, Retry};
use super::run::{Around, query, whole_by};
use super::scratch::{Attempted, Scratch};
use super::{Client, Reply as _};
use crate::balance::l7::{Ask, Lease, Tried, Unavailable, WaitError};
use crate::http::forwarded;
use crate::http::snapshot::{RoutePlan, ServicePlan};
use crate::message::{Name, Refusal, RefusedBy, RequestHead};
use crate::observe::access_log::{End, Octets, Phase};
use crate::observe::http::RetryReason;
use crate::routing::hash_key;
use crate::upstream::Backend;
use crate::upstream::connect::{ConnectError, connect};
use crate::upstream::h1;
use crate::upstream::pool::Place;
use std::future::poll_fn;
use std::time::Duration;

/// Attempts at most, stale connections not counted.
const ATTEMPTS: u32 = 3;

/// Passes the request on and the response back.
pub(super) async fn forward<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
) -> Result<(), Failure> {
    prepare(around, scratch, route);
    let mut tried = Tried::default();
    let mut last = None;
    let mut fresh = false;
    loop {
        let lease = match lease(around, scratch, service, &tried).await {
            Ok(lease) => lease,
            // Nobody is left: what the last one did says more.
            Err(failure) => return Err(last.unwrap_or(failure)),
        };
        let slot = lease.backend().slot();
        let attempt = attempt(around, scratch, client, route, service, lease, fresh);
        let Err(failure) = attempt.await else {
            return Ok(());
        };
        let Some(reason) = reason_to_retry(&failure, scratch) else {
            return Err(failure);
        };
        if reason == RetryReason::Stale {
            // The backend is well, as far as anybody knows: it only had closed the connection.
            fresh = true;
        } else {
            tried.add(slot);
            if tried.count() >= ATTEMPTS {
                return Err(failure);
            }
        }
        service.cells.at(around.worker.index).retried(reason);
        last = Some(failure);
    }
}

/// Why another attempt may be made, if it may.
fn reason_to_retry(failure: &Failure, scratch: &Scratch) -> Option<RetryReason> {
    if scratch.facts.status != 0 {
        return None;
    }
    match failure.retry {
        Retry::No => None,
        Retry::Unseen(reason) => Some(reason),
        Retry::IfIdempotent(reason) => {
            scratch.request.method.is_idempotent().then_some(reason)
        }
    }
}

/// Makes the request what the backend is to see.
fn prepare(around: &Around<'_>, scratch: &mut Scratch, route: &RoutePlan) {
    let settings = &around.listener.settings.forwarded;
    let client = scratch.facts.client.unwrap_or_else(|| around.peer.ip());
    let request = &mut scratch.request;
    forwarded::tell(request, settings, around.peer, client, &mut scratch.text);
    if let Some(host) = &route.settings.rewrite.host {
        request.set_authority(host.as_bytes());
    }
    if let Some(path) = &route.path {
        scratch.facts.keep_target(request);
        scratch.text.clear();
        path.apply(request.path(), scratch.facts.prefix_len, &mut scratch.text);
        request.set_path(&scratch.text);
    }
}

/// The value of a cookie.
fn cookie<'h>(request: &'h RequestHead, name: &[u8]) -> Option<&'h [u8]> {
    let cookies = request.fields.all(Name::Cookie);
    cookies
        .flat_map(|value| value.split(|&c| c == b';'))
        .find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// Chooses a backend; waits for one if all are busy and that is allowed.
async fn lease(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    tried: &Tried,
) -> Result<Lease, Failure> {
    use crate::config::model::http::BalancePolicy::{Maglev, Ring};
    let (worker, timer) = (around.worker, around.timer);
    let key = match &service.settings.balance.policy {
        Maglev(on) | Ring(on) => {
            let source = scratch.facts.client.unwrap_or_else(|| around.peer.ip());
            hash_key(on, &query(&scratch.request, source))
        }
        _ => None,
    };
    let cookie = service.settings.sticky_cookie.as_ref();
    let sticky = cookie.and_then(|cookie| {
        let value = self::cookie(&scratch.request, cookie.name.as_bytes())?;
        crate::balance::l7::sticky::decode(value)
    });
    let ask = Ask {
        key,
        sticky,
        random: worker.random(),
        now: worker.clock.last(),
        tried,
    };
    match service.state.lease(&ask) {
        Ok(lease) => return Ok(lease),
        Err(Unavailable::Busy) => {}
        Err(_) => return Err(Failure::new(End::NoBackend, Phase::Queue)),
    }
    let began = worker.clock.read();
    let waiting = service.state.wait(&ask);
    let mut waiting = waiting.map_err(|_| Failure::new(End::QueueFull, Phase::Queue))?;
    timer.set(waiting.deadline());
    let waited = poll_fn(|cx| {
        // Sets the waker; when time is over the balancer is the one to say so.
        timer.poll_expired(cx);
        waiting.poll(cx, timer.now())
    });
    let waited = waited.await;
    let took = worker.clock.read() - began;
    scratch.facts.queued = Some(took);
    let cells = service.cells.at(worker.index);
    cells.queue_waits.observe(Duration::from_nanos(took));
    waited.map_err(|error| match error {
        WaitError::Timeout => Failure::new(End::QueueTimeout, Phase::Queue),
        WaitError::Unavailable(_) => Failure::new(End::NoBackend, Phase::Queue),
    })
}

/// Speaks with one backend. `fresh`: over a new connection.
async fn attempt<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
    lease: Lease,
    fresh: bool,
) -> Result<(), Failure> {
    let worker = around.worker;
    let backend = lease.backend();
    scratch.facts.attempts.push(Attempted {
        backend: std::sync::Arc::clone(backend),
        began: worker.clock.last(),
        reused: true,
        connect: None,
        head: None,
        total: 0,
        status: 0,
        sent: 0,
        received: Octets::default(),
    });
    let kept = if fresh { None } else { worker.pools.take(backend) };
    let mut connection = match kept {
        Some(connection) => connection,
        None => Box::new(open(around, scratch, service, &lease).await?),
    };
    let spoken = converse(around, scratch, client, route, service, &mut *connection).await;
    let octets = connection.octets();
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.total = worker.clock.last().saturating_sub(attempt.began);
        attempt.sent = octets.0;
        attempt.received.body = octets.1;
    }
    if spoken.is_ok() && connection.is_reusable() {
        let keepalive = service.limits.keepalive;
        let now = worker.clock.last();
        worker.pools.keep(connection, now, keepalive, service.settings.max_idle);
    }
    spoken
}

/// Opens a connection.
async fn open(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    lease: &Lease,
) -> Result<h1::Connection, Failure> {
    let (worker, backend) = (around.worker, lease.backend());
    let place = Place::new(backend, 0);
    let place = place.ok_or(Failure::new(End::QueueFull, Phase::Connect))?;
    let began = worker.clock.read();
    let connected = connect(backend.address(), around.timer, service.limits.connect).await;
    let took = worker.clock.read() - began;
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.reused = false;
        attempt.connect = connected.is_ok().then_some(took);
    }
    match connected {
        Ok(stream) => Ok(h1::Connection::new(stream, place, &worker.buffers)),
        Err(error) => {
            backend.latency().observe_failure(worker.clock.last());
            let end = match &error {
                ConnectError::Timeout => End::ConnectTimeout,
                error if error.is_exhaustion() => {
                    return Err(Failure::new(End::Exhausted, Phase::Connect));
                }
                ConnectError::Io(_) => End::ConnectFailed,
            };
            let failure = Failure::new(end, Phase::Connect);
            Err(failure.retry(Retry::Unseen(RetryReason::Connect)))
        }
    }
}

/// One request and its response over a connection or stream.
async fn converse<C: Client, B: Backend>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
    backend: &mut B,
) -> Result<(), Failure> {
    let (worker, timeouts) = (around.worker, &around.listener.timeouts);
    let now = worker.clock.last();
    let limits = Limits {
        body_idle: timeouts.body_idle,
        body_rate: around.listener.settings.timeouts.body_rate,
        body_bytes: around.listener.settings.limits.body_bytes.unwrap_or(u64::MAX),
        write: timeouts.write,
        response: service.limits.response,
        backend_idle: service.limits.idle,
        whole: whole_by(scratch.facts.head, route),
    };
    backend.start(&scratch.request);
    let mut drive = Drive::new(client, backend, around.timer, &limits);
    let asks_upgrade = !scratch.request.protocol.is_empty();
    loop {
        drive.head(&mut scratch.response).await?;
        if !scratch.response.is_informational() {
            break;
        }
        drive.inform(&scratch.response);
    }
    let head = &mut scratch.response;
    let took = worker.clock.read() - now;
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.head = Some(took);
        attempt.status = head.status;
        attempt.backend.latency().observe(took, worker.clock.last());
    }
    let is_tunnel = head.status == 101;
    if is_tunnel && !asks_upgrade {
        // The codec refuses it, too; an HTTP/2 backend might not.
        return Err(Failure {
            refusal: Some((RefusedBy::Backend, Refusal::Upgrade)),
            ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
        });
    }
    if !head.fields.contains(Name::Date) {
        worker.date(|date| head.fields.append(Name::Date, date));
    }
    if !route.filters.is_empty() {
        route.filters.response_head(&mut scratch.states, head);
    }
    scratch.facts.status = head.status;
    // A client that was not told to send its content may never do so.
    let unwanted = scratch.request.expects_continue && drive.is_request_waiting();
    scratch.facts.response_head = drive.client().parts().1.send_head(head, unwanted);
    if is_tunnel {
        drive.tunnel();
    }
    drive.content().await
}
