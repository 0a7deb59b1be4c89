//! HTTP/1.1: requests are cut at the empty line and at `Content-Length`, and answered with
//! prepared octets. After a WebSocket handshake, messages of one known size are echoed.

use super::{HUGE, HUGE_PATH, LARGE, LARGE_PATH, SMALL, Seen, body};
use crate::bench::l7::tls::Wire;
use crate::bench::l7::websocket;
use anyhow::{Result, bail};
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest head.
const MAX_HEAD: usize = 16 * 1024;
/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// Whole answers, heads included.
pub(super) struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    /// Made when somebody wants it.
    huge: OnceCell<Vec<u8>>,
    small_close: Vec<u8>,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            small: answer(SMALL, ""),
            large: answer(LARGE, ""),
            huge: OnceCell::new(),
            small_close: answer(SMALL, "Connection: close\r\n"),
        }
    }
}

fn answer(length: usize, more: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{more}Content-Length: {length}\r\n\r\n"
    );
    [head.into_bytes(), body(length)].concat()
}

/// Which answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Small,
    Large,
    Huge,
}

/// What of a request matters.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// Octets of the head.
    head: usize,
    /// Octets of the body.
    body: usize,
    size: Size,
    close: bool,
    upgrade: bool,
}

impl Request {
    /// The request at the front of `buffer`; `None` while its head is incomplete.
    fn first(buffer: &[u8]) -> Result<Option<Self>> {
        let Some(end) = find(buffer, b"\r\n\r\n") else {
            if buffer.len() > MAX_HEAD {
                bail!("a head of more than {MAX_HEAD} octets");
            }
            return Ok(None);
        };
        let mut lines = buffer[..end].split(|octet| *octet == b'\n');
        let start = lines.next().unwrap_or_default();
        let target = start.split(|octet| *octet == b' ').nth(1);
        let mut request = Self {
            head: end + 4,
            body: 0,
            size: match target {
                Some(path) if path == LARGE_PATH.as_bytes() => Size::Large,
                Some(path) if path == HUGE_PATH.as_bytes() => Size::Huge,
                _ => Size::Small,
            },
            close: false,
            upgrade: false,
        };
        for line in lines {
            if let Some(value) = field(line, b"content-length:") {
                request.body = std::str::from_utf8(value)?.trim().parse()?;
            } else if let Some(value) = field(line, b"connection:") {
                request.close = value.trim_ascii().eq_ignore_ascii_case(b"close");
            } else if field(line, b"upgrade:").is_some() {
                request.upgrade = true;
            } else if let Some(value) = field(line, b"transfer-encoding:") {
                bail!("no body without length here: {value:?}");
            }
        }
        Ok(Some(request))
    }
}

/// The value of a line with this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|octets| octets == what)
}

/// Answers requests until the client closes.
pub(super) async fn connection(
    mut stream: Wire,
    answers: Rc<Answers>,
    seen: Arc<Seen>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    let mut first = true;
    loop {
        let request = loop {
            if let Some(request) = Request::first(&buffer)? {
                break request;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        if first {
            let head = buffer[..request.head].to_ascii_lowercase();
            seen.first_request(find(&head, b"\r\nx-forwarded-for:").is_some());
            first = false;
        }
        if request.upgrade {
            return echo(stream).await;
        }
        skip_body(&mut stream, &mut buffer, request.head + request.body).await?;
        let answer = match (request.size, request.close) {
            (Size::Huge, _) => answers.huge.get_or_init(|| answer(HUGE, "")),
            (Size::Large, _) => &answers.large,
            (Size::Small, true) => &answers.small_close,
            (Size::Small, false) => &answers.small,
        };
        stream.write_all(answer).await?;
        stream.flush().await?;
        if request.close {
            // Of an encrypted connection the end is told as well.
            stream.shutdown().await?;
            return Ok(());
        }
    }
}

/// Removes this many octets, read already or not.
async fn skip_body(stream: &mut Wire, buffer: &mut Vec<u8>, mut length: usize) -> Result<()> {
    while buffer.len() < length {
        length -= buffer.len();
        buffer.clear();
        buffer.reserve(CHUNK);
        if stream.read_buf(buffer).await? == 0 {
            bail!("closed inside a body");
        }
    }
    buffer.drain(..length);
    Ok(())
}

/// Answers each message with one.
async fn echo(mut stream: Wire) -> Result<()> {
    stream.write_all(websocket::ACCEPTED.as_bytes()).await?;
    let mut message = websocket::from_client();
    let mut answer = websocket::from_server();
    loop {
        if stream.read_exact(&mut message).await.is_err() {
            return Ok(());
        }
        websocket::copy_payload(&message, &mut answer);
        stream.write_all(&answer).await?;
        stream.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_cut_where_it_ends() {
        let wire =
            b"POST /1m HTTP/1.1\r\nHost: a\r\ncontent-length: 12\r\nConnection: close\r\n\r\n";
        assert_eq!(Request::first(&wire[..30]).unwrap(), None);
        let request = Request::first(wire).unwrap().unwrap();
        let expected = Request {
            head: wire.len(),
            body: 12,
            size: Size::Large,
            close: true,
            upgrade: false,
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn a_body_without_length_is_refused() {
        let wire = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(Request::first(wire).is_err());
    }
}
