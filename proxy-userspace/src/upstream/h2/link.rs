//! A connection to a backend, and the task that drives it.

use crate::message::RequestHead;
use crate::net::h2::{Connection, Driver as Frames, Ended, ErrorCode, Place, Role, Settings};
use crate::net::{Buffers, Nanos, Stream, Timer};
use crate::upstream::connect::ConnectError;
use crate::upstream::h1::LIMITS;
use crate::upstream::tls::TlsFailure;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// How long a request waits in silence before the backend is asked for a sign of life.
const SILENCE: Nanos = 10_000_000_000;

/// How long the sign of life may take.
const PATIENCE: Nanos = 5_000_000_000;

/// Octets of a response that may be in flight to us. They are memory that one slow client binds.
const STREAM_WINDOW: u32 = 256 << 10;

/// Largest frame that a backend may send: content is taken in whatever pieces it comes.
const FRAME: u32 = 16 << 10;

/// A connection on which requests can be made.
#[derive(Debug)]
pub struct Link {
    connection: Rc<Connection>,
    state: Rc<State>,
}

/// What a link and its task share.
#[derive(Debug, Default)]
struct State {
    /// Requests on it.
    streams: Cell<u32>,
    /// Requests begun on it.
    served: Cell<u64>,
    /// It gets no new ones.
    is_retired: Cell<bool>,
    /// Since when it has none; 0 if it has, or that was not looked at.
    idle_since: Cell<Nanos>,
    /// Nobody can make requests on it any more.
    is_left: Cell<bool>,
    /// The backend has said what it takes, or the connection has ended.
    news: Notify,
}

/// A place for one request on a link, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    link: Rc<Link>,
    /// The link had served before.
    is_reused: bool,
}

/// A connection that is being opened, and for which requests wait.
#[derive(Debug, Default)]
pub struct Opening {
    outcome: RefCell<Option<Result<Rc<Link>, OpenError>>>,
    pub(super) waiting: Cell<u32>,
    done: Notify,
}

/// No connection could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It took too long.
    Timeout,
    /// This host has no room for it.
    Exhausted,
    /// The system, or the host asked, refused.
    Failed(io::ErrorKind),
    /// There is no TLS with the backend.
    Tls(TlsFailure),
    /// The backend does not speak HTTP/2, or not in time.
    NotHttp2,
}

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Timeout => Self::Timeout,
            error if error.is_exhaustion() => Self::Exhausted,
            ConnectError::Io(error) => Self::Failed(error.kind()),
            ConnectError::Tls(failure) => Self::Tls(failure),
        }
    }
}

impl Opening {
    /// Waits for the outcome.
    pub async fn done(&self) -> Result<Rc<Link>, OpenError> {
        loop {
            let done = self.done.notified();
            if let Some(outcome) = &*self.outcome.borrow() {
                return outcome.clone();
            }
            done.await;
        }
    }

    pub(super) fn finish(&self, outcome: Result<Rc<Link>, OpenError>) {
        self.outcome.replace(Some(outcome));
        self.done.notify_waiters();
    }
}

impl Link {
    /// Greets the backend over a new connection, for `most` requests at once; gives the link and
    /// what drives it.
    pub(super) fn greet(
        stream: Stream,
        timer: Timer,
        most: u32,
        buffers: &Buffers,
    ) -> (Rc<Self>, Driver) {
        // All streams together may have in flight what each may: else clients that read slowly
        // would use the connection's window up, and the others' responses would wait for them.
        let settings = Settings {
            max_streams: 0,
            stream_window: STREAM_WINDOW,
            connection_window: most.saturating_mul(STREAM_WINDOW).min(i32::MAX as u32),
            max_frame: FRAME,
            limits: LIMITS,
        };
        let stream = Rc::new(stream);
        let (connection, frames) = Connection::begin(Role::Client, stream, settings, buffers, &[]);
        let state: Rc<State> = Rc::default();
        let driver = Driver {
            frames,
            connection: Rc::clone(&connection),
            state: Rc::clone(&state),
            timer,
            live_frames: 0,
            silent_since: None,
            sign: Sign::None,
            was_settled: false,
        };
        (Rc::new(Self { connection, state }), driver)
    }

    /// Requests that it has room for, if it may have `most`.
    pub fn room(&self, most: u32) -> u32 {
        if self.is_over() {
            return 0;
        }
        let allowed = self.connection.max_streams();
        allowed.min(most).saturating_sub(self.state.streams.get())
    }

    /// A place for one more request.
    pub fn claim(self: &Rc<Self>) -> Claim {
        let state = &self.state;
        state.streams.set(state.streams.get() + 1);
        state.idle_since.set(0);
        let served = state.served.replace(state.served.get() + 1);
        Claim {
            link: Rc::clone(self),
            is_reused: served > 0,
        }
    }

