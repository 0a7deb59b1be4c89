//! Listeners of the proxy paths.

use super::compression::compression;
use super::http::{
    accelerate, access_log, forwarded, http2, limits, networks, security, splice, timeouts,
};
use super::mesh::{self, mesh};
use super::passthrough::passthrough;
use super::steer::steer;
use super::tls;
use super::{mapped, need, number, or, time};
use crate::config::decode::{At, Field};
use crate::config::defaults::http as defaults;
use crate::config::fault::Code;
use crate::config::file::listener::{Listener, ListenerKind};
use crate::config::model::http::{HttpListener, StreamListener};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::Protocol;
use std::net::SocketAddr;

/// Keys that some kinds of listeners do not have.
const KEYS: &[(&str, &[ListenerKind])] = {
    use ListenerKind::{Http, L4, Tcp, TlsPassthrough, Udp};
    &[
        ("protocol", &[L4]),
        ("names", &[TlsPassthrough]),
        ("guard", &[L4]),
        ("proxy_protocol_from", &[Http, Tcp, TlsPassthrough]),
        ("steer", &[Http, Tcp, TlsPassthrough, Udp]),
        ("mesh", &[Http]),
        ("limits", &[Http, Tcp, TlsPassthrough, Udp]),
        ("timeouts", &[Http, Tcp, TlsPassthrough, Udp]),
        ("responses", &[Udp]),
        ("http2", &[Http]),
        ("tls", &[Http, Tcp]),
        ("https_redirect", &[Http]),
        ("forwarded", &[Http]),
        ("access_log", &[Http, Tcp, TlsPassthrough, Udp]),
        ("trace_share", &[Http]),
        ("security_headers", &[Http]),
        ("compression", &[Http]),
        ("accelerate", &[Http, Tcp, TlsPassthrough]),
        ("splice", &[Http, Tcp, TlsPassthrough]),
    ]
};

/// Notes keys that mean nothing with this kind.
pub(super) fn stray(report: &Report<'_>, keys: &Listener, kind: ListenerKind) {
    let given = [
        node(&keys.protocol),
        node(&keys.names),
        node(&keys.guard),
        node(&keys.proxy_protocol_from),
        node(&keys.steer),
        node(&keys.mesh),
        node(&keys.limits),
        node(&keys.timeouts),
        node(&keys.responses),
        node(&keys.http2),
        node(&keys.tls),
        node(&keys.https_redirect),
        node(&keys.forwarded),
        node(&keys.access_log),
        node(&keys.trace_share),
        node(&keys.security_headers),
        node(&keys.compression),
        node(&keys.accelerate),
        node(&keys.splice),
    ];
    for ((key, kinds), node) in KEYS.iter().zip(given) {
        if let Some(node) = node
            && !kinds.contains(&kind)
        {
            let words: Vec<_> = kinds
                .iter()
                .map(|kind| format!("`{}`", kind.name()))
                .collect();
            let draft = Draft::new(
                Code::Conflict,
                format!("a listener of kind `{}` has no `{key}`", kind.name()),
            )
            .expected(format!("kind {}", words.join(" or ")));
            let draft = match *key {
                "guard" => draft.fix("remove it; routes of `kind: http` have `sources` in `match`"),
                "protocol" => draft.fix("remove it: the kind says what is spoken"),
                "tls" if kind == ListenerKind::TlsPassthrough => {
                    draft.fix("remove it, or use `kind: tcp`, which ends TLS here")
                }
                "names" => draft.fix("use `kind: tls-passthrough`; `kind: http` has `routes`"),
                _ => draft.fix("remove it"),
            };
            report.error(Place::Key(node), draft);
        }
    }
    if !matches!(kind, ListenerKind::L4 | ListenerKind::Http) {
        stray_in_sections(report, keys, kind);
    }
}

/// Of the sections that streams have, they have one key each.
fn stray_in_sections(report: &Report<'_>, keys: &Listener, kind: ListenerKind) {
    let limits = keys.limits.value().map(|limits| {
        [
            ("fields", node(&limits.fields)),
            ("head", node(&limits.head)),
            ("target", node(&limits.target)),
            ("body", node(&limits.body)),
            (
                "requests_per_connection",
                node(&limits.requests_per_connection),
            ),
        ]
    });
    let has_hello = kind == ListenerKind::TlsPassthrough;
    let timeouts = keys.timeouts.value().map(|timeouts| {
        [
            ("head", node(&timeouts.head).filter(|_| !has_hello)),
            ("body_idle", node(&timeouts.body_idle)),
            ("body_rate", node(&timeouts.body_rate)),
            ("write", node(&timeouts.write)),
            ("linger", node(&timeouts.linger)),
        ]
    });
    let given = [
        (limits, "`connections`"),
        (
            timeouts,
            if has_hello {
                "`idle` and `head`"
            } else {
                "`idle`"
            },
        ),
    ];
    for (section, only) in given {
        for (key, node) in section.into_iter().flatten() {
            let Some(node) = node else { continue };
            let draft = Draft::new(
                Code::Conflict,
                format!(
                    "`{key}` is about HTTP, which is not spoken at a listener of kind `{}`",
                    kind.name()
                ),
            )
            .expected(only)
            .fix("remove it, or use `kind: http`");
            report.error(Place::Key(node), draft);
        }
    }
}

