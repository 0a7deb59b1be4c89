//! What listeners of the proxy paths have of their own, and the key `workers`.

use super::action::Coding;
use super::scalar::{BodyLimit, LogTarget, Network, Percent, Size, Text, Time};
use crate::config::decode::Field;
use crate::config::defaults::{self, http as http_defaults};
use schemars::JsonSchema;
use serde::Deserialize;

/// The workers: each has a thread, and connections of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workers {
    /// How many. Without it, as many as CPUs may be used: those of the affinity mask, at most the
    /// quota of the control group.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) count: Field<u32>,
    /// How long connections may go on after the stop was asked for.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::WORKER_DRAIN)))]
    pub(crate) drain_timeout: Field<Time>,
    /// How long a worker that has done something goes on asking for more before it sleeps, up to `10ms`.
    /// Whoever is asked again within that time answers sooner by what it takes to wake a CPU, which in
    /// virtual machines is tens of microseconds; the time is spent by the CPU. `0s`: it sleeps at once.
    #[serde(default)]
    #[schemars(extend("default" = "0s"))]
    pub(crate) busy_poll: Field<Time>,
}

/// Limits of what clients may send.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Fields of a request's head, and of its trailers; more are refused with 431.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000), extend("default" = http_defaults::LIMITS.fields))]
    pub(crate) fields: Field<u32>,
    /// Size of a request's head, from `1KiB` to `1MiB`; more is refused with 431.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::LIMITS.head_bytes.into())))]
    pub(crate) head: Field<Size>,
    /// Size of a request's target (path and query), at most that of the head; more is refused
    /// with 414.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::LIMITS.target_bytes.into())))]
    pub(crate) target: Field<Size>,
    /// Size of a request's content, or `none`; more is refused with 413. Content is passed on as
    /// it comes and never kept as a whole, so there need not be a limit here.
    #[serde(default)]
    #[schemars(extend("default" = "none"))]
    pub(crate) body: Field<BodyLimit>,
    /// Connections at once (with `udp`: sessions); 0 for no limit but that of the process. With
    /// `udp` 65536 by default, and not 0, because sources can be forged.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::LIMITS.connections))]
    pub(crate) connections: Field<u32>,
    /// Requests of one connection, after which it is closed; 0 for no limit.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::MAX_REQUESTS))]
    pub(crate) requests_per_connection: Field<u32>,
}

/// How long things may take at a listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    /// From a request's first octet to the end of its head; then 408.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP_TIMEOUTS.head)))]
    pub(crate) head: Field<Time>,
    /// Between two pieces of a request's content; then 408. Once the response has begun, the
    /// service's `idle` holds, and what moves in either direction begins it anew.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP_TIMEOUTS.body_idle)))]
    pub(crate) body_idle: Field<Time>,
    /// Octets per second that a request's content must reach on average, once `body_idle` has
    /// passed; 0 for any speed. Not asked of a request whose response has begun, as in gRPC
    /// streams.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::HTTP_TIMEOUTS.body_rate))]
    pub(crate) body_rate: Field<u32>,
    /// A kept connection without a request. With `tcp` and `udp`: a connection or session on which
    /// nothing moves, by default 1h and 1m.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP_TIMEOUTS.idle)))]
    pub(crate) idle: Field<Time>,
    /// A client that takes nothing of a response.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP_TIMEOUTS.write)))]
    pub(crate) write: Field<Time>,
    /// How long a connection is read from after a refusal, so that the answer arrives.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP_TIMEOUTS.linger)))]
    pub(crate) linger: Field<Time>,
}

/// Settings of HTTP/2.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http2 {
    /// `false` refuses connections that begin with the preface of HTTP/2.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::HTTP2.enabled))]
    pub(crate) enabled: Field<bool>,
    /// `true` closes connections that do not begin with the preface of HTTP/2.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::HTTP2.only))]
    pub(crate) only: Field<bool>,
    /// Streams of one connection at once.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10_000), extend("default" = http_defaults::HTTP2.max_streams))]
    pub(crate) max_streams: Field<u32>,
    /// How much of one request's content may be under way to us, from `64KiB` to `16MiB`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::HTTP2.stream_window_bytes.into())))]
    pub(crate) stream_window: Field<Size>,
    /// How much content of one connection may be under way to us, from `64KiB` to `256MiB`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::HTTP2.connection_window_bytes.into())))]
    pub(crate) connection_window: Field<Size>,
    /// Largest frame that we take, from `16KiB` to `1MiB`.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::HTTP2.max_frame_bytes.into())))]
    pub(crate) max_frame: Field<Size>,
    /// Streams that a client may reset before their responses are complete, in one `abuse_window`;
    /// then the connection is closed.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = http_defaults::HTTP2.max_resets))]
    pub(crate) max_resets: Field<u32>,
    /// Pings, settings and other frames without a stream, in one `abuse_window`; then the
    /// connection is closed.
    #[serde(default)]
    #[schemars(range(min = 1), extend("default" = http_defaults::HTTP2.max_control_frames))]
    pub(crate) max_control_frames: Field<u32>,
    /// Time in which resets and control frames are counted.
    #[serde(default)]
    #[schemars(extend("default" = defaults::text(http_defaults::HTTP2.abuse_window)))]
    pub(crate) abuse_window: Field<Time>,
}

