//! What the daemon knows at one moment, in the words of the configuration.
//!
//! These types are the JSON of the admin API and therefore a promise: fields are added, never
//! renamed or given another meaning. Times of day are seconds since the epoch, spans are seconds,
//! sizes are octets; counters of packets and flows start at zero when the data plane's maps are made
//! (not when the daemon starts) and never go down while the maps live; those of requests start with
//! the daemon.

mod connect;
mod passive;

pub use connect::{
    BalancedBackendView, BalancedCgroupView, BalancedServiceView, SocketBalancingView,
};
pub use passive::{ChangeView, EjectionView, NetworkView, WorkloadConnectionsView};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that `sluice status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct View {
    /// The daemon.
    pub daemon: Daemon,
    /// The configuration in force.
    pub config: ConfigState,
    /// Interfaces that the balancer is attached to.
    pub interfaces: Vec<InterfaceView>,
    /// The flow table.
    pub flow_table: FlowTable,
    /// How full the other maps are.
    pub maps: Vec<MapUsage>,
    /// What the kernel steers to listeners beyond what they are bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steering: Option<SteeringView>,
    /// Sockets that are given a backend at connect().
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_balancing: Option<SocketBalancingView>,
    /// What the kernel redirects to listeners from cgroups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshView>,
    /// Services in file order.
    pub services: Vec<ServiceView>,
    /// HTTP listeners in file order.
    #[serde(default)]
    pub http_listeners: Vec<HttpListenerView>,
    /// Listeners that pass TCP or UDP on, in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stream_listeners: Vec<StreamListenerView>,
    /// Certificates that clients are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateView>,
    /// Same-host acceleration, if anything asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<AccelerationView>,
    /// Routes of HTTP listeners that have served something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteView>,
    /// Upper bounds of the buckets of all durations, in seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duration_bounds: Vec<f64>,
    /// Packets by reason; reasons never seen are left out.
    pub reasons: Vec<ReasonCount>,
    /// Records for observers that were lost on the way; forwarding is not affected.
    #[serde(default)]
    pub lost: Lost,
    /// When the counters were read, seconds since the epoch.
    pub read_at_seconds: f64,
}

/// What the kernel steers to listeners. Counters are those of all processes since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteeringView {
    /// Bindings: an address or prefix with a port or range of ports each.
    pub bindings: u64,
    /// Entries of the kernel's tables, those for what listeners are bound to among them.
    pub entries: u64,
    /// Raised whenever other sockets were put in force.
    pub generation: u32,
    /// Directory of the pins.
    pub pin_dir: String,
    /// New connections and datagrams that no binding was for.
    pub unmatched: u64,
    /// Listeners that have bindings, by name; `(admin)` is what `admin.listen` is bound to.
    pub listeners: Vec<SteeredView>,
}

/// What came to the bindings of a listener: new connections, and datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteeredView {
    /// The listener.
    pub name: String,
    /// The listener got it.
    pub steered: u64,
    /// Refused, because nobody served the listener.
    pub refused: u64,
    /// Left to the ordinary lookup, because nobody served the listener.
    pub passed: u64,
    /// The kernel did not take the listener's socket; counted as refused or passed as well.
    pub failed: u64,
}

/// What the kernel redirects to listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshView {
    /// Listeners that connections are redirected to, by name.
    pub listeners: Vec<MeshListenerView>,
    /// Cgroups that are to be redirected.
    pub cgroups: Vec<WorkloadView>,
    /// Connections of which one end is established and the other is not.
    pub under_way: u64,
    /// Ports of programs whose connections are redirected when they arrive.
    #[serde(default)]
    pub ports: u64,
    /// What went wrong when cgroups were last looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Directory of the pins.
    pub pin_dir: String,
}

/// What became of the connections of a listener's cgroups. The first six are counted by the kernel,
/// also while the daemon is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshListenerView {
    /// The listener.
    pub name: String,
    /// Redirected.
    pub redirected: u64,
    /// Went where they were to go, by a rule.
    pub excluded: u64,
    /// Refused, because they could not be redirected.
    pub refused: u64,
    /// Went where they were to go, because they could not be redirected.
    pub passed: u64,
    /// Could not be redirected, as there is no way from their network namespace.
    pub unreachable: u64,
    /// Could not be redirected for want of memory.
    pub full: u64,
    /// Connections accepted, by what was seen of them.
    pub protocols: std::collections::BTreeMap<String, u64>,
    /// Connections accepted, by the cgroup of the program; further ones as `(others)`.
    pub workloads: std::collections::BTreeMap<String, u64>,
}

/// A cgroup that is to be redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadView {
    /// Its path below the root of cgroups.
    pub path: String,
    /// Its id, if it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// `redirected`, `waiting` for it to exist, or `failed`.
    pub state: String,
}

/// Octets that go from socket to socket within this host, past TCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AccelerationView {
    /// `on` or `off`, for new connections.
    pub state: String,
    /// Why it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a word: `privileges`, `kernel`, `self-test`, `stalled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// How long the self-test took.
    pub self_test_seconds: f64,
    /// Sockets that are accelerated now.
    pub sockets: u64,
    /// Connections that were.
    pub connections: u64,
    /// Messages that went past TCP.
    pub messages: u64,
    /// Octets of those.
    pub bytes: u64,
    /// Messages of accelerated connections that went by TCP, since it was not empty, or too much
    /// waited.
    pub by_tcp: u64,
    /// Writes that were held up because too much waited.
    pub held: u64,
    /// Sockets that found no room in the map.
    pub full: u64,
    /// Connections whose other end took nothing of what waited for long.
    pub stalled: u64,
    /// Connections that stayed plain because the client's descriptor blocks.
    #[serde(default)]
    pub blocking: u64,
    /// Tunnels whose octets could go past this process.
    #[serde(default)]
    pub tunnels: u64,
    /// Octets that did.
    #[serde(default)]
    pub direct_bytes: u64,
    /// Messages of such tunnels that went through this process, since others were still on that way.
    #[serde(default)]
    pub detours: u64,
    /// Those because too much waited at the other end.
    #[serde(default)]
    pub crowded: u64,
}

