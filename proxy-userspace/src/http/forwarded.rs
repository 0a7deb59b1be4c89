//! What backends are told about the client, and whom we believe.
//!
//! Whoever can write `X-Forwarded-For` can pretend to be anybody, so what a client says there
//! counts only if the client is a proxy that the configuration trusts. Such a chain is read from
//! its end: each address that is trusted vouches for the one before it, and the first that is not
//! is the client. Everything that an untrusted client says is replaced.

use super::peer::Peer;
use crate::config::model::http::Forwarded;
use crate::message::{Fields, Name, RequestHead, Version};
use std::net::{IpAddr, SocketAddr};

/// Fields by which proxies talk about clients.
const TOLD: [Name; 7] = [
    Name::XForwardedClientCert,
    Name::XForwardedFor,
    Name::XForwardedProto,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::Forwarded,
    Name::XRealIp,
];

/// The client: the peer, or whom trusted proxies name.
pub fn real_client(head: &RequestHead, settings: &Forwarded, peer: &Peer) -> IpAddr {
    let mut client = peer.ip();
    if settings.trusted.is_empty() || !is_trusted(settings, client) {
        return client;
    }
    let mut values: Vec<&[u8]> = head.fields.all(Name::XForwardedFor).collect();
    values.reverse();
    for part in values
        .into_iter()
        .flat_map(|value| value.rsplit(|&c| c == b','))
    {
        let Some(address) = address(part) else { break };
        client = address;
        if !is_trusted(settings, client) {
            break;
        }
    }
    client
}

/// Gives the request an id: that of a trusted proxy, or a new one, for which `random` gives 64 bits
/// that are drawn anew each time.
pub fn identify(
    head: &mut RequestHead,
    settings: &Forwarded,
    peer: &Peer,
    random: impl Fn() -> u64,
) {
    let is_told = || {
        head.fields
            .get(Name::XRequestId)
            .is_some_and(|id| !id.is_empty())
    };
    if !(is_told() && is_trusted(settings, peer.ip())) {
        head.fields.set(Name::XRequestId, &hex(random(), random()));
    }
}

/// Writes the fields that tell the backend about the client. `scratch` is overwritten.
pub fn tell(
    head: &mut RequestHead,
    settings: &Forwarded,
    peer: &Peer,
    client: IpAddr,
    scratch: &mut Vec<u8>,
) {
    let trusted = !settings.trusted.is_empty() && is_trusted(settings, peer.ip());
    if !trusted {
        for name in TOLD {
            head.fields.remove(name);
        }
    }
    if let Some(tls) = &peer.tls {
        tls.tell(&mut head.fields);
    }
    if settings.x_forwarded {
        append_to_list(head, Name::XForwardedFor, peer.address(), scratch);
        let scheme = head.scheme.name().as_bytes();
        set_if_absent(head, Name::XForwardedProto, scheme);
        if !head.fields.contains(Name::XForwardedHost) && !head.authority().is_empty() {
            scratch.clear();
            scratch.extend_from_slice(head.authority());
            head.fields.append(Name::XForwardedHost, scratch);
        }
        set_if_absent(head, Name::XForwardedPort, peer.port());
    }
    if settings.x_real_ip {
        let text = client.to_string();
        head.fields.set(Name::XRealIp, text.as_bytes());
    }
    if settings.forwarded {
        forwarded(head, peer, scratch);
    }
    if let Some(name) = &settings.via {
        via(&mut head.fields, head.version, name, scratch);
    }
}

/// 128 bits as text.
pub(super) fn hex(high: u64, low: u64) -> [u8; 32] {
    let bits = u128::from(high) << 64 | u128::from(low);
    std::array::from_fn(|at| b"0123456789abcdef"[(bits >> (124 - 4 * at)) as usize & 15])
}

fn is_trusted(settings: &Forwarded, address: IpAddr) -> bool {
    settings.trusted.iter().any(|net| net.contains(&address))
}

