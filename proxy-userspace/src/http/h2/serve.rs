//! The life of a client's connection.

use super::guard::{Counts, Guard};
use super::stream::{self, Shared};
use crate::http::peer::Peer;
use crate::http::snapshot::{ListenerId, ListenerPlan, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::{Refusal, RefusedBy};
use crate::net::h2::{SEND_BUFFER, Watch, Wire};
use crate::net::{Nanos, Stream, Timer};
use bytes::Bytes;
use h2::Reason;
use h2::server::{self, SendResponse};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::task::spawn_local;

/// Octets that are read and dropped at a time after the end.
const DROPPED: usize = 4096;

/// A connection that has begun with the HTTP/2 preface.
#[derive(Debug)]
pub struct Begun {
    /// The socket.
    pub stream: Rc<Stream>,
    /// What was read from it: the preface and what followed.
    pub early: Vec<u8>,
    /// Its ends.
    pub peer: Peer,
    /// Where it came in.
    pub listener: ListenerId,
}

/// Serves a connection to its end. `snapshot` is in force and has the listener.
pub async fn serve(worker: Rc<Worker>, begun: Begun, snapshot: SharedSnapshot) {
    let Some(listener) = snapshot.listener(begun.listener) else {
        return;
    };
    let timer = worker.timers.timer();
    timer.set_after(listener.timeouts.head);
    let watch: Rc<Watch> = Rc::default();
    let wire = Wire::of_client(Rc::clone(&begun.stream), begun.early, Rc::clone(&watch));
    let settings = builder(listener);
    let mut handshake = pin!(settings.handshake(wire));
    let greeted = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Pending if timer.poll_expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
        Poll::Ready(greeted) => Poll::Ready(greeted.ok()),
    });
    let Some(h2) = greeted.await else { return };
    let linger = listener.timeouts.linger;
    let connection = Connection {
        h2,
        guard: Guard::new(&listener.settings.http2, worker.clock.last()),
        shared: Rc::new(Shared {
            peer: begun.peer,
            listener: begun.listener,
            open: Cell::new(0),
            requests: Cell::new(0),
            worker: Rc::clone(&worker),
        }),
        watch,
        timer,
        stage: Stage::Open,
        idle_by: worker.clock.last().saturating_add(listener.timeouts.idle),
        head_by: None,
        malformed: 0,
        snapshot: Rc::clone(&snapshot),
    };
    let timer = connection.run().await;
    linger_for(&begun.stream, &timer, linger).await;
}

fn builder(listener: &ListenerPlan) -> server::Builder {
    let (settings, limits) = (&listener.settings.http2, &listener.settings.limits);
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .initial_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.connection_window_bytes)
        .max_frame_size(settings.max_frame_bytes)
        .max_header_list_size(limits.head_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(settings.max_resets as usize)
        // Counted by the guard, in windows of time.
        .max_local_error_reset_streams(None)
        .enable_connect_protocol();
    builder
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Streams may be opened.
    Open,
    /// The client was told to open no more.
    Leaving,
    /// It was told that all is over.
    Ending,
}

struct Connection {
    h2: server::Connection<Wire, Bytes>,
    guard: Guard,
    shared: Rc<Shared>,
    watch: Rc<Watch>,
    timer: Timer,
    stage: Stage,
    /// When a connection without streams ends.
    idle_by: Nanos,
    /// When the head that has begun to come must be complete.
    head_by: Option<Nanos>,
    /// Malformed messages that were counted.
    malformed: u32,
    /// The last snapshot that had the listener.
    snapshot: SharedSnapshot,
}