fn node<T>(field: &Field<T>) -> Option<NodeId> {
    field.given().map(|at| at.node)
}

/// A listener that speaks HTTP.
pub(super) fn http(report: &Report<'_>, at: &At<Listener>) -> Option<HttpListener> {
    let keys = &at.value;
    let address = address(report, at);
    let limits = limits(report, &keys.limits);
    let timeouts = timeouts(report, &keys.timeouts);
    let http2 = http2(report, &keys.http2);
    let forwarded = forwarded(report, &keys.forwarded);
    let proxy_protocol_from = networks(report, &keys.proxy_protocol_from);
    let steer = steer(report, &keys.steer, address);
    let mesh = mesh(report, &keys.mesh, address);
    let access_log = access_log(report, &keys.access_log);
    let compression = compression(report, &keys.compression);
    let tls = tls::tls(report, &keys.tls);
    tls::of_http(report, &keys.tls);
    tls::redirect(report, keys);
    mesh::stray(report, keys);
    let mut listener = HttpListener::new(keys.name.value()?.0.clone(), address?);
    listener.limits = limits;
    listener.timeouts = timeouts;
    listener.http2 = http2;
    listener.forwarded = forwarded;
    listener.proxy_protocol_from = proxy_protocol_from;
    listener.steer = steer;
    listener.mesh = mesh;
    listener.access_log = access_log;
    listener.compression = compression;
    listener.accelerate = accelerate(&keys.accelerate);
    listener.splice = splice(&keys.splice);
    listener.tls = tls;
    listener.https_redirect = keys.https_redirect.value().and_then(|port| port.0);
    if let Some(limits) = keys.limits.value() {
        listener.max_requests_per_connection =
            or(&limits.requests_per_connection, defaults::MAX_REQUESTS);
    }
    if let Some(share) = keys.trace_share.value() {
        listener.trace_share = share.0;
    }
    if let Some(word) = keys.security_headers.value() {
        listener.security_headers = security(*word);
    }
    Some(listener)
}

/// A listener that passes TCP or UDP on.
pub(super) fn stream(
    report: &Report<'_>,
    at: &At<Listener>,
    protocol: Protocol,
) -> Option<StreamListener> {
    let keys = &at.value;
    let address = address(report, at);
    let is_passthrough = keys.kind.value() == Some(&ListenerKind::TlsPassthrough);
    let passthrough = is_passthrough.then(|| passthrough(report, at));
    let service = match is_passthrough {
        true => keys.service.given(),
        false => need(report, at.node, "service", "NAME", &keys.service),
    };
    let proxy_protocol_from = networks(report, &keys.proxy_protocol_from);
    let steer = steer(report, &keys.steer, address);
    let access_log = access_log(report, &keys.access_log);
    let tls = (keys.kind.value() == Some(&ListenerKind::Tcp))
        .then(|| tls::tls(report, &keys.tls))
        .flatten();
    tls::of_tcp(report, keys);
    let name = keys.name.value()?.0.clone();
    let service = match is_passthrough {
        true => service.map(|service| service.value.0.clone()),
        false => Some(service?.value.0.clone()),
    };
    let mut listener = StreamListener::new(name, protocol, address?, "");
    (listener.service, listener.passthrough) = (service, passthrough);
    listener.tls = tls;
    listener.accelerate = accelerate(&keys.accelerate);
    listener.splice = splice(&keys.splice);
    listener.proxy_protocol_from = proxy_protocol_from;
    listener.steer = steer;
    listener.access_log = access_log;
    if keys.responses.given().is_some() {
        listener.responses = Some(number(report, &keys.responses, 1..=u32::MAX, 1));
    }
    if let Some(timeouts) = keys.timeouts.value() {
        listener.idle_timeout = time(report, &timeouts.idle, listener.idle_timeout);
    }
    if let Some(limits) = keys.limits.value() {
        let least = u32::from(protocol == Protocol::Udp);
        listener.max_connections = number(
            report,
            &limits.connections,
            least..=u32::MAX,
            listener.max_connections,
        );
    }
    Some(listener)
}

/// One address and one port.
fn address(report: &Report<'_>, at: &At<Listener>) -> Option<SocketAddr> {
    let keys = &at.value;
    let address = need(report, at.node, "address", "0.0.0.0", &keys.address);
    let port = need(report, at.node, "port", "8080", &keys.port);
    if let Some(address) = address {
        let net = address.value.0;
        let addr = net.addr();
        if net.prefix_len() < net.max_prefix_len() {
            let draft = Draft::new(Code::InvalidValue, format!("`{net}` is a prefix"))
                .expected("one address; only `kind: l4` listens on prefixes")
                .fix("write `0.0.0.0` or `\"::\"` for all addresses of this host");
            report.error(Place::Value(address.node), draft);
        } else if addr.is_multicast() {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{addr}` is a multicast address"),
            )
            .expected("an address of this host");
            report.error(Place::Value(address.node), draft);
        }
        mapped(report, address.node, addr);
    }
    if let Some(port) = port
        && port.value.0.is_none()
    {
        let draft = Draft::new(Code::InvalidValue, "only `kind: l4` listens on all ports")
            .expected("a port from 1 to 65535");
        report.error(Place::Value(port.node), draft);
    }
    Some(SocketAddr::new(
        address?.value.0.addr(),
        port?.value.0.unwrap_or_default(),
    ))
}
