//! Listeners of the proxy paths, and the workers.

use super::routes::host;
use super::{map, prefix};
use crate::config::defaults::{percent, size, text};
use crate::config::model::http::{
    AccessLog, Action, Compression, Forwarded, Http2, HttpListener, HttpTimeouts, Limits,
    LogFormat, LogTarget, NameRule, Passthrough, Route, StreamListener, Workers, default_route,
};
use crate::config::model::mesh::{Direction, Mesh, Selection};
use crate::config::model::steer::{PortRange, Steer};
use crate::types::Protocol;
use ipnet::IpNet;
use serde_json::{Value, json};

pub(super) fn workers(workers: &Workers) -> Value {
    map([
        ("count", workers.count.map(Value::from)),
        ("drain_timeout", Some(json!(text(workers.drain_timeout)))),
        ("busy_poll", Some(json!(text(workers.busy_poll)))),
    ])
}

/// True for a route that stands for the `service` of a listener: no other name has a colon.
pub(super) fn is_default(route: &Route) -> bool {
    route.name.contains(':')
}

/// The service of a listener's own.
fn own_service<'a>(listener: &str, routes: &'a [Route]) -> Option<&'a str> {
    let name = default_route(listener, "").name;
    let route = routes.iter().find(|route| route.name == name)?;
    match &route.action {
        Action::Forward(split) => split.targets.first().map(|(service, _)| service.as_str()),
        _ => None,
    }
}

pub(super) fn listener(listener: &HttpListener, routes: &[Route]) -> Value {
    map([
        ("name", Some(json!(listener.name))),
        ("kind", Some(json!("http"))),
        ("address", Some(json!(listener.address.ip()))),
        ("port", Some(json!(listener.address.port()))),
        (
            "service",
            own_service(&listener.name, routes).map(|name| json!(name)),
        ),
        (
            "proxy_protocol_from",
            // The kernel says whose a mesh's connections are.
            (listener.mesh.is_none()).then(|| prefixes(&listener.proxy_protocol_from)),
        ),
        ("steer", listener.steer.as_ref().map(steer)),
        ("mesh", listener.mesh.as_ref().map(mesh)),
        (
            "limits",
            Some(limits(
                &listener.limits,
                listener.max_requests_per_connection,
            )),
        ),
        ("timeouts", Some(timeouts(&listener.timeouts))),
        ("http2", Some(http2(&listener.http2))),
        ("tls", listener.tls.as_ref().map(super::tls::http)),
        (
            "https_redirect",
            listener.https_redirect.map(|port| json!(port)),
        ),
        ("forwarded", Some(forwarded(&listener.forwarded))),
        ("access_log", listener.access_log.as_ref().map(access_log)),
        ("trace_share", Some(json!(percent(listener.trace_share)))),
        (
            "security_headers",
            Some(json!(listener.security_headers.name())),
        ),
        (
            "compression",
            listener.compression.as_ref().map(compression),
        ),
        ("accelerate", Some(json!(listener.accelerate.name()))),
        ("splice", Some(json!(listener.splice.name()))),
    ])
}

pub(super) fn stream(listener: &StreamListener) -> Value {
    map([
        ("name", Some(json!(listener.name))),
        ("kind", Some(json!(listener.kind()))),
        ("address", Some(json!(listener.address.ip()))),
        ("port", Some(json!(listener.address.port()))),
        (
            "service",
            listener.service.as_ref().map(|service| json!(service)),
        ),
        ("names", listener.passthrough.as_ref().map(names)),
        ("tls", listener.tls.as_ref().map(super::tls::tcp)),
        (
            "accelerate",
            (listener.protocol == Protocol::Tcp).then(|| json!(listener.accelerate.name())),
        ),
        (
            "splice",
            (listener.protocol == Protocol::Tcp).then(|| json!(listener.splice.name())),
        ),
        (
            "proxy_protocol_from",
            (listener.protocol == Protocol::Tcp).then(|| prefixes(&listener.proxy_protocol_from)),
        ),
        ("steer", listener.steer.as_ref().map(steer)),
        (
            "limits",
            Some(json!({"connections": listener.max_connections})),
        ),
        (
            "timeouts",
            Some(map([
                ("idle", Some(json!(text(listener.idle_timeout)))),
                (
                    "head",
                    listener
                        .passthrough
                        .as_ref()
                        .map(|names| json!(text(names.hello_timeout))),
                ),
            ])),
        ),
        ("responses", listener.responses.map(|count| json!(count))),
        ("access_log", listener.access_log.as_ref().map(access_log)),
    ])
}

fn steer(steer: &Steer) -> Value {
    // As text, also what could be a number: a range could not.
    let ports: Vec<_> = steer.ports.iter().map(ToString::to_string).collect();
    json!({
        "addresses": prefixes(&steer.addresses),
        "ports": ports,
        "on_failure": steer.on_failure.name(),
    })
}

