//! What one exchange was: the value that every format writes from.

use super::end::{End, Phase, StickyRequest, StickyResponse};
use crate::message::{Refusal, RefusedBy, RequestHead, ResponseHead};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What one exchange was. It borrows all of it and lives for the one call that logs it.
///
/// Make one with [`Record::new`] and set what is known; each member says what its default means.
/// Texts and octets of clients may hold anything: escaping is the formats' work.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What was exchanged.
    pub traffic: Traffic,
    /// Name of the listener.
    pub listener: &'a str,
    /// Name of the route; `None` where none matched or none was looked for.
    pub route: Option<&'a str>,
    /// Name of the service; `None` where the answer is our own.
    pub service: Option<&'a str>,
    /// Backends that were tried, in order; the last one gave the answer, if any did.
    pub attempts: &'a [Attempt<'a>],
    /// The client's end of the connection; behind a PROXY header, what that says.
    pub client: SocketAddr,
    /// The client behind trusted proxies; else the address of `client`.
    pub real_client: IpAddr,
    /// Our end of the client's connection; of a redirected one, where it was to go.
    pub server: SocketAddr,
    /// The cgroup of the program that opened the connection, or that it was opened to, where that was
    /// redirected.
    pub workload: Option<&'a str>,
    /// Number of the connection, unique in the life of the process.
    pub connection: u64,
    /// Requests of this connection so far, this one included.
    pub connection_requests: u64,
    /// The request's head; `None` where none was understood.
    pub request: Option<&'a RequestHead>,
    /// The target as the client sent it, if `request` holds a rewritten one.
    pub original_target: Option<&'a [u8]>,
    /// The octets of the first line, without its end, where `request` is `None`.
    pub first_line: &'a [u8],
    /// Status that the client was sent; 0 where it was sent none.
    pub status: u16,
    /// Head of the response as the client was sent it.
    pub response: Option<&'a ResponseHead>,
    /// Octets received from the client.
    pub received: Octets,
    /// Octets sent to the client, framing of the content included.
    pub sent: Octets,
    /// How long what took.
    pub times: Times,
    /// Why it ended.
    pub end: End,
    /// When it ended, if not well.
    pub phase: Phase,
    /// What the client's cookie said of its backend.
    pub sticky_request: StickyRequest,
    /// What became of that cookie in the response.
    pub sticky_response: StickyResponse,
    /// Why the message was refused, and whose it was.
    pub refusal: Option<(RefusedBy, Refusal)>,
    /// What the client's connection is sealed by, if it is.
    pub tls: Option<TlsRecord<'a>>,
    /// True if a fault filter held the request back.
    pub fault_delayed: bool,
    /// The request's id; empty for none.
    pub request_id: &'a [u8],
    /// Trace and span, where the exchange has them.
    pub trace: Option<([u8; 16], [u8; 8])>,
    /// What the client said first, where TLS is passed on as it is.
    pub preread: Option<Preread<'a>>,
    /// How busy the proxy was at the end.
    pub counts: Counts,
    /// Cookies that are captured, of the request and of the response.
    pub cookies: [Option<&'a [u8]>; 2],
}

/// What a client of TLS said before anything was encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preread<'a> {
    /// Whom it wanted.
    pub server_name: Option<&'a str>,
    /// Protocols that it offered, with commas between them. Anything may be in them.
    pub protocols: &'a [u8],
    /// The newest version that it offered, such as `TLSv1.3`; empty for an unknown one.
    pub version: &'a str,
}

/// What was exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Traffic {
    /// A request and its response.
    #[default]
    Http,
    /// A TCP connection that was passed on.
    Tcp,
    /// The datagrams of a client that were passed on.
    Udp,
}

impl Traffic {
    /// For logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What a client's connection is sealed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsRecord<'a> {
    /// Version, by OpenSSL's name.
    pub version: &'a str,
    /// Cipher suite, by OpenSSL's name.
    pub cipher: &'a str,
    /// Name that the client asked for.
    pub server_name: Option<&'a str>,
    /// True if an earlier session was taken up again.
    pub is_resumed: bool,
    /// Whose the client's certificate is, if there is one.
    pub client_subject: Option<&'a str>,
}

