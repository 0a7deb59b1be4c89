//! Times, sizes, shares and other numbers.

use crate::config::defaults;
use crate::types::tls::TlsVersion;
use std::fmt;
use std::time::Duration;

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

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&defaults::text(self.0))
    }
}

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
