//! One TCP connection of a test client, with HTTP on it.

use crate::http::Head;
use crate::pattern::Pattern;
use crate::wait::uninterrupted;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The origin that answered (`X-Backend`), empty if it does not say.
    pub backend: String,
    /// Whom the origin believes to talk to (`X-Peer`), if it says.
    pub peer: Option<SocketAddr>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection, kept open between requests.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What one read brings. Room at the end of `buffer` would have to be filled before each.
    part: Box<[u8]>,
}

impl Connection {
    /// Wraps a stream that is connected.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            part: vec![0; Pattern::CHUNK].into(),
        }
    }

    /// The client's address and port.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Waits this long for anything from now on.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(timeout))?;
        Ok(self.stream.set_write_timeout(Some(timeout))?)
    }

    /// Asks for `path` and reads the whole answer.
    ///
    /// # Errors
    ///
    /// The connection breaks, or nothing comes within the timeout.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        let head = self.head()?;
        let mut body = Vec::new();
        self.body(head.body_length()?, |_, part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        response(&head, body)
    }

    /// Fetches `length` octets of the pattern and compares them as they come.
    ///
    /// # Errors
    ///
    /// The connection breaks, or an octet differs; the error says which.
    pub fn download(&mut self, length: u64) -> Result<Response> {
        let pattern = Pattern::new();
        self.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        let head = self.head()?;
        ensure!(head.body_length()? == length, "{}", head.start);
        self.body(length, |offset, part| {
            match pattern.first_difference(offset, part) {
                Some(at) => bail!("octet {at} of {length} differs from what the origin sent"),
                None => Ok(()),
            }
        })?;
        response(&head, Vec::new())
    }

    /// Sends `length` octets of the pattern, which the origin compares.
    ///
    /// # Errors
    ///
    /// The connection breaks, or the origin finds a difference.
    pub fn upload(&mut self, length: u64) -> Result<Response> {
        let pattern = Pattern::new();
        self.send(
            format!("PUT /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n")
                .as_bytes(),
        )?;
        let mut offset = 0;
        while offset < length {
            let part = pattern.at(offset, length - offset);
            self.stream
                .write_all(part)
                .with_context(|| format!("sending octet {offset} of {length}"))?;
            offset += part.len() as u64;
        }
        let head = self.head()?;
        let mut body = Vec::new();
        self.body(head.body_length()?, |_, part| {
            body.extend_from_slice(part);
            Ok(())
        })?;
        let response = response(&head, body)?;
        ensure!(response.status == 200, "{}", response.text());
        Ok(response)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending a request")
    }

    fn head(&mut self) -> Result<Head> {
        loop {
            if let Some(head) = Head::take(&mut self.buffer)? {
                return Ok(head);
            }
            self.fill().context("waiting for an answer")?;
        }
    }

    /// Hands the body to `each`, with the offset of each part.
    fn body(&mut self, length: u64, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut offset = 0;
        while offset < length {
            if self.buffer.is_empty() {
                self.fill()
                    .with_context(|| format!("at octet {offset} of a body of {length}"))?;
            }
            let take = (length - offset).min(self.buffer.len() as u64) as usize;
            each(offset, &self.buffer[..take])?;
            self.buffer.drain(..take);
            offset += take as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let read = uninterrupted(|| self.stream.read(&mut self.part));
        let read = read.context("the connection broke or timed out")?;
        if read == 0 {
            bail!("the peer closed the connection");
        }
        self.buffer.extend_from_slice(&self.part[..read]);
        Ok(())
    }
}

fn response(head: &Head, body: Vec<u8>) -> Result<Response> {
    Ok(Response {
        status: head.status()?,
        backend: head.field("x-backend").unwrap_or_default().to_owned(),
        peer: head.field("x-peer").and_then(|text| text.parse().ok()),
        body,
    })
}
