//! The key `services`.

use super::health::Health;
use super::outlier;
use super::resilience;
use super::scalar::{Address, BackendName, Endpoint, HostPort, Name, SrvName, Text, Time};
use super::upstream;
use crate::config::decode::{Field, Pairs};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::Deserialize;

/// A named set of backends and how they are used.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// Name of the service, unique among services; shown in status, logs and metrics.
    pub(crate) name: Field<Name>,
    /// How packets reach a backend. Only for l4 listeners, as are `selection`, `ring_size` and
    /// `source_addresses`.
    #[serde(default)]
    #[schemars(extend("default" = "nat"))]
    pub(crate) mode: Field<ForwardingMode>,
    /// How a new flow gets its backend.
    #[serde(default)]
    #[schemars(extend("default" = "maglev"))]
    pub(crate) selection: Field<SelectionMethod>,
    /// Slots of the Maglev ring: a prime, best 100 times the number of backends or more. All
    /// three selections use the ring.
    #[serde(default)]
    #[schemars(range(min = 2, max = 1_000_003), extend("default" = defaults::RING_SIZE))]
    pub(crate) ring_size: Field<u32>,
    /// The addresses that backends see as the client in the mode `full-nat`: addresses of this
    /// balancer that nothing else uses. Each carries 64512 flows of TCP and as many of UDP at
    /// a time. At most 8 in all services together; services share a whole list or nothing.
    #[serde(default)]
    #[schemars(length(max = 8), extend("default" = []))]
    pub(crate) source_addresses: Field<Vec<Field<Address>>>,
    /// Has sockets of this host that dial the VIPs of l4 listeners given a backend at once. Needs
    /// `connect`. `{}` with the usual settings.
    #[serde(default)]
    pub(crate) at_connect: Field<super::connect::AtConnect>,
    /// Has the octets of backends on this host go from socket to socket in the kernel, past TCP and
    /// IP.
    #[serde(default)]
    #[schemars(extend("default" = "off"))]
    pub(crate) accelerate: Field<super::http::Accelerate>,
    /// What HTTP backends speak.
    #[serde(default)]
    #[schemars(extend("default" = "auto"))]
    pub(crate) protocol: Field<upstream::BackendProtocol>,
    /// TLS, if backends speak it. Then ALPN decides for `protocol: auto`.
    #[serde(default)]
    pub(crate) tls: Field<super::backend_tls::BackendTls>,
    /// Who gets a request or proxied connection: the policy, or a map with more.
    #[serde(default)]
    pub(crate) balance: Field<upstream::Balance>,
    /// A cookie that keeps a client with its backend, whatever `balance` says: its name, or a map
    /// with more.
    #[serde(default)]
    pub(crate) sticky_cookie: Field<upstream::StickyCookie>,
    /// Connections to the backends.
    #[serde(default)]
    pub(crate) connections: Field<upstream::Connections>,
    /// The PROXY header that each connection to a backend begins with. Without it, none.
    /// Connections then serve one client only. Datagrams have it each, and only as `v2`.
    #[serde(default)]
    pub(crate) send_proxy: Field<upstream::ProxyVersion>,
    /// Which failures are met by another attempt, and how.
    #[serde(default)]
    pub(crate) retries: Field<resilience::Retries>,
    /// A second attempt beside one that is slow.
    #[serde(default)]
    pub(crate) hedge: Field<resilience::Hedge>,
    /// When requests are refused at once.
    #[serde(default)]
    pub(crate) circuit: Field<resilience::Circuit>,
    /// Requests at once, of all workers: a number, or a map with more. Without it, no limit.
    #[serde(default)]
    pub(crate) concurrency: Field<resilience::Concurrency>,
    /// What answers when the service cannot.
    #[serde(default)]
    pub(crate) fallback: Field<resilience::Fallback>,
    /// Only backends with all of these labels are used; by default all are.
    #[serde(default)]
    pub(crate) subset: Field<Pairs<Text>>,
    /// This proxy's zone; backends of it are preferred while enough of them are healthy.
    #[serde(default)]
    pub(crate) zone: Field<Name>,
    /// How long flows are kept that no packet belongs to, and how long backends may take.
    #[serde(default)]
    pub(crate) timeouts: Field<Timeouts>,
    /// How long a draining backend keeps its flows; after that they are selected anew.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::DRAIN_TIMEOUT)))]
    pub(crate) drain_timeout: Field<Time>,
    /// The servers. Must be given, except in the mode `local`, which has none.
    #[serde(default)]
    pub(crate) backends: Field<Vec<Field<Backend>>>,
    /// Active health check. Without it every backend counts as healthy.
    #[serde(default)]
    pub(crate) health: Field<Health>,
    /// Passive health: backends that fail real requests or connections of the proxies are ejected
    /// for a while, from l4 listeners of the service as well. Without it, only 5 connections in a
    /// row that cannot be opened eject. `{}` for the usual settings, `off` for none of it.
    #[serde(default)]
    pub(crate) outlier: Field<outlier::Outlier>,
    /// Has the latency that the proxies see move the weights of l4 listeners of the service.
    #[serde(default)]
    pub(crate) steer_by_latency: Field<outlier::WeightsByLatency>,
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardingMode {
    /// The destination address and port become the backend's; answers come back through the
    /// balancer, which must be the backends' way to the clients (their gateway).
    Nat,
    /// As `nat`, and the source becomes one of `source_addresses`, so that backends need no route
    /// back; they do not see the client's address.
    FullNat,
    /// Only the MAC addresses change; the backend, in the same layer 2 network and with the VIP
    /// on a loopback interface, answers the client directly. Ports cannot be translated.
    DsrL2,
    /// The packet is wrapped in another IP packet (IPIP, RFC 2003 and 2473); the backend unwraps
    /// it (`sluice decap`) and answers the client directly. Ports cannot be translated.
    DsrIpip,
    /// The packet is wrapped in UDP (GUE variant 1); otherwise as `dsr-ipip`.
    DsrGue,
    /// This host serves it: the guard decides, packets are counted and passed on to the host.
    Local,
}

