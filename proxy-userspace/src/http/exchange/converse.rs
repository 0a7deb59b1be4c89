//! One request and its response over a connection or stream.

use super::choose::keep_client;
use super::course::{Course, verdict};
use super::drive::{Drive, Limits};
use super::failure::Failure;
use super::frames::Frames;
use super::grpc;
use super::run::{Around, secure};
use super::scratch::{Facts, Scratch};
use super::{Client, Reply as _, mirror};
use crate::config::model::http::Accelerate;
use crate::http::forwarded;
use crate::http::snapshot::ServicePlan;
use crate::message::{Method, Name, Refusal, RefusedBy, RequestHead, ResponseHead, Version};
use crate::net::Nanos;
use crate::observe::access_log::{End, Phase, StickyResponse};
use crate::upstream::{Backend, h1};

/// Octets of informational heads that one request may be answered with before its answer. They are
/// kept until the client takes them.
const INFORMED: usize = h1::LIMITS.head_bytes as usize;

/// What one of them costs besides its fields: so many short ones come to a few hundred.
const INFORMATIONAL: usize = 128;

/// Sends the request and passes the response back.
pub(super) async fn converse<C: Client, B: Backend>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    course: &mut Course<'_>,
    backend: &mut B,
    copy: Option<(mirror::Copy, u64)>,
) -> Result<(), Failure> {
    let began = around.worker.clock.last();
    let limits = limits(around, course);
    let Scratch {
        request,
        response,
        facts,
        states,
        text,
        replay,
    } = scratch;
    backend.start(request);
    let filters = Some(&course.route.filters).filter(|filters| !filters.is_empty());
    let frames = filters.map(|chain| Frames::new(chain, states, request.length));
    let mut drive = Drive::new(client, backend, around.timer, &limits, frames, replay);
    drive.keep(copy.as_ref().map(|(_, most)| mirror::Kept::new(*most)));
    head(&mut drive, response).await?;
    let took = around.worker.clock.read() - began;
    noted(around, course, facts, response, [took; 2]);
    if course.plan.looks_at_answers()
        && drive.is_replayable()
        && let Some(failure) = course.replaces(around, &request.method, response)
    {
        return Err(failure);
    }
    relay(
        around,
        course.service,
        &mut drive,
        request,
        response,
        facts,
        text,
    )
    .await?;
    if let (Some((copy, _)), Some(kept)) = (copy, drive.take_kept()) {
        mirror::send(around, copy, kept);
    }
    Ok(())
}

/// As [`converse`], from the moment at which the head of the response was there, for requests
/// without content. `took`: how long the backend had until then, and the client, in nanoseconds.
pub(super) async fn proceed<C: Client, B: Backend>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    client: &mut C,
    course: &mut Course<'_>,
    backend: &mut B,
    took: [Nanos; 2],
) -> Result<(), Failure> {
    let limits = limits(around, course);
    let Scratch {
        request,
        response,
        facts,
        states,
        text,
        replay,
    } = scratch;
    noted(around, course, facts, response, took);
    if course.plan.looks_at_answers()
        && let Some(failure) = course.replaces(around, &request.method, response)
    {
        return Err(failure);
    }
    let filters = Some(&course.route.filters).filter(|filters| !filters.is_empty());
    let frames = filters.map(|chain| Frames::new(chain, states, request.length));
    let mut drive = Drive::new(client, backend, around.timer, &limits, frames, replay);
    drive.skip_request();
    relay(
        around,
        course.service,
        &mut drive,
        request,
        response,
        facts,
        text,
    )
    .await
}

/// Sends a request without content, and waits for the head of its response.
pub(super) async fn ask<B: Backend>(
    around: &Around<'_>,
    scratch: &mut Scratch,
    course: &Course<'_>,
    backend: &mut B,
) -> Result<(), Failure> {
    let limits = limits(around, course);
    backend.start(&scratch.request);
    let mut nobody = mirror::Nobody::new(Vec::new());
    let replay = &mut scratch.replay;
    let mut drive = Drive::new(&mut nobody, backend, around.timer, &limits, None, replay);
    head(&mut drive, &mut scratch.response).await
}

fn limits(around: &Around<'_>, course: &Course<'_>) -> Limits {
    let (listener, service) = (around.listener, course.service);
    Limits {
        body_idle: listener.timeouts.body_idle,
        body_rate: listener.settings.timeouts.body_rate,
        body_bytes: listener.settings.limits.body_bytes.unwrap_or(u64::MAX),
        write: listener.timeouts.write,
        response: service.limits.response,
        backend_idle: service.limits.idle,
        attempt: course.attempt_by,
        whole: course.whole,
    }
}

