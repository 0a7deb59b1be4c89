//! Ways to a backend: which protocol, and a place on a connection that speaks HTTP/2.

use super::course::Course;
use super::failure::{Failure, Retry};
use super::forward::{connect_failure, open as open_once};
use super::grpc;
use super::run::Around;
use super::scratch::Scratch;
use crate::balance::l7::{BackendState, Lease};
use crate::config::model::http::{BackendProtocol, ProxyVersion};
use crate::http::peer::Peer;
use crate::http::snapshot::ServicePlan;
use crate::http::worker::ASKED;
use crate::message::{Method, Name, Refusal, RefusedBy, RequestHead, Version};
use crate::net::{Nanos, proxy_protocol};
use crate::observe::access_log::{End, Phase};
use crate::observe::http::{ConnectFailure, RetryReason};
use crate::upstream::h1;
use crate::upstream::h2::{Claim, Known, Link, Open, OpenError, Opening};
use crate::upstream::pool::Place;
use crate::upstream::tls::KeptSeal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// How long a backend that may speak HTTP/2 has to show it, where nothing is known of it. Those
/// that do not either answer the preface with an error, or wait for more.
const SHOWN: Duration = Duration::from_secs(1);

/// How often is looked whether there is a descriptor again.
const SHORT: Duration = Duration::from_millis(10);

/// True if this attempt is made over HTTP/2.
///
/// # Errors
///
/// The request needs what the backend has not.
pub(super) async fn speaks_h2(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    lease: &Lease,
) -> Result<bool, Failure> {
    let (links, service) = (&around.worker.pools.h2, course.service);
    let known = || links.known(lease.backend(), service.seal(scratch.request.host()));
    match service.settings.protocol {
        BackendProtocol::H1 => return Ok(false),
        BackendProtocol::H2 if scratch.request.protocol.is_empty() => return Ok(true),
        BackendProtocol::H2 => {}
        BackendProtocol::Auto => match known() {
            Known::H1 => return Ok(false),
            Known::H2 if scratch.request.protocol.is_empty() => return Ok(true),
            Known::H2 => {}
            // TLS says what the backend speaks, so it is asked at once.
            Known::Nothing if service.tls.is_none() && !wants_h2(&scratch.request) => {
                return Ok(false);
            }
            Known::Nothing => {}
        },
    }
    let is_auto = service.settings.protocol == BackendProtocol::Auto;
    let asked = claim(around, scratch, course, lease, false).await;
    if is_auto {
        let known = match &asked {
            Ok(_) => Known::H2,
            Err(failure) if failure.end == End::BackendProtocol => Known::H1,
            Err(_) => Known::Nothing,
        };
        let seal = service.seal(scratch.request.host());
        links.learn(lease.backend(), known, seal, around.worker.clock.last());
        if known == Known::H1 {
            return Ok(false);
        }
    }
    let has_connect = asked?.link().has_extended_connect();
    if scratch.request.protocol.is_empty() || has_connect {
        return Ok(true);
    }
    if is_auto {
        return Ok(false);
    }
    if scratch.request.method == Method::Connect {
        return Err(Failure {
            refusal: Some((RefusedBy::Backend, Refusal::Upgrade)),
            ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
        });
    }
    // A server may ignore an upgrade (RFC 9110 §7.8).
    scratch.request.protocol.clear();
    Ok(true)
}

/// A connection for HTTP/1. Where this host has no descriptor or port left for one, others that are
/// in use will be free soon: the request waits for those as long as opening may take. `is_shared`:
/// one that was kept will do.
pub(super) async fn open_h1(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    lease: &Lease,
    is_shared: bool,
) -> Result<Box<h1::Connection>, Failure> {
    let (worker, backend) = (around.worker, lease.backend());
    let service = course.service;
    let by = worker.clock.read().saturating_add(service.limits.connect);
    let by = by.min(course.attempt_by);
    let mut is_asked = false;
    loop {
        let failure = match open_once(around, scratch, course, lease).await {
            Ok(connection) => return Ok(Box::new(connection)),
            Err(failure) => failure,
        };
        if failure.end != End::Exhausted || worker.clock.read() >= by {
            return Err(failure);
        }
        if !is_asked {
            is_asked = true;
            worker.count_backend(service.state.name(), backend, |cells| {
                cells.connect_failed(ConnectFailure::Local);
            });
            backend.ask_for_idle();
            worker.pools.wanted().notify_waiters();
        }
        tokio::time::sleep(SHORT).await;
        let seal = service.seal(scratch.request.host());
        if is_shared && let Some(kept) = worker.pools.take(backend, seal) {
            return Ok(kept);
        }
    }
}

