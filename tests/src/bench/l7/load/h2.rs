//! HTTP/2 clients with prior knowledge: several streams at a time on each connection.

use super::Shared;
use super::Target;
use crate::bench::l7::grpc;
use crate::bench::l7::h2::{self, Frame, Grant, flag, indexed, kind, name};
use crate::bench::l7::tls::Wire;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A request, and what its answer must be.
#[derive(Clone, Debug)]
pub struct Request {
    block: Vec<u8>,
    body: Vec<u8>,
    /// Octets of the answer's body.
    length: usize,
}

impl Request {
    /// A GET answered with a body of this length.
    pub fn get(authority: &str, path: &str, length: usize) -> Self {
        let mut block = vec![indexed::METHOD_GET, indexed::SCHEME_HTTP];
        h2::push_named(&mut block, name::AUTHORITY, authority);
        h2::push_named(&mut block, name::PATH, path);
        Self {
            block,
            body: Vec::new(),
            length,
        }
    }

    /// A unary gRPC call.
    pub fn call(authority: &str) -> Self {
        let mut block = vec![indexed::METHOD_POST, indexed::SCHEME_HTTP];
        h2::push_named(&mut block, name::AUTHORITY, authority);
        h2::push_named(&mut block, name::PATH, grpc::PATH);
        h2::push_named(&mut block, name::CONTENT_TYPE, grpc::CONTENT_TYPE);
        h2::push_literal(&mut block, "te", "trailers");
        Self {
            block,
            body: grpc::message(),
            length: grpc::message().len(),
        }
    }
}

/// A request under way.
struct Active {
    due: Instant,
    received: usize,
    ok: bool,
}

/// One connection.
struct Client<'a> {
    request: &'a Request,
    stream: Wire,
    buffer: Vec<u8>,
    out: Vec<u8>,
    next_stream: u32,
    active: HashMap<u32, Active>,
    /// Octets that the peer lets us send on the connection.
    window: i64,
    grant: Grant,
}

pub(super) async fn run(
    shared: &Shared,
    to: &Target,
    request: &Request,
    streams: usize,
) -> Result<()> {
    let mut client = Client::open(to, request).await?;
    client.start(Instant::now());
    while !client.active.is_empty() {
        client.step(|_| {}).await?;
    }
    shared.ready.wait().await;
    loop {
        while client.may_start(streams)
            && let Some(due) = shared.pace.try_next()
        {
            client.start(due);
        }
        client.flush().await?;
        if client.active.is_empty() && shared.pace.is_over() {
            return Ok(());
        }
        let may_start = client.may_start(streams) && !shared.pace.is_over();
        tokio::select! {
            read = client.stream.read_buf(&mut client.buffer) => {
                ensure!(read? > 0, "closed by the peer");
                client.frames(|due| shared.answered(due))?;
            }
            due = shared.pace.next(), if may_start => {
                if let Some(due) = due {
                    client.start(due);
                }
            }
        }
    }
}

impl<'a> Client<'a> {
    async fn open(to: &Target, request: &'a Request) -> Result<Self> {
        let stream = to.connect().await?;
        let mut out = h2::PREFACE.to_vec();
        h2::push_settings(&mut out);
        Ok(Self {
            request,
            stream,
            buffer: Vec::with_capacity(64 * 1024),
            out,
            next_stream: 1,
            active: HashMap::new(),
            window: h2::DEFAULT_WINDOW,
            grant: Grant::default(),
        })
    }

    fn may_start(&self, streams: usize) -> bool {
        self.active.len() < streams && self.window >= self.request.body.len() as i64
    }

    /// Begins a request, which is sent by the next flush.
    fn start(&mut self, due: Instant) {
        let Request { block, body, .. } = self.request;
        let stream = self.next_stream;
        self.next_stream += 2;
        let end = if body.is_empty() { flag::END_STREAM } else { 0 };
        h2::push(
            &mut self.out,
            kind::HEADERS,
            flag::END_HEADERS | end,
            stream,
            block,
        );
        if !body.is_empty() {
            h2::push(&mut self.out, kind::DATA, flag::END_STREAM, stream, body);
            self.window -= body.len() as i64;
        }
        let active = Active {
            due,
            received: 0,
            ok: false,
        };
        self.active.insert(stream, active);
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Sends what is to be sent, and reads once.
    async fn step(&mut self, answered: impl FnMut(Instant)) -> Result<()> {
        self.flush().await?;
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "closed by the peer");
        self.frames(answered)
    }

    /// Takes in the whole frames of the buffer.
    fn frames(&mut self, mut answered: impl FnMut(Instant)) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut used = 0;
        while let Some(frame) = Frame::first(&buffer[used..]) {
            used += frame.len();
            if let Some(due) = self.frame(&frame)? {
                answered(due);
            }
        }
        self.buffer = buffer;
        self.buffer.drain(..used);
        Ok(())
    }

    /// Takes in a frame; when the answer that it completes was due.
    fn frame(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>> {
        if h2::answer_control(&mut self.out, frame) {
            return Ok(None);
        }
        match frame.kind {
            kind::WINDOW_UPDATE if frame.stream == 0 => self.window += frame.increment(),
            kind::WINDOW_UPDATE => {}
            kind::HEADERS | kind::DATA => return self.part(frame),
            other => bail!("a frame of type {other}: {:?}", frame.payload),
        }
        Ok(None)
    }

    /// A part of an answer.
    fn part(&mut self, frame: &Frame<'_>) -> Result<Option<Instant>> {
        let active = self.active.get_mut(&frame.stream);
        let active = active.context("a frame of no stream of ours")?;
        if frame.kind == kind::DATA {
            active.received += frame.payload.len();
            self.grant.received(&mut self.out, frame.payload.len());
        } else {
            // Trailers come after the status, and have none.
            active.ok |= h2::is_ok(frame.block());
        }
        if !frame.has(flag::END_STREAM) {
            return Ok(None);
        }
        let ended = self.active.remove(&frame.stream).context("just seen")?;
        ensure!(ended.ok, "an answer that is no success");
        ensure!(
            ended.received == self.request.length,
            "a body of {} octets",
            ended.received
        );
        Ok(Some(ended.due))
    }
}