impl TlsRecord<'_> {
    /// As nginx has it: a certificate that is not good does not come this far.
    pub const fn verify(&self) -> &'static str {
        match self.client_subject {
            Some(_) => "SUCCESS",
            None => "NONE",
        }
    }
}

/// One backend that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Its name.
    pub backend: &'a str,
    /// Its address.
    pub address: SocketAddr,
    /// True if the connection was there already.
    pub reused: bool,
    /// Its status; 0 if it gave none.
    pub status: u16,
    /// Why the attempt ended.
    pub end: End,
    /// Until the connection was there; `None` if it never was.
    pub connect: Option<Duration>,
    /// From the attempt's begin to the response's head.
    pub head: Option<Duration>,
    /// The whole attempt.
    pub total: Duration,
    /// Octets sent to it.
    pub sent: u64,
    /// Octets received from it.
    pub received: Octets,
}

/// Octets of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Octets {
    /// Of its head.
    pub head: u64,
    /// Of all that follows.
    pub body: u64,
}

impl Octets {
    /// Of the whole message.
    pub const fn all(self) -> u64 {
        self.head + self.body
    }
}

/// How long what took. `None` where it did not come to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When the exchange ended, since the Unix epoch: see [`crate::observe::clock::Clock`].
    pub ended_at: Duration,
    /// From the request's first octet to the response's last.
    pub total: Duration,
    /// The connection's wait before the request's first octet.
    pub idle: Duration,
    /// From the request's first octet to the end of its head.
    pub request_head: Option<Duration>,
    /// Wait for a place at a backend.
    pub queue: Option<Duration>,
    /// Opening the connection; zero for one that was there.
    pub connect: Option<Duration>,
    /// From the request's being sent to the response's head.
    pub response_head: Option<Duration>,
}

impl Times {
    /// When the request's first octet came, since the Unix epoch.
    pub fn began_at(&self) -> Duration {
        self.ended_at.saturating_sub(self.total)
    }
}

/// How busy the proxy was when the exchange ended, this one included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections of clients.
    pub process: u32,
    /// Connections of this listener.
    pub listener: u32,
    /// Requests at the service.
    pub service: u32,
    /// Requests at the backend.
    pub backend: u32,
    /// Requests that waited for the backend before this one.
    pub backend_queue: u32,
    /// Requests that waited for the service before this one.
    pub service_queue: u32,
}

impl<'a> Record<'a> {
    /// A record of which nothing more is known.
    pub fn new(listener: &'a str, client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            traffic: Traffic::Http,
            listener,
            route: None,
            service: None,
            attempts: &[],
            client,
            real_client: client.ip(),
            server,
            workload: None,
            connection: 0,
            connection_requests: 1,
            request: None,
            original_target: None,
            first_line: &[],
            status: 0,
            response: None,
            received: Octets::default(),
            sent: Octets::default(),
            times: Times::default(),
            end: End::Complete,
            phase: Phase::Request,
            sticky_request: StickyRequest::Unused,
            sticky_response: StickyResponse::Unused,
            refusal: None,
            tls: None,
            fault_delayed: false,
            request_id: &[],
            trace: None,
            preread: None,
            counts: Counts::default(),
            cookies: [None; 2],
        }
    }

    /// The target as the client sent it; empty without a head.
    pub fn target(&self) -> &'a [u8] {
        let now = self.request.map_or(&[][..], RequestHead::target);
        self.original_target.unwrap_or(now)
    }

    /// The attempt that gave the answer, or the last that failed.
    pub fn last_attempt(&self) -> Option<&'a Attempt<'a>> {
        self.attempts.last()
    }

    /// Attempts after the first.
    pub fn retries(&self) -> usize {
        self.attempts.len().saturating_sub(1)
    }
}

impl Default for Record<'_> {
    /// A record of an unnamed listener.
    fn default() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self::new("", nowhere, nowhere)
    }
}
