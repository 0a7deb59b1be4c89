//! Keeps web pages away from the TCP endpoint.
//!
//! A browser on the same machine can be made to send requests to a loopback port, and with DNS
//! rebinding even to read the answers. Two headers give such requests away:
//!
//! - `Host` names what the browser believes to talk to. A rebinding page is reached by its own
//!   domain name, so only IP addresses, `localhost` and this host's own name are accepted; on a
//!   loopback listener only loopback addresses and `localhost`.
//! - `Origin` is sent by browsers with cross-site requests, and must then equal `Host`.
//!
//! Browsers cannot open the unix socket, but people lead theirs to it, by a tunnel of ssh for
//! example. So it judges as well, and takes any name of one label for itself: the names that
//! rebinding needs have a domain.

use http::{HeaderMap, header};
use std::net::IpAddr;

/// Which requests an endpoint accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPolicy {
    /// True if the endpoint listens on a loopback address.
    pub loopback: bool,
    /// This host's name, lower case; may be empty.
    pub host_name: String,
    /// True at the unix socket, where tools call the host whatever they like.
    pub any_label: bool,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// No `Host` header, or an unreadable one.
    #[error("the Host header is missing or unreadable")]
    NoHost,
    /// `Host` is not this endpoint.
    #[error("the Host header does not name this endpoint; use its IP address or localhost")]
    WrongHost,
    /// `Origin` is another site.
    #[error("cross-site requests are refused")]
    CrossSite,
}

impl HostPolicy {
    /// That of the unix socket.
    pub const fn local() -> Self {
        Self {
            loopback: true,
            host_name: String::new(),
            any_label: true,
        }
    }

    /// Judges a request by its headers.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] says which header gave it away.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Forbidden> {
        let host = single(headers, &header::HOST).ok_or(Forbidden::NoHost)?;
        if !self.is_this_endpoint(host_part(host)) {
            return Err(Forbidden::WrongHost);
        }
        if !headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        let origin = single(headers, &header::ORIGIN).ok_or(Forbidden::CrossSite)?;
        let (_, authority) = origin.split_once("://").ok_or(Forbidden::CrossSite)?;
        if authority.eq_ignore_ascii_case(host) {
            Ok(())
        } else {
            Err(Forbidden::CrossSite)
        }
    }

    fn is_this_endpoint(&self, host: &str) -> bool {
        let is_label = !host.is_empty() && !host.contains(['.', ':']);
        if host.eq_ignore_ascii_case("localhost") || self.any_label && is_label {
            return true;
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return !self.loopback || ip.is_loopback();
        }
        let names_this_host = {
            let short = self.host_name.split('.').next().unwrap_or_default();
            [self.host_name.as_str(), short]
                .iter()
                .any(|name| !name.is_empty() && host.eq_ignore_ascii_case(name))
        };
        !self.loopback && names_this_host
    }
}

/// The only value of a header; `None` if there is none, several, or it is not text.
fn single<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The host of `HOST[:PORT]` (RFC 9110 §7.2), without the brackets of an IPv6 address.
fn host_part(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(loopback: bool, fields: &[(&'static str, &str)]) -> Result<(), Forbidden> {
        let policy = HostPolicy {
            loopback,
            host_name: "lb1.example.net".to_owned(),
            any_label: false,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a header value"));
        }
        policy.check(&headers)
    }

    #[test]
    fn loopback_answers_to_loopback_names_only() {
        for host in [
            "127.0.0.1:9090",
            "localhost",
            "LOCALHOST:9090",
            "[::1]:9090",
        ] {
            assert_eq!(check(true, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:9090",
            "192.0.2.1",
            "lb1",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert_eq!(
                check(true, &[("host", host)]),
                Err(Forbidden::WrongHost),
                "{host}"
            );
        }
    }

    #[test]
    fn other_addresses_answer_to_any_address_and_the_own_name() {
        for host in [
            "192.0.2.1:9090",
            "[2001:db8::1]",
            "lb1",
            "lb1.example.net:9090",
        ] {
            assert_eq!(check(false, &[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(
            check(false, &[("host", "evil.example")]),
            Err(Forbidden::WrongHost)
        );
    }

    #[test]
    fn the_unix_socket_takes_any_label_and_no_domain() {
        let check = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header value"));
            HostPolicy::local().check(&headers).is_ok()
        };
        assert!(
            ["sluice", "localhost:1", "x", "127.0.0.1:8080"]
                .into_iter()
                .all(check)
        );
        assert!(!["evil.example", "192.0.2.1", ""].into_iter().any(check));
    }

    #[test]
    fn a_request_without_one_host_is_refused() {
        assert_eq!(check(true, &[]), Err(Forbidden::NoHost));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(true, &twice), Err(Forbidden::NoHost));
    }

    #[test]
    fn an_origin_must_be_the_host_itself() {
        let host = ("host", "127.0.0.1:9090");
        assert_eq!(
            check(true, &[host, ("origin", "http://127.0.0.1:9090")]),
            Ok(())
        );
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080"] {
            let answer = check(true, &[host, ("origin", origin)]);
            assert_eq!(answer, Err(Forbidden::CrossSite), "{origin}");
        }
    }
}
