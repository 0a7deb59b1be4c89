//! The key `listeners`.

use super::scalar::{HttpsRedirect, Name, Network, Percent, Port};
use super::{http, mesh, passthrough, steer, tls};
use crate::config::decode::Field;
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// An address that clients use, and what is spoken there. Which keys there are depends on `kind`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Name of the listener, unique among listeners; shown in status, logs and metrics.
    pub(crate) name: Field<Name>,
    /// What is spoken.
    pub(crate) kind: Field<ListenerKind>,
    /// The address to listen on; `0.0.0.0` and `"::"` are all addresses of this host. With
    /// `kind: l4`, the VIP: one address, or a prefix such as `192.0.2.0/28` for all its addresses.
    pub(crate) address: Field<Network>,
    /// The port. With `kind: l4` also `all` for every port: a listener with one port comes before
    /// one with all; one address comes before a prefix, a longer prefix before a shorter one.
    pub(crate) port: Field<Port>,
    /// The transport protocol. Only with `kind: l4`.
    #[serde(default)]
    #[schemars(extend("default" = "tcp"))]
    pub(crate) protocol: Field<TransportProtocol>,
    /// Name of the service that answers. Must be given, except with `kind: http`, where it answers
    /// what no route matches, and with `kind: tls-passthrough`, where it answers what `names` do
    /// not name.
    #[serde(default)]
    pub(crate) service: Field<Name>,
    /// Who gets which connection, by what the client says before anything is encrypted. Only with
    /// `kind: tls-passthrough`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) names: Field<Vec<Field<passthrough::Names>>>,
    /// Which sources may use this listener, and how fast. Only with `kind: l4`.
    #[serde(default)]
    pub(crate) guard: Field<ListenerGuard>,
    /// Peers that begin each connection with a PROXY header, version 1 or 2; others may not send
    /// one. Only with `kind: http`, `kind: tcp` and `kind: tls-passthrough`.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) proxy_protocol_from: Field<Vec<Field<Network>>>,
    /// More addresses and ports for this listener, without a socket for each. Not with `kind: l4`.
    #[serde(default)]
    pub(crate) steer: Field<steer::Steer>,
    /// Has the kernel send here what programs of some cgroups open to elsewhere, or what others open
    /// to them. Only with `kind: http`; connections by other protocols are passed on.
    #[serde(default)]
    pub(crate) mesh: Field<mesh::Mesh>,
    /// Limits of what clients may send. Not with `kind: l4`; with `tcp`, `tls-passthrough` and
    /// `udp` only `connections`.
    #[serde(default)]
    pub(crate) limits: Field<http::Limits>,
    /// How long things may take. Not with `kind: l4`; with `tcp` and `udp` only `idle`, with
    /// `tls-passthrough` also `head`: until the client has said whom it wants.
    #[serde(default)]
    pub(crate) timeouts: Field<http::Timeouts>,
    /// Datagrams that answer one of a client, 1 for DNS: a session ends as soon as as many have come
    /// as all of the client's datagrams ask for, and its place is free. Without it, only
    /// `timeouts.idle` ends a session. Only with `kind: udp`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) responses: Field<u32>,
    /// Settings of HTTP/2. Only with `kind: http`.
    #[serde(default)]
    pub(crate) http2: Field<http::Http2>,
    /// TLS that ends here: HTTPS with `kind: http`, whatever is inside of it with `kind: tcp`. Only
    /// with these two.
    #[serde(default)]
    pub(crate) tls: Field<tls::Tls>,
    /// Answers every request with a redirect (308) to `https` at this port; `true` for port 443.
    /// Only with `kind: http` without `tls`.
    #[serde(default)]
    pub(crate) https_redirect: Field<HttpsRedirect>,
    /// What backends are told about the client. Only with `kind: http`.
    #[serde(default)]
    pub(crate) forwarded: Field<http::Forwarded>,
    /// Where requests or connections are logged: `stdout`, a path, or a map with more. Without it
    /// nowhere. Not with `kind: l4`.
    #[serde(default)]
    pub(crate) access_log: Field<http::AccessLog>,
    /// Share of requests that are traced, where the client's trace context does not decide. Needs
    /// `tracing`. Only with `kind: http`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(defaults::http::TRACE_SHARE)))]
    pub(crate) trace_share: Field<Percent>,
    /// Compresses responses for clients that take it. `{}` with the usual settings. Not where the
    /// response holds a secret beside what the client has sent: its length would tell of it
    /// (BREACH). Only with `kind: http`.
    #[serde(default)]
    pub(crate) compression: Field<http::Compression>,
    /// Response fields that tell browsers to be careful; fields that a backend sends itself stay.
    /// Only with `kind: http`.
    #[serde(default)]
    #[schemars(extend("default" = "off"))]
    pub(crate) security_headers: Field<http::SecurityHeaders>,
    /// Has the octets of clients on this host go from socket to socket in the kernel, past TCP and
    /// IP. Only with `kind: http`, `tcp` or `tls-passthrough`.
    #[serde(default)]
    #[schemars(extend("default" = "off"))]
    pub(crate) accelerate: Field<http::Accelerate>,
    /// What moves the octets of tunnels. Only with `kind: http`, `tcp` or `tls-passthrough`.
    #[serde(default)]
    #[schemars(extend("default" = "auto"))]
    pub(crate) splice: Field<http::Splice>,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ListenerKind {
    /// Whatever the protocol carries: packets are steered in the kernel by their addresses and
    /// ports.
    L4,
    /// HTTP/1.1, WebSocket, and HTTP/2 and gRPC in clear text: requests are routed one by one.
    Http,
    /// Any protocol over TCP: each connection is passed on to one backend.
    Tcp,
    /// TLS that is not decrypted here: each connection is passed on by the server name (SNI) and
    /// the application protocols (ALPN) that the client asks for.
    TlsPassthrough,
    /// Any protocol over UDP: the datagrams of a client are passed on to one backend.
    Udp,
}

impl ListenerKind {
    /// The word in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::TlsPassthrough => "tls-passthrough",
            Self::Udp => "udp",
        }
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which sources may use a listener, and how fast.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenerGuard {
    /// Sources that may. If any is given, all sources that no prefix of `allow` covers may not.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) allow: Field<Vec<Field<Network>>>,
    /// Sources that may not. Of both lists the longest prefix that matches decides.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) deny: Field<Vec<Field<Network>>>,
    /// How many new flows one source address may open. Without it there is no limit.
    #[serde(default)]
    pub(crate) budget: Field<Budget>,
}

/// A per-source budget of new flows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budget {
    /// New flows per second in the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) per_second: Field<u32>,
    /// New flows at once after a pause. Without it, as many as `per_second`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Field<u32>,
}