fn mesh(mesh: &Mesh) -> Value {
    let words = |ports: &[PortRange]| -> Value {
        let word = |range: &PortRange| match range.single() {
            Some(port) => json!(port),
            None => json!(range.to_string()),
        };
        ports.iter().map(word).collect()
    };
    let both = |selection: &Selection<IpNet>| {
        Some(json!({
            "only": prefixes(&selection.only),
            "except": prefixes(&selection.except),
        }))
    };
    let is_outbound = mesh.direction == Direction::Outbound;
    let destinations = is_outbound.then(|| both(&mesh.destinations));
    let sources = (!is_outbound).then(|| both(&mesh.sources));
    map([
        ("cgroups", Some(json!(mesh.cgroups))),
        ("direction", Some(json!(mesh.direction.name()))),
        ("destinations", destinations.flatten()),
        ("sources", sources.flatten()),
        (
            "ports",
            Some(json!({"only": words(&mesh.ports.only), "except": words(&mesh.ports.except)})),
        ),
        (
            "users",
            is_outbound.then(|| json!({"only": mesh.users.only, "except": mesh.users.except})),
        ),
        ("reach", mesh.reach.map(|address| json!(address))),
        ("on_failure", Some(json!(mesh.on_failure.name()))),
        ("unmatched", Some(json!(mesh.unmatched.name()))),
        ("detect", Some(json!(text(mesh.detect)))),
        ("opaque", Some(words(&mesh.opaque))),
        ("names", Some(rules(&mesh.names))),
    ])
}

fn names(passthrough: &Passthrough) -> Value {
    rules(&passthrough.names)
}

fn rules(rules: &[NameRule]) -> Value {
    let rule = |rule: &NameRule| {
        let hosts: Value = rule.hosts.iter().map(host).collect();
        json!({"hosts": hosts, "alpn": rule.alpn, "service": rule.service})
    };
    rules.iter().map(rule).collect()
}

pub(super) fn prefixes(list: &[IpNet]) -> Value {
    list.iter().copied().map(prefix).collect()
}

fn limits(limits: &Limits, requests: u32) -> Value {
    json!({
        "fields": limits.fields,
        "head": size(limits.head_bytes.into()),
        "target": size(limits.target_bytes.into()),
        "body": limits.body_bytes.map_or("none".to_owned(), size),
        "connections": limits.connections,
        "requests_per_connection": requests,
    })
}

fn timeouts(timeouts: &HttpTimeouts) -> Value {
    json!({
        "head": text(timeouts.head),
        "body_idle": text(timeouts.body_idle),
        "body_rate": timeouts.body_rate,
        "idle": text(timeouts.idle),
        "write": text(timeouts.write),
        "linger": text(timeouts.linger),
    })
}

fn http2(http2: &Http2) -> Value {
    json!({
        "enabled": http2.enabled,
        "only": http2.only,
        "max_streams": http2.max_streams,
        "stream_window": size(http2.stream_window_bytes.into()),
        "connection_window": size(http2.connection_window_bytes.into()),
        "max_frame": size(http2.max_frame_bytes.into()),
        "max_resets": http2.max_resets,
        "max_control_frames": http2.max_control_frames,
        "abuse_window": text(http2.abuse_window),
    })
}

fn forwarded(forwarded: &Forwarded) -> Value {
    map([
        ("trusted", Some(prefixes(&forwarded.trusted))),
        ("x_forwarded", Some(json!(forwarded.x_forwarded))),
        ("x_real_ip", Some(json!(forwarded.x_real_ip))),
        ("forwarded", Some(json!(forwarded.forwarded))),
        ("via", forwarded.via.as_ref().map(|name| json!(name))),
        ("request_id", Some(json!(forwarded.request_id))),
    ])
}

fn access_log(log: &AccessLog) -> Value {
    let to = match &log.to {
        LogTarget::Stdout => json!("stdout"),
        LogTarget::File(path) => json!(path),
    };
    let format = match &log.format {
        LogFormat::Json => "json",
        LogFormat::Combined => "combined",
        LogFormat::Common => "common",
        LogFormat::Haproxy => "haproxy",
        LogFormat::Template(template) => template,
    };
    json!({"to": to, "format": format, "share": percent(log.share)})
}

pub(super) fn compression(compression: &Compression) -> Value {
    let codings = compression
        .codings
        .iter()
        .map(|coding| json!(coding.word()));
    map([
        ("codings", Some(codings.collect())),
        ("types", Some(json!(compression.types))),
        ("min_size", Some(json!(size(compression.min_bytes)))),
        ("level", Some(json!(compression.level.name()))),
    ])
}