/// Waits for the final head; informational ones are passed on.
async fn head<C: Client, B: Backend>(
    drive: &mut Drive<'_, C, B>,
    response: &mut ResponseHead,
) -> Result<(), Failure> {
    let mut informed = 0;
    loop {
        drive.head(response).await?;
        if !response.is_informational() {
            return Ok(());
        }
        informed += INFORMATIONAL + response.fields.octets();
        if informed > INFORMED {
            return Err(Failure {
                refusal: Some((RefusedBy::Backend, Refusal::Informational)),
                ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
            });
        }
        drive.inform(response);
    }
}

/// Notes that there is an answer, and tells those who watch the service. `took`: how long it took
/// the backend, and all of them.
fn noted(
    around: &Around<'_>,
    course: &Course<'_>,
    facts: &mut Facts,
    head: &ResponseHead,
    [by_backend, took]: [Nanos; 2],
) {
    let now = around.worker.clock.last();
    if let Some(attempt) = facts.attempts.last_mut() {
        attempt.head = Some(now.saturating_sub(attempt.began));
        attempt.status = head.status;
        attempt.grpc = grpc::status(&head.fields);
        attempt.backend.latency().observe(by_backend, now);
    }
    if let Some(trial) = facts.trial.take() {
        trial.end(verdict(head), now);
    }
    let protection = &course.service.protection;
    if protection.is_watching() {
        if let Some(limiter) = &protection.limiter {
            limiter.observe(took, now);
        }
        if let Some(latencies) = &protection.latencies {
            latencies.observe(took, now);
        }
    }
}

/// Passes an answer on, whose head is there.
async fn relay<C: Client, B: Backend>(
    around: &Around<'_>,
    service: &ServicePlan,
    drive: &mut Drive<'_, C, B>,
    request: &RequestHead,
    head: &mut ResponseHead,
    facts: &mut Facts,
    text: &mut Vec<u8>,
) -> Result<(), Failure> {
    let worker = around.worker;
    let is_tunnel = head.status == 101;
    let is_asked = !request.protocol.is_empty() && !drive.is_request_waiting();
    let would_be_one = request.method == Method::Connect && head.status / 100 == 2;
    if (is_tunnel && !is_asked) || would_be_one {
        // Nobody asked for it, or there is content left that the other protocol would be given.
        // Or the backend did not change the protocol, and its content would be taken for it.
        return Err(Failure {
            refusal: Some((RefusedBy::Backend, Refusal::Upgrade)),
            ..Failure::new(End::BackendProtocol, Phase::ResponseHead)
        });
    }
    dress(around, service, request, head, facts, text);
    drive.filter(head);
    facts.status = head.status;
    // A client that was not told to send its content may never do so.
    let unwanted = request.expects_continue && drive.is_request_waiting();
    let last = unwanted || worker.is_draining();
    facts.response_head = drive.client().parts().1.send_head(head, last);
    if is_tunnel {
        let listener = &around.listener.settings;
        let is_wanted = listener.accelerate != Accelerate::Off;
        let acceleration = service.acceleration.as_ref().filter(|_| is_wanted);
        drive.tunnel(listener.splice, acceleration);
    }
    facts.grpc_status = grpc::status(&head.fields);
    let is_open = facts.grpc_status.is_none();
    // It is spoken over HTTP/2 only.
    let is_grpc = head.version == Version::Http2 && is_open && grpc::is_grpc(&head.fields);
    let moved = drive.content().await;
    if is_grpc && moved.is_ok() {
        facts.grpc_status = grpc::status(drive.trailers());
        if let Some(attempt) = facts.attempts.last_mut() {
            attempt.grpc = facts.grpc_status;
        }
    }
    moved
}

/// Adds what this proxy has to say to the head of a response.
fn dress(
    around: &Around<'_>,
    service: &ServicePlan,
    request: &RequestHead,
    head: &mut ResponseHead,
    facts: &mut Facts,
    text: &mut Vec<u8>,
) {
    if !head.fields.contains(Name::Date) {
        let worker = around.worker;
        worker.date(|date| head.fields.append(Name::Date, date));
    }
    if let Some(name) = &around.listener.settings.forwarded.via {
        forwarded::via(&mut head.fields, head.version, name, text);
    }
    if let Some(cookie) = &service.settings.sticky_cookie
        && let Some(attempt) = facts.attempts.last()
    {
        let is_new = keep_client(cookie, request, &attempt.backend, &mut head.fields);
        if is_new {
            facts.sticky.1 = StickyResponse::Inserted;
        }
    }
    secure(around, facts.route, head);
}
