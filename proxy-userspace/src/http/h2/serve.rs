//! The life of a client's connection.

use super::guard::{Counts, Guard};
use super::stream::{self, Job, Shared};
use crate::http::peer::Peer;
use crate::http::snapshot::{ListenerId, ListenerPlan, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::h1::HeadLimits;
use crate::message::{Refusal, RefusedBy};
use crate::net::h2::{self, Driver, Ended, ErrorCode, Place, Role, Settings, Step};
use crate::net::{Nanos, Stream, Timer};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

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
    let (h2, driver) = h2::Connection::begin(
        Role::Server,
        begun.stream,
        settings(listener),
        &worker.buffers,
        &begun.early,
    );
    drop(begun.early);
    let mut connection = Connection {
        h2,
        driver,
        guard: Guard::new(&listener.settings.http2, worker.clock.last()),
        shared: Rc::new(Shared {
            peer: begun.peer,
            listener: begun.listener,
            open: Cell::new(0),
            requests: Cell::new(0),
            worker: Rc::clone(&worker),
        }),
        timer: worker.timers.timer(),
        stage: Stage::Open,
        idle_by: worker.clock.last().saturating_add(listener.timeouts.idle),
        head_by: None,
        malformed: 0,
        snapshot: Rc::clone(&snapshot),
    };
    drop(snapshot);
    poll_fn(|cx| connection.poll(cx)).await;
    connection.linger().await;
}

fn settings(listener: &ListenerPlan) -> Settings {
    let (http2, limits) = (&listener.settings.http2, &listener.settings.limits);
    Settings {
        max_streams: http2.max_streams,
        stream_window: http2.stream_window_bytes,
        connection_window: http2.connection_window_bytes,
        max_frame: http2.max_frame_bytes,
        limits: HeadLimits {
            fields: limits.fields,
            head_bytes: limits.head_bytes,
            target_bytes: limits.target_bytes,
        },
    }
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
    h2: Rc<h2::Connection>,
    driver: Driver,
    guard: Guard,
    shared: Rc<Shared>,
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
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut has_read = false;
        while self.stage != Stage::Ending {
            let is_waiting = match self.driver.poll(cx) {
                Poll::Ready(Ok(Step::Request(place, read))) => {
                    if !has_read {
                        self.shared.worker.clock.read();
                        has_read = true;
                    }
                    self.begin(place, read);
                    false
                }
                Poll::Ready(Ok(Step::Looked)) => false,
                Poll::Ready(Err(ended)) => {
                    self.ended(&ended);
                    if matches!(ended, Ended::Fault(_)) {
                        break;
                    }
                    return Poll::Ready(());
                }
                Poll::Pending => true,
            };
            self.judge();
            if is_waiting && self.stage != Stage::Ending && self.poll_idle(cx) {
                return match self.h2.is_left() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
        }
        // What is said last goes out, if the client takes it.
        match self.driver.poll_flush(cx) {
            Poll::Pending if !self.timer.poll_expired(cx) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    /// Whether the client behaves.
    fn judge(&mut self) {
        let watch = self.h2.watch();
        self.count_malformed(watch.malformed);
        let now = self.shared.worker.clock.last();
        if !self.guard.allows(Counts::of(&watch), now) {
            self.refused(Refusal::Flood);
            self.end(ErrorCode::ENHANCE_YOUR_CALM);
        }
    }

    /// Nothing comes at the moment. True if there is nothing to do but wait.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        self.refresh();
        if self.stage == Stage::Open && self.is_to_leave() {
            self.stage = Stage::Leaving;
            self.h2.leave();
            return false;
        }
        let by = self.deadline(self.shared.worker.clock.last());
        self.timer.set(by);
        if !self.timer.poll_expired(cx) {
            return true;
        }
        let now = self.shared.worker.clock.read();
        self.expired(now);
        false
    }

    fn begin(&mut self, place: Place, read: Result<(), Refusal>) {
        self.refresh();
        let shared = &self.shared;
        shared.open.set(shared.open.get() + 1);
        let number = shared.requests.get() + 1;
        shared.requests.set(number);
        let worker = &shared.worker;
        let mut scratch = worker.take_scratch();
        self.h2.take_request(&mut scratch.request);
        let job = Job {
            shared: Rc::clone(shared),
            snapshot: Rc::clone(&self.snapshot),
            place,
            scratch,
            read,
            number,
        };
        stream::begin(worker, job);
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
        if !self.driver.is_head_open() {
            self.head_by = None;
        } else if self.head_by.is_none() {
            self.head_by = Some(self.shared.worker.clock.read().saturating_add(head));
        }
        self.head_by.unwrap_or(Nanos::MAX).min(self.idle_by)
    }

    /// A deadline is over.
    fn expired(&mut self, now: Nanos) {
        if self.head_by.is_some_and(|by| by <= now) {
            self.refused(Refusal::HeadTimeout);
            self.end(ErrorCode::ENHANCE_YOUR_CALM);
        } else if self.shared.open.get() == 0 && self.idle_by <= now {
            self.end(ErrorCode::NO_ERROR);
        }
    }

    /// Ends the connection, with whatever streams there are.
    fn end(&mut self, code: ErrorCode) {
        self.h2.fail(code);
        self.begin_end();
    }

    /// What was said is the last.
    fn begin_end(&mut self) {
        self.stage = Stage::Ending;
        let linger = self
            .listener()
            .map_or(0, |listener| listener.timeouts.linger);
        self.shared.worker.clock.read();
        self.timer.set_after(linger);
    }

    /// The connection has ended.
    fn ended(&mut self, ended: &Ended) {
        self.count_malformed(self.h2.watch().malformed);
        let Ended::Fault(code) = ended else { return };
        let refusal = match *code {
            ErrorCode::ENHANCE_YOUR_CALM => Refusal::Flood,
            _ => Refusal::Frame,
        };
        self.refused(refusal);
        self.begin_end();
    }

    /// The client's doing was refused.
    fn refused(&self, refusal: Refusal) {
        self.cells(|cells| cells.refused(RefusedBy::Client, refusal));
        self.shared.worker.refused(&self.shared.peer.live, refusal);
    }

    fn count_malformed(&mut self, now: u32) {
        for _ in 0..now.wrapping_sub(self.malformed).min(u32::from(u16::MAX)) {
            self.refused(Refusal::Malformed);
        }
        self.malformed = now;
    }

    /// Ends our side, and reads until the client has ended its own or its time is over. Closed at
    /// once, with octets of the client unread, the kernel would send a reset, which can overtake
    /// the GOAWAY.
    async fn linger(mut self) {
        self.begin_end();
        let (driver, timer) = (&mut self.driver, &self.timer);
        let mut is_shut = false;
        poll_fn(|cx| {
            if !is_shut {
                match driver.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => is_shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match driver.poll_drop(cx) {
                Poll::Pending if !timer.poll_expired(cx) => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    fn cells(&self, count: impl FnOnce(&crate::observe::http::ListenerCells)) {
        if let Some(listener) = self.listener() {
            count(listener.cells.at(self.shared.worker.index));
        }
    }
}
