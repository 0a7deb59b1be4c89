//! The gRPC probe: the server's health service says that it serves (grpc.health.v1, as described in
//! gRPC's `doc/health-checking.md`), over HTTP/2: with prior knowledge, or by ALPN where TLS is spoken.
//!
//! h2 frames the messages; this module keeps the deadline, sets limits and judges. An answer of the
//! health service has two octets; more than a few KiB is none.

use super::{Deadline, Target, open, sealed, socket};
use crate::config::model::GrpcProbe;
use crate::health::outcome::{Failure, FailureKind};
use crate::health::sealed::ProbeTls;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{Either, select};
use h2::{RecvStream, client};
use http::{HeaderMap, Request, Response, header};
use prost::Message;
use std::net::SocketAddr;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where the method is.
const PATH: &str = "/grpc.health.v1.Health/Check";

/// The largest answer that is read, in octets.
const MAX_ANSWER: usize = 4096;

/// The largest head or trailers, in octets.
const MAX_HEAD: u32 = 64 * 1024;

/// What comes before a message: a flag, and its length.
const PREFIX: usize = 5;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Question {
    /// Empty for the server as a whole.
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    /// `ServingStatus`.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// Connects, asks, judges the answer, closes.
pub(super) async fn probe(
    target: Target,
    expected: &GrpcProbe,
    tls: Option<&ProbeTls>,
    deadline: Deadline,
) -> Result<(), Failure> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let request = request(expected, target.address, scheme)?;
    let stream = open(target, tls, deadline).await?;
    exchange(stream, request, expected, deadline).await
}

fn request(
    expected: &GrpcProbe,
    address: SocketAddr,
    scheme: &str,
) -> Result<Request<()>, Failure> {
    let authority = expected.authority.clone();
    let authority = authority.unwrap_or_else(|| address.to_string());
    Request::post(format!("{scheme}://{authority}{PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(
            header::USER_AGENT,
            concat!("sluice-health/", env!("CARGO_PKG_VERSION")),
        )
        .body(())
        .map_err(|error| Failure::new(FailureKind::Local, format!("building a request: {error}")))
}

/// Asks over an open connection and judges the answer. Apart from [`probe`] so that peers can be
/// played over memory.
async fn exchange<S>(
    stream: S,
    request: Request<()>,
    expected: &GrpcProbe,
    deadline: Deadline,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = client::Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD);
    let handshake = builder.handshake::<_, Bytes>(stream);
    let (sender, connection) = deadline
        .bound("opening HTTP/2", handshake)
        .await?
        .map_err(|error| classify("opening HTTP/2", &error))?;
    let ask = async move {
        let ready = deadline.bound("waiting for HTTP/2", sender.ready()).await?;
        let mut sender = ready.map_err(|error| classify("waiting for HTTP/2", &error))?;
        let (answer, mut body) = sender
            .send_request(request, false)
            .map_err(|error| classify("sending the request", &error))?;
        body.send_data(question(&expected.service), true)
            .map_err(|error| classify("sending the request", &error))?;
        let answer = deadline.bound("waiting for the answer", answer).await?;
        let answer = answer.map_err(|error| classify("waiting for the answer", &error))?;
        deadline
            .bound("reading the answer", judge(answer, &expected.service))
            .await?
    };
    let (ask, connection) = (pin!(ask), pin!(connection));
    match select(ask, connection).await {
        Either::Left((verdict, _)) => verdict,
        // What has arrived may be an answer all the same.
        Either::Right((_, ask)) => ask.await,
    }
}

/// The question as a message of gRPC.
fn question(service: &str) -> Bytes {
    let question = Question {
        service: service.to_owned(),
    };
    let mut octets = BytesMut::with_capacity(PREFIX + question.encoded_len());
    octets.put_u8(0);
    octets.put_u32(question.encoded_len() as u32);
    octets.extend_from_slice(&question.encode_to_vec());
    octets.freeze()
}

