//! The configuration that is in force, written as a file with every default filled in.
//!
//! The result is a valid file that means the same: a test reads it back.

mod acme;
mod admin;
mod backend_tls;
mod condemn;
mod connect;
mod http;
mod outlier;
mod process;
mod resilience;
mod routes;
mod tls;
mod tracing;
mod upstream;

use super::defaults::{percent, status_text, text};
use super::model::{
    AttachMode, Backend, CheckTls, Config, Guard, HealthCheck, KernelLog, L4, Listener, Probe,
    ProbeTarget, Service,
};
use super::yaml;
use crate::types::PortMatch;
use ipnet::IpNet;
use proxy_common::service::Mode;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// The configuration as YAML text, with every default filled in.
pub fn effective_yaml(config: &Config) -> String {
    yaml::to_text(&effective(config))
}

/// A document of the file's shape as YAML text.
pub fn to_yaml(document: &Value) -> String {
    yaml::to_text(document)
}

/// The configuration as a JSON value in the file's shape, with every default filled in.
pub fn effective(config: &Config) -> Value {
    let l4_listeners = config.listeners.iter().map(listener);
    let http = config.http_listeners.iter();
    let http = http.map(|listener| http::listener(listener, &config.routes));
    let streams = config.stream_listeners.iter().map(http::stream);
    let routes = config
        .routes
        .iter()
        .filter(|route| !http::is_default(route));
    let services = config.services.iter();
    let uses = upstream::Uses::of(config);
    let mut file = map([
        ("l4", config.l4.as_ref().map(l4)),
        ("workers", Some(http::workers(&config.workers))),
        ("admin", Some(admin::admin(&config.admin))),
        ("process", Some(process::process(&config.process))),
        ("guard", Some(guard(&config.guard))),
        ("tracing", config.tracing.as_ref().map(tracing::tracing)),
        ("acme", config.acme.as_ref().map(acme::acme)),
        (
            "overload",
            config.overload.as_ref().map(resilience::overload),
        ),
        ("condemn", config.condemn.as_ref().map(condemn::condemn)),
        ("connect", config.connect.as_ref().map(connect::connect)),
        (
            "listeners",
            Some(l4_listeners.chain(http).chain(streams).collect()),
        ),
        ("routes", Some(routes.map(routes::route).collect())),
        (
            "services",
            Some(
                services
                    .map(|service| self::service(service, uses.used(service)))
                    .collect(),
            ),
        ),
    ]);
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
        "kernel_log": match l4.kernel_log {
            KernelLog::Off => "off",
            KernelLog::Drops => "drops",
            KernelLog::All => "all",
        },
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

/// A service with the keys that mean something to those who use it, and others that are not as
/// they are by default.
fn service(service: &Service, used: upstream::Used) -> Value {
    let default = Service::new("");
    let packets = |differs: bool| used.in_kernel || differs;
    let forwards = service.mode != Mode::Local || !used.in_kernel;
    let mut value = map([
        ("name", Some(json!(service.name))),
        (
            "mode",
            packets(service.mode != default.mode).then(|| json!(service.mode.name())),
        ),
        (
            "selection",
            packets(service.selection != default.selection)
                .then(|| json!(service.selection.name())),
        ),
        (
            "ring_size",
            packets(service.ring_size != default.ring_size).then(|| json!(service.ring_size)),
        ),
        (
            "source_addresses",
            (!service.source_addresses.is_empty() || service.mode == Mode::FullNat)
                .then(|| json!(service.source_addresses)),
        ),
        ("timeouts", Some(timeouts(service, used))),
        ("drain_timeout", Some(json!(text(service.drain_timeout)))),
        (
            "backends",
            forwards.then(|| upstream::backends(service, used)),
        ),
        ("health", service.health.as_ref().map(health)),
        (
            "at_connect",
            service.at_connect.as_ref().map(connect::at_connect),
        ),
    ]);
    if let Some(map) = value.as_object_mut() {
        map.extend(upstream::keys(service, used));
        let resilience = &service.upstream.resilience;
        map.extend(resilience::keys(resilience, used.in_proxies));
    }
    value
}

fn timeouts(service: &Service, used: upstream::Used) -> Value {
    let (flows, waits) = (&service.timeouts, &service.upstream);
    let default = Service::new("");
    let flow = |time: Duration, default: Duration| {
        (used.in_kernel || time != default).then(|| json!(text(time)))
    };
    let wait = |time: Duration, default: Duration| {
        (used.in_proxies || time != default).then(|| json!(text(time)))
    };
    let in_text = |time| json!(text(time));
    map([
        ("syn", flow(flows.syn, default.timeouts.syn)),
        (
            "established",
            flow(flows.established, default.timeouts.established),
        ),
        ("closing", flow(flows.closing, default.timeouts.closing)),
        ("udp", flow(flows.udp, default.timeouts.udp)),
        ("affinity", flow(flows.affinity, default.timeouts.affinity)),
        (
            "connect",
            wait(waits.connect_timeout, default.upstream.connect_timeout),
        ),
        (
            "response",
            wait(waits.response_timeout, default.upstream.response_timeout),
        ),
        (
            "idle",
            wait(waits.idle_timeout, default.upstream.idle_timeout),
        ),
        ("per_try", waits.resilience.per_try_timeout.map(in_text)),
        ("request", waits.resilience.request_timeout.map(in_text)),
    ])
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
        Probe::Tcp | Probe::Grpc(_) => None,
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
    let grpc = |probe: &Probe| match probe {
        Probe::Tcp | Probe::Http(_) => None,
        Probe::Grpc(grpc) => {
            let service = (!grpc.service.is_empty()).then(|| json!(grpc.service));
            let authority = grpc.authority.as_ref().map(|name| json!(name));
            Some(map([("service", service), ("authority", authority)]))
        }
    };
    map([
        ("tcp", (check.probe == Probe::Tcp).then(|| json!({}))),
        ("http", http(&check.probe)),
        ("grpc", grpc(&check.probe)),
        ("port", check.port.map(Value::from)),
        (
            "target",
            Some(json!(match check.target {
                ProbeTarget::Backend => "backend",
                ProbeTarget::Vip => "vip",
            })),
        ),
        (
            "tls",
            match &check.tls {
                CheckTls::Service => None,
                CheckTls::Off => Some(json!("off")),
                CheckTls::Own(tls) => Some(backend_tls::check(tls)),
            },
        ),
        (
            "server_name",
            check.server_name.as_ref().map(|name| json!(name)),
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
