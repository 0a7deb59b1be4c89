//! The part of the model that the proxy paths run by: listeners for HTTP, TCP and UDP, routes, and
//! what a service means to them.

mod backend_tls;
mod compression;
mod construct;
mod listener;
mod passthrough;
mod resilience;
mod route;
mod security;
mod upstream;

pub use backend_tls::{BackendTls, TlsIdentity, TlsName};
pub use compression::{Coding, Compression, CompressionLevel};
pub use construct::default_route;
pub use listener::{
    Accelerate, AccessLog, Forwarded, Http2, HttpListener, HttpTimeouts, Limits, LogFormat,
    LogTarget, Splice, StreamListener,
};
pub use passthrough::{NameRule, Passthrough};
pub use resilience::{
    Budget, Circuit, CircuitErrors, Concurrency, Fallback, Hedge, HedgeAfter, Overload, Priority,
    Resilience, Retries, RetryOn,
};
pub use route::{
    Action, Fault, FieldEdits, Files, FixedResponse, HostMatch, Mirror, PathMatch, PathRewrite,
    Redirect, Rewrite, Route, RouteMatch, Split, ValueMatch, ValueTest,
};
pub use security::SecurityHeaders;
pub use upstream::{
    BackendAddress, BackendProtocol, BackendTraits, Balance, BalancePolicy, DnsQuestion, HashOn,
    NamedBackend, ProxyVersion, StickyCookie, Upstream,
};

use std::time::Duration;

/// The workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many; `None`: the CPUs of the affinity mask and the cgroup's quota.
    pub count: Option<u32>,
    /// How long connections may go on after the stop was asked for.
    pub drain_timeout: Duration,
    /// How long one that has done something asks for more before it sleeps.
    pub busy_poll: Duration,
}
