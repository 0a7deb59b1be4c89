//! Copies of requests for another service, whose answers are dropped.
//!
//! A copy must not cost the client anything: it is sent when the exchange is over, by a task of
//! its own, from what was kept of the request's content on its way. What is too long is not
//! copied, and when too many copies are under way, later ones are left out.

use super::choose::lease;
use super::course::Course;
use super::forward::attempt;
use super::memory::Octets;
use super::run::Around;
use super::scratch::Scratch;
use super::{Client, Reply};
use crate::balance::l7::Tried;
use crate::config::model::http::Mirror;
use crate::http::peer::Peer;
use crate::http::snapshot::{ListenerId, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::{Fields, Length, ResponseHead};
use crate::net::body::{BodyError, Sink};
use crate::resilience::RetryPlan;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Copies under way on one worker.
const MOST: usize = 256;

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Copy {
    service: usize,
    /// Its heads and notes are those of the copy.
    scratch: Box<Scratch>,
}

/// Content that is kept on its way.
#[derive(Debug)]
pub(super) struct Kept {
    octets: Vec<u8>,
    most: usize,
    is_whole: bool,
}

impl Kept {
    pub(super) fn new(most: u64) -> Self {
        Self {
            octets: Vec::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            is_whole: true,
        }
    }

    /// Content passes by.
    pub(super) fn take(&mut self, content: &[u8]) {
        self.is_whole &= self.octets.len() + content.len() <= self.most;
        if self.is_whole {
            self.octets.extend_from_slice(content);
        } else {
            self.octets = Vec::new();
        }
    }
}

/// Begins a copy, if this request is to have one.
pub(super) fn begin(around: &Around<'_>, mirror: &Mirror, scratch: &Scratch) -> Option<Copy> {
    let worker = around.worker;
    let draw = (worker.random() >> 11) as f64 / (1_u64 << 53) as f64;
    let too_long = matches!(scratch.request.length, Length::Exact(n) if n > mirror.max_body_bytes);
    let is_plain = scratch.request.protocol.is_empty();
    if draw >= mirror.share || too_long || !is_plain || worker.copies().get() >= MOST {
        return None;
    }
    let mut copy = worker.take_scratch();
    copy.request.clone_from(&scratch.request);
    copy.request.expects_continue = false;
    copy.facts.client = scratch.facts.client;
    copy.facts.route = scratch.facts.route;
    Some(Copy {
        service: around.snapshot.service_named(&mirror.service)?,
        scratch: copy,
    })
}

/// Sends a copy, if all of the content was kept.
pub(super) fn send(around: &Around<'_>, mut copy: Copy, kept: Kept) {
    if !kept.is_whole {
        return;
    }
    copy.scratch.request.length = match copy.scratch.request.length {
        Length::None => Length::None,
        Length::Exact(_) | Length::Unknown => Length::Exact(kept.octets.len() as u64),
    };
    tokio::task::spawn_local(deliver(
        Rc::clone(around.worker),
        Rc::clone(around.snapshot),
        around.listener_id,
        around.peer.clone(),
        copy,
        kept.octets,
    ));
}

async fn deliver(
    worker: Rc<Worker>,
    snapshot: SharedSnapshot,
    listener_id: ListenerId,
    peer: Peer,
    mut copy: Copy,
    content: Vec<u8>,
) {
    let timer = worker.timers.timer();
    let (Some(listener), Some(service), Some(route)) = (
        snapshot.listener(listener_id),
        snapshot.service(copy.service),
        copy.scratch.facts.route,
    ) else {
        return;
    };
    let around = Around {
        worker: &worker,
        snapshot: &snapshot,
        listener,
        listener_id,
        peer: &peer,
        timer: &timer,
    };
    worker.copies().set(worker.copies().get() + 1);
    let route = snapshot.route(route);
    copy.scratch.facts.head = worker.clock.read();
    let whole = super::run::whole_by(copy.scratch.facts.head, route);
    copy.scratch.facts.service = Some(copy.service);
    let plan = RetryPlan::NONE;
    let mut course = Course::new(route, service, &plan, whole);
    course.begin(&around, &mut copy.scratch);
    if let Ok(lease) = lease(&around, &mut copy.scratch, service, Tried::NONE, whole).await {
        let mut nobody = Nobody::new(content);
        let scratch = &mut copy.scratch;
        // Whatever becomes of it, nobody is told.
        let _ = attempt(&around, scratch, &mut nobody, &mut course, lease, None).await;
    }
    worker.copies().set(worker.copies().get() - 1);
    worker.put_scratch(copy.scratch);
}

/// A client that is not there.
pub(super) struct Nobody {
    body: Octets<Vec<u8>>,
    reply: Nowhere,
}

impl Nobody {
    /// One that has sent this content.
    pub(super) fn new(content: Vec<u8>) -> Self {
        Self {
            body: Octets::new(content),
            reply: Nowhere,
        }
    }
}

/// A response that is dropped.
pub(super) struct Nowhere;

impl Client for Nobody {
    type Body = Octets<Vec<u8>>;
    type Reply = Nowhere;

    fn parts(&mut self) -> (&mut Octets<Vec<u8>>, &mut Nowhere) {
        (&mut self.body, &mut self.reply)
    }

    fn tunnel(&mut self) {}

    fn is_request_done(&self) -> bool {
        self.body.is_over()
    }

    fn octets(&self) -> (u64, u64) {
        (0, 0)
    }
}

impl Sink for Nowhere {
    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<Result<usize, BodyError>> {
        Poll::Ready(Ok(content.len()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, _: &Fields) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }
}

impl Reply for Nowhere {
    fn send_head(&mut self, _: &ResponseHead, _: bool) -> u64 {
        0
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
