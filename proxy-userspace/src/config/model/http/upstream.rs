//! What a service and its backends mean to the proxy paths.

use super::{Accelerate, BackendTls, Resilience};
use crate::config::model::outlier::{Outlier, WeightsByLatency};
use std::net::IpAddr;
use std::time::Duration;

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
