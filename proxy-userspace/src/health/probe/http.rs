//! The HTTP probe: one HTTP/1.1 request is answered as expected.
//!
//! hyper frames the messages; this module sets its limits, keeps the deadline and judges. What is
//! read is bounded: a head of 64 KiB, and of the body only what the search for the expected text
//! needs, at most 64 KiB. Without an expected text the body is not read at all: the status has
//! been given, and a check that downloads a page every second is a burden to its server.

use super::{Deadline, Target, open, sealed, socket};
use crate::config::model::HttpProbe;
use crate::health::outcome::{Failure, FailureKind};
use crate::health::sealed::ProbeTls;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest head of a response, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most fields of a response's head.
const MAX_FIELDS: usize = 512;

/// How much of a body is searched, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Connects, asks, judges the answer, closes.
pub(super) async fn probe(
    target: Target,
    expected: &HttpProbe,
    tls: Option<&ProbeTls>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let port = if tls.is_some() { 443 } else { 80 };
    let request = request(expected, target.address, port)?;
    let stream = open(target, tls, deadline).await?;
    exchange(stream, request, expected, deadline).await
}

/// The request of a probe. It asks for the connection to be closed. `default_port` is the one that
/// need not be said.
///
/// # Errors
///
/// [`FailureKind::Local`] if method, path or host cannot stand in a request; the configuration's
/// validation refuses them earlier.
fn request(
    expected: &HttpProbe,
    address: SocketAddr,
    default_port: u16,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = match &expected.host {
        Some(host) => host.clone(),
        None if address.port() == default_port && address.is_ipv6() => {
            format!("[{}]", address.ip())
        }
        None if address.port() == default_port => address.ip().to_string(),
        None => address.to_string(),
    };
    Request::builder()
        .method(expected.method.as_str())
        .uri(expected.path.as_str())
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("sluice-health/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, HeaderValue::from_static("*/*"))
        .header(header::CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::new())
        .map_err(|error| Failure::new(FailureKind::Local, format!("building a request: {error}")))
}

/// Asks over an open connection and judges the answer. Apart from [`probe`] so that hostile peers
/// can be played over memory, with a paused clock.
async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    expected: &HttpProbe,
    deadline: Deadline,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| classify("sending the request", &error))?;
    let judge = async move {
        let answer = deadline
            .bound("waiting for the answer", sender.send_request(request))
            .await?;
        let response = answer.map_err(|error| classify("waiting for the answer", &error))?;
        judge_status(response.status().as_u16(), &expected.statuses)?;
        match &expected.body_contains {
            Some(text) => {
                let found = find(response.into_body(), text.as_bytes());
                deadline.bound("reading the body", found).await?
            }
            None => Ok(()),
        }
    };
    // The connection has to be polled for the exchange to move. When it ends first, the answer may
    // still lie in hyper's hands, or an error has been handed to the exchange: so go on with it.
    let (judge, connection) = (pin!(judge), pin!(connection));
    match select(judge, connection).await {
        Either::Left((verdict, _)) => verdict,
        Either::Right((_, judge)) => judge.await,
    }
}

/// Whether a status is one of the expected.
fn judge_status(status: u16, expected: &[(u16, u16)]) -> Result<(), Failure> {
    if expected
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&status))
    {
        return Ok(());
    }
    let ranges: Vec<String> = expected
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    let detail = format!("status {status}, expected {}", ranges.join(", "));
    Err(Failure::new(FailureKind::Status, detail))
}

/// Reads a body until it contains `text`, ends, or has been read as far as it may be.
async fn find(mut body: Incoming, text: &[u8]) -> Result<(), Failure> {
    let mut seen: Vec<u8> = Vec::new();
    if text.is_empty() {
        return Ok(());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| classify("reading the body", &error))?;
        // Trailers are no part of the body.
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let room = MAX_BODY_BYTES - seen.len();
        data.truncate(room);
        // Only where a match could end in the new bytes is there anything new to find.
        let from = seen.len().saturating_sub(text.len() - 1);
        seen.extend_from_slice(&data);
        if seen[from..]
            .windows(text.len())
            .any(|window| window == text)
        {
            return Ok(());
        }
        if seen.len() >= MAX_BODY_BYTES {
            let detail = "the expected text is not in the first 64 KiB of the body";
            return Err(Failure::new(FailureKind::Body, detail));
        }
    }
    let detail = format!(
        "the expected text is not in the body of {} bytes",
        seen.len()
    );
    Err(Failure::new(FailureKind::Body, detail))
}

/// Names an error of the exchange. Its text is hyper's own or the kernel's, never the peer's.
fn classify(doing: &str, error: &hyper::Error) -> Failure {
    let source = error.source();
    // A request is cancelled when the peer acts before it is sent; the reason lies within.
    if let Some(reason) = source.and_then(|source| source.downcast_ref::<hyper::Error>()) {
        return classify(doing, reason);
    }
    let cause = source.and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(failure) = cause.and_then(sealed::of_io) {
        return failure;
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::new(FailureKind::Closed, format!("{doing}: the peer closed"));
    }
    match cause {
        // hyper reports broken framing of a body as an invalid input.
        Some(cause) if is_of_the_network(cause) => socket::classify(doing, cause),
        Some(cause) => Failure::new(FailureKind::Protocol, format!("{doing}: {cause}")),
        None => Failure::new(FailureKind::Protocol, format!("{doing}: {error}")),
    }
}

/// Whether the kernel raised this error, not hyper's parser.
fn is_of_the_network(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
        || matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        )
}

#[cfg(test)]
mod tests;
