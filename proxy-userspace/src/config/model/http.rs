//! The part of the model that the proxy paths run by: listeners for HTTP, TCP and UDP, routes, and
//! what a service means to them.

mod backend_tls;
mod compression;
mod construct;
mod passthrough;
mod resilience;
mod security;

pub use backend_tls::{BackendTls, TlsIdentity, TlsName};
pub use compression::{Coding, Compression, CompressionLevel};
pub use construct::default_route;
pub use passthrough::{NameRule, Passthrough};
pub use resilience::{
    Budget, Circuit, CircuitErrors, Concurrency, Fallback, Hedge, HedgeAfter, Overload, Priority,
    Resilience, Retries, RetryOn,
};
pub use security::SecurityHeaders;

use super::mesh::Mesh;
use super::outlier::{Outlier, WeightsByLatency};
use super::steer::Steer;
use super::tls::ServerTls;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
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
    pub tls: Option<super::tls::ServerTls>,
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

/// A match and what then happens. Of all routes that match, the most specific one serves a
/// request: see `routing` for the precedence.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique name.
    pub name: String,
    /// Names of the HTTP listeners for which it holds, never empty.
    pub listeners: Vec<String>,
    /// Hosts, any of which matches; empty for all.
    pub hosts: Vec<HostMatch>,
    /// Conditions, any of which matches; never empty.
    pub matches: Vec<RouteMatch>,
    /// What happens.
    pub action: Action,
    /// Path and host that the backend sees.
    pub rewrite: Rewrite,
    /// Edits of the request's fields.
    pub request_fields: FieldEdits,
    /// Edits of the response's fields.
    pub response_fields: FieldEdits,
    /// Overrides [`HttpListener::security_headers`].
    pub security_headers: Option<SecurityHeaders>,
    /// Overrides [`HttpListener::compression`].
    pub compression: Option<Compression>,
    /// Copies of requests for another service.
    pub mirror: Option<Mirror>,
    /// Faults on purpose.
    pub fault: Option<Fault>,
    /// The whole exchange, from the request's head to the response's end; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Stands in the place of the service's [`Resilience::retries`].
    pub retries: Option<Retries>,
    /// How important its requests are when a worker has too much to do.
    pub priority: Priority,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This one, in lower case and without a port.
    Exact(String),
    /// `*.example.com`: kept as `.example.com`. Any number of labels before it, at least one.
    Wildcard(String),
}

/// One set of conditions, all of which must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Fields of the request; names in lower case.
    pub fields: Vec<ValueMatch>,
    /// Parameters of the query; compared after percent-decoding.
    pub query: Vec<ValueMatch>,
    /// Cookies.
    pub cookies: Vec<ValueMatch>,
    /// The client's address (behind trusted proxies: the one they tell); empty for all.
    pub sources: Vec<IpNet>,
    /// The client's cgroup or one above it, by path, where the connection was redirected; empty for
    /// all.
    pub workloads: Vec<String>,
}

/// Which paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one and all below it: `/a` matches `/a` and `/a/b`, not `/ab`. `/` matches all.
    Prefix(String),
    /// The whole path matches this regular expression.
    Regex(String),
}

/// A named value and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Name of the field, parameter or cookie.
    pub name: String,
    /// What its value must be. Of several values, any may match.
    pub value: ValueTest,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueTest {
    /// Present, whatever it is.
    Present,
    /// Not present.
    Absent,
    /// This.
    Exact(String),
    /// Something that begins so.
    Prefix(String),
    /// Something that this regular expression matches as a whole.
    Regex(String),
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A service answers. One target, or several with shares.
    Forward(Split),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// A fixed answer.
    Respond(FixedResponse),
    /// Files of this host.
    Files(Files),
}

/// Services with shares of the requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Services (which exist) and their weights; never empty. If all weights are 0, the answer is
    /// 503.
    pub targets: Vec<(String, u32)>,
    /// What keeps a client with one target; `None`: each request is drawn anew.
    pub sticky: Option<HashOn>,
}

/// A redirect. Parts that are `None` stay as they are in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// True: the query is kept.
    pub keep_query: bool,
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResponse {
    /// 200..=599.
    pub status: u16,
    /// Content.
    pub body: String,
    /// Its type.
    pub content_type: String,
}

/// Files of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Folder that is served. What lies outside is never served, whatever links there are.
    pub root: PathBuf,
    /// File names that stand for their folder, in order.
    pub index: Vec<String>,
    /// True: folders without an index are listed.
    pub list: bool,
    /// Prefix of the path that is not part of the file's name; `/` for none.
    pub strip_prefix: String,
    /// Coding variants beside the file that may be served, best first.
    pub precompressed: Vec<Coding>,
    /// `Cache-Control` of the files, if any.
    pub cache_control: Option<String>,
    /// File (below `root`) that is served where none is found: for single-page applications.
    pub fallback: Option<String>,
}

/// Path and host that the backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Path.
    pub path: Option<PathRewrite>,
    /// Host; by default the client's.
    pub host: Option<String>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one.
    Full(String),
    /// The prefix that the route matched becomes this one.
    Prefix(String),
    /// What the regular expression matches becomes the replacement: all matches,
    /// with `$0` to `$9` for the match and its groups and `$$` for a dollar sign.
    Regex {
        /// Regular expression.
        pattern: String,
        /// Replacement.
        replacement: String,
    },
}

