//! What the proxy paths count, by listener, route, service and backend.
//!
//! Whoever compiles a configuration into a snapshot asks [`ProxyMetrics`] for the series that it
//! will count in, and keeps them in the snapshot. A series has the same name before and after a
//! reload and then goes on; one that no snapshot holds any more leaves the page. On the request's
//! path a worker takes the cells of its number, [`Series::at`], and adds to them without locks or
//! locked instructions: see `cells`.
//!
//! Labels come from the configuration alone. Statuses, which backends choose, are bounded by
//! [`Codes`]; names that DNS gives are backends, and can be switched off.

mod cells;
mod certificates;
pub(in crate::observe) mod export;
mod registry;

pub use crate::resilience::RetryReason;
pub use cells::{Code, Codes, DURATION_BUCKETS, DurationSum, Durations, Single};
pub use registry::{ProxyMetrics, Series};

use crate::message::{Method, Refusal, RefusedBy};
use crate::observe::access_log::{End, Octets};
use std::time::Duration;

/// What is counted for a listener.
#[derive(Debug, Default)]
pub struct ListenerCells {
    /// Connections taken.
    pub connections: Single,
    /// Those that are open.
    pub connections_active: Single,
    /// Times that no more were accepted, for want of descriptors or memory.
    pub accept_pauses: Single,
    /// Requests in progress.
    pub requests_active: Single,
    refusals: [Refusals; 2],
    ends: Ends,
}

/// By [`Refusal`].
#[derive(Debug)]
struct Refusals([Single; Refusal::ALL.len()]);

/// By [`End`].
#[derive(Debug)]
struct Ends([Single; End::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Single::default()))
    }
}

impl Default for Ends {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Single::default()))
    }
}

impl ListenerCells {
    /// Counts a message that was refused.
    pub fn refused(&self, by: RefusedBy, refusal: Refusal) {
        self.refusals[side(by)].0[refusal as usize].add(1);
    }

    /// Counts how an exchange ended.
    #[inline]
    pub fn ended(&self, end: End) {
        self.ends.0[end as usize].add(1);
    }

    /// Messages refused so far.
    pub fn refusals(&self, by: RefusedBy, refusal: Refusal) -> u64 {
        self.refusals[side(by)].0[refusal as usize].get()
    }

    /// Exchanges that ended so.
    pub fn ends(&self, end: End) -> u64 {
        self.ends.0[end as usize].get()
    }
}

const fn side(by: RefusedBy) -> usize {
    match by {
        RefusedBy::Client => 0,
        RefusedBy::Backend => 1,
    }
}

/// What is counted for a listener that passes TCP or UDP on.
#[derive(Debug, Default)]
pub struct StreamCells {
    /// Octets received from clients.
    pub received: Single,
    /// Octets sent to clients.
    pub sent: Single,
    /// How long connections or sessions lasted.
    pub durations: Durations,
    /// Datagrams received from clients.
    pub datagrams_received: Single,
    /// Datagrams sent to clients.
    pub datagrams_sent: Single,
    drops: [Single; DatagramDrop::ALL.len()],
}

impl StreamCells {
    /// Counts datagrams that were not passed on.
    pub fn dropped(&self, why: DatagramDrop, datagrams: usize) {
        self.drops[why as usize].add(datagrams as u64);
    }

    /// Datagrams that were not passed on so far.
    pub fn drops(&self, why: DatagramDrop) -> u64 {
        self.drops[why as usize].get()
    }
}

/// What is counted for a route at a listener.
#[derive(Debug, Default)]
pub struct RouteCells {
    /// Requests by method and status.
    pub codes: Codes,
    /// How long they took.
    pub durations: Durations,
    /// Octets received from clients.
    pub received: Single,
    /// Octets sent to clients.
    pub sent: Single,
    /// Octets sent to backends.
    pub upstream_sent: Single,
    /// Octets received from backends.
    pub upstream_received: Single,
}

impl RouteCells {
    /// Counts what was sent to a backend and received from it.
    #[inline]
    pub fn attempt(&self, sent: u64, received: u64) {
        self.upstream_sent.add(sent);
        self.upstream_received.add(received);
    }

    /// Counts an exchange; `status` 0 if the client got none.
    #[inline]
    pub fn exchange(
        &self,
        method: &Method,
        status: u16,
        took: Duration,
        received: Octets,
        sent: Octets,
    ) {
        self.codes.count(method, status);
        self.durations.observe(took);
        self.received.add(received.all());
        self.sent.add(sent.all());
    }
}

/// What is counted for a service.
#[derive(Debug, Default)]
pub struct ServiceCells {
    /// Waits for a place at a backend, of those that had to wait.
    pub queue_waits: Durations,
    /// Retries that were not made because of the budget.
    pub budget_exhausted: Single,
    retries: [Single; RetryReason::ALL.len()],
    hedges: [Single; HedgeResult::ALL.len()],
}

impl ServiceCells {
    /// Counts an attempt after the first.
    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].add(1);
    }

    /// Counts a hedge, or one that could not be made.
    pub fn hedged(&self, result: HedgeResult) {
        self.hedges[result as usize].add(1);
    }

    /// Hedges so far.
    pub fn hedges(&self, result: HedgeResult) -> u64 {
        self.hedges[result as usize].get()
    }

    /// Retries so far.
    pub fn retries(&self, reason: RetryReason) -> u64 {
        self.retries[reason as usize].get()
    }
}

