//! The life of a client's connection.

use super::client::Client;
use crate::http::census::Spoken;
use crate::http::exchange::{self, Around, Outcome, Scratch};
use crate::http::h2;
use crate::http::peer::Peer;
use crate::http::secure::secure;
use crate::http::snapshot::{ListenerId, ListenerPlan, SharedSnapshot};
use crate::http::worker::Worker;
use crate::message::h1::{HeadLimits, RequestParser};
use crate::message::{Refusal, RefusedBy};
use crate::net::body::{Filled, Sink as _, Source as _};
use crate::net::buffer::LARGE;
use crate::net::h2::PREFACE;
use crate::net::proxy_protocol::{self, Origin};
use crate::net::{Nanos, Stream, Timer};
use crate::observe::access_log::End;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// Octets of content that are read and dropped so that the connection can be kept.
const DISCARDED: u64 = 256 << 10;

/// Octets of a request that was not understood that are logged.
const LOGGED: usize = 1024;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// Its ends.
    pub peer: Peer,
    /// Where it came in.
    pub listener: ListenerId,
}

/// How a wait for a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// Something has come.
    Request,
    /// Another snapshot is in force.
    News,
    /// There will be none.
    End,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another one may.
    Request,
    /// The connection is closed, and the client is given time to take what it was sent.
    Linger,
    /// The connection is closed at once, after whole messages.
    Close,
    /// The connection is closed at once. What was sent is not the whole, and its framing says so.
    Cut,
    /// The connection is reset: what was sent is not the whole.
    Reset,
}

/// Serves a client's connection to its end.
pub async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let _counted = worker.count_connection(&accepted.peer.live, accepted.listener);
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listener(accepted.listener) else {
        return;
    };
    let Some(_open) = listener.take_place() else {
        listener.cells.at(worker.index).ended(End::QueueFull);
        return;
    };
    let cells = Arc::clone(&listener.cells);
    cells.at(worker.index).connections.add(1);
    cells.at(worker.index).connections_active.add(1);
    worker.note_accept(&accepted.peer.live, &listener.settings.name);
    // Boxed: a plain connection has no room for it.
    let sealed = match &listener.tls {
        None => Some((accepted.stream, accepted.peer)),
        Some(tls) => {
            let sealing = secure(&worker, listener, tls, accepted.stream, accepted.peer);
            Box::pin(sealing).await
        }
    };
    let Some((stream, peer)) = sealed else {
        cells.at(worker.index).connections_active.sub(1);
        return;
    };
    let connection = Connection {
        client: Client::new(stream, &worker.buffers, limits(listener)),
        timer: worker.timers.timer(),
        parser: RequestParser::default(),
        requests: 0,
        free: worker.clock.read(),
        peer,
        listener: accepted.listener,
        worker: Rc::clone(&worker),
    };
    drop(snapshot);
    connection.run().await;
    cells.at(worker.index).connections_active.sub(1);
}

/// What a log shows of a request that was not understood.
fn note_first_line(octets: &[u8], line: &mut Vec<u8>) {
    let end = octets.iter().position(|&octet| octet == b'\n');
    let first = &octets[..end.unwrap_or(octets.len()).min(LOGGED)];
    line.extend_from_slice(first.strip_suffix(b"\r").unwrap_or(first));
}

fn limits(listener: &ListenerPlan) -> HeadLimits {
    let limits = &listener.settings.limits;
    HeadLimits {
        fields: limits.fields,
        // A head has to fit into one buffer.
        head_bytes: limits.head_bytes.min(LARGE as u32),
        target_bytes: limits.target_bytes,
    }
}

struct Connection {
    client: Client,
    timer: Timer,
    parser: RequestParser,
    requests: u64,
    /// When the connection became free for a request.
    free: Nanos,
    peer: Peer,
    listener: ListenerId,
    worker: Rc<Worker>,
}

impl Connection {
    async fn run(mut self) {
        let mut last: Option<SharedSnapshot> = None;
        if !self.proxy_header().await {
            return;
        }
        let next = loop {
            let mut snapshot = self.worker.snapshot();
            if snapshot.listener(self.listener).is_none() {
                // The listener was taken away. A request that is under way already is served as
                // it would have been before.
                match last
                    .take()
                    .filter(|_| !self.client.reader.octets().is_empty())
                {
                    Some(before) => snapshot = before,
                    None => break Next::Close,
                }
            }
            let Some(listener) = snapshot.listener(self.listener) else {
                break Next::Close;
            };
            match self.wait(listener).await {
                Waited::Request => {}
                Waited::News => continue,
                Waited::End => break Next::Close,
            }
            if self.requests == 0 && self.is_http2(listener).await {
                // Boxed: else each connection would have room for both.
                return Box::pin(self.become_http2(snapshot)).await;
            }
            let agreed = self.peer.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
            if listener.settings.http2.only || (self.requests == 0 && agreed == Some(b"h2")) {
                let cells = listener.cells.at(self.worker.index);
                cells.refused(RefusedBy::Client, Refusal::Preface);
                self.worker.refused(&self.peer.live, Refusal::Preface);
                break Next::Close;
            }
            let mut scratch = self.worker.take_scratch();
            let next = self.request(&snapshot, listener, &mut scratch).await;
            self.worker.put_scratch(scratch);
            if next != Next::Request {
                break next;
            }
            self.free = self.worker.clock.last();
            last = Some(snapshot);
        };
        self.end(next).await;
    }