/// True for requests that lose something over HTTP/1.
fn wants_h2(request: &RequestHead) -> bool {
    let is_wanted = || !request.protocol.is_empty() || grpc::is_grpc(&request.fields);
    request.version == Version::Http2 && is_wanted()
}

/// Makes of a WebSocket over HTTP/2 one over HTTP/1, whose server wants a key (RFC 6455 §4.1).
pub(super) fn prepare_h1(around: &Around<'_>, request: &mut RequestHead) {
    if request.method != Method::Connect
        || !request.protocol.eq_ignore_ascii_case(b"websocket")
        || request.fields.contains(Name::SecWebSocketKey)
    {
        return;
    }
    let random = u128::from(around.worker.random()) << 64 | u128::from(around.worker.random());
    let key = STANDARD.encode(random.to_be_bytes());
    request.fields.append(Name::SecWebSocketKey, key.as_bytes());
}

/// A place on a link, which is opened if none has room. `fresh`: the last attempt has shown that
/// links may have grown old.
pub(super) async fn claim(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    lease: &Lease,
    fresh: bool,
) -> Result<Claim, Failure> {
    let (worker, backend) = (around.worker, lease.backend());
    let (links, service) = (&worker.pools.h2, course.service);
    let most = service.settings.max_streams.max(1);
    let is_shared = service.settings.send_proxy.is_none();
    let seal = service.seal(scratch.request.host()).keep();
    if is_shared
        && !fresh
        && let Some(claim) = links.find(backend, most, seal.seal())
    {
        return Ok(claim);
    }
    let began = worker.clock.read();
    let connect = course.connect_limit(began);
    let by = began.saturating_add(connect);
    let mut is_asked = false;
    loop {
        if is_shared && let Some(claim) = links.find(backend, most, seal.seal()) {
            return Ok(claim);
        }
        let under_way = if is_shared {
            links.opening(backend, most, seal.seal())
        } else {
            None
        };
        let (opening, is_ours) = match under_way {
            Some(opening) => (opening, false),
            None => match place(backend, most) {
                Some(_) if course.has_all_connections() => {
                    return Err(Failure::new(End::CircuitOpen, Phase::Connect));
                }
                Some(place) => (links.open(open(around, service, place, seal.clone())), true),
                None if worker.clock.read() >= by => {
                    return Err(Failure::new(End::QueueTimeout, Phase::Connect));
                }
                None => {
                    if !is_asked {
                        backend.ask_for_idle();
                        worker.pools.wanted().notify_waiters();
                        is_asked = true;
                    }
                    tokio::time::sleep(ASKED).await;
                    continue;
                }
            },
        };
        let opened = done(around, &opening, course.attempt_by).await;
        let took = worker.clock.read() - began;
        if let Some(attempt) = scratch.facts.attempts.last_mut() {
            attempt.reused = false;
            attempt.connect = opened.is_ok().then_some(took);
        }
        if is_ours {
            count(around, service, backend, &opened, took);
        }
        match opened {
            Ok(link) if !is_shared || has_room(&link, most) => {
                return Ok(link.claim());
            }
            // Others were faster.
            Ok(_) => {}
            Err(error) => return Err(not_opened(error)),
        }
    }
}

