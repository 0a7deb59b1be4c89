//! A connection to a backend, and the task that drives it.

use crate::net::h2::{SEND_BUFFER, Watch, Wire};
use crate::net::{Nanos, Stream, Timer};
use crate::upstream::connect::ConnectError;
use crate::upstream::h1::LIMITS;
use crate::upstream::tls::TlsFailure;
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::Notify;

/// How long a request waits in silence before the backend is asked for a sign of life.
const SILENCE: Nanos = 10_000_000_000;

/// How long the sign of life may take.
const PATIENCE: Nanos = 5_000_000_000;

/// Octets of a response that may be in flight to us. They are memory that one slow client binds.
const STREAM_WINDOW: u32 = 256 << 10;

/// A connection on which requests can be made.
#[derive(Debug)]
pub struct Link {
    requests: SendRequest<Bytes>,
    state: Rc<State>,
}

/// What a link and its task share.
#[derive(Debug, Default)]
struct State {
    watch: Rc<Watch>,
    /// Requests on it.
    streams: Cell<u32>,
    /// Requests begun on it.
    served: Cell<u64>,
    /// It gets no new ones.
    is_retired: Cell<bool>,
    /// Since when it has none; 0 if it has, or that was not looked at.
    idle_since: Cell<Nanos>,
    /// The task is told that requests have come, or tells that the state has changed.
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
    pub(super) async fn greet(
        stream: Stream,
        timer: Timer,
        most: u32,
    ) -> Result<(Rc<Self>, Driver), OpenError> {
        let watch: Rc<Watch> = Rc::default();
        let wire = Wire::to_backend(Rc::new(stream), Rc::clone(&watch));
        // All streams together may have in flight what each may: else clients that read slowly
        // would use the connection's window up, and the others' responses would wait for them.
        let window = most.saturating_mul(STREAM_WINDOW).min(i32::MAX as u32);
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .max_header_list_size(LIMITS.head_bytes)
            .max_send_buffer_size(SEND_BUFFER);
        let greeted = builder.handshake(wire).await;
        let (requests, mut connection) =
            greeted.map_err(|_| OpenError::Failed(io::ErrorKind::ConnectionReset))?;
        let state = Rc::new(State {
            watch,
            ..State::default()
        });
        let driver = Driver {
            pings: connection.ping_pong(),
            connection,
            state: Rc::clone(&state),
            timer,
            live_frames: 0,
            silent_since: 0,
            asked_at: None,
            was_settled: false,
        };
        Ok((Rc::new(Self { requests, state }), driver))
    }

    /// Requests that it has room for, if it may have `most`.
    pub fn room(&self, most: u32) -> u32 {
        let state = &self.state;
        if state.is_retired.get() || state.watch.last_stream.get().is_some() {
            return 0;
        }
        let allowed = self.requests.current_max_send_streams();
        let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
        allowed.min(most).saturating_sub(state.streams.get())
    }

    /// A place for one more request.
    pub fn claim(self: &Rc<Self>) -> Claim {
        let state = &self.state;
        state.streams.set(state.streams.get() + 1);
        state.idle_since.set(0);
        let served = state.served.replace(state.served.get() + 1);
        if state.streams.get() == 1 {
            // The silence is measured from now on.
            state.news.notify_waiters();
        }
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
        self.state.is_retired.get() || self.state.watch.last_stream.get().is_some()
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
            if self.state.watch.is_settled.get() {
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
        self.requests.is_extended_connect_protocol_enabled()
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

    /// What makes requests.
    pub(super) fn requests(&self) -> SendRequest<Bytes> {
        self.link.requests.clone()
    }

    /// The last stream that the backend began with, if it is going away.
    pub(super) fn last_stream(&self) -> Option<u32> {
        self.link.state.watch.last_stream.get()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let streams = &self.link.state.streams;
        streams.set(streams.get() - 1);
    }
}

/// What drives a connection.
pub(super) struct Driver {
    connection: client::Connection<Wire, Bytes>,
    pings: Option<PingPong>,
    state: Rc<State>,
    timer: Timer,
    /// HEADERS and DATA that had come when it was last looked.
    live_frames: u32,
    /// Since when none have.
    silent_since: Nanos,
    /// When the backend was asked for a sign of life in this silence, and has not given one.
    asked_at: Option<Sign>,
    was_settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    AskedAt(Nanos),
    Given,
}

impl Driver {
    /// Drives the connection until it ends.
    pub(super) async fn run(mut self) {
        let state = Rc::clone(&self.state);
        self.silent_since = self.timer.read();
        loop {
            // Polled anew after each news, since the task then has to look at its deadline.
            let news = state.news.notified();
            tokio::select! {
                () = std::future::poll_fn(|cx| self.poll(cx)) => break,
                () = news => self.silent_since = self.timer.read(),
            }
        }
        drop(self);
        state.is_retired.set(true);
        state.news.notify_waiters();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let watch = &self.state.watch;
        if watch.is_settled.get() && !self.was_settled {
            self.was_settled = true;
            self.state.news.notify_waiters();
        }
        if self.state.streams.get() == 0 {
            self.timer.clear();
            return Poll::Pending;
        }
        if watch.live_frames.get() != self.live_frames {
            self.live_frames = watch.live_frames.get();
            self.silent_since = self.timer.now();
            self.asked_at = None;
        }
        self.poll_sign(cx);
        let by = match self.asked_at {
            None => self.silent_since.saturating_add(SILENCE),
            Some(Sign::AskedAt(at)) => at.saturating_add(PATIENCE),
            Some(Sign::Given) => Nanos::MAX,
        };
        self.timer.set(by);
        if !self.timer.poll_expired(cx) {
            return Poll::Pending;
        }
        if self.asked_at.is_some() {
            // Nothing came in all this time: what waits fails now and need not wait for longer.
            return Poll::Ready(());
        }
        self.ask();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn ask(&mut self) {
        let asked = self
            .pings
            .as_mut()
            .is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
        self.asked_at = Some(match asked {
            true => Sign::AskedAt(self.timer.read()),
            false => Sign::Given,
        });
    }

    fn poll_sign(&mut self, cx: &mut Context<'_>) {
        if let (Some(Sign::AskedAt(_)), Some(pings)) = (self.asked_at, &mut self.pings)
            && pings.poll_pong(cx).is_ready()
        {
            self.asked_at = Some(Sign::Given);
        }
    }
}