/// Records lost because a ring buffer was full, or its reader or a client too slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// Sampled events.
    pub events: u64,
    /// Captured packets.
    pub capture: u64,
}

/// The daemon itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// What it is doing.
    pub phase: Phase,
    /// Since when it runs, seconds since the epoch.
    pub started_at_seconds: f64,
    /// True if it took over a data plane that was already forwarding.
    pub adopted: bool,
    /// Directory of the pins.
    pub pin_dir: String,
    /// What the process may do: its user, its capabilities and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub privileges: BTreeMap<String, String>,
}

/// What the daemon is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Setting up: not ready.
    #[default]
    Starting,
    /// Balancing.
    Serving,
    /// On the way out: not ready.
    Stopping,
}

impl Phase {
    /// The word used in the API and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stopping => "stopping",
        }
    }
}

/// The configuration in force, and how the last attempt to replace it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigState {
    /// The file.
    pub path: String,
    /// Raised by each successful reload; 1 at start.
    pub generation: u64,
    /// When the configuration in force was loaded, seconds since the epoch.
    pub loaded_at_seconds: f64,
    /// True unless the last reload was refused.
    pub last_reload_successful: bool,
    /// Why the last reload was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload_error: Option<String>,
    /// Entity tag of the configuration in force: equal for those that mean the same.
    #[serde(default)]
    pub etag: String,
    /// What was changed through the API and is not in the file: a reload undoes it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<String>,
}

