//! What a configuration means, with every default filled in and every reference resolved.
//!
//! No serde here: the file's shape lives in `file` and may change without touching the code
//! that runs. Values are valid by construction of `validate`: weights are in range, names are
//! unique, references exist, modes fit their listeners.

pub mod acme;
pub mod condemn;
pub mod connect;
pub mod http;
pub mod mesh;
pub mod outlier;
pub mod process;
pub mod steer;
pub mod tls;
pub mod tracing;

use super::defaults;
use crate::types::{PortMatch, Protocol};
use ipnet::IpNet;
use proxy_common::service::{Mode, Selection};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The kernel data plane; `None` if nothing is balanced in the kernel.
    pub l4: Option<L4>,
    /// The workers of the proxy paths.
    pub workers: http::Workers,
    /// The admin endpoints.
    pub admin: Admin,
    /// What the process may do.
    pub process: process::Process,
    /// Where traces go; `None` for nowhere.
    pub tracing: Option<tracing::Tracing>,
    /// Certificates by ACME; `None` for none.
    pub acme: Option<acme::Acme>,
    /// When workers refuse requests because they have too much to do; `None` for never.
    pub overload: Option<http::Overload>,
    /// When sources are condemned for what they do to the proxies; `None` for never.
    pub condemn: Option<condemn::Condemn>,
    /// Whose sockets are balanced at connect(); `None` for nobody's.
    pub connect: Option<connect::Connect>,
    /// Listeners of the kernel data plane, in file order.
    pub listeners: Vec<Listener>,
    /// Listeners that speak HTTP, in file order.
    pub http_listeners: Vec<http::HttpListener>,
    /// Listeners that pass TCP or UDP on, in file order.
    pub stream_listeners: Vec<http::StreamListener>,
    /// Routes of the HTTP listeners, in file order.
    pub routes: Vec<http::Route>,
    /// Services in file order.
    pub services: Vec<Service>,
    /// Rules for the sources of every service of the kernel data plane.
    pub guard: Guard,
}

/// Nothing but the defaults: no listener, no service.
impl Default for Config {
    fn default() -> Self {
        Self {
            l4: None,
            workers: http::Workers::default(),
            admin: Admin::default(),
            process: process::Process::default(),
            tracing: None,
            acme: None,
            overload: None,
            condemn: None,
            connect: None,
            listeners: Vec::new(),
            http_listeners: Vec::new(),
            stream_listeners: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
            guard: Guard::default(),
        }
    }
}

impl Config {
    /// Settings of the kernel data plane: the given ones, or the defaults, without interfaces.
    pub fn data_plane(&self) -> &L4 {
        static DEFAULTS: LazyLock<L4> = LazyLock::new(L4::default);
        self.l4.as_ref().unwrap_or(&DEFAULTS)
    }

    /// True if the kernel data plane is wanted: packets of some interface are looked at.
    pub fn balances_packets(&self) -> bool {
        let l4 = self.l4.as_ref();
        l4.is_some_and(|l4| !l4.interfaces.is_empty())
    }

