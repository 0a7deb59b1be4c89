//! Host and port, as they stand in `Host`, in `:authority` and in a target's absolute form.
//!
//! RFC 3986 lets a registered name hold `,`, `;`, `'`, `%41` and the like. No name that DNS or a
//! certificate knows has them, and readers disagree about what they mean (`a.test,b.test`), so a
//! host here is letters, digits, `-`, `.`, `_` and `~`, or an IPv6 address in brackets.

use std::net::Ipv6Addr;

/// A valid host, with its port if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host as it was spelled; an IPv6 address with its brackets. Never empty.
    pub host: &'a [u8],
    /// The port.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads a host and an optional port; `None` if they are not valid: an empty host, user
    /// information, an empty port, or one beyond 65535 are not.
    pub fn of(octets: &'a [u8]) -> Option<Self> {
        let host_len = if octets.first() == Some(&b'[') {
            let inner = octets[1..].iter().position(|&octet| octet == b']')?;
            let address = std::str::from_utf8(&octets[1..=inner]).ok()?;
            address.parse::<Ipv6Addr>().ok()?;
            inner + 2
        } else {
            let rest = octets.iter().position(|&octet| !is_host_octet(octet));
            rest.unwrap_or(octets.len())
        };
        let (host, rest) = octets.split_at(host_len);
        if host.is_empty() {
            return None;
        }
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// True if both name the same host and port, where a port that is not said is `default`.
    pub fn is_same(self, other: Self, default: Option<u16>) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.or(default) == other.port.or(default)
    }
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    let mut port = 0_u32;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).ok()
}

#[inline]
fn is_host_octet(octet: u8) -> bool {
    HOST_OCTETS[usize::from(octet)]
}

static HOST_OCTETS: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut octet = 0_u8;
    while octet < 128 {
        allowed[octet as usize] =
            octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~');
        octet += 1;
    }
    allowed
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            ("a.test", "a.test", None),
            ("A-b_c~.test.:80", "A-b_c~.test.", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:8080", "[2001:db8::1]", Some(8080)),
            ("a:0", "a", Some(0)),
        ] {
            let read = Authority::of(text.as_bytes()).expect(text);
            assert_eq!((read.host, read.port), (host.as_bytes(), port), "{text}");
        }
    }

    #[test]
    fn what_readers_could_disagree_about_is_no_host() {
        for text in [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:000080",
            "a:8x",
            "a:+8",
            "a:80:80",
            "a b",
            "a,b",
            "u@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%41",
            "[::1",
            "::1",
            "[::1]x",
            "[]",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "a]",
            "\u{e4}.test",
            "a\0b",
        ] {
            assert_eq!(Authority::of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_port_that_is_not_said_is_the_default() {
        let of = |text: &'static str| Authority::of(text.as_bytes()).expect(text);
        assert!(of("A.test").is_same(of("a.TEST:80"), Some(80)));
        assert!(!of("a.test").is_same(of("a.test:80"), None));
        assert!(!of("a.test:81").is_same(of("a.test"), Some(80)));
        assert!(!of("b.test").is_same(of("a.test"), Some(80)));
    }
}
