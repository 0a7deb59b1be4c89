//! Addresses, ports and hosts.

use crate::config::model::http::HostMatch;
use crate::config::model::tracing::Collector;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

scalar!(
    /// An address.
    Address(IpAddr),
    RAW,
    "an IPv4 or IPv6 address",
    |text| text.parse().ok(),
    {
        "title": "address",
        "type": "string",
        "description": "An IPv4 or IPv6 address.",
        "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]
    }
);

scalar!(
    /// An address or prefix, with its host bits as written.
    Network(IpNet),
    RAW,
    "an IPv4 or IPv6 address, or a prefix such as `192.0.2.0/28` or `2001:db8::/64`",
    |text| match text.contains('/') {
        true => text.parse().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    },
    {
        "title": "address or prefix",
        "type": "string",
        "description": "An IPv4 or IPv6 address, or a prefix such as `192.0.2.0/28` or `2001:db8::/64`.",
        "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"
    }
);

/// Address and perhaps port of a backend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The address.
    pub(crate) address: IpAddr,
    /// The port; never 0.
    pub(crate) port: Option<u16>,
}

scalar!(
    /// Address and perhaps port of a backend.
    Endpoint(Target),
    RAW,
    "an address with or without port, such as `10.1.0.1:8080`, `10.1.0.1` or `\"[2001:db8::1]:8080\"`; for a name write `{dns: \"NAME:PORT\"}`",
    |text| {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Target { address, port: None });
        }
        let socket: SocketAddr = text.parse().ok()?;
        let plain = match socket {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(socket) => socket.scope_id() == 0,
        };
        (plain && socket.port() != 0).then(|| Target {
            address: socket.ip(),
            port: Some(socket.port()),
        })
    },
    {
        "title": "address with or without port",
        "type": "string",
        "description": "An address with or without port, such as `10.1.0.1:8080`, `10.1.0.1` or `\"[2001:db8::1]:8080\"`.",
        "pattern": "^([0-9.]+(:[0-9]{1,5})?|[0-9A-Fa-f:.]+|\\[[0-9A-Fa-f:.]+\\]:[0-9]{1,5})$"
    }
);

scalar!(
    /// An address and port to listen on.
    SocketAddress(SocketAddr),
    RAW,
    "an address and port, such as `127.0.0.1:9180` or `\"[::1]:9180\"`",
    |text| text.parse().ok(),
    {
        "title": "address and port",
        "type": "string",
        "description": "An address and port, such as `127.0.0.1:9180` or `\"[::1]:9180\"`.",
        "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$"
    }
);

scalar!(
    /// A port, or all of them (`None`).
    Port(Option<u16>),
    RAW,
    "a port from 1 to 65535, or `all`",
    |text| match text {
        "all" => Some(None),
        _ => text.parse().ok().filter(|port| *port != 0).map(Some),
    },
    {
        "title": "port",
        "description": "A port from 1 to 65535, or `all`.",
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": "^(all|[0-9]{1,5})$"}
        ]
    }
);

scalar!(
    /// A port, a range of ports, or all of them: the first and the last.
    PortRange((u16, u16)),
    RAW,
    "a port from 1 to 65535, a range such as `8000-8999`, or `all`",
    |text| {
        let port = |text: &str| {
            let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
            text.parse().ok().filter(|port| is_number && *port != 0)
        };
        match text.split_once('-') {
            _ if text == "all" => Some((1, u16::MAX)),
            None => port(text).map(|port| (port, port)),
            Some((first, last)) => {
                let range = (port(first)?, port(last)?);
                (range.0 <= range.1).then_some(range)
            }
        }
    },
    {
        "title": "ports",
        "description": "A port from 1 to 65535, a range such as `8000-8999`, or `all`.",
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": "^(all|[0-9]{1,5}(-[0-9]{1,5})?)$"}
        ]
    }
);

/// True for a name of DNS.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet))
    };
    text.len() <= 253 && text.split('.').all(label)
}

scalar!(
    /// Where spans are sent.
    CollectorUrl(Collector),
    TEXT,
    "a URL such as `http://127.0.0.1:4318`: `http` only, without user, query and fragment",
    |text| Collector::parse(text),
    {
        "title": "URL of a collector",
        "type": "string",
        "description": "A URL such as `http://127.0.0.1:4318`. Only `http`.",
        "pattern": "^http://[^/?#@\\s]+(/[^?#\\s]*)?$"
    }
);

/// True for a name of DNS, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_domain(text),
    }
}

scalar!(
    /// A host, or all hosts below one: in lower case; a wildcard without its star.
    Host(HostMatch),
    TEXT,
    "a host name such as `www.example.com`, an address, or `\"*.example.com\"`; without a port",
    |text| {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(suffix) => {
                let good = suffix.strip_prefix('.').is_some_and(is_domain);
                good.then(|| HostMatch::Wildcard(suffix.to_owned()))
            }
            None => is_host(&lower).then_some(HostMatch::Exact(lower)),
        }
    },
    {
        "title": "host",
        "type": "string",
        "description": "A host name such as `www.example.com`, an address, or `\"*.example.com\"` for all names below one; without a port. Names of other alphabets are written in their ASCII form (`xn--…`).",
        "pattern": "^(\\*\\.)?[A-Za-z0-9._-]+$|^\\[[0-9A-Fa-f:.]+\\]$"
    }
);

scalar!(
    /// A host, perhaps with a port.
    Authority(String),
    TEXT,
    "a host name or address, such as `www.example.com`",
    |text| {
        let after_brackets = text.rfind(']').unwrap_or(0);
        let host = match text[after_brackets..].split_once(':') {
            Some((_, port)) => {
                port.parse::<u16>().ok().filter(|port| *port != 0)?;
                &text[..text.len() - port.len() - 1]
            }
            None => text,
        };
        is_host(host).then(|| text.to_ascii_lowercase())
    },
    {
        "title": "host with or without port",
        "type": "string",
        "description": "A host name or address, such as `www.example.com` or `www.example.com:8080`.",
        "pattern": "^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$"
    }
);

scalar!(
    /// A host and port to be looked up.
    HostPort((String, u16)),
    TEXT,
    "a host name and port, such as `app.internal:8080`",
    |text| {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        is_domain(host.strip_suffix('.').unwrap_or(host))
            .then(|| (host.to_ascii_lowercase(), port))
    },
    {
        "title": "host and port",
        "type": "string",
        "description": "A host name and port, such as `app.internal:8080`.",
        "pattern": "^[A-Za-z0-9._-]+:[0-9]{1,5}$"
    }
);

scalar!(
    /// A name with SRV records.
    SrvName(String),
    TEXT,
    "a name with SRV records, such as `_http._tcp.example.com`",
    |text| {
        let name = text.strip_suffix('.').unwrap_or(text);
        is_domain(name).then(|| text.to_ascii_lowercase())
    },
    {
        "title": "SRV name",
        "type": "string",
        "description": "A name with SRV records, such as `_http._tcp.example.com`.",
        "pattern": "^[A-Za-z0-9._-]+$"
    }
);