/// What is counted for a backend.
#[derive(Debug, Default)]
pub struct BackendCells {
    /// Requests by status; the method is not told apart: count all as GET.
    codes: Codes,
    /// How long connections took to open.
    pub connects: Durations,
    /// How long the heads of responses took.
    pub heads: Durations,
    /// Octets sent to it.
    pub sent: Single,
    /// Octets received from it.
    pub received: Single,
    /// Connections and UDP sessions that were given to it.
    pub streams: Single,
    /// Octets of those that were sent to it.
    pub stream_sent: Single,
    /// Octets of those that were received from it.
    pub stream_received: Single,
    connect_failures: [Single; ConnectFailure::ALL.len()],
}

impl BackendCells {
    /// Counts a request; `status` 0 if there was no answer, `head` the time to the head of one.
    #[inline]
    pub fn request(&self, status: u16, head: Option<Duration>, sent: u64, received: u64) {
        self.codes.count(&Method::Get, status);
        if let Some(head) = head {
            self.heads.observe(head);
        }
        self.sent.add(sent);
        self.received.add(received);
    }

    /// Counts a connection that could not be opened.
    pub fn connect_failed(&self, reason: ConnectFailure) {
        self.connect_failures[reason as usize].add(1);
    }

    /// Connections that could not be opened so far.
    pub fn connect_failures(&self, reason: ConnectFailure) -> u64 {
        self.connect_failures[reason as usize].get()
    }

    /// Requests by status.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }
}

/// What is counted of a listener's handshakes.
#[derive(Debug, Default)]
pub struct TlsCells {
    /// How long those took that went well.
    pub durations: Durations,
    /// Those that took an earlier session up again.
    pub resumed: Single,
    results: [[Single; HandshakeResult::ALL.len()]; HandshakeVersion::ALL.len()],
}

impl TlsCells {
    /// Counts a handshake.
    pub fn handshake(&self, version: HandshakeVersion, result: HandshakeResult) {
        self.results[version as usize][result as usize].add(1);
    }

    /// Handshakes so far.
    pub fn handshakes(&self, version: HandshakeVersion, result: HandshakeResult) -> u64 {
        self.results[version as usize][result as usize].get()
    }
}

/// What is said of a listener's certificate.
#[derive(Debug, Default)]
pub struct CertificateCells {
    /// Last second of its validity, since the Unix epoch.
    pub not_after: Single,
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// For metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

labels! {
    /// What became of a second attempt beside one that was slow.
    HedgeResult {
        /// It answered first.
        Won = "won",
        /// The first attempt answered first, and the second was cancelled.
        Lost = "lost",
        /// Neither answered.
        Failed = "failed",
        /// It was not made: the budget is used up, or there is no other backend.
        Denied = "denied",
    }
}

labels! {
    /// Why a connection to a backend could not be opened.
    ConnectFailure {
        /// Nobody listens.
        Refused = "refused",
        /// Not in time.
        Timeout = "timeout",
        /// No way there.
        Unreachable = "unreachable",
        /// This host's own trouble: descriptors, ports, memory.
        Local = "local",
        /// No authority that is believed has issued its certificate.
        TlsUnknownAuthority = "tls_unknown_authority",
        /// Its certificate is out of date.
        TlsExpired = "tls_expired",
        /// Its certificate is for other names.
        TlsWrongName = "tls_wrong_name",
        /// Its certificate is not good.
        TlsCertificate = "tls_certificate",
        /// It has refused TLS by an alert.
        TlsAlert = "tls_alert",
        /// It speaks no TLS, or breaks it.
        TlsFailed = "tls_failed",
        /// Anything else.
        Other = "other",
    }
}

labels! {
    /// Versions of TLS as handshakes are counted.
    HandshakeVersion {
        /// None was agreed on.
        None = "none",
        /// TLS 1.2.
        V12 = "TLSv1.2",
        /// TLS 1.3.
        V13 = "TLSv1.3",
    }
}

labels! {
    /// What became of a handshake.
    HandshakeResult {
        /// Both are agreed.
        Ok = "ok",
        /// The client speaks no cipher suite, group or signature of ours.
        NoSharedCipher = "no_shared_cipher",
        /// The client speaks no version of ours.
        NoSharedVersion = "no_shared_version",
        /// The client speaks no application protocol of ours.
        NoSharedProtocol = "no_shared_protocol",
        /// There is no certificate for the name that the client asks for.
        UnknownName = "unknown_name",
        /// The client has no certificate and needs one.
        NoCertificate = "no_certificate",
        /// The client's certificate is of nobody that is believed.
        UnknownAuthority = "unknown_ca",
        /// The client's certificate is out of date.
        Expired = "expired",
        /// The client's certificate was revoked.
        Revoked = "revoked",
        /// The client's certificate is not good for another reason.
        BadCertificate = "bad_certificate",
        /// The client refused by an alert.
        Alert = "alert",
        /// The client speaks HTTP without TLS.
        PlainHttp = "plain_http",
        /// The client speaks something else.
        NotTls = "not_tls",
        /// The client breaks the protocol.
        Protocol = "protocol",
        /// The client closed the connection, or it failed.
        Closed = "closed",
        /// It took too long.
        Timeout = "timeout",
        /// There were as many handshakes at once as may be.
        TooMany = "too_many",
    }
}

labels! {
    /// Why a datagram was not passed on.
    DatagramDrop {
        /// There are as many sessions as the listener may have.
        TableFull = "table_full",
        /// The service has no backend that may be used.
        NoBackend = "no_backend",
        /// All backends have as many sessions as they may have.
        Busy = "busy",
        /// The listener ends, and the datagram is of no session that it has.
        Draining = "draining",
        /// This host lacks descriptors, ports or memory.
        Exhausted = "exhausted",
        /// It does not fit the way out.
        TooLarge = "too_large",
        /// The socket's buffer is full.
        Congested = "congested",
        /// Nobody listens at the backend, and there is no other.
        Refused = "refused",
        /// There is no way out.
        Unreachable = "unreachable",
        /// Anything else.
        Failed = "failed",
    }
}
