//! Octets from one socket to the other, both ways, until both have ended.
//!
//! What comes in small pieces is read and written. A read that fills its buffer says that much
//! flows, and from then on the kernel moves it from socket to socket through a pipe, until the
//! sender pauses. Between two accelerated ends octets may go past this process altogether, which then
//! only learns how many they were ([`Shortcut`]).
//!
//! A direction holds a buffer or a pipe only while octets are in it: what a connection costs on
//! which nothing moves does not depend on what it has carried. While the receiver takes nothing, nothing
//! more is read from the sender, so a slow reader holds one of them and slows its sender down.

use crate::net::pipe::Pipe;
use crate::net::{Buffers, Input, Nanos, Pipes, Shortcut, Stream, Timer};
use crate::sockets::{Acceleration, Bulk};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The two connections.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) client: &'a Stream,
    pub(super) backend: &'a Stream,
    pub(super) timer: &'a Timer,
    /// How long nothing may move.
    pub(super) idle: Nanos,
    /// What may take octets past this process.
    pub(super) acceleration: Option<&'a Arc<Acceleration>>,
    /// Who is told what flows.
    pub(super) bulk: &'a Bulk,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Direction {
    /// What is sent first.
    pub(super) preamble: Vec<u8>,
    /// What was read and not yet written.
    pub(super) input: Input,
    /// Where octets flow while there are many.
    pipe: Option<Pipe>,
    /// None if they are to be copied.
    pipes: Option<Pipes>,
    /// Octets that were copied although there were more, since that was last told.
    crowded: u64,
    /// Octets of the sender that were written to the receiver.
    pub(super) octets: u64,
    /// When the sender's first octet came.
    pub(super) first_at: Option<Nanos>,
    /// The sender has ended.
    is_ended: bool,
    /// The receiver was told so.
    is_done: bool,
}

/// Why it is over before both have ended.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client's connection failed.
    Client,
    /// The backend's did.
    Backend,
    /// Nothing has moved for too long.
    Idle,
    /// Everything is over.
    Over,
}

/// A side of a direction failed.
enum Failed {
    From,
    To,
}

impl Direction {
    /// A direction whose octets the kernel may move.
    pub(super) fn new(buffers: &Buffers, splices: bool) -> Self {
        Self {
            preamble: Vec::new(),
            input: Input::new(buffers.clone()),
            pipe: None,
            pipes: splices.then(|| buffers.pipes().clone()),
            crowded: 0,
            octets: 0,
            first_at: None,
            is_ended: false,
            is_done: false,
        }
    }

    /// Moves what can be moved. Ready once the sender has ended and the receiver knows.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>> {
        while !self.is_done {
            if !self.preamble.is_empty() || !self.input.is_empty() {
                let written = to.poll_write(cx, &self.preamble, self.input.filled());
                self.took(ready!(written).map_err(|_| Failed::To)?);
            } else if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
                let drained = pipe.poll_drain(cx, to);
                self.octets += ready!(drained).map_err(|_| Failed::To)? as u64;
            } else if self.is_ended {
                ready!(to.poll_shutdown(cx)).map_err(|_| Failed::To)?;
                self.is_done = true;
            } else {
                let read = self.poll_read(cx, from, to);
                if read.is_pending() {
                    self.release();
                }
                self.is_ended = ready!(read).map_err(|_| Failed::From)? == 0;
            }
            *moved = true;
        }
        self.release();
        Poll::Ready(Ok(()))
    }

    /// Octets that were taken from the sender, or are to go before its own, and are not written.
    fn held(&self) -> u64 {
        let piped = self.pipe.as_ref().map_or(0, Pipe::filled);
        (self.preamble.len() + self.input.filled().len() + piped) as u64
    }

    /// What was copied although there was more, and not told before.
    fn take_crowded(&mut self) -> u64 {
        std::mem::take(&mut self.crowded)
    }

    fn release(&mut self) {
        self.input.release();
        self.pipe = None;
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        to: &Stream,
    ) -> Poll<io::Result<usize>> {
        if let Some(pipe) = &mut self.pipe {
            return pipe.poll_fill(cx, from, usize::MAX);
        }
        // No buffer before there is something to put into it.
        ready!(from.poll_readable(cx))?;
        let room = self.input.room();
        let whole = room.len();
        let read = ready!(from.poll_read(cx, room))?;
        self.input.filled_more(read);
        if read == whole {
            // There is more where that came from.
            if let Some(pipes) = &self.pipes
                && from.can_splice()
                && to.can_splice()
            {
                self.pipe = pipes.take();
            } else if self.pipes.is_some() && from.is_plain() && to.is_plain() {
                self.crowded += read as u64;
            }
            if self.pipe.is_none() {
                self.input.grow();
            }
        }
        Poll::Ready(Ok(read))
    }

    fn took(&mut self, written: usize) {
        let of_preamble = written.min(self.preamble.len());
        self.preamble.drain(..of_preamble);
        if self.preamble.is_empty() {
            self.preamble = Vec::new();
        }
        self.input.consume(written - of_preamble);
        self.octets += (written - of_preamble) as u64;
    }
}