    /// Reads the PROXY header, if the client is one of those that send it. False if it is not
    /// valid: then nothing that follows can be believed, and nobody is answered.
    async fn proxy_header(&mut self) -> bool {
        let snapshot = self.worker.snapshot();
        let Some(listener) = snapshot.listener(self.listener) else {
            return true;
        };
        if self.peer.tls.is_some() {
            // It came before the handshake.
            return true;
        }
        let senders = &listener.settings.proxy_protocol_from;
        if !senders.iter().any(|net| net.contains(&self.peer.ip())) {
            return true;
        }
        self.timer.set_after(listener.timeouts.head);
        let (reader, timer) = (&mut self.client.reader, &self.timer);
        let origin = poll_fn(|cx| {
            loop {
                let octets = reader.octets();
                match proxy_protocol::parse(octets) {
                    Ok(Some((header, consumed))) => {
                        let origin = header.origin;
                        reader.consume_head(consumed);
                        return Poll::Ready(Some(origin));
                    }
                    Ok(None) if octets.len() < proxy_protocol::MAX_LENGTH => {}
                    Ok(None) | Err(_) => return Poll::Ready(None),
                }
                match reader.poll_more(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        match origin.await {
            Some(Origin::Client { client, server, .. }) => {
                self.peer = self.peer.behind(client, server);
                self.worker.note_proxy(&self.peer.live);
            }
            Some(Origin::Local | Origin::Unknown) => {}
            None => {
                let cells = listener.cells.at(self.worker.index);
                cells.refused(RefusedBy::Client, Refusal::ProxyHeader);
                return false;
            }
        }
        true
    }

    /// Waits for a request's first octets, without a buffer until they are there.
    async fn wait(&mut self, listener: &ListenerPlan) -> Waited {
        if !self.client.reader.octets().is_empty() {
            self.worker.clock.read();
            return Waited::Request;
        }
        if self.client.reader.is_ended() {
            return Waited::End;
        }
        self.timer.set_after(listener.timeouts.idle);
        let (client, worker, timer) = (&mut self.client, &self.worker, &self.timer);
        let before = worker.snapshot();
        let waited = poll_fn(|cx| match client.reader.poll_more(cx) {
            Poll::Ready(Ok(1..)) => Poll::Ready(Waited::Request),
            Poll::Ready(_) => Poll::Ready(Waited::End),
            Poll::Pending if timer.poll_expired(cx) || worker.ends_idle() => {
                Poll::Ready(Waited::End)
            }
            Poll::Pending if worker.is_serving(&before) => Poll::Pending,
            Poll::Pending => Poll::Ready(Waited::News),
        });
        let waited = waited.await;
        self.worker.clock.read();
        waited
    }

    /// True if the connection begins with the preface of HTTP/2, and that is served here.
    async fn is_http2(&mut self, listener: &ListenerPlan) -> bool {
        if !listener.settings.http2.enabled || self.client.reader.octets()[0] != PREFACE[0] {
            return false;
        }
        let agreed = self.peer.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
        if agreed.is_some_and(|protocol| protocol != b"h2") {
            return false;
        }
        self.timer.set_after(listener.timeouts.head);
        let (reader, timer) = (&mut self.client.reader, &self.timer);
        poll_fn(|cx| {
            loop {
                let octets = reader.octets();
                if !octets
                    .iter()
                    .zip(PREFACE)
                    .all(|(come, wanted)| come == wanted)
                {
                    return Poll::Ready(false);
                }
                if octets.len() >= PREFACE.len() {
                    return Poll::Ready(true);
                }
                match reader.poll_more(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn become_http2(self, snapshot: SharedSnapshot) {
        self.peer.live.set_protocol(Spoken::H2);
        let (stream, early) = self.client.into_raw();
        let begun = h2::Begun {
            stream,
            early,
            peer: self.peer,
            listener: self.listener,
        };
        h2::serve(self.worker, begun, snapshot).await;
    }

    /// Reads a request's head and serves it.
    async fn request(
        &mut self,
        snapshot: &SharedSnapshot,
        listener: &ListenerPlan,
        scratch: &mut Scratch,
    ) -> Next {
        scratch.facts.began = self.worker.clock.last();
        scratch.facts.free = self.free;
        self.requests += 1;
        scratch.facts.number = self.requests;
        self.client.before = (
            self.client.reader.received() - self.client.reader.octets().len() as u64,
            self.client.reply.writer.written(),
        );
        let head = self.head(listener, scratch).await;
        let around = Around {
            worker: &self.worker,
            snapshot,
            listener,
            listener_id: self.listener,
            peer: &self.peer,
            timer: &self.timer,
        };
        let client = &mut self.client;
        match head {
            Ok(true) => {}
            Ok(false) => return Next::Close,
            Err(refusal) => {
                note_first_line(client.reader.octets(), &mut scratch.facts.first_line);
                client.begin_refusal();
                exchange::refuse(&around, scratch, client, refusal).await;
                return Next::Linger;
            }
        }
        match exchange::run(&around, scratch, client).await {
            Outcome::Cut if client.ends_by_close() => Next::Reset,
            Outcome::Cut => Next::Cut,
            Outcome::Complete if client.is_kept() => self.discard(listener).await,
            Outcome::Complete if client.is_silent() => Next::Close,
            Outcome::Complete => Next::Linger,
        }
    }

    /// Reads until the head is complete. False if the client has gone without a word.
    async fn head(
        &mut self,
        listener: &ListenerPlan,
        scratch: &mut Scratch,
    ) -> Result<bool, Refusal> {
        let limits = limits(listener);
        let mut is_timed = false;
        loop {
            let octets = self.client.reader.octets();
            if !octets.is_empty()
                && let Some(meta) = self.parser.parse(octets, &limits, &mut scratch.request)?
            {
                let reader = &mut self.client.reader;
                reader.consume_head(meta.consumed);
                reader.begin(meta.framing.into());
                scratch.facts.request_head = meta.consumed as u64;
                scratch.facts.head = self.worker.clock.last();
                let most = u64::from(listener.settings.max_requests_per_connection);
                let keep_alive = meta.keep_alive
                    && !self.worker.is_draining()
                    && (most == 0 || self.requests < most);
                self.client.is_last = !meta.keep_alive;
                self.client.begin(&scratch.request, keep_alive);
                return Ok(true);
            }
            if !octets.is_empty() && !is_timed {
                is_timed = true;
                let by = scratch.facts.began.saturating_add(listener.timeouts.head);
                self.timer.set(by);
            }
            let (reader, timer) = (&mut self.client.reader, &self.timer);
            let read = poll_fn(|cx| match reader.poll_more(cx) {
                Poll::Pending if timer.poll_expired(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(read) => Poll::Ready(Some(read.unwrap_or(0))),
            });
            match read.await {
                Some(0) if reader.octets().is_empty() => return Ok(false),
                Some(0) => return Err(Refusal::Truncated),
                None if reader.octets().is_empty() => return Ok(false),
                None => return Err(Refusal::HeadTimeout),
                Some(_) if is_timed => drop(self.worker.clock.read()),
                Some(_) => {}
            }
        }
    }

    /// Reads what is left of the request's content, if that is little and comes soon.
    async fn discard(&mut self, listener: &ListenerPlan) -> Next {
        if self.client.reader.is_done() {
            return Next::Request;
        }
        self.timer.set_after(listener.timeouts.linger);
        let (reader, timer) = (&mut self.client.reader, &self.timer);
        let mut discarded = 0;
        poll_fn(|cx| {
            loop {
                match reader.poll_fill(cx) {
                    Poll::Ready(Ok(Filled::End)) => return Poll::Ready(Next::Request),
                    Poll::Ready(Ok(Filled::Content)) => {
                        let octets = reader.content().len();
                        reader.consume(octets);
                        discarded += octets as u64;
                        if discarded > DISCARDED {
                            return Poll::Ready(Next::Linger);
                        }
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Next::Close),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(Next::Linger),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn end(mut self, next: Next) {
        match next {
            Next::Request | Next::Cut => {}
            Next::Close => self.client.stream().say_end(),
            Next::Reset => self.client.stream().abort(),
            Next::Linger => self.linger().await,
        }
    }

    /// Ends our side, and reads until the client has ended its own or its time is over.
    async fn linger(&mut self) {
        let snapshot = self.worker.snapshot();
        let linger = snapshot
            .listener(self.listener)
            .map_or(1_000_000_000, |listener| listener.timeouts.linger);
        drop(snapshot);
        self.worker.clock.read();
        self.timer.set_after(linger);
        let (client, timer) = (&mut self.client, &self.timer);
        let flushed = poll_fn(|cx| match client.reply.writer.poll_flush(cx) {
            Poll::Pending if timer.poll_expired(cx) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
            Poll::Ready(flushed) => Poll::Ready(flushed.is_ok()),
        });
        if !flushed.await || client.stream().shutdown().is_err() {
            return;
        }
        poll_fn(|cx| {
            loop {
                match client.reader.poll_drop(cx) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Pending if timer.poll_expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}
