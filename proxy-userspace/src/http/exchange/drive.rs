//! Moves a request and its response between a client and a backend, both at once.
//!
//! ```text
//!  head wanted ──▶ informational ──▶ head wanted
//!       └────────▶ final ──▶ content both ways ──▶ over
//!       └────────▶ 101   ──▶ tunnel both ways  ──▶ over
//! ```
//!
//! **Deadlines.** Until the response begins, the client has to send its content and then the backend
//! to answer, each in its own time. From then on the two may be in talks (a gRPC stream, a
//! WebSocket), in which one side is often silent for as long as the other speaks. So what moves in
//! one direction gives the other one time as well, unless that one waits for room: an end that
//! takes nothing is given up however much it says.

use super::failure::{Failure, Retry};
use super::frames::Frames;
use super::mirror::Kept;
use super::pump::{Pump, PumpError, Stalled};
use super::replay::Replay;
use super::{Client, Reply};
use crate::config::model::http::Splice;
use crate::message::{Fields, Refusal, ResponseHead};
use crate::net::body::{Sink as _, Source};
use crate::net::{Nanos, Shortcut, Timer};
use crate::observe::access_log::{End, Phase};
use crate::observe::http::RetryReason;
use crate::sockets::Acceleration;
use crate::upstream::{Answer as _, Backend};
use std::sync::Arc;
use std::task::{Context, Poll};

/// No deadline.
const NEVER: Nanos = Nanos::MAX;

/// How long what may take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The request's content: from one piece to the next.
    pub(super) body_idle: Nanos,
    /// Its least octets per second, after the first `body_idle`; 0 for none.
    pub(super) body_rate: u32,
    /// Its octets.
    pub(super) body_bytes: u64,
    /// A client that takes nothing.
    pub(super) write: Nanos,
    /// From the request's end to the response's head.
    pub(super) response: Nanos,
    /// A backend that gives or takes nothing.
    pub(super) backend_idle: Nanos,
    /// The moment at which the head of the response must be there.
    pub(super) attempt: Nanos,
    /// The moment at which the whole exchange must be over.
    pub(super) whole: Nanos,
}

/// An exchange with a backend under way.
pub(super) struct Drive<'e, C, B> {
    client: &'e mut C,
    backend: &'e mut B,
    timer: &'e Timer,
    limits: &'e Limits,
    request: Pump,
    response: Pump,
    /// What content passes, if the route has filters.
    frames: Option<Frames<'e>>,
    /// What was taken of the request's content, for another attempt.
    replay: &'e mut Replay,
    began: Nanos,
    /// When the request's content, or a tunnel's, must have moved.
    request_by: Nanos,
    /// When the response must have.
    response_by: Nanos,
    phase: Phase,
    tunnel: bool,
    /// The tunnel's way past this process.
    shortcut: Shortcut,
    /// An informational head may not have gone out yet.
    informed: bool,
}

impl<'e, C: Client, B: Backend> Drive<'e, C, B> {
    pub(super) fn new(
        client: &'e mut C,
        backend: &'e mut B,
        timer: &'e Timer,
        limits: &'e Limits,
        frames: Option<Frames<'e>>,
        replay: &'e mut Replay,
    ) -> Self {
        Self {
            client,
            backend,
            timer,
            limits,
            request: Pump::new(limits.body_bytes),
            response: Pump::new(u64::MAX),
            frames,
            replay,
            began: timer.now(),
            request_by: NEVER,
            response_by: NEVER,
            phase: Phase::ResponseHead,
            tunnel: false,
            shortcut: Shortcut::default(),
            informed: false,
        }
    }

    /// Has the request's content copied.
    pub(super) fn keep(&mut self, kept: Option<Kept>) {
        self.request.keep(kept);
    }