/// Moves octets both ways until both have ended, nothing has moved for too long, or `is_over`,
/// which is asked whenever the timers wake everybody. `count` is told what has moved, up and down.
pub(super) async fn both(
    pair: &Pair<'_>,
    up: &mut Direction,
    down: &mut Direction,
    mut count: impl FnMut(u64, u64),
    is_over: impl Fn() -> bool,
) -> Result<(), Broken> {
    let (client, backend) = (pair.client, pair.backend);
    let (mut client_fails, mut backend_fails) = (Failure::of(client), Failure::of(backend));
    let mut pace = Pace::new(pair);
    pace.moved(up, down);
    let moved = poll_fn(|cx| {
        let mut moved = false;
        let before = (up.octets, down.octets);
        let upwards = up.poll(cx, client, backend, &mut moved);
        let downwards = down.poll(cx, backend, client, &mut moved);
        if moved {
            count(up.octets - before.0, down.octets - before.1);
            pace.moved(up, down);
        }
        let upwards = upwards.map_err(|failed| match failed {
            Failed::From => Broken::Client,
            Failed::To => Broken::Backend,
        })?;
        let downwards = downwards.map_err(|failed| match failed {
            Failed::From => Broken::Backend,
            Failed::To => Broken::Client,
        })?;
        if upwards.is_ready() && downwards.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Whoever has ended is not read from any more, and so not heard when it goes altogether.
        if up.is_ended && client_fails.poll(cx) {
            return Poll::Ready(Err(Broken::Client));
        }
        if down.is_ended && backend_fails.poll(cx) {
            return Poll::Ready(Err(Broken::Backend));
        }
        if is_over() {
            return Poll::Ready(Err(Broken::Over));
        }
        while pair.timer.poll_expired(cx) {
            if pace.is_idle(up, down, &mut count) {
                return Poll::Ready(Err(Broken::Idle));
            }
        }
        Poll::Pending
    })
    .await;
    pace.look(up, down, &mut count);
    moved
}

/// When something has moved last, by whichever way.
struct Pace<'a> {
    pair: &'a Pair<'a>,
    shortcut: Shortcut,
    last: Nanos,
}

impl<'a> Pace<'a> {
    fn new(pair: &'a Pair<'a>) -> Self {
        Self {
            pair,
            shortcut: Shortcut::new(pair.acceleration),
            last: 0,
        }
    }

    /// Octets have moved through this process.
    fn moved(&mut self, up: &mut Direction, down: &mut Direction) {
        let now = self.pair.timer.read();
        self.last = now;
        if down.octets > 0 {
            down.first_at.get_or_insert(now);
        }
        self.pair
            .bulk
            .flowed(up.take_crowded() + down.take_crowded(), 0);
        let held = [up.held(), down.held()];
        self.shortcut
            .sync(self.pair.client, self.pair.backend, held);
        self.set();
    }

    fn set(&self) {
        let idle = self.last.saturating_add(self.pair.idle);
        self.pair.timer.set(idle.min(self.shortcut.next_look()));
    }

    /// The time that was set is over: true if nothing has moved for too long.
    fn is_idle(
        &mut self,
        up: &mut Direction,
        down: &mut Direction,
        count: &mut impl FnMut(u64, u64),
    ) -> bool {
        let now = self.pair.timer.now();
        self.look(up, down, count);
        self.shortcut
            .watch(self.pair.client, self.pair.backend, now);
        if self.last.saturating_add(self.pair.idle) <= now {
            return true;
        }
        self.set();
        false
    }

    /// Counts what has gone past this process.
    fn look(&mut self, up: &mut Direction, down: &mut Direction, count: &mut impl FnMut(u64, u64)) {
        let past = self.shortcut.look(self.pair.timer.now());
        if let Some(first) = past.first_down {
            let first = down.first_at.map_or(first, |at| at.min(first));
            down.first_at = Some(first);
        }
        if (past.up, past.down) == (0, 0) {
            return;
        }
        up.octets += past.up;
        down.octets += past.down;
        self.pair.bulk.flowed(0, past.up + past.down);
        count(past.up, past.down);
        self.last = self.last.max(past.last);
    }
}

/// Waits for a connection to fail. Takes memory from the first poll on only: few connections live
/// long after one side has ended.
struct Failure<'a> {
    stream: &'a Stream,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

impl<'a> Failure<'a> {
    fn of(stream: &'a Stream) -> Self {
        Self {
            stream,
            waiting: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let stream = self.stream;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(stream.failed()));
        waiting.as_mut().poll(cx).is_ready()
    }
}
