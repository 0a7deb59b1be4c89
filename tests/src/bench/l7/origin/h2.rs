//! HTTP/2 in clear text: every request gets the same small answer, and one that came with a body
//! gets a gRPC answer with trailers. The path is not decoded.

use super::{SMALL, Seen, body};
use crate::bench::l7::grpc;
use crate::bench::l7::h2::{self, Frame, Grant, flag, indexed, kind, name};
use crate::bench::l7::tls::Wire;
use anyhow::{Result, ensure};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One connection's state.
struct Connection {
    out: Vec<u8>,
    /// Octets that the client lets us send on the connection.
    window: i64,
    /// Streams whose answers wait for that: stream, and whether it is a call.
    waiting: VecDeque<(u32, bool)>,
    /// Streams that have brought a body.
    calls: HashSet<u32>,
    grant: Grant,
    plain: Prepared,
    call: Prepared,
    first: bool,
    seen: Arc<Seen>,
}

/// Parts of an answer.
struct Prepared {
    head: Vec<u8>,
    data: Vec<u8>,
    trailers: Option<Vec<u8>>,
}

/// Answers requests until the client closes.
pub(super) async fn connection(mut stream: Wire, seen: Arc<Seen>) -> Result<()> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    while buffer.len() < h2::PREFACE.len() {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
    ensure!(buffer.starts_with(h2::PREFACE), "no HTTP/2");
    buffer.drain(..h2::PREFACE.len());
    let mut connection = Connection::new(seen);
    h2::push_settings(&mut connection.out);
    loop {
        let mut used = 0;
        while let Some(frame) = Frame::first(&buffer[used..]) {
            used += frame.len();
            connection.frame(&frame);
        }
        buffer.drain(..used);
        connection.answer();
        if !connection.out.is_empty() {
            stream.write_all(&connection.out).await?;
            stream.flush().await?;
            connection.out.clear();
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Connection {
    fn new(seen: Arc<Seen>) -> Self {
        let mut head = vec![indexed::STATUS_200];
        h2::push_named(&mut head, name::CONTENT_TYPE, "text/plain");
        h2::push_named(&mut head, name::CONTENT_LENGTH, &SMALL.to_string());
        let plain = Prepared {
            head,
            data: body(SMALL),
            trailers: None,
        };
        let mut head = vec![indexed::STATUS_200];
        h2::push_named(&mut head, name::CONTENT_TYPE, grpc::CONTENT_TYPE);
        let mut trailers = Vec::new();
        h2::push_literal(&mut trailers, "grpc-status", "0");
        let call = Prepared {
            head,
            data: grpc::message(),
            trailers: Some(trailers),
        };
        Self {
            out: Vec::new(),
            window: h2::DEFAULT_WINDOW,
            waiting: VecDeque::new(),
            calls: HashSet::new(),
            grant: Grant::default(),
            plain,
            call,
            first: true,
            seen,
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        if h2::answer_control(&mut self.out, frame) {
            return;
        }
        match frame.kind {
            kind::HEADERS if self.first => {
                self.seen
                    .first_request(h2::names_forwarded_for(frame.block()));
                self.first = false;
            }
            kind::WINDOW_UPDATE if frame.stream == 0 => self.window += frame.increment(),
            kind::DATA if !frame.is_empty() => {
                self.calls.insert(frame.stream);
                self.grant.received(&mut self.out, frame.payload.len());
            }
            _ => {}
        }
        let ends = matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.has(flag::END_STREAM);
        if ends {
            let is_call = self.calls.remove(&frame.stream);
            self.waiting.push_back((frame.stream, is_call));
        }
    }

    /// Writes the answers that fit the window.
    fn answer(&mut self) {
        while let Some(&(stream, is_call)) = self.waiting.front() {
            let answer = if is_call { &self.call } else { &self.plain };
            let length = answer.data.len() as i64;
            if length > self.window {
                return;
            }
            self.window -= length;
            self.waiting.pop_front();
            let last = if answer.trailers.is_none() {
                flag::END_STREAM
            } else {
                0
            };
            h2::push(
                &mut self.out,
                kind::HEADERS,
                flag::END_HEADERS,
                stream,
                &answer.head,
            );
            h2::push(&mut self.out, kind::DATA, last, stream, &answer.data);
            if let Some(trailers) = &answer.trailers {
                let flags = flag::END_HEADERS | flag::END_STREAM;
                h2::push(&mut self.out, kind::HEADERS, flags, stream, trailers);
            }
        }
    }
}