    /// The proxies whose word about clients some listener takes.
    pub fn trusted_proxies(&self) -> impl Iterator<Item = IpNet> + '_ {
        let http = self.http_listeners.iter().flat_map(|listener| {
            let told = &listener.forwarded.trusted;
            listener.proxy_protocol_from.iter().chain(told)
        });
        let streams = self.stream_listeners.iter();
        let streams = streams.flat_map(|listener| &listener.proxy_protocol_from);
        http.chain(streams).copied()
    }

    /// As [`Self::data_plane`], to be changed.
    pub fn data_plane_mut(&mut self) -> &mut L4 {
        self.l4.get_or_insert_default()
    }

    /// True if anything is proxied in user space.
    pub fn has_proxies(&self) -> bool {
        !self.http_listeners.is_empty() || !self.stream_listeners.is_empty()
    }

    /// The most that a listener or service asks for of same-host acceleration.
    pub fn acceleration(&self) -> http::Accelerate {
        let http = self.http_listeners.iter().map(|it| it.accelerate);
        let streams = self.stream_listeners.iter().map(|it| it.accelerate);
        let services = self.services.iter().map(|it| it.upstream.accelerate);
        let all = http.chain(streams).chain(services);
        all.max().unwrap_or_default()
    }

    /// Listeners at which TLS ends, by name.
    pub fn tls_listeners(&self) -> impl Iterator<Item = (&str, &tls::ServerTls)> {
        let http = self.http_listeners.iter().map(|it| (&it.name, &it.tls));
        let streams = self.stream_listeners.iter().map(|it| (&it.name, &it.tls));
        http.chain(streams)
            .filter_map(|(name, tls)| Some((name.as_str(), tls.as_ref()?)))
    }

    /// The files of which TLS is made: at listeners, to backends, and of checks.
    pub fn tls_files(&self) -> impl Iterator<Item = &PathBuf> {
        let backends = self.services.iter().flat_map(|service| {
            let check = service.health.as_ref().and_then(|check| match &check.tls {
                CheckTls::Own(tls) => Some(&**tls),
                CheckTls::Service | CheckTls::Off => None,
            });
            let tls = service.upstream.tls.iter().chain(check);
            tls.flat_map(http::BackendTls::files)
        });
        let listeners = self.tls_listeners().flat_map(|(_, tls)| tls.files());
        listeners.chain(backends)
    }

    /// Where what balances sockets is pinned.
    pub fn connect_pin_dir(&self) -> PathBuf {
        let given = self.connect.as_ref().and_then(|one| one.pin_dir.clone());
        given.unwrap_or_else(|| self.data_plane().pin_dir.join("connect"))
    }

    /// True if some service is balanced at connect().
    pub fn balances_sockets(&self) -> bool {
        self.connect.is_some() && self.services.iter().any(|one| one.at_connect.is_some())
    }

    /// The service with this name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// Settings of the kernel data plane.
#[derive(Clone, Debug, PartialEq)]
pub struct L4 {
    /// Interfaces whose packets are balanced; none where nothing is.
    pub interfaces: Vec<Interface>,
    /// Directory in bpffs for the pins.
    pub pin_dir: PathBuf,
    /// Flows of all CPUs together.
    pub flow_capacity: u32,
    /// Entries of `backends`.
    pub backend_capacity: u32,
    /// Source of outer IPv4 headers: the prefix's host bits carry the flow's hash.
    /// `None`: the address of the egress interface is looked up when the backend is planned.
    pub tunnel_source_v4: Option<ipnet::Ipv4Net>,
    /// As `tunnel_source_v4`; at most the last 32 bits carry the hash.
    pub tunnel_source_v6: Option<ipnet::Ipv6Net>,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// Seed of the selection hash, equal on all balancers of a fleet.
    pub selection_seed: u64,
    /// How long a next hop is used before the FIB is asked again.
    pub route_ttl: Duration,
    /// ICMP errors per CPU and second.
    pub icmp_per_second: u32,
    /// One packet in this many makes an event; 0 makes none.
    pub sample_every: u32,
    /// Which packets the kernel part tells the log of.
    pub kernel_log: KernelLog,
}

/// Which packets the kernel part tells the daemon's log of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelLog {
    /// None.
    #[default]
    Off,
    /// Those that it drops.
    Drops,
    /// All but plain packets of established flows, and plain SYNs of services whose ring is settled.
    All,
}

/// Every default, without interfaces.
impl Default for L4 {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            pin_dir: defaults::PIN_DIR.into(),
            flow_capacity: defaults::FLOW_CAPACITY,
            backend_capacity: defaults::BACKEND_CAPACITY,
            tunnel_source_v4: None,
            tunnel_source_v6: None,
            gue_port: defaults::GUE_PORT,
            selection_seed: defaults::SELECTION_SEED,
            route_ttl: defaults::ROUTE_TTL,
            icmp_per_second: defaults::ICMP_PER_SECOND,
            sample_every: defaults::SAMPLE_EVERY,
            kernel_log: KernelLog::Off,
        }
    }
}

