//! A backend answers: choose one, speak with it, and try another if that may help.

use super::choose::{keep_client, lease};
use super::drive::{Drive, Limits};
use super::failure::{Failure, Retry};
use super::frames::Frames;
use super::run::{Around, secure, whole_by};
use super::scratch::{Attempted, Scratch};
use super::{Client, Reply as _, mirror, reach, trace};
use crate::balance::l7::{Lease, Tried};
use crate::config::model::http::ProxyVersion;
use crate::http::forwarded;
use crate::http::peer::Peer;
use crate::http::snapshot::{RoutePlan, ServicePlan};
use crate::message::{Method, Name, Refusal, RefusedBy, Version};
use crate::net::proxy_protocol;
use crate::observe::access_log::{End, Octets, Phase, StickyResponse};
use crate::observe::http::{ConnectFailure, RetryReason};
use crate::upstream::Backend;
use crate::upstream::connect::{ConnectError, connect};
use crate::upstream::{h1, h2};
use std::sync::Arc;
use std::time::Duration;

/// Attempts at most, stale connections not counted.
const ATTEMPTS: u32 = 3;

/// Octets of informational heads that one request may be answered with before its answer. They are
/// kept until the client takes them.
const INFORMED: usize = h1::LIMITS.head_bytes as usize;

/// What one of them costs besides its fields: so many short ones come to a few hundred.
const INFORMATIONAL: usize = 128;

/// Passes the request on and the response back.
pub(super) async fn forward<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
) -> Result<(), Failure> {
    prepare(around, scratch, route);
    trace::tell(scratch);
    let mirror = route.settings.mirror.as_ref();
    let mut copy = mirror.and_then(|mirror| {
        let copy = mirror::begin(around, mirror, scratch)?;
        Some((copy, mirror.max_body_bytes))
    });
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
        let copied = copy.take();
        let attempt = attempt(
            around, scratch, client, route, service, lease, fresh, copied,
        );
        let Err(failure) = attempt.await else {
            return Ok(());
        };
        if let Some(attempt) = scratch.facts.attempts.last_mut() {
            attempt.end = failure.end;
            attempt.total = around.worker.clock.read().saturating_sub(attempt.began);
        }
        let Some(reason) = reason_to_retry(&failure, scratch) else {
            return Err(failure);
        };
        if !fresh && matches!(reason, RetryReason::Stale | RetryReason::Refused) {
            // The backend is well, as far as anybody knows: it only had closed the connection, or
            // is about to.
            fresh = true;
        } else {
            tried.add(slot);
            if tried.count() >= ATTEMPTS {
                return Err(failure);
            }
        }
        service.cells.at(around.worker.index).retried(reason);
        scratch.facts.retry = Some(reason);
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
        Retry::IfIdempotent(reason) => scratch.request.method.is_idempotent().then_some(reason),
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

/// Speaks with one backend. `fresh`: over a new connection.
#[expect(
    clippy::too_many_arguments,
    reason = "each is another thing, and none outlives the call"
)]
pub(super) async fn attempt<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
    lease: Lease,
    fresh: bool,
    copy: Option<(mirror::Copy, u64)>,
) -> Result<(), Failure> {
    let worker = around.worker;
    let backend = lease.backend();
    scratch.facts.attempts.push(Attempted {
        backend: Arc::clone(backend),
        began: worker.clock.last(),
        reused: true,
        connect: None,
        head: None,
        total: 0,
        status: 0,
        end: End::Complete,
        sent: 0,
        received: Octets::default(),
        version: Version::Http11,
        retry: scratch.facts.retry,
        span: [0; 8],
    });
    trace::begin_attempt(around, scratch);
    if reach::speaks_h2(around, scratch, service, &lease).await? {
        if let Some(attempt) = scratch.facts.attempts.last_mut() {
            attempt.version = Version::Http2;
        }
        let claim = reach::claim(around, scratch, service, &lease, fresh).await?;
        let mut stream = h2::Exchange::new(claim, fresh);
        let spoken = converse(around, scratch, client, route, service, &mut stream, copy).await;
        note_octets(scratch, stream.octets());
        return spoken;
    }
    reach::prepare_h1(around, &mut scratch.request);
    // A connection that begins with a PROXY header is that client's.
    let is_shared = service.settings.send_proxy.is_none();
    let kept = if fresh || !is_shared {
        None
    } else {
        worker.pools.take(backend)
    };
    let mut connection = match kept {
        Some(connection) => connection,
        None => reach::open_h1(around, scratch, service, &lease, is_shared).await?,
    };
    let spoken = converse(
        around,
        scratch,
        client,
        route,
        service,
        &mut *connection,
        copy,
    )
    .await;
    note_octets(scratch, connection.octets());
    if spoken.is_ok() && is_shared && connection.is_reusable() {
        let keepalive = service.limits.keepalive;
        let now = worker.clock.last();
        worker
            .pools
            .keep(connection, now, keepalive, service.settings.max_idle);
    }
    spoken
}