/// An address as it stands in a list: perhaps with a port or brackets.
fn address(part: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(part.trim_ascii()).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

fn set_if_absent(head: &mut RequestHead, name: Name, value: &[u8]) {
    if !head.fields.contains(name) {
        head.fields.append(name, value);
    }
}

/// Makes one field of all values of a list, with one more at its end.
fn append_to_list(head: &mut RequestHead, name: Name, value: &[u8], scratch: &mut Vec<u8>) {
    if !head.fields.contains(name) {
        head.fields.append(name, value);
        return;
    }
    scratch.clear();
    for before in head.fields.all(name) {
        scratch.extend_from_slice(before);
        scratch.extend_from_slice(b", ");
    }
    scratch.extend_from_slice(value);
    head.fields.set(name, scratch);
}

/// RFC 7239.
fn forwarded(head: &mut RequestHead, peer: &Peer, scratch: &mut Vec<u8>) {
    scratch.clear();
    for before in head.fields.all(Name::Forwarded) {
        scratch.extend_from_slice(before);
        scratch.extend_from_slice(b", ");
    }
    scratch.extend_from_slice(b"for=");
    if peer.client.is_ipv6() {
        scratch.extend_from_slice(b"\"[");
        scratch.extend_from_slice(peer.address());
        scratch.extend_from_slice(b"]\"");
    } else {
        scratch.extend_from_slice(peer.address());
    }
    if !head.authority().is_empty() {
        // A host may hold a colon or brackets, which a token may not; quotes it cannot hold.
        scratch.extend_from_slice(b";host=\"");
        scratch.extend_from_slice(head.authority());
        scratch.push(b'"');
    }
    scratch.extend_from_slice(b";proto=");
    scratch.extend_from_slice(head.scheme.name().as_bytes());
    head.fields.set(Name::Forwarded, scratch);
}

/// Adds our name to `Via` (RFC 9110 §7.6.3), which says the version in which the message came.
pub fn via(fields: &mut Fields, version: Version, name: &str, scratch: &mut Vec<u8>) {
    scratch.clear();
    for before in fields.all(Name::Via) {
        scratch.extend_from_slice(before);
        scratch.extend_from_slice(b", ");
    }
    scratch.extend_from_slice(version.via().as_bytes());
    scratch.push(b' ');
    scratch.extend_from_slice(name.as_bytes());
    fields.set(Name::Via, scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(trusted: &[&str]) -> Forwarded {
        Forwarded {
            trusted: trusted
                .iter()
                .map(|net| net.parse().expect("a net"))
                .collect(),
            x_real_ip: true,
            forwarded: true,
            via: Some("edge".to_owned()),
            request_id: true,
            ..Forwarded::default()
        }
    }

    fn peer(address: &str) -> Peer {
        let server = "192.0.2.1:8080".parse().expect("an address");
        Peer::new(
            SocketAddr::new(address.parse().expect("an address"), 4711),
            server,
            1,
        )
    }

    fn told(settings: &Forwarded, from: &str, fields: &[(&[u8], &[u8])]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority(b"Shop.example:8080");
        for (name, value) in fields {
            head.fields.append_named(name, value);
        }
        let peer = peer(from);
        let client = real_client(&head, settings, &peer);
        identify(&mut head, settings, &peer, || 0x1f);
        tell(&mut head, settings, &peer, client, &mut Vec::new());
        head
    }

    fn value(head: &RequestHead, name: Name) -> String {
        let values: Vec<_> = head.fields.all(name).map(String::from_utf8_lossy).collect();
        values.join(" | ")
    }

    #[test]
    fn what_an_untrusted_client_says_is_replaced() {
        let head = told(
            &settings(&[]),
            "203.0.113.9",
            &[
                (b"X-Forwarded-For", b"127.0.0.1"),
                (b"x-real-ip", b"127.0.0.1"),
                (b"Forwarded", b"for=127.0.0.1"),
                (b"X-Forwarded-Proto", b"https"),
            ],
        );
        assert_eq!(value(&head, Name::XForwardedFor), "203.0.113.9");
        assert_eq!(value(&head, Name::XForwardedProto), "http");
        assert_eq!(value(&head, Name::XForwardedHost), "shop.example:8080");
        assert_eq!(value(&head, Name::XForwardedPort), "8080");
        assert_eq!(value(&head, Name::XRealIp), "203.0.113.9");
        assert_eq!(
            value(&head, Name::Forwarded),
            "for=203.0.113.9;host=\"shop.example:8080\";proto=http"
        );
        assert_eq!(value(&head, Name::Via), "1.1 edge");
        assert_eq!(
            value(&head, Name::XRequestId),
            "000000000000001f000000000000001f"
        );
    }

    #[test]
    fn a_trusted_chain_is_extended_and_read_from_its_end() {
        let head = told(
            &settings(&["10.0.0.0/8", "2001:db8::/32"]),
            "10.0.0.1",
            &[
                (b"X-Forwarded-For", b"6.6.6.6, 198.51.100.7"),
                (b"X-Forwarded-For", b"[2001:db8::1]"),
                (b"X-Forwarded-Proto", b"https"),
                (b"Forwarded", b"for=198.51.100.7"),
            ],
        );
        let chain = "6.6.6.6, 198.51.100.7, [2001:db8::1], 10.0.0.1";
        assert_eq!(value(&head, Name::XForwardedFor), chain);
        assert_eq!(value(&head, Name::XForwardedProto), "https");
        assert_eq!(value(&head, Name::XRealIp), "198.51.100.7");
        assert!(value(&head, Name::Forwarded).starts_with("for=198.51.100.7, for=10.0.0.1;"));
    }

    #[test]
    fn a_chain_ends_at_what_is_no_address() {
        let settings = settings(&["10.0.0.0/8"]);
        let mut head = RequestHead::default();
        head.fields
            .append(Name::XForwardedFor, b"198.51.100.7, unknown, 10.0.0.2:99");
        let client = real_client(&head, &settings, &peer("10.0.0.1"));
        assert_eq!(client.to_string(), "10.0.0.2");
    }

    #[test]
    fn an_ipv6_client_is_quoted() {
        let head = told(&settings(&[]), "2001:db8::7", &[]);
        assert!(value(&head, Name::Forwarded).starts_with("for=\"[2001:db8::7]\";"));
        assert_eq!(value(&head, Name::XForwardedFor), "2001:db8::7");
    }
}