/// An interface and how the program is attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, as `ip link` shows it.
    pub name: String,
    /// How to attach.
    pub attach: AttachMode,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// Native where the driver can, else generic with a warning.
    Auto,
    /// In the driver; fail where it cannot.
    Native,
    /// In the network stack: works everywhere, costs more.
    Generic,
}

/// The admin endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket of the admin API (mode 0660).
    pub socket: PathBuf,
    /// TCP address for metrics and health, if wanted.
    pub listen: Option<SocketAddr>,
    /// That address serves the whole API, to those who may use it.
    pub api: Option<AdminApi>,
}

/// Who may use the API over TCP: whoever shows the token, or a client certificate, or both if both
/// are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminApi {
    /// File of the token.
    pub token_file: Option<PathBuf>,
    /// The address speaks TLS.
    pub tls: Option<AdminTls>,
    /// Metrics and health are shown to everybody.
    pub public_metrics: bool,
}

/// Files of the admin address's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Who signs the certificates of callers, if these must have one.
    pub client_ca: Option<PathBuf>,
}

/// The admin API at its usual place, nothing on TCP.
impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: defaults::ADMIN_SOCKET.into(),
            listen: None,
            api: None,
        }
    }
}

/// An address whose packets are balanced in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique name.
    pub name: String,
    /// One address (/32, /128) or a prefix.
    pub vip: IpNet,
    /// Port or all ports.
    pub port: PortMatch,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Name of the service, which exists.
    pub service: String,
    /// Rules for this listener's sources.
    pub guard: Guard,
}

/// Who may use a listener (or, globally, all of them).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// Sources that may. If any is given for a listener, all others may not.
    pub allow: Vec<IpNet>,
    /// Sources that may not. The longest prefix of both lists decides.
    pub deny: Vec<IpNet>,
    /// New flows that one source may open.
    pub budget: Option<Budget>,
}

/// A per-source budget of new flows. Only listeners have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// New flows per second.
    pub per_second: u32,
    /// New flows at once, at least 1.
    pub burst: u32,
}

/// A named set of backends and how they are used. What is about packets and flows holds where an
/// l4 listener uses the service, [`http::Upstream`] where the proxy paths do.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// How packets reach a backend.
    pub mode: Mode,
    /// How a new flow gets a backend.
    pub selection: Selection,
    /// Maglev ring slots, a prime.
    pub ring_size: u32,
    /// Source addresses of `full-nat`, empty for the other modes.
    pub source_addresses: Vec<IpAddr>,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// How long the flows of a draining backend are kept.
    pub drain_timeout: Duration,
    /// The servers. Empty for `local`.
    pub backends: Vec<Backend>,
    /// Active health check, if any. Without one, backends are up.
    pub health: Option<HealthCheck>,
    /// How sockets that dial its VIPs are given a backend, if they are.
    pub at_connect: Option<connect::AtConnect>,
    /// How the proxy paths use it.
    pub upstream: http::Upstream,
}

impl Service {
    /// A service with every default and no backends.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mode: Mode::Nat,
            selection: Selection::Maglev,
            ring_size: defaults::RING_SIZE,
            source_addresses: Vec::new(),
            timeouts: defaults::TIMEOUTS,
            drain_timeout: defaults::DRAIN_TIMEOUT,
            backends: Vec::new(),
            health: None,
            at_connect: None,
            upstream: http::Upstream::default(),
        }
    }

    /// True if what the kernel knows of workloads' sockets says how its backends are.
    pub fn watches_sockets(&self) -> bool {
        let outlier = self.upstream.outlier.as_ref();
        let judges = outlier.is_some_and(|it| it.network.is_some() || it.latency.is_some());
        self.at_connect.is_some() && (judges || self.upstream.steer_by_latency.is_some())
    }

    /// Adds a backend with this weight and traits, named after its address.
    pub fn push_backend(&mut self, address: SocketAddr, weight: u16, traits: http::BackendTraits) {
        self.backends.push(Backend {
            name: address.to_string(),
            address: address.ip(),
            port: Some(address.port()),
            weight,
        });
        self.upstream.traits.push(traits);
    }
}

