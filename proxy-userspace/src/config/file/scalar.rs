//! Values of the file that are more than text or a number.
//!
//! Each is a newtype that parses the text of a scalar and says what it expects. The pattern in
//! the schema is for editors; the parser here decides.

use crate::config::decode::{RAW, TEXT};
use crate::config::defaults;
use crate::config::model::http::{self as model, HostMatch};
use crate::config::model::tracing::Collector;
use crate::types::tls::TlsVersion;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Defines a newtype: its doc, name, content, whether it must be text by YAML's rules ([`TEXT`])
/// or may be a number ([`RAW`]), what is expected, its parser and its schema.
macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($content:ty), $form:ident, $expected:literal, $parse:expr, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name(pub(crate) $content);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct OfText;

                impl Visitor<'_> for OfText {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Option<$content> = $parse;
                        parse(text)
                            .map($name)
                            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }

                deserializer.deserialize_newtype_struct($form, OfText)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// Letters that names may begin with and consist of.
fn is_name(text: &str, more: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || more.contains(c))
}

scalar!(
    /// Name of a listener or service.
    Name(String),
    TEXT,
    "a name of at most 63 letters, digits, `.`, `_` and `-` that begins with a letter or digit",
    |text| is_name(text, "").then(|| text.to_owned()),
    {
        "title": "name",
        "type": "string",
        "description": "A name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 63.",
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
    }
);

scalar!(
    /// Name of a backend: by default its address and port, hence colons and brackets.
    BackendName(String),
    TEXT,
    "a name of at most 63 letters, digits, `.`, `_`, `-`, `:`, `[` and `]`",
    |text| is_name(text, ":[]").then(|| text.to_owned()),
    {
        "title": "backend name",
        "type": "string",
        "description": "A name: letters, digits, `.`, `_`, `-`, `:`, `[` and `]`, at most 63.",
        "pattern": "^[A-Za-z0-9:\\[\\]][A-Za-z0-9._:\\[\\]-]{0,62}$"
    }
);

scalar!(
    /// Name of an interface; `IFNAMSIZ` leaves 15 octets.
    InterfaceName(String),
    TEXT,
    "the name of an interface as `ip link` shows it: at most 15 characters, no spaces, `/` or `:`",
    |text| {
        let good = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "/:".contains(c));
        good.then(|| text.to_owned())
    },
    {
        "title": "interface",
        "type": "string",
        "description": "Name of an interface, as `ip link` shows it: at most 15 characters.",
        "pattern": "^[^/:\\s]{1,15}$"
    }
);

scalar!(
    /// An absolute path.
    Path(PathBuf),
    TEXT,
    "an absolute path, beginning with `/`",
    |text| (text.starts_with('/') && !text.contains('\0')).then(|| PathBuf::from(text)),
    {
        "title": "path",
        "type": "string",
        "description": "An absolute path.",
        "pattern": "^/"
    }
);

scalar!(
    /// The path of a cgroup below the root of cgroups, without a slash at its end.
    CgroupPath(String),
    TEXT,
    "the path of a cgroup below the root of cgroups, such as `/system.slice/shop.service`",
    |text| {
        let (path, all) = (text.strip_prefix('/')?, ["", ".", ".."]);
        let is_root = path.is_empty();
        let is_plain = path.split('/').all(|part| !all.contains(&part) && !part.contains('\0'));
        (text.len() < 4096 && (is_root || is_plain)).then(|| text.to_owned())
    },
    {
        "title": "path of a cgroup",
        "type": "string",
        "description": "Path of a cgroup (version 2) below their root, such as `/system.slice/shop.service`; `/` for all.",
        "pattern": "^/([^/]+(/[^/]+)*)?$"
    }
);

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

scalar!(
    /// A duration.
    Time(Duration),
    RAW,
    "a duration with its unit, such as `500ms`, `30s`, `10m` or `1h 30m`",
    |text| {
        // A bare `0` would be taken, but teaches that units may be left out.
        let unit = text.contains(|c: char| c.is_ascii_alphabetic());
        unit.then(|| humantime::parse_duration(text).ok()).flatten()
    },
    {
        "title": "duration",
        "type": "string",
        "description": "A duration with its unit, such as `500ms`, `30s`, `10m` or `1h 30m`.",
        "pattern": "^([0-9]+ *[A-Za-z]+ *)+$"
    }
);

scalar!(
    /// A share of 1, written in percent.
    Percent(f64),
    RAW,
    "a share in percent from `0%` to `100%`",
    |text| {
        let percent: f64 = text.strip_suffix('%')?.trim_end().parse().ok()?;
        (0.0..=100.0).contains(&percent).then(|| percent / 100.0)
    },
    {
        "title": "percentage",
        "type": "string",
        "description": "A share in percent from `0%` to `100%`.",
        "pattern": "^[0-9]+(\\.[0-9]+)? *%$"
    }
);