/// An interface with the balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index, 0 while it is missing.
    pub index: u32,
    /// `native` or `generic`; `detached` while the interface is missing.
    pub attached: String,
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowTable {
    /// Flows that it holds at most.
    pub capacity: u64,
    /// Entries in use, return paths included, as of the last complete sweep.
    pub entries: u64,
    /// Entries that the sweeper has cleared because they were idle.
    pub expired: u64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapUsage {
    /// Its name, as pinned.
    pub map: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
}

/// A service with its listeners and backends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Forwarding mode.
    pub mode: String,
    /// How new flows get a backend.
    pub selection: String,
    /// Listeners in file order.
    pub listeners: Vec<ListenerView>,
    /// Backends in file order, then those that DNS has named, then those that left the configuration
    /// and still drain.
    pub backends: Vec<BackendView>,
    /// How the proxies use it, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyServiceView>,
}

/// A listener that speaks HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HttpListenerView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Connections taken.
    pub connections: u64,
    /// Those that are open.
    pub connections_active: u64,
    /// Requests that were answered, or not answered.
    pub requests: u64,
    /// Requests in progress.
    pub requests_active: u64,
    /// Requests by the class of the status that the client was sent: `2xx`, …; `none` if there was
    /// none.
    pub responses: BTreeMap<String, u64>,
    /// Messages that were refused, of clients and of backends.
    pub refused: u64,
    /// Octets received.
    pub received_bytes: u64,
    /// Octets sent.
    pub sent_bytes: u64,
    /// How long requests took.
    #[serde(default)]
    pub durations: DurationsView,
}

/// A listener that passes TCP or UDP on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamListenerView {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Where it listens.
    pub address: String,
    /// Connections or sessions taken.
    pub connections: u64,
    /// Those that are open.
    pub connections_active: u64,
    /// Those that ended early because of a backend, or because there was none.
    pub failed: u64,
    /// Clients that were refused: what they sent first was not as it must be, or nobody is
    /// configured for the server name that they asked for.
    #[serde(default)]
    pub refused: u64,
    /// Datagrams that were not passed on.
    pub dropped: u64,
    /// Octets received from clients.
    pub received_bytes: u64,
    /// Octets sent to clients.
    pub sent_bytes: u64,
}

impl HttpListenerView {
    /// Responses of class 5xx.
    pub fn errors(&self) -> u64 {
        self.responses.get("5xx").copied().unwrap_or(0)
    }
}

/// How the proxies use a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyServiceView {
    /// How a request gets a backend.
    pub policy: String,
    /// Requests that wait for a place at a backend.
    pub waiting: u32,
    /// Attempts after a request's first.
    pub retries: u64,
    /// True while so few backends are healthy that health is ignored.
    pub panic: bool,
    /// Retries and hedges in progress.
    #[serde(default)]
    pub retrying: u32,
    /// Its circuit breaker, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<CircuitView>,
    /// Its limit of requests at once, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyView>,
}

/// A circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CircuitView {
    /// `closed`, `half-open` or `open`.
    pub state: String,
    /// Times that it was opened.
    pub opens: u64,
}

/// A limit of requests at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConcurrencyView {
    /// As it is now.
    pub limit: u32,
    /// Requests in progress.
    pub active: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// What the proxies know of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyBackendView {
    /// Requests in progress.
    pub in_flight: u32,
    /// Open connections, in use or not.
    pub connections: u32,
    /// Those that wait for a request.
    pub idle: u32,
    /// Requests, connections and UDP sessions given to it.
    pub requests: u64,
    /// Those that it answered with a status of 500 and above, or not at all.
    pub errors: u64,
    /// Connections that could not be opened.
    pub connect_failures: u64,
    /// How long it took to the heads of its responses.
    #[serde(default)]
    pub durations: DurationsView,
}

impl ServiceView {
    /// Everything that concerned the service: its backends, and what `local` passed.
    pub fn traffic(&self) -> Traffic {
        let own = self.listeners.iter().map(|listener| Traffic {
            packets: listener.local_packets,
            bytes: listener.local_bytes,
            new_flows: listener.local_new_flows,
            ..Traffic::default()
        });
        own.chain(self.backends.iter().map(|backend| backend.traffic))
            .fold(Traffic::default(), Traffic::plus)
    }
}

