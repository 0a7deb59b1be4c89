//! What a URL says of the connection by which a request comes.

use std::net::IpAddr;

/// Scheme, authority, and path with query of a URL.
pub(super) fn split_url(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    Some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

/// The name that a client of this URL asks for: none for an address (RFC 6066 §3).
pub(super) fn server_name(url: &str) -> Option<&str> {
    let (_, authority, _) = split_url(url)?;
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    (!host.starts_with('[') && host.parse::<IpAddr>().is_err()).then_some(host)
}

/// Address and port that a URL names: the address, if it is none but a name.
pub(super) fn destination(url: &str) -> Option<(Option<IpAddr>, u16)> {
    let (scheme, authority, _) = split_url(url)?;
    let usual = if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        80
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual),
    };
    let host = host.trim_matches(['[', ']']);
    Some((host.parse().ok(), port))
}
