//! Access logs against the programs whose formats they are: nginx and HAProxy log an exchange, we
//! log what we know of the same exchange, and both lines must be the same octets.
//!
//! What a client cannot know (when the peer logged, how long it thought that things took) is taken
//! from the peer's own log; everything else comes from what was sent and received.

#[path = "access_log/engine.rs"]
mod engine;
#[path = "access_log/haproxy.rs"]
mod haproxy;
#[path = "access_log/nginx.rs"]
mod nginx;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_tests::privilege::{REQUIRE, find_program};
use proxy_userspace::config::model::http::LogFormat;
use proxy_userspace::message::{Length, Method, RequestHead, ResponseHead, Version};
use proxy_userspace::observe::access_log::{Format, Octets, Record};
use proxy_userspace::observe::calendar::Calendar;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// The program, or why the test does nothing.
fn program(name: &str, package: &str) -> Result<Option<PathBuf>> {
    let found = find_program(name);
    if found.is_none() {
        let lack = format!("no `{name}`: apt-get install {package}");
        if std::env::var(REQUIRE).is_ok_and(|value| value == "1") {
            bail!("{lack} ({REQUIRE} is set)");
        }
        println!("skipped: {lack}");
    }
    Ok(found)
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, so that a master process ends its workers too.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A port that is free for now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// What was sent and what came back.
struct Exchange {
    client: SocketAddr,
    server: SocketAddr,
    sent: Vec<u8>,
    answer: Vec<u8>,
}

/// Sends a request that has the peer close the connection, and reads to the end.
fn exchange(port: u16, request: &[u8]) -> Result<Exchange> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect(server) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .context("reading the answer")?;
    Ok(Exchange {
        client: stream.local_addr()?,
        server,
        sent: request.to_vec(),
        answer,
    })
}

impl Exchange {
    /// The head of the request, unless it was made to be refused.
    fn request(&self) -> Option<RequestHead> {
        let (head, _) = split_head(&self.sent)?;
        let mut lines = head.split(|&octet| octet == b'\n').map(without_cr);
        let first = lines.next()?;
        let mut words = first.split(|&octet| octet == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let mut request = RequestHead::default();
        request.method = Method::of(method);
        request.version = match version {
            b"HTTP/1.0" => Version::Http10,
            b"HTTP/1.1" => Version::Http11,
            _ => return None,
        };
        request.set_target(target);
        for (name, value) in lines.filter_map(field) {
            match name.to_ascii_lowercase().as_slice() {
                b"host" => request.set_authority(value),
                b"connection" => {}
                b"content-length" => request.length = Length::Exact(number(value)),
                _ => request.fields.append_named(name, value),
            }
        }
        Some(request)
    }

    /// The head of the answer.
    fn response(&self) -> ResponseHead {
        let mut response = ResponseHead::default();
        let Some((head, _)) = split_head(&self.answer) else {
            return response;
        };
        let mut lines = head.split(|&octet| octet == b'\n').map(without_cr);
        let status = lines
            .next()
            .unwrap_or_default()
            .split(|&octet| octet == b' ')
            .nth(1);
        response.status = number(status.unwrap_or_default()) as u16;
        for (name, value) in lines.filter_map(field) {
            match name.to_ascii_lowercase().as_slice() {
                b"connection" => {}
                b"content-length" => response.length = Length::Exact(number(value)),
                _ => response.fields.append_named(name, value),
            }
        }
        response
    }

    /// A record of all that is known on this side.
    fn record<'a>(
        &self,
        request: Option<&'a RequestHead>,
        response: &'a ResponseHead,
        listener: &'a str,
    ) -> Record<'a> {
        Record {
            request,
            response: Some(response),
            status: response.status,
            received: octets(&self.sent),
            sent: octets(&self.answer),
            ..Record::new(listener, self.client, self.server)
        }
    }

    /// The first line of what was sent.
    fn first_line(&self) -> &[u8] {
        let end = self.sent.iter().position(|&octet| octet == b'\n');
        without_cr(&self.sent[..end.unwrap_or(self.sent.len())])
    }
}

fn octets(message: &[u8]) -> Octets {
    let body = split_head(message).map_or(0, |(_, body)| body.len());
    Octets {
        head: (message.len() - body) as u64,
        body: body as u64,
    }
}

/// A message's head, without the empty line, and what follows.
fn split_head(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = message.windows(4).position(|end| end == b"\r\n\r\n")?;
    Some((&message[..at], &message[at + 4..]))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&octet| octet == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn number(text: &[u8]) -> u64 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// Our line, without its end.
fn our_line(format: &LogFormat, record: &Record<'_>) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    Format::compile(format)?.line(record, &mut Calendar::local(), &mut line);
    line.pop();
    Ok(line)
}

/// Line `index` of a file, once it is complete.
fn line_of(file: &Path, index: usize) -> Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let octets = fs::read(file).unwrap_or_default();
        let mut lines = octets.split_inclusive(|&octet| octet == b'\n');
        if let Some(line) = lines.nth(index).and_then(|line| line.strip_suffix(b"\n")) {
            return Ok(line.to_vec());
        }
        if Instant::now() > deadline {
            bail!("{} has no line {index}", file.display());
        }
        std::thread::yield_now();
    }
}

/// Fails with both lines if they differ.
fn expect_same(what: &str, ours: &[u8], theirs: &[u8]) -> Result<()> {
    if ours == theirs {
        return Ok(());
    }
    bail!(
        "{what}:\n  ours   {}\n  theirs {}",
        ours.escape_ascii(),
        theirs.escape_ascii()
    )
}