/// A listener: what clients address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// Address or prefix.
    pub vip: String,
    /// Port, or `all`.
    pub port: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its id in the maps.
    pub id: u16,
    /// Packets handed to this host's stack (`local`).
    pub local_packets: u64,
    /// Octets of those.
    pub local_bytes: u64,
    /// New flows of `local`.
    pub local_new_flows: u64,
    /// Packets dropped, for whatever reason.
    pub dropped: u64,
    /// New flows that found no room in the flow table.
    pub untracked_flows: u64,
    /// Flows that replaced an unconfirmed one.
    pub replaced_flows: u64,
}

/// A backend of a service, over all of the service's listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port; `None` keeps the client's.
    pub port: Option<u16>,
    /// Its weight.
    pub weight: u16,
    /// `up`, `draining` or `down`, as the kernel has it, where an ejected backend is `draining`;
    /// `ejected` where only proxies use the service.
    pub state: String,
    /// Why, where there is something to say: `drained by operator`, `health: connection refused`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Its ids in the maps, one per listener.
    pub ids: Vec<u16>,
    /// Seconds until a drain ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_remaining_seconds: Option<f64>,
    /// Health, where it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthView>,
    /// Its ejection, while it is out because of what it did with real traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionView>,
    /// Ejections so far by detector; detectors that never ejected it are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ejections: BTreeMap<String, u64>,
    /// Its latency as the proxies see it: the smoothed mean of intervals, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_seconds: Option<f64>,
    /// What the kernel tells of the connections to it, of proxies and of workloads together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkView>,
    /// Of that, what it tells of connections that workloads have to it, balanced at connect().
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadConnectionsView>,
    /// What l4 listeners use of its weight, in percent, where latency has reduced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered_percent: Option<u8>,
    /// Its last changes of state, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ChangeView>,
    /// Flows that are not closing.
    pub live_flows: u64,
    /// Packets and flows.
    pub traffic: Traffic,
    /// Requests, where the proxies use the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyBackendView>,
}

/// What the checks of a backend say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthView {
    /// The verdict after rise, fall and damping: `up`, `down`, `held` (it flaps) or `unknown`.
    pub verdict: String,
    /// Probes that passed.
    pub passed: u64,
    /// Probes that failed, by how; kinds never seen are left out.
    pub failed: BTreeMap<String, u64>,
    /// Changes of the verdict.
    pub transitions: u64,
    /// How long the last probe took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_seconds: Option<f64>,
    /// What the last failed probe said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Counters of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Packets towards the backend.
    pub packets: u64,
    /// Octets of IP packet of those, before encapsulation.
    pub bytes: u64,
    /// Flows that got the backend.
    pub new_flows: u64,
    /// Packets back to clients (NAT modes).
    pub return_packets: u64,
    /// Octets of those.
    pub return_bytes: u64,
}

impl Traffic {
    /// The sum of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            new_flows: self.new_flows + other.new_flows,
            return_packets: self.return_packets + other.return_packets,
            return_bytes: self.return_bytes + other.return_bytes,
        }
    }

    /// What was added since `earlier`; 0 where the counters started anew.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            new_flows: self.new_flows.saturating_sub(earlier.new_flows),
            return_packets: self.return_packets.saturating_sub(earlier.return_packets),
            return_bytes: self.return_bytes.saturating_sub(earlier.return_bytes),
        }
    }
}

/// Packets of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// Its name.
    pub reason: String,
    /// `pass`, `forward` or `drop`.
    pub outcome: String,
    /// One sentence for people.
    pub text: String,
    /// Packets.
    pub packets: u64,
}