/// Edits of fields: removals first, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// Fields that are removed.
    pub remove: Vec<String>,
    /// Fields that replace all of their name.
    pub set: Vec<(String, String)>,
    /// Fields that are added.
    pub add: Vec<(String, String)>,
}

/// Copies of requests; their answers are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Name of the service.
    pub service: String,
    /// Share of requests, 0..=1.
    pub share: f64,
    /// Requests with more content are not copied.
    pub max_body_bytes: u64,
}

/// Faults on purpose, to test what clients do.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// A delay, and the share of requests that it meets, 0..=1.
    pub delay: Option<(Duration, f64)>,
    /// An error status, and the share of requests that get it, 0..=1.
    pub abort: Option<(u16, f64)>,
}

/// How the proxy paths use a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Whether octets of backends on this host go past TCP.
    pub accelerate: Accelerate,
    /// What backends speak.
    pub protocol: BackendProtocol,
    /// TLS, if they speak it.
    pub tls: Option<BackendTls>,
    /// Who gets a request.
    pub balance: Balance,
    /// A cookie that keeps a client with its backend, whatever `balance` says.
    pub sticky_cookie: Option<StickyCookie>,
    /// Connections to one backend at once, of all workers; 0 for no limit.
    pub max_connections: u32,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Requests that may wait for a connection, of all workers; 0: none waits.
    pub queue: u32,
    /// How long one waits.
    pub queue_timeout: Duration,
    /// To open a connection.
    pub connect_timeout: Duration,
    /// From the request's end to the response's head.
    pub response_timeout: Duration,
    /// Between two reads of a response, or two writes of a request.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept.
    pub keepalive: Duration,
    /// Unused connections to one backend that each worker keeps.
    pub max_idle: u32,
    /// The PROXY header that each connection begins with. Connections then serve one client only.
    pub send_proxy: Option<ProxyVersion>,
    /// Backends that must be found by name.
    pub names: Vec<NamedBackend>,
    /// Traits of backends, in the order of `Service::backends`.
    pub traits: Vec<BackendTraits>,
    /// Only backends with these labels; empty for all.
    pub subset: Vec<(String, String)>,
    /// This proxy's zone; backends of it come first while enough of them are healthy.
    pub zone: Option<String>,
    /// Retries, limits, breakers.
    pub resilience: Resilience,
    /// When backends are ejected for what they do with requests; `None` for never.
    pub outlier: Option<Outlier>,
    /// How latency moves the weights of the packet path, if it does.
    pub steer_by_latency: Option<WeightsByLatency>,
}

/// What backends speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2, with prior knowledge.
    H2,
    /// HTTP/2 where the client's request came by it and is gRPC or extended CONNECT, or where the
    /// backend has shown that it can; else HTTP/1.1. With TLS, what the backend chooses by ALPN.
    Auto,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Who gets a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The policy.
    pub policy: BalancePolicy,
    /// Share of healthy backends below which health is ignored, 0..=1.
    pub panic_threshold: f64,
    /// How long a backend's weight grows after it became healthy; 0 for not at all.
    pub slow_start: Duration,
}

/// A balancing policy.
#[derive(Clone, Debug, PartialEq)]
pub enum BalancePolicy {
    /// Smooth weighted round robin, as nginx does it.
    RoundRobin,
    /// Fewest requests in progress for its weight.
    LeastRequests,
    /// The better of two drawn at random.
    TwoChoices,
    /// Lowest peak-sensitive moving average of latency, times requests in progress, of two drawn.
    PeakEwma,
    /// Drawn by weight.
    Random,
    /// Maglev ring.
    Maglev(HashOn),
    /// Ketama-like ring.
    Ring(HashOn),
}

impl BalancePolicy {
    /// As the configuration calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastRequests => "least-requests",
            Self::TwoChoices => "two-choices",
            Self::PeakEwma => "peak-ewma",
            Self::Random => "random",
            Self::Maglev(_) => "maglev",
            Self::Ring(_) => "ring",
        }
    }
}

/// What a hash is made of. Where a request lacks it, it is drawn at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address.
    Source,
    /// A field; name in lower case.
    Field(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
    /// The path.
    Path,
}

/// A cookie that names a client's backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Name.
    pub name: String,
    /// `Max-Age`; `None` for a session cookie.
    pub max_age: Option<Duration>,
    /// `Path`.
    pub path: String,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`, if any.
    pub same_site: Option<String>,
}

/// A backend that must be found by name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedBackend {
    /// What DNS is asked.
    pub question: DnsQuestion,
    /// Weight of each address found (SRV: times its own).
    pub weight: u16,
    /// Traits of each.
    pub traits: BackendTraits,
}

/// What DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsQuestion {
    /// A and AAAA of a host, with this port.
    Host(String, u16),
    /// SRV records, then their hosts.
    Service(String),
}

/// Traits of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTraits {
    /// 0 for the first choice; a tier is used only when those before it have no backend left.
    pub tier: u8,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Zone.
    pub zone: Option<String>,
    /// Overrides [`Upstream::max_connections`].
    pub max_connections: Option<u32>,
}

/// Where a backend of the proxy paths is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendAddress(pub IpAddr, pub u16);

/// The workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many; `None`: the CPUs of the affinity mask and the cgroup's quota.
    pub count: Option<u32>,
    /// How long connections may go on after the stop was asked for.
    pub drain_timeout: Duration,
}
