//! The configuration that is in force, written as a file with every default filled in.
//!
//! The result is a valid file that means the same: a test reads it back.

use super::defaults::{percent, status_text, text};
use super::model::{
    Admin, AttachMode, Backend, Config, Guard, HealthCheck, L4, Listener, Probe, ProbeTarget,
    Service,
};
use super::yaml;
use crate::types::PortMatch;
use ipnet::IpNet;
use proxy_common::service::Mode;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// The configuration as YAML text, with every default filled in.
pub fn effective_yaml(config: &Config) -> String {
    yaml::to_text(&effective(config))
}

/// The configuration as a JSON value in the file's shape, with every default filled in.
pub fn effective(config: &Config) -> Value {
    let mut file = json!({
        "l4": l4(config.data_plane()),
        "admin": admin(&config.admin),
        "guard": guard(&config.guard),
        "listeners": config.listeners.iter().map(listener).collect::<Value>(),
        "services": config.services.iter().map(service).collect::<Value>(),
    });
    escape(&mut file);
    file
}

/// Keeps `${` in values from being taken for a variable when the file is read again.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("${") => *text = text.replace("${", "$${"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(map) => map.values_mut().for_each(escape),
        _ => {}
    }
}

/// The entries that have a value.
fn map<const N: usize>(entries: [(&str, Option<Value>); N]) -> Value {
    let given = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn l4(l4: &L4) -> Value {
    let interfaces: Value = l4
        .interfaces
        .iter()
        .map(|interface| json!({"name": interface.name, "attach": attach(interface.attach)}))
        .collect();
    let tunnel = map([
        (
            "source_v4",
            l4.tunnel_source_v4.map(|net| prefix(net.into())),
        ),
        (
            "source_v6",
            l4.tunnel_source_v6.map(|net| prefix(net.into())),
        ),
        ("gue_port", Some(l4.gue_port.into())),
    ]);
    json!({
        "interfaces": interfaces,
        "pin_dir": l4.pin_dir,
        "flow_capacity": l4.flow_capacity,
        "backend_capacity": l4.backend_capacity,
        "tunnel": tunnel,
        "selection_seed": l4.selection_seed,
        "route_ttl": text(l4.route_ttl),
        "icmp_per_second": l4.icmp_per_second,
        "sample_every": l4.sample_every,
    })
}

/// The word for how a program is attached.
pub(super) fn attach(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
    }
}

fn admin(admin: &Admin) -> Value {
    map([
        ("socket", Some(json!(admin.socket))),
        (
            "listen",
            admin.listen.map(|listen| listen.to_string().into()),
        ),
    ])
}

fn guard(guard: &Guard) -> Value {
    let prefixes = |list: &[IpNet]| list.iter().copied().map(prefix).collect::<Value>();
    map([
        ("allow", Some(prefixes(&guard.allow))),
        ("deny", Some(prefixes(&guard.deny))),
        (
            "budget",
            guard
                .budget
                .map(|budget| json!({"per_second": budget.per_second, "burst": budget.burst})),
        ),
    ])
}

fn listener(listener: &Listener) -> Value {
    let port = match listener.port {
        PortMatch::All => json!("all"),
        PortMatch::One(port) => json!(port),
    };
    json!({
        "name": listener.name,
        "kind": "l4",
        "address": prefix(listener.vip),
        "port": port,
        "protocol": listener.protocol.name(),
        "service": listener.service,
        "guard": guard(&listener.guard),
    })
}

fn service(service: &Service) -> Value {
    let forwards = service.mode != Mode::Local;
    map([
        ("name", Some(json!(service.name))),
        ("mode", Some(json!(service.mode.name()))),
        ("selection", Some(json!(service.selection.name()))),
        ("ring_size", Some(json!(service.ring_size))),
        (
            "source_addresses",
            (service.mode == Mode::FullNat).then(|| json!(service.source_addresses)),
        ),
        (
            "timeouts",
            Some(json!({
                "syn": text(service.timeouts.syn),
                "established": text(service.timeouts.established),
                "closing": text(service.timeouts.closing),
                "udp": text(service.timeouts.udp),
                "affinity": text(service.timeouts.affinity),
            })),
        ),
        ("drain_timeout", Some(json!(text(service.drain_timeout)))),
        (
            "backends",
            forwards.then(|| service.backends.iter().map(backend).collect()),
        ),
        ("health", service.health.as_ref().map(health)),
    ])
}

fn backend(backend: &Backend) -> Value {
    json!({"name": backend.name, "address": target(backend), "weight": backend.weight})
}

/// A backend's address and port as the file has them.
pub(super) fn target(backend: &Backend) -> String {
    match backend.port {
        Some(port) => SocketAddr::new(backend.address, port).to_string(),
        None => backend.address.to_string(),
    }
}

fn health(check: &HealthCheck) -> Value {
    let http = |probe: &Probe| match probe {
        Probe::Tcp => None,
        Probe::Http(http) => Some(map([
            ("method", Some(json!(http.method))),
            ("path", Some(json!(http.path))),
            ("host", http.host.as_ref().map(|host| json!(host))),
            (
                "status",
                Some(http.statuses.iter().map(|range| status(*range)).collect()),
            ),
            (
                "body_contains",
                http.body_contains.as_ref().map(|body| json!(body)),
            ),
        ])),
    };
    map([
        ("tcp", (check.probe == Probe::Tcp).then(|| json!({}))),
        ("http", http(&check.probe)),
        ("port", check.port.map(Value::from)),
        (
            "target",
            Some(json!(match check.target {
                ProbeTarget::Backend => "backend",
                ProbeTarget::Vip => "vip",
            })),
        ),
        ("interval", Some(json!(text(check.interval)))),
        ("timeout", Some(json!(text(check.timeout)))),
        ("jitter", Some(json!(percent(check.jitter)))),
        ("rise", Some(json!(check.rise))),
        ("fall", Some(json!(check.fall))),
        (
            "damping",
            Some(json!({
                "half_life": text(check.damping.half_life),
                "suppress": check.damping.suppress,
                "reuse": check.damping.reuse,
            })),
        ),
    ])
}

fn status(range: (u16, u16)) -> Value {
    if range.0 == range.1 {
        range.0.into()
    } else {
        status_text(range).into()
    }
}

/// A prefix; the address alone if it is one.
fn prefix(net: IpNet) -> Value {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string().into()
    } else {
        net.to_string().into()
    }
}