/// A guard rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuardView {
    /// Source prefix.
    pub source: String,
    /// Listener whose sources it judges; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// `allow` or `deny`.
    pub action: String,
    /// Who wrote it: `config`, `operator` or `policy`.
    pub owner: String,
    /// Why: `configured`, `manual`, `rate-limit`, …
    pub cause: String,
    /// Seconds until it expires; `None` never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<f64>,
    /// Of a condemned source: for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offence: Option<String>,
    /// Of a condemned source: for the how-manieth time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// A client's connection with the proxies, or a session of UDP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionView {
    /// Its number, unique in the life of the process; access logs have it, too.
    pub number: u64,
    /// Name of the listener; empty if that is gone.
    pub listener: String,
    /// `h1`, `h2`, `tcp` or `udp`.
    pub protocol: String,
    /// The client's address; behind a PROXY header, what that says.
    pub client: String,
    /// Our end.
    pub server: String,
    /// Seconds since it was accepted.
    pub age_seconds: f64,
    /// Requests that have ended.
    pub requests: u64,
    /// Octets received from the client, of requests that have ended.
    pub received_bytes: u64,
    /// Octets sent to the client, of requests that have ended.
    pub sent_bytes: u64,
    /// The worker that serves it.
    pub worker: usize,
}

/// How long things took, in buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DurationsView {
    /// How many there were.
    pub count: u64,
    /// The sum of all, in seconds.
    pub sum_seconds: f64,
    /// How many by bucket, not cumulative; the last bucket has what is above every bound.
    pub buckets: Vec<u64>,
}

/// A route at an HTTP listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// The listener.
    pub listener: String,
    /// Requests that were answered, or not answered.
    pub requests: u64,
    /// Requests by the class of the status that the client was sent.
    pub responses: BTreeMap<String, u64>,
    /// Octets received.
    pub received_bytes: u64,
    /// Octets sent.
    pub sent_bytes: u64,
    /// How long requests took.
    pub durations: DurationsView,
}

/// A certificate that is shown to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateView {
    /// Who shows it: the name of a listener, or `admin`.
    pub used_by: String,
    /// Its subject.
    pub subject: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Since when it is valid, seconds since the epoch.
    pub not_before_seconds: i64,
    /// Until when it is valid, seconds since the epoch.
    pub not_after_seconds: i64,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// Where it came from: a file, `acme`, or how it was made.
    pub source: String,
    /// When another one is ordered, seconds since the epoch (`acme` only); 0 for as soon as
    /// possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_order_seconds: Option<i64>,
    /// Why the last order failed, unless one has succeeded since (`acme` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_error: Option<String>,
    /// What its responder says, if it names one that is asked (OCSP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<OcspView>,
}

/// What the responder of a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OcspView {
    /// `good`, `revoked` or `unknown`, by the last answer; empty before the first.
    pub status: String,
    /// Until when the stapled answer is good, seconds since the epoch; absent while none is stapled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stapled_until_seconds: Option<i64>,
    /// Why the last question got no good answer, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A flow of the flow table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Client address and port.
    pub client: String,
    /// Address and port that the client sent to.
    pub vip: String,
    /// Name of the service, or its id where the configuration no longer has it.
    pub service: String,
    /// Name of the backend, or its id.
    pub backend: String,
    /// `syn`, `established`, `closing` or `udp`.
    pub phase: String,
    /// Seconds since its last packet.
    pub idle_seconds: f64,
    /// True once a second packet was seen.
    pub confirmed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_a_service_is_its_backends_and_what_it_served_itself() {
        let service = ServiceView {
            listeners: vec![ListenerView {
                local_packets: 5,
                ..Default::default()
            }],
            backends: vec![BackendView {
                traffic: Traffic {
                    packets: 2,
                    bytes: 80,
                    ..Default::default()
                },
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(service.traffic().packets, 7);
        assert_eq!(service.traffic().bytes, 80);
    }

    #[test]
    fn counters_that_started_anew_give_no_negative_rate() {
        let before = Traffic {
            packets: 10,
            ..Default::default()
        };
        assert_eq!(
            Traffic {
                packets: 3,
                ..Default::default()
            }
            .since(before)
            .packets,
            0
        );
    }

    #[test]
    fn a_view_survives_json() {
        let view = View {
            services: vec![ServiceView::default()],
            ..Default::default()
        };
        let text = serde_json::to_string(&view).expect("serialises");
        assert_eq!(serde_json::from_str::<View>(&text).expect("parses"), view);
    }
}