/// How a new flow gets its backend.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SelectionMethod {
    /// Consistent hashing on addresses and ports (Maglev, NSDI 2016): balancers of a fleet choose
    /// alike, and a change of backends moves few flows.
    Maglev,
    /// As `maglev`, but a client address keeps its backend until `timeouts.affinity` has passed
    /// without a new flow.
    SourceAffinity,
    /// Of two candidates from the ring, the one with fewer live flows for its weight.
    TwoChoices,
}

/// How long flows of l4 listeners are kept that no packet belongs to, at most 26 days: `syn` to
/// `affinity`; and how long backends of the proxy paths may take: `connect` to `request`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ServiceTimeouts")]
pub(crate) struct Timeouts {
    /// A TCP flow of which only a SYN was seen. After a change of backends, weights or health, flows whose
    /// SYN came before it go where they would have gone for as long.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUTS.syn)))]
    pub(crate) syn: Field<Time>,
    /// An established TCP flow.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUTS.established)))]
    pub(crate) established: Field<Time>,
    /// A TCP flow after a FIN or RST.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUTS.closing)))]
    pub(crate) closing: Field<Time>,
    /// A UDP flow.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUTS.udp)))]
    pub(crate) udp: Field<Time>,
    /// How long a client address keeps its backend with `selection: source-affinity`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::TIMEOUTS.affinity)))]
    pub(crate) affinity: Field<Time>,
    /// To open a connection to a backend; then another is tried, or 504.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::http::CONNECT_TIMEOUT)))]
    pub(crate) connect: Field<Time>,
    /// From the end of a request to the head of its response; then 504.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::http::RESPONSE_TIMEOUT)))]
    pub(crate) response: Field<Time>,
    /// Between two pieces of a response, or of a request that the backend takes; also a WebSocket
    /// on which nothing moves.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(defaults::http::IDLE_TIMEOUT)))]
    pub(crate) idle: Field<Time>,
    /// From the begin of an attempt to the head of its response; then another attempt is made, if
    /// `retries` allow it, or 504. Without it, the other limits hold.
    #[serde(default)]
    pub(crate) per_try: Field<Time>,
    /// A whole request with all its attempts, to the end of its response; then 504. `timeout` of
    /// the route and the `grpc-timeout` of a gRPC client hold as well: the shortest wins. Without
    /// it, these alone.
    #[serde(default)]
    pub(crate) request: Field<Time>,
}

/// A server: its address and port, or a map with more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "Backend", untagged)]
pub(crate) enum Backend {
    /// The address with or without port.
    Endpoint(Endpoint),
    /// The address and more.
    Keys(Box<BackendKeys>),
}

/// A server with more than an address: exactly one of `address`, `dns` and `srv`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendKeys {
    /// Name of the backend, unique in its service. Without it, the address and port as written.
    #[serde(default)]
    pub(crate) name: Field<BackendName>,
    /// Address and port, such as `10.1.0.2:8080` or `"[2001:db8::2]:8080"`. Without a port, which
    /// only l4 listeners allow, the client's destination port is kept.
    #[serde(default)]
    pub(crate) address: Field<Endpoint>,
    /// A host name and port, such as `app.internal:8080`: every address that DNS has for it is a
    /// backend; it is asked again when the answer has expired. Not for l4 listeners.
    #[serde(default)]
    pub(crate) dns: Field<HostPort>,
    /// A name with SRV records, such as `_http._tcp.example.com`, which tell hosts, ports and
    /// weights. Not for l4 listeners.
    #[serde(default)]
    pub(crate) srv: Field<SrvName>,
    /// Share of new flows or requests, relative to the other backends; 0 takes none.
    #[serde(default)]
    #[schemars(extend("default" = defaults::WEIGHT))]
    pub(crate) weight: Field<u16>,
    /// A tier is used only when those before it have no healthy backend left; 0 is the first.
    #[serde(default)]
    #[schemars(range(max = 15), extend("default" = 0))]
    pub(crate) tier: Field<u8>,
    /// `true` is another way to write `tier: 1`.
    #[serde(default)]
    pub(crate) backup: Field<bool>,
    /// Labels, for `subset`.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(crate) labels: Field<Pairs<Text>>,
    /// The zone in which it is.
    #[serde(default)]
    pub(crate) zone: Field<Name>,
    /// Connections to it at once, instead of `connections.max`; 0 for no limit.
    #[serde(default)]
    pub(crate) max_connections: Field<u32>,
}