/// Notes what an attempt has moved.
fn note_octets(scratch: &mut Scratch, (sent, received): (u64, Octets)) {
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.sent = sent;
        attempt.received = received;
    }
}

/// Opens a connection. What this host has not enough of is not counted: the caller may wait.
pub(super) async fn open(
    around: &Around<'_>,
    scratch: &mut Scratch,
    service: &ServicePlan,
    lease: &Lease,
) -> Result<h1::Connection, Failure> {
    let (worker, backend) = (around.worker, lease.backend());
    let began = worker.clock.read();
    let by = began.saturating_add(service.limits.connect);
    let place = worker.place(backend, by).await;
    let place = place.ok_or(Failure::new(End::QueueTimeout, Phase::Connect))?;
    let connected = connect(backend.address(), around.timer, service.limits.connect).await;
    let took = worker.clock.read() - began;
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.reused = false;
        attempt.connect = connected.is_ok().then_some(took);
    }
    let error = match connected {
        Ok(stream) => {
            let mut connection = h1::Connection::new(stream, place, &worker.buffers);
            introduce(&mut connection, around.peer, service);
            let took = Duration::from_nanos(took);
            let name = service.state.name();
            worker.count_backend(name, backend, |cells| cells.connects.observe(took));
            return Ok(connection);
        }
        Err(error) => error,
    };
    let (end, reason) = match &error {
        ConnectError::Timeout => (End::ConnectTimeout, ConnectFailure::Timeout),
        error if error.is_exhaustion() => (End::Exhausted, ConnectFailure::Local),
        ConnectError::Io(error) => (End::ConnectFailed, connect_failure(error.kind())),
    };
    let failure = Failure::new(end, Phase::Connect);
    if end == End::Exhausted {
        return Err(failure);
    }
    let name = service.state.name();
    worker.count_backend(name, backend, |cells| cells.connect_failed(reason));
    backend.latency().observe_failure(worker.clock.last());
    Err(failure.retry(Retry::Unseen(RetryReason::Connect)))
}