async fn judge(answer: Response<RecvStream>, service: &str) -> Result<(), Failure> {
    let (head, mut body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        let detail = format!("HTTP status {}, expected 200", head.status.as_u16());
        return Err(Failure::new(FailureKind::Status, detail));
    }
    // An answer without a message has its status in the head.
    judge_status(&head.headers, service)?;
    let mut message = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|error| classify("reading the answer", &error))?;
        let _ = body.flow_control().release_capacity(piece.len());
        if message.len() + piece.len() > MAX_ANSWER {
            let detail = "the answer is longer than any of the health service";
            return Err(Failure::new(FailureKind::Protocol, detail));
        }
        message.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await;
    let trailers = trailers.map_err(|error| classify("reading the answer", &error))?;
    match trailers {
        Some(trailers) => judge_status(&trailers, service)?,
        None if !head.headers.contains_key("grpc-status") => {
            let detail = "the answer has no gRPC status: is it a gRPC server?";
            return Err(Failure::new(FailureKind::Protocol, detail));
        }
        None => {}
    }
    judge_message(&message)
}

/// The status of gRPC, if it is there, must be OK.
fn judge_status(fields: &HeaderMap, service: &str) -> Result<(), Failure> {
    let Some(value) = fields.get("grpc-status") else {
        return Ok(());
    };
    let code = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    let detail = match code {
        Some(0) => return Ok(()),
        Some(12) => "UNIMPLEMENTED: the server has no health service \
                     (grpc.health.v1.Health); add it there, or check with `tcp` or `http`"
            .to_owned(),
        Some(5) => format!("NOT_FOUND: the health service does not know `{service}`"),
        Some(code) => match NAMES.get(code as usize) {
            Some(name) => format!("{name} (gRPC status {code})"),
            None => format!("gRPC status {code}"),
        },
        None => {
            let detail = "the gRPC status is no number";
            return Err(Failure::new(FailureKind::Protocol, detail));
        }
    };
    Err(Failure::new(FailureKind::Status, detail))
}

fn judge_message(octets: &[u8]) -> Result<(), Failure> {
    let no_message = |detail: &'static str| Failure::new(FailureKind::Protocol, detail);
    let (prefix, message) = octets
        .split_first_chunk::<PREFIX>()
        .ok_or(no_message("the answer has no message"))?;
    let [flag, length @ ..] = *prefix;
    if flag != 0 {
        return Err(no_message(
            "the answer is compressed, which was not asked for",
        ));
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(no_message("the answer's message is not whole"));
    }
    let answer = Answer::decode(message)
        .map_err(|_| no_message("the answer is not of the health service"))?;
    let name = match answer.status {
        SERVING => return Ok(()),
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "a status that the protocol does not have",
    };
    let detail = format!("{name}, expected SERVING");
    Err(Failure::new(FailureKind::Status, detail))
}

/// Names an error of the exchange. Its text is h2's own or the kernel's, never the peer's.
fn classify(doing: &str, error: &h2::Error) -> Failure {
    if let Some(cause) = error.get_io() {
        if let Some(failure) = sealed::of_io(cause) {
            return failure;
        }
        if cause.raw_os_error().is_some() {
            return socket::classify(doing, cause);
        }
        return Failure::new(FailureKind::Closed, format!("{doing}: the peer closed"));
    }
    if error.is_reset() && error.is_remote() {
        let reason = error.reason().map_or(0, u32::from);
        let detail = format!("{doing}: the peer reset the stream (error {reason:#x})");
        return Failure::new(FailureKind::Reset, detail);
    }
    if error.is_remote() || error.is_go_away() && !error.is_library() {
        return Failure::new(
            FailureKind::Closed,
            format!("{doing}: the peer said GOAWAY"),
        );
    }
    let detail = format!("{doing}: the peer does not speak HTTP/2 (with prior knowledge)");
    Failure::new(FailureKind::Protocol, detail)
}