/// What backends are told about the client, and whom we believe what we are told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forwarded {
    /// Proxies before us. What they tell about the client is believed and kept; what others tell
    /// is replaced.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub(crate) trusted: Field<Vec<Field<Network>>>,
    /// Sends `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`.
    #[serde(default)]
    #[schemars(extend("default" = true))]
    pub(crate) x_forwarded: Field<bool>,
    /// Sends `X-Real-IP`.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) x_real_ip: Field<bool>,
    /// Sends `Forwarded` (RFC 7239).
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) forwarded: Field<bool>,
    /// Our name in `Via`, sent both ways. Without it there is no `Via`: some servers compress
    /// nothing for those who send one.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z:-]+$"))]
    pub(crate) via: Field<String>,
    /// Sends `X-Request-ID`: the client's if it comes from a trusted proxy, else one of our own.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub(crate) request_id: Field<bool>,
}

/// Where and how requests or connections are logged.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$text-or-keys")]
#[schemars(rename = "AccessLog", untagged)]
pub(crate) enum AccessLog {
    /// Where to.
    To(LogTarget),
    /// Where to and how.
    Keys(AccessLogKeys),
}

/// Where and how requests or connections are logged. Writing never holds up a request: if the
/// target is too slow, lines are dropped and counted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessLogKeys {
    /// `stdout`, or the path of a file, which is opened anew on SIGUSR1.
    pub(crate) to: Field<LogTarget>,
    /// What a line looks like: `json`; `combined` and `common`, as nginx and others write them;
    /// `haproxy`, as its `httplog`; or a template with nginx's variables, such as
    /// `"$remote_addr $status $request_time"`.
    #[serde(default)]
    #[schemars(extend("default" = "json"))]
    pub(crate) format: Field<String>,
    /// Share of requests that are logged. Those with status 500 and above always are.
    #[serde(default)]
    #[schemars(extend("default" = defaults::percent(http_defaults::LOG_SHARE)))]
    pub(crate) share: Field<Percent>,
}

/// Which responses are compressed on their way to clients that take it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compression {
    /// Codings that may be used. Clients say which they take and like best; of those that they like
    /// alike the first here is used. An empty list: none.
    #[serde(default)]
    #[schemars(extend("default" = ["zstd", "brotli", "gzip"]))]
    pub(crate) codings: Field<Vec<Field<Coding>>>,
    /// Media types of the content, such as `application/json`, or `text/*`.
    #[serde(default)]
    #[schemars(extend("default" = http_defaults::COMPRESSED_TYPES))]
    pub(crate) types: Field<Vec<Field<Text>>>,
    /// Shorter content stays as it is.
    #[serde(default)]
    #[schemars(extend("default" = defaults::size(http_defaults::COMPRESSED_BYTES)))]
    pub(crate) min_size: Field<Size>,
    /// `fast`, `balanced` or `best`: how much work is put into it.
    #[serde(default)]
    #[schemars(extend("default" = "balanced"))]
    pub(crate) level: Field<CompressionLevel>,
}

/// How much work is put into compression.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CompressionLevel {
    /// The least.
    Fast,
    /// What is usual for content that is made on request.
    Balanced,
    /// The smallest content, at several times the work.
    Best,
}

/// Whether octets between this process and another one of this host go past TCP. They do only in
/// one network namespace, and if both ends have the same address or loopback addresses.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Accelerate {
    /// They do not.
    Off,
    /// If the host can (capabilities BPF, NET_ADMIN and PERFMON, a kernel with type information,
    /// cgroup2), and a self-test of a second passes at the start.
    Auto,
    /// As `auto`, but the process does not start where it cannot.
    On,
}

/// What moves the octets of tunnels: of TCP that is passed on, and of WebSockets over HTTP/1.1.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Splice {
    /// This process reads and writes them.
    Off,
    /// While many flow, the kernel moves them from socket to socket (`splice(2)`).
    Pipe,
    /// As `pipe`; and where both the listener and the service have `accelerate` and client and
    /// backend are on this host, they go past this process.
    Auto,
}

/// Response fields that tell browsers to be careful.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SecurityHeaders {
    /// None.
    Off,
    /// What does not break a page: `X-Content-Type-Options`, `X-Frame-Options: SAMEORIGIN` and
    /// `Referrer-Policy`.
    Basic,
    /// For pages that load nothing from elsewhere and are framed by nobody: also a
    /// `Content-Security-Policy` for the own origin, the cross-origin policies, and
    /// `Permissions-Policy`.
    Strict,
    /// For programs that answer with data: nothing may be loaded, framed or stored.
    Api,
}
