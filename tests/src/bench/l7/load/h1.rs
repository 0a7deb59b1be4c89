//! HTTP/1.1 clients.

use super::Shared;
use super::Target;
use crate::bench::l7::origin;
use crate::bench::l7::tls::Wire;
use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// What is read at once of a large body.
const CHUNK: usize = 256 * 1024;

/// An open connection.
pub(super) struct Client {
    stream: Wire,
    buffer: Vec<u8>,
}

/// One request after another on one connection.
pub(super) async fn keep(
    shared: &Shared,
    to: &Target,
    requests: &[Vec<u8>],
    length: usize,
    index: usize,
) -> Result<()> {
    let mut client = Client::open(to).await?;
    // Connections begin at different requests, so that all are asked for soon.
    let mut next = (index * 61) % requests.len();
    client.checked(&requests[next], length).await?;
    shared.ready.wait().await;
    while let Some(due) = shared.pace.next().await {
        next = (next + 1) % requests.len();
        client.ask(&requests[next], length).await?;
        shared.answered(due);
    }
    Ok(())
}

/// One request on each of many connections.
pub(super) async fn renew(
    shared: &Shared,
    to: &Target,
    request: &[u8],
    length: usize,
) -> Result<()> {
    Client::open(to).await?.checked(request, length).await?;
    shared.ready.wait().await;
    while let Some(due) = shared.pace.next().await {
        let mut client = Client::open(to).await?;
        client.ask(request, length).await?;
        // The server closes first, as RFC 9112 has it, and keeps the port waiting.
        let closed = client.stream.read(&mut [0; 1]).await?;
        ensure!(closed == 0, "something follows the answer");
        shared.answered(due);
    }
    Ok(())
}

impl Client {
    /// Connects.
    pub(super) async fn open(to: &Target) -> Result<Self> {
        Ok(Self {
            stream: to.connect().await?,
            buffer: Vec::with_capacity(1024),
        })
    }

    /// One request; status and length of the answer are checked.
    pub(super) async fn ask(&mut self, request: &[u8], length: usize) -> Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let head = self.head().await?;
        check_head(&self.buffer[..head], length)?;
        let mut left = (head + length)
            .checked_sub(self.buffer.len())
            .context("more than one answer")?;
        if left > 0 {
            self.buffer.reserve(CHUNK);
        }
        while left > 0 {
            self.buffer.clear();
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "closed inside a body");
            left = left.checked_sub(read).context("a body that is too long")?;
        }
        Ok(())
    }

    /// One request; the answer's body is compared with the origin's, octet by octet.
    pub(super) async fn checked(&mut self, request: &[u8], length: usize) -> Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let head = self.head().await?;
        check_head(&self.buffer[..head], length)?;
        while self.buffer.len() < head + length {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "closed inside a body");
        }
        let body = &self.buffer[head..];
        ensure!(body.len() == length, "a body that is too long");
        let differs = (0..length).find(|&offset| body[offset] != origin::octet(offset));
        ensure!(differs.is_none(), "the body differs at {differs:?}");
        Ok(())
    }

    /// Reads a head; its length.
    async fn head(&mut self) -> Result<usize> {
        loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(end + 4);
            }
            ensure!(self.buffer.len() <= MAX_HEAD, "an endless head");
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "closed before an answer");
        }
    }
}

/// Checks status and length.
fn check_head(head: &[u8], length: usize) -> Result<()> {
    if !head.starts_with(b"HTTP/1.1 200") {
        let end = head.iter().position(|octet| *octet == b'\r');
        bail!(
            "answered {:?}",
            String::from_utf8_lossy(&head[..end.unwrap_or(0)])
        );
    }
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|octet| *octet == b'\n')
        .find(|line| {
            line.get(..NAME.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        })
        .context("an answer without Content-Length")?;
    let value: usize = std::str::from_utf8(&line[NAME.len()..])?.trim().parse()?;
    ensure!(value == length, "a body of {value} octets");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_answer_is_taken() {
        let good = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-Length: 128\r\n\r\n";
        assert!(check_head(good, 128).is_ok());
        assert!(check_head(good, 129).is_err());
        let other = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 128\r\n\r\n";
        let error = check_head(other, 128).unwrap_err().to_string();
        assert!(error.contains("502"), "{error}");
        assert!(check_head(b"HTTP/1.1 200 OK\r\n\r\n", 0).is_err());
    }
}