pub(super) fn connect_failure(kind: std::io::ErrorKind) -> ConnectFailure {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match kind {
        ConnectionRefused => ConnectFailure::Refused,
        HostUnreachable | NetworkUnreachable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}

/// Tells the backend whose connection it is, if it wants to know.
fn introduce(connection: &mut h1::Connection, peer: &Peer, service: &ServicePlan) {
    let (client, server) = (peer.client, peer.server);
    connection.preamble(|out| match service.settings.send_proxy {
        None => {}
        Some(ProxyVersion::V1) => proxy_protocol::write_v1(client, server, out),
        Some(ProxyVersion::V2) => {
            proxy_protocol::write_v2(client, server, false, &[], false, out);
        }
    });
}

/// One request and its response over a connection or stream.
async fn converse<C: Client, B: Backend>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
    backend: &mut B,
    copy: Option<(mirror::Copy, u64)>,
) -> Result<(), Failure> {
    let (worker, timeouts) = (around.worker, &around.listener.timeouts);
    let now = worker.clock.last();
    let limits = Limits {
        body_idle: timeouts.body_idle,
        body_rate: around.listener.settings.timeouts.body_rate,
        body_bytes: around
            .listener
            .settings
            .limits
            .body_bytes
            .unwrap_or(u64::MAX),
        write: timeouts.write,
        response: service.limits.response,
        backend_idle: service.limits.idle,
        whole: whole_by(scratch.facts.head, route),
    };
    backend.start(&scratch.request);
    let filters = Some(&route.filters).filter(|filters| !filters.is_empty());
    let frames =
        filters.map(|chain| Frames::new(chain, &mut scratch.states, scratch.request.length));
    let mut drive = Drive::new(client, backend, around.timer, &limits, frames);
    drive.keep(copy.as_ref().map(|(_, most)| mirror::Kept::new(*most)));
    let asks_upgrade = !scratch.request.protocol.is_empty();
    let mut informed = 0;
    loop {
        drive.head(&mut scratch.response).await?;
        if !scratch.response.is_informational() {
            break;
        }
        informed += INFORMATIONAL + scratch.response.fields.octets();
        if informed > INFORMED {
            return Err(Failure {
                refusal: Some((RefusedBy::Backend, Refusal::Informational)),
                ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
            });
        }
        drive.inform(&scratch.response);
    }
    let head = &mut scratch.response;
    let took = worker.clock.read() - now;
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.head = Some(worker.clock.last().saturating_sub(attempt.began));
        attempt.status = head.status;
        attempt.backend.latency().observe(took, worker.clock.last());
    }
    let is_tunnel = head.status == 101;
    let is_mistaken = is_tunnel && (!asks_upgrade || drive.is_request_waiting());
    let would_be_one = scratch.request.method == Method::Connect && head.status / 100 == 2;
    if is_mistaken || would_be_one {
        // Nobody asked for it, or there is content left that the other protocol would be given.
        // Or the backend did not change the protocol, and its content would be taken for it.
        return Err(Failure {
            refusal: Some((RefusedBy::Backend, Refusal::Upgrade)),
            ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
        });
    }
    if !head.fields.contains(Name::Date) {
        worker.date(|date| head.fields.append(Name::Date, date));
    }
    if let Some(name) = &around.listener.settings.forwarded.via {
        forwarded::via(&mut head.fields, head.version, name, &mut scratch.text);
    }
    if let Some(cookie) = &service.settings.sticky_cookie
        && let Some(attempt) = scratch.facts.attempts.last()
    {
        let is_new = keep_client(cookie, &scratch.request, &attempt.backend, &mut head.fields);
        if is_new {
            scratch.facts.sticky.1 = StickyResponse::Inserted;
        }
    }
    secure(around, scratch.facts.route, head);
    drive.filter(head);
    scratch.facts.status = head.status;
    // A client that was not told to send its content may never do so.
    let unwanted = scratch.request.expects_continue && drive.is_request_waiting();
    let last = unwanted || worker.is_draining();
    scratch.facts.response_head = drive.client().parts().1.send_head(head, last);
    if is_tunnel {
        drive.tunnel();
    }
    let is_grpc = scratch.facts.span.is_some_and(|span| span.sampled)
        && trace::is_grpc(&scratch.response.fields);
    if is_grpc {
        scratch.facts.grpc_status = trace::grpc_status(&scratch.response.fields);
    }
    let moved = drive.content().await;
    if is_grpc && scratch.facts.grpc_status.is_none() {
        scratch.facts.grpc_status = trace::grpc_status(drive.trailers());
    }
    if let (Some((copy, _)), Some(kept)) = (copy, drive.take_kept()) {
        mirror::send(around, copy, kept);
    }
    moved
}