    /// The copy, if the content came to its end.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        self.request.take_kept()
    }

    /// True if another backend can be given the request's content from its beginning.
    pub(super) fn is_replayable(&self) -> bool {
        let is_shown = self.frames.as_ref().is_some_and(Frames::has_begun);
        let is_there = if self.replay.is_active() {
            self.replay.is_whole()
        } else {
            self.request.octets() == 0
        };
        is_there && !is_shown
    }

    /// True if the client has not sent all of its content.
    pub(super) fn is_request_waiting(&self) -> bool {
        !self.request.is_over()
    }

    /// The request was sent as a whole already.
    pub(super) fn skip_request(&mut self) {
        self.request.stop();
    }

    /// Shows the filters the response's head.
    pub(super) fn filter(&mut self, head: &mut ResponseHead) {
        if let Some(frames) = &mut self.frames {
            frames.response_head(head);
        }
    }

    /// The client's side.
    pub(super) fn client(&mut self) -> &mut C {
        self.client
    }

    /// What followed the response's content.
    pub(super) fn trailers(&mut self) -> &Fields {
        self.backend.parts().1.trailers()
    }

    /// Waits for the next head of the response; the request's content moves meanwhile.
    pub(super) async fn head(&mut self, head: &mut ResponseHead) -> Result<(), Failure> {
        std::future::poll_fn(|cx| self.poll_head(cx, head)).await
    }

    /// Hands an informational head on.
    pub(super) fn inform(&mut self, head: &ResponseHead) {
        self.client.parts().1.send_head(head, false);
        self.informed = true;
    }

    /// Both directions become a tunnel, which this may take past this process.
    pub(super) fn tunnel(&mut self, splice: Splice, acceleration: Option<&Arc<Acceleration>>) {
        self.client.tunnel();
        self.backend.tunnel();
        self.request = Pump::new(u64::MAX);
        if splice == Splice::Off {
            self.request.copies();
            self.response.copies();
        }
        self.frames = None;
        self.tunnel = true;
        self.shortcut = Shortcut::new(acceleration.filter(|_| splice == Splice::Auto));
    }

    /// Moves the response's content to its end, and the request's as far as it goes.
    pub(super) async fn content(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Data;
        self.replay.settle();
        self.spare_request();
        let moved = std::future::poll_fn(|cx| self.poll_content(cx)).await;
        self.look_past();
        moved
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), Failure>> {
        if !self.request.is_over() {
            self.poll_request(cx)?;
        }
        let reused = self.backend.is_reused();
        if let Poll::Ready(answer) = self.backend.parts().1.poll_head(cx, head) {
            let replayable = self.is_replayable();
            return Poll::Ready(answer.map_err(|error| {
                let mut failure = Failure::of_answer(&error, reused);
                if !replayable {
                    failure.retry = Retry::No;
                }
                failure
            }));
        }
        if self.informed {
            match self.client.parts().1.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.informed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::of_reply())),
                Poll::Pending => {}
            }
        }
        self.poll_idle(cx)
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if !self.request.is_over() {
            self.poll_request(cx)?;
        }
        if !self.response.is_over() {
            let source = self.backend.parts().1;
            let sink = self.client.parts().1;
            let polled = match &mut self.frames {
                Some(frames) if frames.sees_response() => {
                    self.response.poll(cx, &mut frames.response(source), sink)
                }
                _ => self.response.poll(cx, source, sink),
            };
            match polled {
                Poll::Ready(Ok(())) => self.response_by = NEVER,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.response_failed(&error))),
                Poll::Pending => {
                    let moved = self.response.take_moved();
                    let turned = self.response.take_progress();
                    if moved || turned || self.response_by == NEVER {
                        self.timer.read();
                        self.response_by = self.timer.after(self.response_span());
                        if moved {
                            self.spare_request();
                        }
                        self.arm();
                    }
                }
            }
        }
        if self.tunnel {
            self.sync_shortcut();
        }
        if self.response.is_over() && (!self.tunnel || self.request.is_over()) {
            return Poll::Ready(Ok(()));
        }
        self.poll_idle(cx)
    }

    fn response_span(&self) -> Nanos {
        match self.response.stalled() {
            Stalled::Source => self.limits.backend_idle,
            Stalled::Sink if self.tunnel => self.limits.backend_idle,
            Stalled::Sink => self.limits.write,
        }
    }

    /// Moves the request's content. What the backend does not take any more is no failure: it may
    /// have answered already.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let source = self.client.parts().0;
        let sink = self.backend.parts().0;
        let polled = match &mut self.frames {
            Some(frames) if frames.sees_request() => {
                self.request.poll(cx, &mut frames.request(source), sink)
            }
            _ if self.replay.is_active() => {
                self.request.poll(cx, &mut self.replay.of(source), sink)
            }
            _ => self.request.poll(cx, source, sink),
        };
        match polled {
            Poll::Ready(Ok(())) => self.request_sent(),
            Poll::Ready(Err(PumpError::Sink)) => {
                self.request.stop();
                self.request_sent();
            }
            Poll::Ready(Err(PumpError::Source(error))) => {
                return Err(Failure::of_request(&error, self.phase));
            }
            Poll::Ready(Err(PumpError::TooLong)) => {
                return Err(Failure::refused(Refusal::ContentTooLong));
            }
            Poll::Pending => {
                let moved = self.request.take_moved();
                let turned = self.request.take_progress();
                if moved || turned || self.request_by == NEVER {
                    self.timer.read();
                    self.check_rate(moved)?;
                    self.request_by = self.timer.after(self.request_span());
                    if moved {
                        self.spare_response();
                    }
                    self.arm();
                }
            }
        }
        Ok(())
    }

    /// From now on the backend is waited for.
    fn request_sent(&mut self) {
        self.request_by = NEVER;
        if self.phase == Phase::ResponseHead {
            if self.request.octets() > 0 {
                self.timer.read();
            }
            self.response_by = self.timer.after(self.limits.response);
        }
        self.arm();
    }

    fn request_span(&self) -> Nanos {
        match self.request.stalled() {
            Stalled::Source if self.phase == Phase::ResponseHead => self.limits.body_idle,
            Stalled::Source | Stalled::Sink => self.limits.backend_idle,
        }
    }

    /// The response has begun or has moved: a client that says nothing meanwhile has time.
    fn spare_request(&mut self) {
        if self.request_by != NEVER && self.request.stalled() == Stalled::Source {
            self.request_by = self.timer.after(self.request_span());
        }
    }

    /// The request has moved: a backend that has begun to answer and says nothing has time.
    fn spare_response(&mut self) {
        let is_heard = self.phase == Phase::Data && self.response_by != NEVER;
        if is_heard && self.response.stalled() == Stalled::Source {
            self.response_by = self.timer.after(self.limits.backend_idle);
        }
    }

    /// A client that sends its content octet by octet meets every deadline but this one. Once the
    /// response has begun the two sides may be in talks, which has no rate.
    fn check_rate(&self, moved: bool) -> Result<(), Failure> {
        if !moved || self.limits.body_rate == 0 || self.phase != Phase::ResponseHead {
            return Ok(());
        }
        if self.request.stalled() == Stalled::Sink {
            return Ok(());
        }
        let took = self.timer.now().saturating_sub(self.began);
        let least = u128::from(took) * u128::from(self.limits.body_rate) / 1_000_000_000;
        if took > self.limits.body_idle && u128::from(self.request.octets()) < least {
            return Err(Failure::refused(Refusal::BodyTimeout));
        }
        Ok(())
    }

    fn response_failed(&mut self, error: &PumpError) -> Failure {
        match error {
            PumpError::Source(error) => Failure::of_response(error),
            PumpError::Sink | PumpError::TooLong => Failure::of_reply(),
        }
    }

    /// Nothing moves: is the client gone, or the time over?
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let can_tell = C::Reply::IS_TOLD_ALWAYS || (self.request.is_over() && !self.tunnel);
        if can_tell && self.client.parts().1.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::new(End::ClientClosed, self.phase)));
        }
        while self.timer.poll_expired(cx) {
            self.look_past();
            if let Some(failure) = self.expired(self.timer.now()) {
                return Poll::Ready(Err(failure));
            }
            self.arm();
        }
        Poll::Pending
    }

    /// Tells the short way what was passed on, so that it is taken when that is all.
    fn sync_shortcut(&mut self) {
        let was_joined = self.shortcut.is_joined();
        if let (Some(client), Some(backend)) = (self.client.ending(), self.backend.ending()) {
            let up = client.unread + backend.unwritten;
            let down = backend.unread + client.unwritten;
            self.shortcut
                .sync(client.stream, backend.stream, [up, down]);
        }
        if !was_joined && self.shortcut.is_joined() {
            // It is looked at from now on.
            self.arm();
        }
    }

    /// Counts what went past this process: nobody whose octets do is silent.
    fn look_past(&mut self) {
        let now = self.timer.now();
        let past = self.shortcut.look(now);
        if past.up > 0 || past.down > 0 {
            self.client.note_past(past.up, past.down);
            self.backend.note_past(past.up, past.down);
            let by = past.last.saturating_add(self.limits.backend_idle);
            for deadline in [&mut self.request_by, &mut self.response_by] {
                if *deadline != NEVER {
                    *deadline = by.max(*deadline);
                }
            }
        }
        if let (Some(client), Some(backend)) = (self.client.ending(), self.backend.ending()) {
            self.shortcut.watch(client.stream, backend.stream, now);
        }
    }

    /// Whose time is over.
    fn expired(&self, now: Nanos) -> Option<Failure> {
        if self.limits.whole <= now {
            return Some(Failure::new(End::RouteTimeout, self.phase));
        }
        if self.phase == Phase::ResponseHead && self.limits.attempt <= now {
            let failure = Failure::new(End::BackendTimeout, self.phase);
            let retry = Retry::IfIdempotent(RetryReason::Timeout);
            return Some(if self.is_replayable() {
                failure.retry(retry)
            } else {
                failure
            });
        }
        if self.request_by <= now {
            return Some(match self.request.stalled() {
                Stalled::Source if self.tunnel => Failure::new(End::ClientTimeout, self.phase),
                Stalled::Source => Failure {
                    phase: self.phase,
                    ..Failure::refused(Refusal::BodyTimeout)
                },
                Stalled::Sink => Failure::new(End::BackendTimeout, self.phase),
            });
        }
        if self.response_by <= now {
            let by_client = self.phase == Phase::Data && self.response.stalled() == Stalled::Sink;
            let end = if by_client {
                End::ClientTimeout
            } else {
                End::BackendTimeout
            };
            return Some(Failure::new(end, self.phase));
        }
        None
    }

    fn arm(&self) {
        let by = self.request_by.min(self.response_by);
        let by = match self.phase {
            Phase::ResponseHead => by.min(self.limits.attempt),
            _ => by.min(self.shortcut.next_look()),
        };
        self.timer.set(by.min(self.limits.whole));
    }
}

/// Sends the content of a response that is made here, and its head, which was handed over.
pub(super) async fn reply<C: Client, S: Source>(
    client: &mut C,
    mut content: S,
    timer: &Timer,
    write: Nanos,
) -> Result<(), Failure> {
    let (_, reply) = client.parts();
    let mut pump = Pump::new(u64::MAX);
    timer.set_after(write);
    let sent = std::future::poll_fn(|cx| match pump.poll(cx, &mut content, reply) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        Poll::Ready(Err(PumpError::Source(_))) => {
            Poll::Ready(Err(Failure::new(End::Internal, Phase::Data)))
        }
        Poll::Ready(Err(PumpError::Sink | PumpError::TooLong)) => {
            Poll::Ready(Err(Failure::of_reply()))
        }
        Poll::Pending => {
            if pump.take_moved() {
                timer.set(timer.read().saturating_add(write));
            }
            if timer.poll_expired(cx) {
                return Poll::Ready(Err(Failure::new(End::ClientTimeout, Phase::Data)));
            }
            Poll::Pending
        }
    });
    sent.await
}
