//! Why an exchange ended: one list, and what HAProxy and Envoy would call each of it.
//!
//! HAProxy writes four letters: who ended it, in which phase, and two about the cookie that keeps
//! a client with its backend ("Session state at disconnection" in its manual). Envoy writes words
//! ("Response flags"). Operators read both by heart, so ours mean the same.

macro_rules! ends {
    ($($(#[$doc:meta])* $variant:ident = $label:literal, $side:ident, $cause:literal, $flag:literal;)*) => {
        /// Why an exchange ended.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum End {
            $($(#[$doc])* $variant,)*
        }

        impl End {
            /// All of them, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// For metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Who ended it.
            pub const fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)* }
            }

            /// HAProxy's first letter.
            pub const fn haproxy_cause(self) -> u8 {
                match self { $(Self::$variant => $cause,)* }
            }

            /// Envoy's response flag.
            pub const fn envoy_flag(self) -> &'static str {
                match self { $(Self::$variant => $flag,)* }
            }
        }
    };
}

/// Who ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Nobody before its time.
    Nobody,
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// This proxy.
    Proxy,
}

impl Side {
    /// For logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Proxy => "proxy",
        }
    }
}

ends! {
    /// As it should.
    #[default]
    Complete = "complete", Nobody, b'-', "-";
    /// Answered here, as configured: a redirect, a fixed answer, a file.
    Local = "local", Proxy, b'L', "-";
    /// The client went away.
    ClientClosed = "client_closed", Client, b'C', "DC";
    /// The client was too slow.
    ClientTimeout = "client_timeout", Client, b'c', "SI";
    /// The client's message was refused.
    ClientProtocol = "client_protocol", Client, b'P', "DPE";
    /// Not allowed.
    Denied = "denied", Proxy, b'P', "-";
    /// Too many requests.
    RateLimited = "rate_limited", Proxy, b'P', "RL";
    /// A fault on purpose.
    FaultInjected = "fault_injected", Proxy, b'P', "FI";
    /// No route matched.
    NoRoute = "no_route", Proxy, b'L', "NR";
    /// The service has no backend that may be used.
    NoBackend = "no_backend", Proxy, b'S', "UH";
    /// The service's queue or connections are all taken.
    QueueFull = "queue_full", Proxy, b'S', "UO";
    /// No place was free in time.
    QueueTimeout = "queue_timeout", Proxy, b's', "UO";
    /// The service's circuit is open, or one of its thresholds is reached.
    CircuitOpen = "circuit_open", Proxy, b'S', "UO";
    /// The service has as many requests as it may have.
    ConcurrencyLimit = "concurrency_limit", Proxy, b'S', "UO";
    /// This proxy has too much to do, and the request is not important enough.
    Overloaded = "overloaded", Proxy, b'R', "OM";
    /// An answer was given up for another attempt, which was not possible any more.
    RetryFailed = "retry_failed", Backend, b'S', "UH";
    /// No connection to a backend.
    ConnectFailed = "connect_failed", Backend, b'S', "UF";
    /// No connection to a backend in time.
    ConnectTimeout = "connect_timeout", Backend, b's', "UF";
    /// No TLS with a backend: no authority that is believed has issued its certificate.
    TlsUnknownAuthority = "tls_unknown_authority", Backend, b'S', "UF";
    /// No TLS with a backend: its certificate is out of date.
    TlsExpired = "tls_expired", Backend, b'S', "UF";
    /// No TLS with a backend: its certificate is for other names.
    TlsWrongName = "tls_wrong_name", Backend, b'S', "UF";
    /// No TLS with a backend: its certificate is not good.
    TlsCertificate = "tls_certificate", Backend, b'S', "UF";
    /// No TLS with a backend: it has refused by an alert.
    TlsAlert = "tls_alert", Backend, b'S', "UF";
    /// No TLS with a backend: it speaks none, or breaks it.
    TlsFailed = "tls_failed", Backend, b'S', "UF";
    /// The backend closed early.
    BackendClosed = "backend_closed", Backend, b'S', "UC";
    /// The backend reset the stream or the connection.
    BackendReset = "backend_reset", Backend, b'S', "UR";
    /// The backend was too slow.
    BackendTimeout = "backend_timeout", Backend, b's', "UT";
    /// The backend's message was refused.
    BackendProtocol = "backend_protocol", Backend, b'P', "UPE";
    /// The exchange as a whole took longer than its route allows.
    RouteTimeout = "route_timeout", Proxy, b's', "UT";
    /// Ended by the operator: a drain's deadline, a stop.
    Stopped = "stopped", Proxy, b'K', "LR";
    /// Memory, descriptors or another resource was missing.
    Exhausted = "exhausted", Proxy, b'R', "OM";
    /// An error of this program.
    Internal = "internal", Proxy, b'I', "LR";
}

impl End {
    /// HAProxy's first two letters: who ended it, and how far it had come.
    pub const fn termination(self, phase: Phase) -> [u8; 2] {
        let phase = match self {
            Self::Complete => b'-',
            Self::Local | Self::NoRoute => b'R',
            _ => phase.haproxy(),
        };
        [self.haproxy_cause(), phase]
    }
}

/// How far an exchange had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The request was not complete, or was answered at once.
    #[default]
    Request,
    /// It waited for a backend.
    Queue,
    /// A connection was being opened.
    Connect,
    /// The response's head was awaited.
    ResponseHead,
    /// Content flowed.
    Data,
    /// The backend was done, and the client had not taken it all.
    Last,
}

impl Phase {
    /// HAProxy's second letter.
    pub const fn haproxy(self) -> u8 {
        match self {
            Self::Request => b'R',
            Self::Queue => b'Q',
            Self::Connect => b'C',
            Self::ResponseHead => b'H',
            Self::Data => b'D',
            Self::Last => b'L',
        }
    }

    /// For logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::ResponseHead => "response_head",
            Self::Data => "data",
            Self::Last => "last",
        }
    }
}

/// What the client's cookie said of its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StickyRequest {
    /// The service keeps no client by a cookie.
    #[default]
    Unused,
    /// There was none.
    None,
    /// It named no backend of the service.
    Invalid,
    /// Its backend is down.
    Down,
    /// It was followed.
    Valid,
}

impl StickyRequest {
    /// HAProxy's third letter.
    pub const fn haproxy(self) -> u8 {
        match self {
            Self::Unused => b'-',
            Self::None => b'N',
            Self::Invalid => b'I',
            Self::Down => b'D',
            Self::Valid => b'V',
        }
    }
}

/// What became of that cookie in the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StickyResponse {
    /// The service keeps no client by a cookie.
    #[default]
    Unused,
    /// None was sent.
    None,
    /// One was sent.
    Inserted,
}

impl StickyResponse {
    /// HAProxy's fourth letter.
    pub const fn haproxy(self) -> u8 {
        match self {
            Self::Unused => b'-',
            Self::None => b'N',
            Self::Inserted => b'I',
        }
    }
}

/// HAProxy's four letters.
pub(super) fn haproxy_flags(
    end: End,
    phase: Phase,
    request: StickyRequest,
    response: StickyResponse,
) -> [u8; 4] {
    let [cause, phase] = end.termination(phase);
    [cause, phase, request.haproxy(), response.haproxy()]
}
