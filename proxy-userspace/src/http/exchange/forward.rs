//! A backend answers: choose one, speak with it, and try another if that may help.

use super::admit::{self, Trial};
use super::choose::lease;
use super::converse::converse;
use super::course::{Course, kept, pause, verdict_of, whole_by};
use super::failure::{Failure, Retry};
use super::run::Around;
use super::scratch::{Attempted, Scratch};
use super::{Client, hedge, mirror, reach, trace};
use crate::balance::l7::{BackendState, Lease};
use crate::http::forwarded;
use crate::http::peer::Peer;
use crate::http::snapshot::{RoutePlan, ServicePlan};
use crate::message::Version;
use crate::observe::access_log::{End, Octets, Phase};
use crate::observe::http::{ConnectFailure, RetryReason};
use crate::upstream::Backend as _;
use crate::upstream::connect::{self, ConnectError, Target};
use crate::upstream::tls::Offer;
use crate::upstream::{h1, h2};
use std::sync::Arc;
use std::time::Duration;

/// Passes the request on and the response back.
pub(super) async fn forward<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    route: &RoutePlan,
    service: &ServicePlan,
) -> Result<(), Failure> {
    let whole = whole_by(scratch, route, service);
    let _pass = match service.protection.is_gated() {
        false => None,
        true => Some(admit::enter(around, scratch, service, whole).await?),
    };
    let plan = route.retries.as_ref().unwrap_or(&service.retries);
    let mut copy = None;
    if !std::mem::replace(&mut scratch.facts.is_prepared, true) {
        prepare(around, scratch, route);
        scratch.replay.begin(kept(&scratch.request, plan, service));
        copy = mirrored(around, scratch, route);
    }
    let mut course = Course::new(route, service, plan, whole);
    let mut last = None;
    loop {
        if let Err(refused) = Trial::begin(around, scratch, service) {
            return Err(last.unwrap_or(refused));
        }
        let lease = match lease(around, scratch, service, &course.tried, whole).await {
            Ok(lease) => lease,
            // Nobody is left: what the last one did says more.
            Err(failure) => match last.and_then(|_| course.once_more(around)) {
                None => return Err(last.unwrap_or(failure)),
                Some(wait) => {
                    scratch.facts.trial = None;
                    pause(around, client, wait).await?;
                    continue;
                }
            },
        };
        let slot = lease.backend().slot();
        course.begin(around, scratch);
        let spoken = match hedge::after(route, service, &scratch.request) {
            None => attempt(around, scratch, client, &mut course, lease, copy.take()).await,
            Some(delay) => {
                let hedged = hedge::attempt(around, scratch, client, &mut course, lease, delay);
                Box::pin(hedged).await
            }
        };
        let Err(failure) = spoken else {
            return Ok(());
        };
        let failure = ended(around, scratch, &course, failure);
        let Some(again) = course.after(around, scratch, &failure, slot) else {
            return Err(failure);
        };
        service.cells.at(around.worker.index).retried(again.reason);
        scratch.facts.retry = Some(again.reason);
        last = Some(failure);
        pause(around, client, again.wait).await?;
    }
}

/// Notes how an attempt has ended without an answer that was passed on.
fn ended(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    failure: Failure,
) -> Failure {
    let now = around.worker.clock.read();
    let is_late = matches!(failure.end, End::ConnectTimeout | End::QueueTimeout);
    let failure = if is_late && course.whole <= now {
        Failure::new(End::RouteTimeout, failure.phase)
    } else {
        failure
    };
    let is_answered = matches!(failure.retry, Retry::Decided(_));
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.end = if is_answered {
            End::Complete
        } else {
            failure.end
        };
        attempt.total = now.saturating_sub(attempt.began);
    }
    if let Some(trial) = scratch.facts.trial.take() {
        trial.end(verdict_of(&failure), now);
    }
    if failure.end == End::BackendTimeout
        && let Some(limiter) = &course.service.protection.limiter
    {
        limiter.dropped();
    }
    failure
}

/// The copy of the request for another service, if there is to be one, and the most octets of its
/// content.
fn mirrored(
    around: &Around<'_>,
    scratch: &Scratch,
    route: &RoutePlan,
) -> Option<(mirror::Copy, u64)> {
    let mirror = route.settings.mirror.as_ref()?;
    let copy = mirror::begin(around, mirror, scratch)?;
    Some((copy, mirror.max_body_bytes))
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
    trace::tell(scratch);
}

