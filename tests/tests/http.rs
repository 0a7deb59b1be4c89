//! The HTTP engine between real sockets: clients that say exactly what a test wants, origins that
//! answer exactly so, and curl and nginx where the point is that they are not ours.
//!
//! The workers run inside the test's process, so that each test has its own configuration and its
//! own time limits. No privileges are needed, but for the names that a name server of the test's
//! answers.

#[path = "http/support.rs"]
mod support;

#[path = "http/acme.rs"]
mod acme;
#[path = "http/admin_api.rs"]
mod admin_api;
#[path = "http/admin_page.rs"]
mod admin_page;
#[path = "http/admin_support.rs"]
mod admin_support;
#[path = "http/balancing.rs"]
mod balancing;
#[path = "http/browser.rs"]
mod browser;
#[path = "http/circuits.rs"]
mod circuits;
#[path = "http/commands.rs"]
mod commands;
#[path = "http/compression.rs"]
mod compression;
#[path = "http/condemned.rs"]
mod condemned;
#[path = "http/content.rs"]
mod content;
#[path = "http/cpus.rs"]
mod cpus;
#[path = "http/daemon.rs"]
mod daemon;
#[path = "http/datagrams.rs"]
mod datagrams;
#[path = "http/examples.rs"]
mod examples;
#[path = "http/failures.rs"]
mod failures;
#[path = "http/grpc.rs"]
mod grpc;
#[path = "http/h2_backends.rs"]
mod h2_backends;
#[path = "http/h2_clients.rs"]
mod h2_clients;
#[path = "http/h2_hostile.rs"]
mod h2_hostile;
#[path = "http/h2_support.rs"]
mod h2_support;
#[path = "http/headers.rs"]
mod headers;
#[path = "http/hostile_origins.rs"]
mod hostile_origins;
#[path = "http/limits.rs"]
mod limits;
#[path = "http/messages.rs"]
mod messages;
#[path = "http/names.rs"]
mod names;
#[path = "http/observe.rs"]
mod observe;
#[path = "http/ocsp.rs"]
mod ocsp;
#[path = "http/one_line.rs"]
mod one_line;
#[path = "http/outlier.rs"]
mod outlier;
#[path = "http/passthrough.rs"]
mod passthrough;
#[path = "http/peers.rs"]
mod peers;
#[path = "http/policies.rs"]
mod policies;
#[path = "http/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "http/retries.rs"]
mod retries;
#[path = "http/routes.rs"]
mod routes;
#[path = "http/services.rs"]
mod services;
#[path = "http/static_files.rs"]
mod static_files;
#[path = "http/stream_peers.rs"]
mod stream_peers;
#[path = "http/streams.rs"]
mod streams;
#[path = "http/tls.rs"]
mod tls;
#[path = "http/tls_backends.rs"]
mod tls_backends;
#[path = "http/tls_daemon.rs"]
mod tls_daemon;
#[path = "http/tls_names.rs"]
mod tls_names;
#[path = "http/tls_scans.rs"]
mod tls_scans;
#[path = "http/tls_tcp.rs"]
mod tls_tcp;
#[path = "http/traces.rs"]
mod traces;
#[path = "http/tunnels.rs"]
mod tunnels;
#[path = "http/websocket.rs"]
mod websocket;