/// Idle timeouts of a service's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A SYN without a second segment.
    pub syn: Duration,
    /// An established TCP flow.
    pub established: Duration,
    /// A TCP flow after FIN or RST.
    pub closing: Duration,
    /// A UDP flow.
    pub udp: Duration,
    /// Source affinity.
    pub affinity: Duration,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Name, unique in its service; by default `ADDRESS:PORT`.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port; `None` keeps the client's destination port.
    pub port: Option<u16>,
    /// 0..=65535; 0 takes no new flows.
    pub weight: u16,
}

/// An active health check.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Whom it is asked of.
    pub target: ProbeTarget,
    /// Port to probe; `None` is the backend's port (or the listener's).
    pub port: Option<u16>,
    /// Time between probes of one backend.
    pub interval: Duration,
    /// Time for one probe.
    pub timeout: Duration,
    /// Share of the interval by which it varies at random, 0..=1.
    pub jitter: f64,
    /// Successes in a row that make a backend up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// Flap damping, see the health module.
    pub damping: Damping,
    /// Whether it speaks TLS.
    pub tls: CheckTls,
    /// Whose certificate the backend must have; `None`: see [`Service::check_name`].
    pub server_name: Option<String>,
}

/// Whether a check speaks TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CheckTls {
    /// As the service does.
    #[default]
    Service,
    /// No.
    Off,
    /// Yes, by settings of its own.
    Own(Box<http::BackendTls>),
}

impl Service {
    /// Whose certificate its backends must show to a check: the check's own name; else the one
    /// that requests ask for; where that is the request's, the host of the check.
    pub fn check_name(&self) -> http::TlsName {
        let check = self.health.as_ref();
        let own = check.and_then(|check| match &check.tls {
            CheckTls::Own(tls) => check.server_name.as_ref().or(tls.server_name.as_ref()),
            CheckTls::Service | CheckTls::Off => check.server_name.as_ref(),
        });
        let is_by_host = self.upstream.tls.as_ref().is_some_and(|tls| tls.by_host);
        let host = check
            .filter(|_| is_by_host)
            .and_then(|check| check.probe.host());
        match own.map(String::as_str).or(host) {
            Some(name) => http::TlsName::Host(name.to_owned()),
            None => self.upstream.tls_name(),
        }
    }
}

impl Probe {
    /// The host that is asked for, without its port, if one is given.
    pub fn host(&self) -> Option<&str> {
        let host = match self {
            Self::Tcp => None,
            Self::Http(http) => http.host.as_deref(),
            Self::Grpc(grpc) => grpc.authority.as_deref(),
        };
        host.map(without_port)
    }
}

/// The host of an authority, an IPv6 address without its brackets.
fn without_port(authority: &str) -> &str {
    let (host, end) = match authority.strip_prefix('[') {
        Some(rest) => (rest, ']'),
        None => (authority, ':'),
    };
    host.split(end).next().unwrap_or(host)
}

/// Damping of backends that flap (RFC 2439 in spirit): each change to down adds a penalty of 1,
/// which halves every `half_life`; above `suppress` the backend stays down until it is below
/// `reuse`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// Time in which the penalty halves.
    pub half_life: Duration,
    /// Penalty from which a backend is held down.
    pub suppress: f64,
    /// Penalty at which it may rise again.
    pub reuse: f64,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection opens.
    Tcp,
    /// An HTTP/1.1 request is answered as expected.
    Http(HttpProbe),
    /// The health service of a gRPC server says that it serves.
    Grpc(GrpcProbe),
}

/// A probe by `grpc.health.v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service that is asked about; empty for the server as a whole.
    pub service: String,
    /// `:authority`; `None` is the target's address.
    pub authority: Option<String>,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host` field; `None` is the target's address.
    pub host: Option<String>,
    /// Accepted status codes, as inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// Text that the body must contain (its first 64 KiB are read).
    pub body_contains: Option<String>,
}

/// Where a probe is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// To the backend's own address.
    Backend,
    /// To the VIP, through the data path of the mode, to this one backend (DSR modes).
    Vip,
}

/// Where the kernel data plane is pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sluice";