/// Waits until a link is open. Others may wait for it, so it has its own time, and we may have less.
async fn done(around: &Around<'_>, opening: &Opening, by: Nanos) -> Result<Rc<Link>, OpenError> {
    around.timer.set(by);
    let mut done = pin!(opening.done());
    poll_fn(|cx| match done.as_mut().poll(cx) {
        Poll::Ready(opened) => Poll::Ready(opened),
        Poll::Pending if around.timer.poll_expired(cx) => Poll::Ready(Err(OpenError::Timeout)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn has_room(link: &Link, most: u32) -> bool {
    link.room(most) > 0
}

/// A place for one more connection, unless there are as many as may be.
fn place(backend: &Arc<BackendState>, most: u32) -> Option<Place> {
    // The limit is one of requests: see `ServiceSpec`.
    let limit = match backend.limit() {
        u32::MAX => 0,
        limit => (limit / most).max(1),
    };
    Place::new(backend, limit)
}

fn open(around: &Around<'_>, service: &ServicePlan, place: Place, seal: KeptSeal) -> Open {
    Open {
        place,
        timer: around.worker.timers.timer(),
        timeout: service.limits.connect,
        shown: match service.settings.protocol {
            BackendProtocol::Auto => SHOWN,
            _ => Duration::from_nanos(service.limits.connect),
        },
        keepalive: service.limits.keepalive,
        most: service.settings.max_streams.max(1),
        preamble: service
            .settings
            .send_proxy
            .map(|version| introduction(around.peer, version)),
        tls: service.tls.clone(),
        seal,
        acceleration: service.acceleration.clone(),
        buffers: around.worker.buffers.clone(),
        watches: Rc::clone(&around.worker.watches),
    }
}

/// Tells the backend whose connection it is.
pub(super) fn introduction(peer: &Peer, version: ProxyVersion) -> Vec<u8> {
    let mut header = Vec::new();
    match version {
        ProxyVersion::V1 => proxy_protocol::write_v1(peer.client, peer.server, &mut header),
        ProxyVersion::V2 => {
            let sealed = peer.tls.iter();
            let additions: Vec<_> = sealed.flat_map(|tls| tls.additions()).collect();
            let ends = (peer.client, peer.server);
            proxy_protocol::write_v2(ends.0, ends.1, false, &additions, false, &mut header);
        }
    }
    header
}

/// Counts a connection that was opened, or was not.
fn count(
    around: &Around<'_>,
    service: &ServicePlan,
    backend: &Arc<BackendState>,
    opened: &Result<Rc<Link>, OpenError>,
    took: Nanos,
) {
    let worker = around.worker;
    let reason = match opened {
        Ok(_) => None,
        Err(OpenError::Timeout) => Some(ConnectFailure::Timeout),
        Err(OpenError::Exhausted) => Some(ConnectFailure::Local),
        // By what TLS is for, it has said so: no failure.
        Err(OpenError::NotHttp2)
            if service.tls.is_some() && service.settings.protocol == BackendProtocol::Auto =>
        {
            return;
        }
        Err(OpenError::NotHttp2) => Some(ConnectFailure::Other),
        Err(OpenError::Tls(failure)) => Some(failure.reason()),
        Err(OpenError::Failed(kind)) => Some(connect_failure(*kind)),
    };
    worker.count_backend(service.state.name(), backend, |cells| match reason {
        None => cells.connects.observe(Duration::from_nanos(took)),
        Some(reason) => cells.connect_failed(reason),
    });
    if reason.is_some_and(|reason| reason != ConnectFailure::Local) {
        backend.latency().observe_failure(worker.clock.last());
    }
}

fn not_opened(error: OpenError) -> Failure {
    let failure = |end| Failure::new(end, Phase::Connect);
    let retry = Retry::Unseen(RetryReason::Connect);
    match error {
        OpenError::Timeout => failure(End::ConnectTimeout).retry(retry),
        OpenError::Failed(_) => failure(End::ConnectFailed).retry(retry),
        OpenError::Tls(tls) => failure(tls.end()).retry(retry),
        OpenError::NotHttp2 => failure(End::BackendProtocol).retry(retry),
        OpenError::Exhausted => failure(End::Exhausted),
    }
}
