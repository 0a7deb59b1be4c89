//! Listeners.

use super::{Compression, Passthrough, SecurityHeaders};
use crate::config::model::mesh::Mesh;
use crate::config::model::steer::Steer;
use crate::config::model::tls::ServerTls;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A listener that speaks HTTP/1.1 and, with prior knowledge, HTTP/2 in clear text.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// Unique name among all listeners.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Peers that begin each connection with a PROXY header (v1 or v2). Others may not send one.
    pub proxy_protocol_from: Vec<IpNet>,
    /// What it gets besides what it is bound to.
    pub steer: Option<Steer>,
    /// Whose connections it gets besides those that are made to it.
    pub mesh: Option<Mesh>,
    /// Limits of what clients may send.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: HttpTimeouts,
    /// HTTP/2 settings.
    pub http2: Http2,
    /// What backends are told about the client.
    pub forwarded: Forwarded,
    /// Requests of one connection at most; 0 for no limit.
    pub max_requests_per_connection: u32,
    /// Where requests are logged, if anywhere.
    pub access_log: Option<AccessLog>,
    /// Share of requests that are traced, 0..=1, where the client's context does not decide.
    pub trace_share: f64,
    /// Fields for browsers that are added to responses, unless the route says otherwise.
    pub security_headers: SecurityHeaders,
    /// Which responses are compressed, if any.
    pub compression: Option<Compression>,
    /// TLS, if it is spoken.
    pub tls: Option<ServerTls>,
    /// The port of the HTTPS listener to which every request is sent, if they are.
    pub https_redirect: Option<u16>,
    /// Whether octets of clients on this host go past TCP.
    pub accelerate: Accelerate,
    /// What moves the octets of tunnels.
    pub splice: Splice,
}

/// What moves the octets of tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Splice {
    /// This process reads and writes them.
    Off,
    /// The kernel, from socket to socket, while many flow.
    Pipe,
    /// As before; and past this process where both connections are accelerated.
    #[default]
    Auto,
}

impl Splice {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Pipe => "pipe",
            Self::Auto => "auto",
        }
    }
}

/// Whether octets between this process and another one of this host go from socket to socket, past
/// TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Accelerate {
    /// They do not.
    #[default]
    Off,
    /// If the host can, and its self-test passes.
    Auto,
    /// Or the process does not start.
    On,
}

impl Accelerate {
    /// The word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::On => "on",
        }
    }
}

/// Limits of what a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fields of a head, and of trailers.
    pub fields: u32,
    /// Octets of a head (of the decoded field list in HTTP/2).
    pub head_bytes: u32,
    /// Octets of a target.
    pub target_bytes: u32,
    /// Octets of content; `None` for no limit.
    pub body_bytes: Option<u64>,
    /// Connections at once on this listener; 0 for no limit but the process's.
    pub connections: u32,
}

/// How long things may take at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// From a request's first octet to the end of its head.
    pub head: Duration,
    /// From the last octet of content to the next.
    pub body_idle: Duration,
    /// Octets per second that content must reach on average after the first `body_idle`; 0 for
    /// none. Holds as long as the response has not begun: from then on the two sides may be in
    /// talks, as gRPC streams are.
    pub body_rate: u32,
    /// A connection without a request.
    pub idle: Duration,
    /// A client that takes nothing of a response.
    pub write: Duration,
    /// How long a connection is read from after a refusal, so that the answer arrives
    /// (RFC 9112 §9.6).
    pub linger: Duration,
}

/// HTTP/2 settings of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// False: connections that begin with the HTTP/2 preface are refused.
    pub enabled: bool,
    /// True: connections that begin otherwise are closed.
    pub only: bool,
    /// Streams at once.
    pub max_streams: u32,
    /// Octets of a stream that may be in flight to us.
    pub stream_window_bytes: u32,
    /// Octets of a connection that may be in flight to us.
    pub connection_window_bytes: u32,
    /// Largest frame that we take.
    pub max_frame_bytes: u32,
    /// Streams that a client may reset before their answer is complete, in one
    /// [`Http2::abuse_window`].
    pub max_resets: u32,
    /// Pings, settings and other frames without a stream, in one window.
    pub max_control_frames: u32,
    /// Window of the two limits above.
    pub abuse_window: Duration,
}

/// What backends are told about the client, and whom we believe what we are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Proxies before us whose fields are kept and extended; those of others are replaced.
    pub trusted: Vec<IpNet>,
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    pub x_forwarded: bool,
    /// `X-Real-IP`.
    pub x_real_ip: bool,
    /// `Forwarded` (RFC 7239).
    pub forwarded: bool,
    /// Our name in `Via`, both ways; `None` for no `Via`.
    pub via: Option<String>,
    /// `X-Request-ID`: made if absent or not from a trusted proxy.
    pub request_id: bool,
}

/// Where and how requests are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where to.
    pub to: LogTarget,
    /// What a line looks like.
    pub format: LogFormat,
    /// Share of requests that are logged, 0..=1. Those that failed (status 500 and above) always
    /// are.
    pub share: f64,
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file; reopened on SIGUSR1.
    File(PathBuf),
}

/// What a line of an access log looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// nginx's `combined`, octet by octet.
    Combined,
    /// The Common Log Format.
    Common,
    /// HAProxy's `httplog`, without the syslog header.
    Haproxy,
    /// A template with nginx's variables (`$remote_addr` …), checked when it was read.
    Template(String),
}

/// A listener that passes TCP or UDP on as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamListener {
    /// Unique name among all listeners.
    pub name: String,
    /// TCP or UDP.
    pub protocol: crate::types::Protocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of the service; `None` only where all have to be named by `passthrough`.
    pub service: Option<String>,
    /// What is passed on is TLS, and its first message chooses the service. TCP only.
    pub passthrough: Option<Passthrough>,
    /// TLS that ends here, if it is spoken. TCP only, and not with `passthrough`.
    pub tls: Option<ServerTls>,
    /// As [`HttpListener::proxy_protocol_from`]. TCP only.
    pub proxy_protocol_from: Vec<IpNet>,
    /// What it gets besides what it is bound to.
    pub steer: Option<Steer>,
    /// A connection or UDP session on which nothing moves.
    pub idle_timeout: Duration,
    /// Connections or UDP sessions at once; 0 for no limit but the process's (TCP only).
    pub max_connections: u32,
    /// Datagrams that answer one of the client; the session ends when all have come. `None`: only
    /// time ends it. UDP only.
    pub responses: Option<u32>,
    /// Where connections are logged, if anywhere.
    pub access_log: Option<AccessLog>,
    /// As [`HttpListener::accelerate`]. TCP only.
    pub accelerate: Accelerate,
    /// As [`HttpListener::splice`]. TCP only.
    pub splice: Splice,
}
