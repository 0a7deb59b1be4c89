//! `Connection` and `Upgrade`: what concerns one connection only (RFC 9110 §7.6.1, §7.8).

use super::octets::{token_len, trim};
use crate::message::{Fields, Name, Refusal, Version};

/// What `Connection` asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    close: bool,
    keep_alive: bool,
    pub upgrade: bool,
    /// There are names of fields to remove.
    names_fields: bool,
}

impl Options {
    /// Takes one `Connection` field. Returns true if it names fields, so that it has to be kept
    /// among the fields until [`Options::remove_named`].
    pub(super) fn take(&mut self, value: &[u8]) -> Result<bool, Refusal> {
        let mut names_fields = false;
        if value.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
            return Ok(false);
        }
        for member in value.split(|&octet| octet == b',') {
            let option = trim(member);
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if token_len(option) < option.len() {
                return Err(Refusal::FieldValue);
            } else {
                names_fields |= is_removable(Name::of(option), option);
            }
        }
        self.names_fields |= names_fields;
        Ok(names_fields)
    }

    /// True if another message may follow (RFC 9112 §9.3).
    pub(super) fn keeps_alive(self, version: Version) -> bool {
        !self.close && (version != Version::Http10 || self.keep_alive)
    }

    /// Removes the fields that `Connection` names, and `Connection` itself.
    pub(super) fn remove_named(self, fields: &mut Fields) {
        if self.names_fields {
            remove_named(fields);
        }
    }
}

/// Kept apart because it is rare and needs a copy of the options.
#[cold]
fn remove_named(fields: &mut Fields) {
    let mut options = Vec::new();
    for value in fields.all(Name::Connection) {
        options.extend_from_slice(value);
        options.push(b',');
    }
    let named = |spelled: &[u8]| {
        options
            .split(|&octet| octet == b',')
            .any(|option| trim(option).eq_ignore_ascii_case(spelled))
    };
    fields.retain(|field| {
        field.name != Name::Connection
            && !(is_removable(field.name, field.spelled) && named(field.spelled))
    });
}

/// True if `Connection` may remove the field. A field that the proxy gives a meaning is for the
/// backend whatever a client says, and so is what an earlier proxy says of the client.
fn is_removable(name: Name, spelled: &[u8]) -> bool {
    const KEPT: &[&[u8]] = &[b"x-forwarded-", b"x-real-", b"content-", b"sec-"];
    let is_kept = |prefix: &&[u8]| {
        spelled
            .get(..prefix.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    name == Name::Other && !spelled.is_empty() && !KEPT.iter().any(is_kept)
}

/// The protocol of an `Upgrade` field that is worth passing on: WebSocket if it is offered, else
/// the first that is no other form of HTTP and no TLS, which are this proxy's own affair (a tunnel
/// of `h2c` would go around every route and filter). Empty if there is none.
pub(super) fn upgrade_protocol(value: &[u8]) -> Result<&[u8], Refusal> {
    let mut chosen: &[u8] = b"";
    for member in value.split(|&octet| octet == b',') {
        let protocol = trim(member);
        let mut parts = protocol.splitn(2, |&octet| octet == b'/');
        let is_valid = parts.all(|part| !part.is_empty() && token_len(part) == part.len());
        if !is_valid {
            return Err(Refusal::Upgrade);
        }
        if protocol.eq_ignore_ascii_case(b"websocket") {
            return Ok(protocol);
        }
        if chosen.is_empty() && !is_own(protocol) {
            chosen = protocol;
        }
    }
    Ok(chosen)
}

fn is_own(protocol: &[u8]) -> bool {
    const OWN: &[&[u8]] = &[b"h2", b"h2c", b"h3", b"http", b"tls"];
    let name = &protocol[..memchr::memchr(b'/', protocol).unwrap_or(protocol.len())];
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lasts_as_its_version_and_options_say() {
        let keeps = |version, values: &[&str]| {
            let mut options = Options::default();
            for value in values {
                options.take(value.as_bytes()).unwrap();
            }
            options.keeps_alive(version)
        };
        assert!(keeps(Version::Http11, &[]));
        assert!(!keeps(Version::Http11, &["close"]));
        assert!(!keeps(Version::Http11, &["keep-alive", "x, CLOSE"]));
        assert!(!keeps(Version::Http10, &[]));
        assert!(keeps(Version::Http10, &["x,Keep-Alive"]));
        assert!(!keeps(Version::Http10, &["Keep-Alive, close"]));
    }

    #[test]
    fn only_names_without_a_meaning_are_removed() {
        let mut fields = Fields::new();
        for name in [
            "Authorization",
            "X-Forwarded-For",
            "x-forwarded-user",
            "Cookie",
            "X-Hop",
            "x-HOP",
            "Content-Foo",
            "X-End",
            "Connection",
        ] {
            let value =
                "X-HOP, authorization, cookie, x-forwarded-for, x-forwarded-user,, content-foo";
            fields.append_named(name.as_bytes(), value.as_bytes());
        }
        let mut options = Options::default();
        assert!(options.take(b"x-hop, ,Cookie").unwrap());
        options.remove_named(&mut fields);
        let left: Vec<_> = fields.iter().map(|field| field.spelled).collect();
        assert_eq!(
            left,
            [
                &b"Authorization"[..],
                b"X-Forwarded-For",
                b"x-forwarded-user",
                b"Cookie",
                b"Content-Foo",
                b"X-End"
            ]
        );
    }

    #[test]
    fn names_that_are_never_removed_by_name_cost_nothing() {
        let kept = Options::default().take(b"TE, Upgrade, HTTP2-Settings, keep-alive, Cookie,");
        assert_eq!(kept, Ok(false));
    }

    #[test]
    fn options_are_tokens() {
        for value in ["a b", "close; x", "\"close\"", "clo\u{a0}se"] {
            let refused = Options::default().take(value.as_bytes());
            assert_eq!(refused, Err(Refusal::FieldValue), "{value}");
        }
    }

    #[test]
    fn another_http_is_never_tunnelled() {
        for (value, protocol) in [
            ("websocket", "websocket"),
            ("h2c, WebSocket", "WebSocket"),
            ("h2c", ""),
            ("H2C, TLS/1.0, HTTP/2.0", ""),
            ("SPDY/3.1, tcp", "SPDY/3.1"),
        ] {
            assert_eq!(upgrade_protocol(value.as_bytes()), Ok(protocol.as_bytes()));
        }
        for value in ["", "a b", "a,", "a/", "/1", "a/1/2", "a;b"] {
            assert_eq!(
                upgrade_protocol(value.as_bytes()),
                Err(Refusal::Upgrade),
                "{value}"
            );
        }
    }
}