/// Status codes of gRPC by number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    fn deadline() -> Deadline {
        Deadline(Instant::now() + Duration::from_secs(30))
    }

    /// A message of gRPC.
    fn framed(message: &[u8]) -> Vec<u8> {
        let mut octets = vec![0];
        octets.extend((message.len() as u32).to_be_bytes());
        octets.extend(message);
        octets
    }

    /// Probes a server that answers the question with this status in its trailers, or in its head
    /// if it has no message.
    async fn ask(
        service: &str,
        status: &'static str,
        message: Option<Vec<u8>>,
    ) -> Result<(), Failure> {
        let (ours, theirs) = duplex(64 * 1024);
        let served = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.expect("HTTP/2");
            let (request, mut respond) =
                connection.accept().await.expect("a request").expect("good");
            assert_eq!(request.uri().path(), PATH);
            assert_eq!(request.headers()["te"], "trailers");
            let reading = async move {
                let mut body = request.into_body();
                let asked = body.data().await.expect("a message").expect("good");
                let answer = Response::builder().header("content-type", "application/grpc");
                match message {
                    None => {
                        let head = answer
                            .header("grpc-status", status)
                            .body(())
                            .expect("a head");
                        respond.send_response(head, true).expect("sent");
                    }
                    Some(message) => {
                        let head = answer.body(()).expect("a head");
                        let mut stream = respond.send_response(head, false).expect("sent");
                        stream.send_data(message.into(), false).expect("sent");
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", status.parse().expect("a value"));
                        stream.send_trailers(trailers).expect("sent");
                    }
                }
                asked
            };
            let (asked, _) = tokio::join!(reading, connection.accept());
            asked
        });
        let expected = GrpcProbe {
            service: service.to_owned(),
            authority: Some("shop.example".to_owned()),
        };
        let address = "127.0.0.1:50051".parse().expect("an address");
        let request = request(&expected, address, "http").expect("a request");
        let verdict = exchange(ours, request, &expected, deadline()).await;
        let asked = served.await.expect("served");
        let question = Question::decode(&asked[PREFIX..]).expect("a question");
        assert_eq!(question.service, service);
        verdict
    }

    fn serving(status: i32) -> Option<Vec<u8>> {
        Some(framed(&Answer { status }.encode_to_vec()))
    }

    #[tokio::test]
    async fn a_server_that_serves_passes() {
        ask("", "0", serving(SERVING)).await.expect("passes");
        ask("shop.v1.Cart", "0", serving(SERVING))
            .await
            .expect("passes");
    }

    #[tokio::test]
    async fn other_answers_say_what_is_wrong() {
        let text = |failure: Result<(), Failure>| failure.expect_err("fails").to_string();
        let not_serving = text(ask("", "0", serving(2)).await);
        assert_eq!(not_serving, "status: NOT_SERVING, expected SERVING");
        // The default of the enum has no octets at all.
        let unknown = text(ask("", "0", serving(0)).await);
        assert!(unknown.contains("UNKNOWN"), "{unknown}");
        let unimplemented = text(ask("", "12", None).await);
        assert!(
            unimplemented.contains("no health service"),
            "{unimplemented}"
        );
        let not_found = text(ask("cart", "5", None).await);
        assert!(not_found.contains("does not know `cart`"), "{not_found}");
        let unavailable = text(ask("", "14", serving(SERVING)).await);
        assert_eq!(unavailable, "status: UNAVAILABLE (gRPC status 14)");
        let none = text(ask("", "0", Some(Vec::new())).await);
        assert!(none.contains("no message"), "{none}");
        let torn = text(ask("", "0", Some(vec![0, 0, 0, 0, 9, 8])).await);
        assert!(torn.contains("not whole"), "{torn}");
        let huge = text(ask("", "0", Some(vec![0; 8192])).await);
        assert!(huge.contains("longer"), "{huge}");
    }

    #[tokio::test]
    async fn a_server_of_http1_is_told_so() {
        let (ours, mut theirs) = duplex(64 * 1024);
        let served = tokio::spawn(async move {
            let mut preface = [0; 24];
            theirs.read_exact(&mut preface).await.expect("a preface");
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            theirs.write_all(answer).await.expect("written");
            let mut rest = Vec::new();
            let _ = theirs.read_to_end(&mut rest).await;
        });
        let expected = GrpcProbe::default();
        let address = "127.0.0.1:80".parse().expect("an address");
        let request = request(&expected, address, "http").expect("a request");
        let failure = exchange(ours, request, &expected, deadline()).await;
        let failure = failure.expect_err("fails");
        assert_eq!(failure.kind, FailureKind::Protocol, "{failure}");
        served.await.expect("served");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_times_out() {
        let (ours, _theirs) = duplex(64 * 1024);
        let expected = GrpcProbe::default();
        let address = "[::1]:50051".parse().expect("an address");
        let request = request(&expected, address, "http").expect("a request");
        let failure = exchange(ours, request, &expected, deadline()).await;
        let failure = failure.expect_err("fails");
        assert_eq!(failure.kind, FailureKind::Timeout, "{failure}");
    }
}
