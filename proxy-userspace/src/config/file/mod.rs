//! What a configuration file may say: exactly what is written, nothing filled in.
//!
//! These types are the one definition of the file's keys. [`super::decode`] reads them,
//! [`super::schema()`] makes the JSON Schema and the reference of them, so their doc comments are
//! written for users. What the values mean together is judged in [`super::validate`].
//!
//! Every field is a [`Field`]. A key with `#[serde(default)]` may be left out; what then holds is
//! given as `default` in the schema and comes from [`super::defaults`].

pub(crate) mod acme;
pub(crate) mod action;
pub(crate) mod admin;
pub(crate) mod backend_tls;
pub(crate) mod condemn;
pub(crate) mod connect;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod l4;
pub(crate) mod listener;
pub(crate) mod mesh;
pub(crate) mod outlier;
pub(crate) mod passthrough;
pub(crate) mod process;
pub(crate) mod resilience;
pub(crate) mod route;
pub(crate) mod scalar;
pub(crate) mod service;
pub(crate) mod steer;
pub(crate) mod tls;
pub(crate) mod tracing;
pub(crate) mod upstream;

use super::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// Configuration of sluice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Configuration")]
pub(crate) struct File {
    /// The kernel data plane: where it is attached and how much it can hold. Must be given if a
    /// listener has `kind: l4`, unless `connect` serves it.
    #[serde(default)]
    pub(crate) l4: Field<l4::L4>,
    /// The workers of the proxy paths: HTTP, TCP and UDP listeners.
    #[serde(default)]
    pub(crate) workers: Field<http::Workers>,
    /// How the daemon is asked for status, metrics and changes.
    #[serde(default)]
    pub(crate) admin: Field<admin::Admin>,
    /// What the daemon may do once it has started: its user, its capabilities, its files. A change
    /// takes effect when the daemon is restarted.
    #[serde(default)]
    pub(crate) process: Field<process::Process>,
    /// Which sources may reach any listener of `kind: l4`. A listener's own rules come first; only where they
    /// have none for a source do these decide.
    #[serde(default)]
    pub(crate) guard: Field<l4::GlobalGuard>,
    /// Where traces of requests are sent. Without it there are none, and trace contexts pass through
    /// as they came.
    #[serde(default)]
    pub(crate) tracing: Field<tracing::Tracing>,
    /// Certificates that an authority issues by itself, for listeners that ask for them.
    #[serde(default)]
    pub(crate) acme: Field<acme::Acme>,
    /// When workers refuse requests because they have too much to do. Without it they never do.
    #[serde(default)]
    pub(crate) overload: Field<resilience::Overload>,
    /// When sources are condemned for what they do to the listeners of the proxies: they can then
    /// open no connections for a while. Without it nobody is.
    #[serde(default)]
    pub(crate) condemn: Field<condemn::Condemn>,
    /// Whose sockets are balanced at connect(), without packets through this host's interfaces: those
    /// of services with `at_connect` (see [balancing at connect()](connect.md)).
    #[serde(default)]
    pub(crate) connect: Field<connect::Connect>,
    /// The addresses that clients use, and which service answers there.
    #[serde(default)]
    pub(crate) listeners: Field<Vec<Field<listener::Listener>>>,
    /// The routes of HTTP listeners: which requests there are, and what happens to them. Of all
    /// that match, the most specific one serves a request (see [routing](routing.md)).
    #[serde(default)]
    pub(crate) routes: Field<Vec<Field<route::Route>>>,
    /// The services: named sets of backends and how they are used.
    #[serde(default)]
    pub(crate) services: Field<Vec<Field<service::Service>>>,
}

/// Words that other balancers use, as keys or as values, and ours for the same thing.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("access_logs", "access_log"),
    ("addr", "address"),
    ("algorithm", "selection"),
    ("backend", "service"),
    ("bind", "address"),
    ("br", "brotli"),
    ("check", "health"),
    ("client_max_body_size", "body"),
    ("cluster", "service"),
    ("clusters", "services"),
    ("domains", "hosts"),
    ("endpoints", "backends"),
    ("ewma", "peak-ewma"),
    ("frontends", "listeners"),
    ("h2c", "h2"),
    ("health_check", "health"),
    ("healthcheck", "health"),
    ("healthy_threshold", "rise"),
    ("host", "hosts"),
    ("hostname", "host"),
    ("hostnames", "hosts"),
    ("http/1.1", "h1"),
    ("http1", "h1"),
    ("http2", "h2"),
    ("ip", "address"),
    ("ip_hash", "source"),
    ("keepalive_timeout", "keepalive"),
    ("ketama", "ring"),
    ("lb", "balance"),
    ("lb_policy", "balance"),
    ("least_conn", "least-requests"),
    ("least_request", "least-requests"),
    ("leastconn", "least-requests"),
    ("matches", "match"),
    ("max_body", "body"),
    ("max_body_size", "body"),
    ("maxconn", "max"),
    ("members", "backends"),
    ("methods", "method"),
    ("nodes", "backends"),
    ("opentelemetry", "tracing"),
    ("otel", "tracing"),
    ("otlp", "tracing"),
    ("p2c", "two-choices"),
    ("path_prefix", "path"),
    ("policy", "selection"),
    ("pool", "service"),
    ("pools", "services"),
    ("proxy_protocol", "proxy_protocol_from"),
    ("retries", "fall"),
    ("return", "respond"),
    ("ring_hash", "ring"),
    ("rules", "routes"),
    ("sampling", "trace_share"),
    ("scheduler", "selection"),
    ("server_names", "hosts"),
    ("server_name", "hosts"),
    ("servers", "backends"),
    ("sni", "hosts"),
    ("snat", "source_addresses"),
    ("ssl", "tls"),
    ("ssl_certificate", "certificate"),
    ("ssl_certificate_key", "key"),
    ("ssl_ciphers", "ciphers"),
    ("ssl_preread", "tls-passthrough"),
    ("targets", "backends"),
    ("threads", "workers"),
    ("unhealthy_threshold", "fall"),
    ("upstream", "service"),
    ("upstreams", "services"),
    ("uri", "path"),
    ("url", "path"),
    ("vip", "address"),
    ("vips", "listeners"),
    ("weighted", "split"),
];

/// Our word for what another balancer calls `key`, if it is one of `known`.
pub(crate) fn other_word(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    let (_, word) = OTHER_WORDS.iter().find(|(other, _)| *other == key)?;
    known.contains(word).then_some(word)
}
