//! What services mean to the proxy paths.

use super::{map, outlier, target};
use crate::config::defaults::{percent, text};
use crate::config::model::http::{
    Action, BackendProtocol, BackendTraits, Balance, BalancePolicy, DnsQuestion, Fallback, HashOn,
    NamedBackend, ProxyVersion, StickyCookie, StreamListener, Upstream,
};
use crate::config::model::{Backend, Config, Service};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Who uses a service.
#[derive(Clone, Copy)]
pub(super) struct Used {
    pub(super) in_kernel: bool,
    pub(super) in_proxies: bool,
}

/// Names of services by who uses them.
pub(super) struct Uses<'a> {
    l4: HashSet<&'a str>,
    proxies: HashSet<&'a str>,
}

impl<'a> Uses<'a> {
    /// What this configuration uses.
    pub(super) fn of(config: &'a Config) -> Self {
        let mut proxies = HashSet::new();
        for route in &config.routes {
            proxies.extend(route.mirror.iter().map(|mirror| mirror.service.as_str()));
            if let Action::Forward(split) = &route.action {
                proxies.extend(split.targets.iter().map(|(name, _)| name.as_str()));
            }
        }
        let streams = config.stream_listeners.iter();
        proxies.extend(streams.flat_map(StreamListener::services));
        let services = config.services.iter();
        proxies.extend(services.filter_map(|service| {
            match service.upstream.resilience.fallback.as_ref()? {
                Fallback::Service(name) => Some(name.as_str()),
                Fallback::Respond(_) => None,
            }
        }));
        let l4 = config.listeners.iter();
        Self {
            l4: l4.map(|listener| listener.service.as_str()).collect(),
            proxies,
        }
    }

    /// Who uses this service. One that nothing uses counts as used in the kernel, as when it is
    /// read.
    pub(super) fn used(&self, service: &Service) -> Used {
        let name = service.name.as_str();
        let in_proxies = self.proxies.contains(name);
        Used {
            in_kernel: !in_proxies || self.l4.contains(name),
            in_proxies,
        }
    }
}

/// The keys of a service that are about proxying: all if proxies use it, else those that are not as
/// they are by default.
pub(super) fn keys(service: &Service, used: Used) -> Map<String, Value> {
    let upstream = &service.upstream;
    let default = Upstream::default();
    let all = used.in_proxies;
    let keys = map([
        (
            "protocol",
            (all || upstream.protocol != default.protocol).then(|| {
                json!(match upstream.protocol {
                    BackendProtocol::H1 => "h1",
                    BackendProtocol::H2 => "h2",
                    BackendProtocol::Auto => "auto",
                })
            }),
        ),
        ("tls", upstream.tls.as_ref().map(super::backend_tls::tls)),
        (
            "accelerate",
            (all || upstream.accelerate != default.accelerate)
                .then(|| json!(upstream.accelerate.name())),
        ),
        (
            "balance",
            (all || upstream.balance != default.balance).then(|| balance(&upstream.balance)),
        ),
        (
            "sticky_cookie",
            upstream.sticky_cookie.as_ref().map(sticky_cookie),
        ),
        (
            "connections",
            (all || connections(upstream) != connections(&default)).then(|| connections(upstream)),
        ),
        (
            "send_proxy",
            upstream.send_proxy.map(|version| {
                json!(match version {
                    ProxyVersion::V1 => "v1",
                    ProxyVersion::V2 => "v2",
                })
            }),
        ),
        (
            "subset",
            (!upstream.subset.is_empty()).then(|| labels(&upstream.subset)),
        ),
        ("zone", upstream.zone.as_ref().map(|zone| json!(zone))),
        (
            "outlier",
            (all || upstream.outlier != default.outlier)
                .then(|| outlier::outlier(upstream.outlier.as_ref())),
        ),
        (
            "steer_by_latency",
            upstream
                .steer_by_latency
                .as_ref()
                .map(outlier::weights_by_latency),
        ),
    ]);
    match keys {
        Value::Object(keys) => keys,
        _ => Map::new(),
    }
}

fn connections(upstream: &Upstream) -> Value {
    json!({
        "max": upstream.max_connections,
        "queue": upstream.queue,
        "queue_timeout": text(upstream.queue_timeout),
        "max_idle": upstream.max_idle,
        "keepalive": text(upstream.keepalive),
        "max_streams": upstream.max_streams,
    })
}

fn balance(balance: &Balance) -> Value {
    let on = match &balance.policy {
        BalancePolicy::Maglev(on) | BalancePolicy::Ring(on) => Some(on),
        _ => None,
    };
    map([
        ("policy", Some(json!(balance.policy.name()))),
        ("hash_on", on.map(hash_on)),
        (
            "panic_threshold",
            Some(json!(percent(balance.panic_threshold))),
        ),
        ("slow_start", Some(json!(text(balance.slow_start)))),
    ])
}

pub(super) fn hash_on(on: &HashOn) -> Value {
    match on {
        HashOn::Source => json!("source"),
        HashOn::Path => json!("path"),
        HashOn::Field(name) => json!({ "field": name }),
        HashOn::Cookie(name) => json!({ "cookie": name }),
        HashOn::Query(name) => json!({ "query": name }),
    }
}

fn sticky_cookie(cookie: &StickyCookie) -> Value {
    map([
        ("name", Some(json!(cookie.name))),
        ("max_age", cookie.max_age.map(|age| json!(text(age)))),
        ("path", Some(json!(cookie.path))),
        ("secure", Some(json!(cookie.secure))),
        ("http_only", Some(json!(cookie.http_only))),
        (
            "same_site",
            cookie
                .same_site
                .as_ref()
                .map(|word| json!(word.to_lowercase())),
        ),
    ])
}

fn labels(labels: &[(String, String)]) -> Value {
    let pairs = labels.iter();
    let pairs = pairs.map(|(name, value)| (name.clone(), json!(value)));
    Value::Object(pairs.collect())
}

/// The backends: those with addresses, then those that are found by name.
pub(super) fn backends(service: &Service, used: Used) -> Value {
    let upstream = &service.upstream;
    let traits = upstream
        .traits
        .iter()
        .map(Some)
        .chain(std::iter::repeat(None));
    let fixed = service.backends.iter().zip(traits);
    let fixed = fixed.map(|(backend, traits)| fixed_backend(backend, traits, used));
    let named = upstream.names.iter().map(named_backend);
    fixed.chain(named).collect()
}

fn fixed_backend(backend: &Backend, traits: Option<&BackendTraits>, used: Used) -> Value {
    let default = BackendTraits::default();
    let traits = traits.unwrap_or(&default);
    let mut value = json!({
        "name": backend.name,
        "address": target(backend),
        "weight": backend.weight,
    });
    with_traits(&mut value, traits, used.in_proxies);
    value
}

fn named_backend(backend: &NamedBackend) -> Value {
    let mut value = match &backend.question {
        DnsQuestion::Host(host, port) => json!({ "dns": format!("{host}:{port}") }),
        DnsQuestion::Service(name) => json!({ "srv": name }),
    };
    value["weight"] = json!(backend.weight);
    with_traits(&mut value, &backend.traits, true);
    value
}

fn with_traits(value: &mut Value, traits: &BackendTraits, all: bool) {
    if all || traits.tier > 0 {
        value["tier"] = json!(traits.tier);
    }
    if !traits.labels.is_empty() {
        value["labels"] = labels(&traits.labels);
    }
    if let Some(zone) = &traits.zone {
        value["zone"] = json!(zone);
    }
    if let Some(most) = traits.max_connections {
        value["max_connections"] = json!(most);
    }
}
