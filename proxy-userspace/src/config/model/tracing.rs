//! Where spans go, and how backends are told of the trace.

use std::fmt;
use std::time::Duration;

/// Export of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector, which speaks OTLP over HTTP.
    pub endpoint: Collector,
    /// `service.name` of all spans.
    pub service_name: String,
    /// What else holds for all spans.
    pub attributes: Vec<(String, String)>,
    /// Fields of the requests to the collector.
    pub headers: Vec<(String, String)>,
    /// One flow in this many is traced from its first packet on; 0 for none.
    pub flow_every: u32,
    /// Forms in which backends are told, besides the one in which the client told us.
    pub propagation: Vec<Propagation>,
    /// For one request to the collector.
    pub timeout: Duration,
}

impl Tracing {
    /// Export to a collector, with every default.
    pub fn to(endpoint: Collector) -> Self {
        use crate::config::defaults::http as defaults;
        Self {
            endpoint,
            service_name: defaults::TRACE_SERVICE.to_owned(),
            attributes: Vec::new(),
            headers: Vec::new(),
            flow_every: defaults::FLOW_EVERY,
            propagation: vec![Propagation::W3c],
            timeout: defaults::TRACE_TIMEOUT,
        }
    }
}

/// A form of a trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    W3c,
    /// One field `b3`.
    B3,
    /// `X-B3-TraceId` and its kin.
    B3Multi,
}

impl Propagation {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::W3c => "w3c",
            Self::B3 => "b3",
            Self::B3Multi => "b3-multi",
        }
    }
}

/// The URL of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of the requests.
    pub path: String,
}

impl Collector {
    /// Reads `http://HOST[:PORT][/PATH]`. Without a path it is that of the standard, `/v1/traces`;
    /// without a port, 80.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let is_graphic = |text: &str| text.bytes().all(|octet| octet.is_ascii_graphic());
        if !is_graphic(rest) || rest.contains(['?', '#', '@', '"', '<', '>', '\\']) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => host.to_ascii_lowercase(),
        };
        let is_host = bracketed.is_some() || !host.contains([':', '[', ']']);
        (is_host && !host.is_empty() && port != 0).then(|| Self {
            host,
            port,
            path: if path == "/" { DEFAULT_PATH } else { path }.to_owned(),
        })
    }

    /// Host and port, as they stand in a URL.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// Where collectors take traces (OTLP specification, "OTLP/HTTP request").
const DEFAULT_PATH: &str = "/v1/traces";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written_back() {
        for (url, whole) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://Collector/", "http://collector:80/v1/traces"),
            ("http://[2001:DB8::1]:4318/x", "http://[2001:db8::1]:4318/x"),
            ("http://[::1]", "http://[::1]:80/v1/traces"),
        ] {
            let collector = Collector::parse(url).unwrap_or_else(|| panic!("{url}"));
            assert_eq!(collector.to_string(), whole);
            assert_eq!(Collector::parse(whole), Some(collector));
        }
    }

    #[test]
    fn what_is_no_plain_http_url_is_refused() {
        for url in [
            "",
            "127.0.0.1:4318",
            "https://collector:4318",
            "http://",
            "http://:4318",
            "http://user@collector:4318",
            "http://collector:0",
            "http://collector:70000",
            "http://collector/a b",
            "http://collector/a?b",
            "http://[::1",
            "http://a:b:1",
        ] {
            assert_eq!(Collector::parse(url), None, "{url}");
        }
    }
}