scalar!(
    /// A status code or an inclusive range of them.
    Statuses((u16, u16)),
    RAW,
    "a status code from 100 to 599, or a range such as `200-299`",
    |text| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range: (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let known = 100..=599;
        let good = known.contains(&range.0) && known.contains(&range.1) && range.0 <= range.1;
        good.then_some(range)
    },
    {
        "title": "status",
        "description": "A status code from 100 to 599, or a range such as `200-299`.",
        "anyOf": [
            {"type": "integer", "minimum": 100, "maximum": 599},
            {"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"}
        ]
    }
);

scalar!(
    /// A size in octets.
    Size(u64),
    RAW,
    "a size such as `64KiB`, `1MiB` or `512B`",
    parse_size,
    {
        "title": "size",
        "description": "A size: a whole number with `B`, `KiB`, `MiB` or `GiB`.",
        "type": "string",
        "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)$"
    }
);

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

scalar!(
    /// A size in octets, or no limit.
    BodyLimit(Option<u64>),
    RAW,
    "a size such as `10MiB`, or `none`",
    |text| match text {
        "none" => Some(None),
        _ => parse_size(text).map(Some),
    },
    {
        "title": "size or `none`",
        "description": "A size: a whole number with `B`, `KiB`, `MiB` or `GiB`; or `none`.",
        "type": "string",
        "pattern": "^(none|[0-9]+ *(B|KiB|MiB|GiB))$"
    }
);

scalar!(
    /// Text that may look like a number.
    Text(String),
    RAW,
    "text",
    |text| Some(text.to_owned()),
    {
        "title": "text or number",
        "description": "Text; numbers and truth values count as the text that they are written in.",
        "type": ["string", "number", "boolean"]
    }
);

scalar!(
    /// A path of a URI.
    UrlPath(String),
    TEXT,
    "a path that begins with `/`, without blanks, `?` and `#`",
    |text| {
        let good = text.starts_with('/')
            && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'?' && octet != b'#');
        good.then(|| text.to_owned())
    },
    {
        "title": "URL path",
        "type": "string",
        "description": "The path of a URL: begins with `/`, without blanks, `?` and `#`; what is not ASCII is percent-encoded.",
        "pattern": "^/[!-\"$->@-~]*$"
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

scalar!(
    /// A scheme.
    Scheme(&'static str),
    RAW,
    "`http` or `https`",
    |text| ["http", "https"].into_iter().find(|scheme| *scheme == text),
    {
        "title": "scheme",
        "type": "string",
        "description": "`http` or `https`.",
        "pattern": "^https?$"
    }
);

scalar!(
    /// A status code that ends an exchange.
    Status(u16),
    RAW,
    "a status code from 200 to 599",
    |text| text.parse().ok().filter(|status| (200..=599).contains(status)),
    {
        "title": "status code",
        "description": "A status code from 200 to 599.",
        "anyOf": [
            {"type": "integer", "minimum": 200, "maximum": 599},
            {"type": "string", "pattern": "^[2-5][0-9][0-9]$"}
        ]
    }
);

scalar!(
    /// Where a log goes.
    LogTarget(model::LogTarget),
    TEXT,
    "`stdout`, or an absolute path",
    |text| match text {
        "stdout" => Some(model::LogTarget::Stdout),
        _ if text.starts_with('/') && !text.contains('\0') => {
            Some(model::LogTarget::File(text.into()))
        }
        _ => None,
    },
    {
        "title": "log target",
        "type": "string",
        "description": "`stdout`, or the absolute path of a file.",
        "pattern": "^(stdout$|/)"
    }
);

scalar!(
    /// The path of a file.
    FilePath(PathBuf),
    TEXT,
    "an absolute path",
    |text| (text.starts_with('/') && !text.contains('\0')).then(|| text.into()),
    {
        "title": "path",
        "type": "string",
        "description": "The absolute path of a file.",
        "pattern": "^/"
    }
);

scalar!(
    /// A version of TLS.
    Version(TlsVersion),
    RAW,
    "`1.2` or `1.3`",
    |text| [TlsVersion::V12, TlsVersion::V13].into_iter().find(|version| version.word() == text),
    {
        "title": "TLS version",
        "description": "`1.2` or `1.3`.",
        "anyOf": [
            {"type": "number", "enum": [1.2, 1.3]},
            {"type": "string", "enum": ["1.2", "1.3"]}
        ]
    }
);

scalar!(
    /// Where clients without TLS are sent: the port, if anywhere.
    HttpsRedirect(Option<u16>),
    RAW,
    "`true`, `false`, or a port",
    |text| match text {
        "true" => Some(Some(443)),
        "false" => Some(None),
        _ => text.parse().ok().filter(|port| *port != 0).map(Some),
    },
    {
        "title": "HTTPS redirect",
        "description": "`true` for port 443, a port, or `false`.",
        "anyOf": [
            {"type": "boolean"},
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": "^(true|false|[0-9]{1,5})$"}
        ]
    }
);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&defaults::text(self.0))
    }
}