impl Connection {
    /// Runs to the end, and gives the timer back.
    async fn run(mut self) -> Timer {
        poll_fn(|cx| self.poll(cx)).await;
        self.count_refusals();
        self.timer
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = Rc::clone(&self.shared.worker);
        let mut has_read = false;
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if !has_read {
                        worker.clock.read();
                        has_read = true;
                    }
                    self.begin(request, respond);
                    continue;
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if self.watch.malformed.get() != self.malformed {
                self.count_malformed();
            }
            if self.stage == Stage::Ending {
                return match self.timer.poll_expired(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
            if !self
                .guard
                .allows(Counts::of(&self.watch), worker.clock.last())
            {
                self.cells(|cells| cells.refused(RefusedBy::Client, Refusal::Flood));
                self.end(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            self.refresh();
            if self.stage == Stage::Open && self.is_to_leave() {
                self.stage = Stage::Leaving;
                self.h2.graceful_shutdown();
                continue;
            }
            let now = worker.clock.last();
            let by = self.deadline(now);
            self.timer.set(by);
            if !self.timer.poll_expired(cx) {
                return Poll::Pending;
            }
            self.expired(worker.clock.read());
        }
    }

    fn begin(&mut self, request: http::Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
        let shared = &self.shared;
        shared.open.set(shared.open.get() + 1);
        let number = shared.requests.get() + 1;
        shared.requests.set(number);
        self.refresh();
        let (shared, snapshot) = (Rc::clone(&self.shared), Rc::clone(&self.snapshot));
        // Boxed: as a value it would be moved several times on its way into the task and out of it.
        let stream = stream::run(shared, snapshot, request, respond, number);
        spawn_local(Box::pin(stream));
    }

    /// Looks which snapshot is in force.
    fn refresh(&mut self) {
        let worker = &self.shared.worker;
        if !worker.is_serving(&self.snapshot) {
            let snapshot = worker.snapshot();
            if snapshot.listener(self.shared.listener).is_some() {
                self.snapshot = snapshot;
            }
        }
    }

    fn listener(&self) -> Option<&ListenerPlan> {
        self.snapshot.listener(self.shared.listener)
    }

    /// True if the client should open no more streams.
    fn is_to_leave(&self) -> bool {
        let worker = &self.shared.worker;
        let most = self
            .listener()
            .map_or(0, |l| l.settings.max_requests_per_connection);
        worker.is_draining()
            || !worker.is_serving(&self.snapshot)
            || (most > 0 && self.shared.requests.get() >= u64::from(most))
    }

    /// When something is to be done if nothing comes.
    fn deadline(&mut self, now: Nanos) -> Nanos {
        let (idle, head) = match self.listener() {
            Some(listener) => (listener.timeouts.idle, listener.timeouts.head),
            None => (0, 0),
        };
        if self.shared.open.get() > 0 {
            // Looked at again: the last stream may end without news for this task.
            self.idle_by = now.saturating_add(idle);
        }
        if !self.watch.is_head_open.get() {
            self.head_by = None;
        } else if self.head_by.is_none() {
            self.head_by = Some(self.shared.worker.clock.read().saturating_add(head));
        }
        self.head_by.unwrap_or(Nanos::MAX).min(self.idle_by)
    }

    /// A deadline is over.
    fn expired(&mut self, now: Nanos) {
        if self.head_by.is_some_and(|by| by <= now) {
            self.cells(|cells| cells.refused(RefusedBy::Client, Refusal::HeadTimeout));
            self.end(Reason::ENHANCE_YOUR_CALM);
        } else if self.shared.open.get() == 0 && self.idle_by <= now {
            self.end(Reason::NO_ERROR);
        }
    }

    /// Ends the connection, with whatever streams there are.
    fn end(&mut self, reason: Reason) {
        self.stage = Stage::Ending;
        self.h2.abrupt_shutdown(reason);
        let linger = self
            .listener()
            .map_or(0, |listener| listener.timeouts.linger);
        self.shared.worker.clock.read();
        self.timer.set_after(linger);
    }

    fn count_malformed(&mut self) {
        let now = self.watch.malformed.get();
        for _ in 0..now.wrapping_sub(self.malformed).min(u32::from(u16::MAX)) {
            self.cells(|cells| cells.refused(RefusedBy::Client, Refusal::Malformed));
        }
        self.malformed = now;
    }

    /// Counts what `h2` found fault with at the end.
    fn count_refusals(&mut self) {
        self.count_malformed();
        if self.stage == Stage::Ending {
            return;
        }
        let refusal = match Reason::from(self.watch.our_error.get()) {
            Reason::NO_ERROR => return,
            Reason::ENHANCE_YOUR_CALM => Refusal::Flood,
            _ => Refusal::Frame,
        };
        self.cells(|cells| cells.refused(RefusedBy::Client, refusal));
    }

    fn cells(&self, count: impl FnOnce(&crate::observe::http::ListenerCells)) {
        if let Some(listener) = self.listener() {
            count(listener.cells.at(self.shared.worker.index));
        }
    }
}

/// Reads until the client has ended its side or its time is over. Closed at once, with octets of
/// the client unread, the kernel would send a reset, which can overtake the GOAWAY.
async fn linger_for(stream: &Stream, timer: &Timer, linger: Nanos) {
    timer.read();
    timer.set_after(linger);
    let mut octets = vec![0; DROPPED];
    poll_fn(|cx| {
        loop {
            match stream.poll_read(cx, &mut octets) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