/// Speaks with one backend.
pub(super) async fn attempt<C: Client>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    course: &mut Course<'_>,
    lease: Lease,
    copy: Option<(mirror::Copy, u64)>,
) -> Result<(), Failure> {
    let (worker, service) = (around.worker, course.service);
    let backend = lease.backend();
    note_attempt(around, scratch, backend);
    if reach::speaks_h2(around, scratch, course, &lease).await? {
        if let Some(attempt) = scratch.facts.attempts.last_mut() {
            attempt.version = Version::Http2;
        }
        let fresh = course.fresh;
        let claim = reach::claim(around, scratch, course, &lease, fresh).await?;
        let mut stream = h2::Exchange::new(claim, fresh);
        let spoken = converse(around, scratch, client, course, &mut stream, copy).await;
        note_octets(scratch, stream.octets());
        return spoken;
    }
    reach::prepare_h1(around, &mut scratch.request);
    // A connection that begins with a PROXY header is that client's.
    let is_shared = service.settings.send_proxy.is_none();
    let kept = if course.fresh || !is_shared {
        None
    } else {
        let seal = service.seal(scratch.request.host());
        worker.pools.take(backend, seal)
    };
    let mut connection = match kept {
        Some(connection) => connection,
        None => reach::open_h1(around, scratch, course, &lease, is_shared).await?,
    };
    let spoken = converse(around, scratch, client, course, &mut *connection, copy).await;
    note_octets(scratch, connection.octets());
    keep(around, service, connection, spoken.is_ok());
    spoken
}

/// Keeps a connection for the next request, if it is good for one.
pub(super) fn keep(
    around: &Around<'_>,
    service: &ServicePlan,
    connection: Box<h1::Connection>,
    is_whole: bool,
) {
    let is_shared = service.settings.send_proxy.is_none();
    if is_whole && is_shared && connection.is_reusable() {
        let (limits, most) = (&service.limits, service.settings.max_idle);
        let now = around.worker.clock.last();
        let pools = &around.worker.pools;
        pools.keep(connection, now, limits.keepalive, most);
    }
}

/// Notes an attempt that begins.
pub(super) fn note_attempt(
    around: &Around<'_>,
    scratch: &mut Scratch,
    backend: &Arc<BackendState>,
) {
    scratch.facts.attempts.push(Attempted {
        backend: Arc::clone(backend),
        service: scratch.facts.service,
        began: around.worker.clock.last(),
        reused: true,
        connect: None,
        head: None,
        total: 0,
        status: 0,
        grpc: None,
        end: End::Complete,
        sent: 0,
        received: Octets::default(),
        version: Version::Http11,
        retry: scratch.facts.retry,
        span: [0; 8],
    });
    trace::begin_attempt(around, scratch);
}

/// Notes what an attempt has moved.
pub(super) fn note_octets(scratch: &mut Scratch, (sent, received): (u64, Octets)) {
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.sent = sent;
        attempt.received = received;
    }
}

/// Opens a connection. What this host has not enough of is not counted: the caller may wait.
pub(super) async fn open(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    lease: &Lease,
) -> Result<h1::Connection, Failure> {
    let (worker, service, backend) = (around.worker, course.service, lease.backend());
    let began = worker.clock.read();
    let limit = course.connect_limit(began);
    let place = worker.place(backend, began.saturating_add(limit)).await;
    let place = place.ok_or(Failure::new(End::QueueTimeout, Phase::Connect))?;
    if course.has_all_connections() {
        return Err(Failure::new(End::CircuitOpen, Phase::Connect));
    }
    let tls = service.tls.as_deref();
    let preamble = match (tls, service.settings.send_proxy) {
        (Some(_), Some(version)) => reach::introduction(around.peer, version),
        _ => Vec::new(),
    };
    let seal = service.seal(scratch.request.host());
    let target = Target {
        backend,
        tls: tls.map(|side| (side, Offer::Http1, seal)),
        watches: &worker.watches,
        preamble: &preamble,
        acceleration: service.acceleration.as_deref(),
    };
    let seal = seal.keep();
    let connected = connect::open(&target, around.timer, limit).await;
    let took = worker.clock.read() - began;
    if let Some(attempt) = scratch.facts.attempts.last_mut() {
        attempt.reused = false;
        attempt.connect = connected.is_ok().then_some(took);
    }
    let error = match connected {
        Ok(stream) => {
            let mut connection = h1::Connection::new(stream, place, seal, &worker.buffers);
            if tls.is_none() {
                introduce(&mut connection, around.peer, service);
            }
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
        ConnectError::Tls(failure) => (failure.end(), failure.reason()),
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
    if let Some(version) = service.settings.send_proxy {
        let header = super::reach::introduction(peer, version);
        connection.preamble(|out| out.extend_from_slice(&header));
    }
}
