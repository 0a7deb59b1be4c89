//! Values with every default, for those who build a model without a file.

use super::{
    Accelerate, AccessLog, Action, BackendProtocol, Balance, BalancePolicy, FieldEdits, Files,
    FixedResponse, Forwarded, Http2, HttpListener, HttpTimeouts, Limits, LogFormat, LogTarget,
    Mirror, PathMatch, Priority, Redirect, Resilience, Rewrite, Route, RouteMatch, SecurityHeaders,
    Splice, Split, StickyCookie, StreamListener, Upstream, Workers,
};
use crate::config::defaults::http as defaults;
use crate::config::model::outlier::Outlier;
use crate::types::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

impl HttpListener {
    /// A listener with every default.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            address,
            proxy_protocol_from: Vec::new(),
            steer: None,
            mesh: None,
            limits: Limits::default(),
            timeouts: HttpTimeouts::default(),
            http2: Http2::default(),
            forwarded: Forwarded::default(),
            max_requests_per_connection: defaults::MAX_REQUESTS,
            access_log: None,
            trace_share: defaults::TRACE_SHARE,
            security_headers: SecurityHeaders::Off,
            compression: None,
            tls: None,
            https_redirect: None,
            accelerate: Accelerate::Off,
            splice: Splice::Auto,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        defaults::LIMITS
    }
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        defaults::HTTP_TIMEOUTS
    }
}

impl Default for Http2 {
    fn default() -> Self {
        defaults::HTTP2
    }
}

/// `X-Forwarded-*` and nothing else, as Caddy and Traefik; nobody is trusted.
impl Default for Forwarded {
    fn default() -> Self {
        Self {
            trusted: Vec::new(),
            x_forwarded: true,
            x_real_ip: false,
            forwarded: false,
            via: None,
            request_id: false,
        }
    }
}

impl AccessLog {
    /// Every request, as JSON.
    pub fn new(to: LogTarget) -> Self {
        Self {
            to,
            format: LogFormat::Json,
            share: defaults::LOG_SHARE,
        }
    }
}

impl StreamListener {
    /// A listener with every default.
    pub fn new(
        name: impl Into<String>,
        protocol: Protocol,
        address: SocketAddr,
        service: impl Into<String>,
    ) -> Self {
        let (idle_timeout, max_connections) = match protocol {
            Protocol::Tcp => (defaults::TCP_IDLE, 0),
            Protocol::Udp => (defaults::UDP_IDLE, defaults::UDP_SESSIONS),
        };
        Self {
            name: name.into(),
            protocol,
            address,
            service: Some(service.into()),
            passthrough: None,
            tls: None,
            proxy_protocol_from: Vec::new(),
            steer: None,
            idle_timeout,
            max_connections,
            responses: None,
            access_log: None,
            accelerate: Accelerate::Off,
            splice: Splice::Auto,
        }
    }
}

impl StreamListener {
    /// What the file calls it.
    pub fn kind(&self) -> &'static str {
        match &self.passthrough {
            Some(_) => "tls-passthrough",
            None => self.protocol.name(),
        }
    }

    /// Names of its services; some may come more than once.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let rules = self.passthrough.iter().flat_map(|names| &names.names);
        let named = rules.map(|rule| rule.service.as_str());
        self.service.as_deref().into_iter().chain(named)
    }
}

impl Route {
    /// A route of one listener, for every host and path, with this action and nothing else.
    pub fn catch_all(name: impl Into<String>, listener: impl Into<String>, action: Action) -> Self {
        Self {
            name: name.into(),
            listeners: vec![listener.into()],
            hosts: Vec::new(),
            matches: vec![RouteMatch::default()],
            action,
            rewrite: Rewrite::default(),
            request_fields: FieldEdits::default(),
            response_fields: FieldEdits::default(),
            security_headers: None,
            compression: None,
            mirror: None,
            fault: None,
            timeout: None,
            retries: None,
            priority: Priority::default(),
        }
    }
}

/// What HTTP listeners with a `service` of their own have for what no other route matches. Its name
/// is one that routes of a file cannot have.
pub fn default_route(listener: &str, service: &str) -> Route {
    Route::catch_all(
        format!("{listener}:default"),
        listener,
        Action::service(service),
    )
}

/// Every request.
impl Default for RouteMatch {
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("/".to_owned()),
            method: None,
            fields: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            sources: Vec::new(),
            workloads: Vec::new(),
        }
    }
}

impl Action {
    /// One service answers.
    pub fn service(name: impl Into<String>) -> Self {
        Self::Forward(Split {
            targets: vec![(name.into(), 1)],
            sticky: None,
        })
    }
}

/// A redirect that changes nothing yet.
impl Default for Redirect {
    fn default() -> Self {
        Self {
            status: defaults::REDIRECT_STATUS,
            scheme: None,
            host: None,
            port: None,
            path: None,
            keep_query: true,
        }
    }
}

impl FixedResponse {
    /// An answer without content.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            body: String::new(),
            content_type: defaults::CONTENT_TYPE.to_owned(),
        }
    }
}

impl Files {
    /// The files below a folder, without listings.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            index: vec![defaults::INDEX.to_owned()],
            list: false,
            strip_prefix: defaults::STRIP_PREFIX.to_owned(),
            precompressed: Vec::new(),
            cache_control: None,
            fallback: None,
        }
    }
}

impl Mirror {
    /// Copies of all requests with little content.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            share: 1.0,
            max_body_bytes: defaults::MIRROR_BODY,
        }
    }
}

impl Upstream {
    /// True if the connections to some backend have a limit.
    pub fn is_capped(&self) -> bool {
        let fixed = self.traits.iter();
        let named = self.names.iter().map(|named| &named.traits);
        let mut limits = fixed
            .chain(named)
            .filter_map(|traits| traits.max_connections);
        self.max_connections > 0 || limits.any(|most| most > 0)
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            accelerate: Accelerate::Off,
            protocol: BackendProtocol::Auto,
            tls: None,
            balance: Balance::default(),
            sticky_cookie: None,
            max_connections: defaults::MAX_CONNECTIONS,
            max_streams: defaults::MAX_STREAMS,
            queue: defaults::QUEUE,
            queue_timeout: defaults::QUEUE_TIMEOUT,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            response_timeout: defaults::RESPONSE_TIMEOUT,
            idle_timeout: defaults::IDLE_TIMEOUT,
            keepalive: defaults::KEEPALIVE,
            max_idle: defaults::MAX_IDLE,
            send_proxy: None,
            names: Vec::new(),
            traits: Vec::new(),
            subset: Vec::new(),
            zone: None,
            resilience: Resilience::default(),
            outlier: Some(Outlier::connects_only()),
            steer_by_latency: None,
        }
    }
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            policy: BalancePolicy::RoundRobin,
            panic_threshold: defaults::PANIC_THRESHOLD,
            slow_start: defaults::SLOW_START,
        }
    }
}

impl StickyCookie {
    /// A session cookie for the whole site that scripts cannot read.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            max_age: None,
            path: defaults::COOKIE_PATH.to_owned(),
            secure: false,
            http_only: true,
            same_site: None,
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: None,
            drain_timeout: defaults::WORKER_DRAIN,
            busy_poll: Duration::ZERO,
        }
    }
}
