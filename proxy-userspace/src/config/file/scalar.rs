//! Values of the file that are more than text or a number.
//!
//! Each is a newtype that parses the text of a scalar and says what it expects. The pattern in
//! the schema is for editors; the parser here decides.

use crate::config::decode::{RAW, TEXT};
use crate::config::defaults;
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
                struct Text;

                impl Visitor<'_> for Text {
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

                deserializer.deserialize_newtype_struct($form, Text)
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
    "an address with or without port, such as `10.1.0.1:8080`, `10.1.0.1` or `\"[2001:db8::1]:8080\"`",
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

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&defaults::text(self.0))
    }
}