    /// Gets no new requests from now on, and ends with the last.
    pub fn retire(&self) {
        self.state.is_retired.set(true);
    }

    /// True if it is of no more use.
    pub(super) fn is_over(&self) -> bool {
        self.state.is_retired.get() || !self.connection.is_open()
    }

    /// Begins a request; `None` if the backend takes no more of them.
    pub(super) fn request(&self, head: &RequestHead, has_ended: bool) -> Option<Place> {
        self.connection.request(head, has_ended)
    }

    /// True if no request is on it; `now` is noted if that is news.
    pub(super) fn is_idle_for(&self, now: Nanos, keepalive: Nanos) -> bool {
        let state = &self.state;
        if state.streams.get() > 0 {
            return false;
        }
        if state.idle_since.get() == 0 {
            state.idle_since.set(now);
        }
        now.saturating_sub(state.idle_since.get()) >= keepalive
    }

    /// True if no request is on it.
    pub(super) fn is_idle(&self) -> bool {
        self.state.streams.get() == 0
    }

    /// Waits until the backend has sent its SETTINGS; false if the connection ends before.
    pub async fn settled(&self) -> bool {
        loop {
            let news = self.state.news.notified();
            if self.connection.is_settled() {
                return true;
            }
            if self.state.is_retired.get() {
                return false;
            }
            news.await;
        }
    }

    /// True if the backend takes extended CONNECT (RFC 8441), as far as it has said.
    pub fn has_extended_connect(&self) -> bool {
        self.connection.has_extended_connect()
    }
}

impl Claim {
    /// The link.
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// True if the link had served before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let streams = &self.link.state.streams;
        streams.set(streams.get() - 1);
        if streams.get() == 0 && self.link.is_over() {
            self.link.connection.wake();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.is_left.set(true);
        self.connection.wake();
    }
}

/// What drives a connection.
pub(super) struct Driver {
    frames: Frames,
    connection: Rc<Connection>,
    state: Rc<State>,
    timer: Timer,
    /// HEADERS and DATA that had come when it was last looked.
    live_frames: u32,
    /// Since when none have come that are waited for.
    silent_since: Option<Nanos>,
    sign: Sign,
    was_settled: bool,
}

/// What the backend was asked in this silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    None,
    /// For a sign of life, at this moment, when it had given so many.
    Asked(Nanos, u32),
    Given,
}

impl Driver {
    /// Drives the connection until it ends.
    pub(super) async fn run(mut self) {
        let state = Rc::clone(&self.state);
        poll_fn(|cx| self.poll(cx)).await;
        // What is said last goes out if the backend takes it at once: nobody waits for it.
        poll_fn(|cx| {
            if let Poll::Ready(Ok(())) = self.frames.poll_flush(cx) {
                let _ = self.frames.poll_shutdown(cx);
            }
            Poll::Ready(())
        })
        .await;
        drop(self);
        state.is_retired.set(true);
        state.news.notify_waiters();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.frames.poll(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(Ended::Closed | Ended::Failed(_) | Ended::Fault(_))) => {
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
        }
        if !self.was_settled && self.connection.is_settled() {
            self.was_settled = true;
            self.state.news.notify_waiters();
        }
        if self.state.streams.get() == 0 {
            let is_over = self.state.is_left.get() || !self.connection.is_open();
            if is_over {
                self.connection.fail(ErrorCode::NO_ERROR);
                return Poll::Ready(());
            }
            self.timer.clear();
            self.silent_since = None;
            return Poll::Pending;
        }
        self.poll_silence(cx)
    }

    /// Whether the backend has been silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let watch = self.connection.watch();
            if self.silent_since.is_none() || watch.live_frames != self.live_frames {
                self.live_frames = watch.live_frames;
                self.silent_since = Some(self.timer.now());
                self.sign = Sign::None;
            }
            let by = match self.sign {
                Sign::None => self.silent_since.unwrap_or(0).saturating_add(SILENCE),
                Sign::Asked(_, before) if watch.pongs != before => {
                    self.sign = Sign::Given;
                    Nanos::MAX
                }
                Sign::Asked(at, _) => at.saturating_add(PATIENCE),
                Sign::Given => Nanos::MAX,
            };
            self.timer.set(by);
            if !self.timer.poll_expired(cx) {
                return Poll::Pending;
            }
            if self.sign != Sign::None {
                // Nothing came in all this time: what waits fails now and need not wait for longer.
                return Poll::Ready(());
            }
            self.connection.ask();
            self.sign = Sign::Asked(self.timer.read(), watch.pongs);
        }
    }
}
