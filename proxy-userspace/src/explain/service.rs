//! A service of the proxy: how it chooses, among whom, and whom where that can be told.

use super::now::ServiceNow;
use crate::balance::l7::{Ask, Registry, ServiceSpec, Tried};
use crate::config::model::http::{
    Accelerate, BackendProtocol, BalancePolicy, DnsQuestion, HashOn, Retries,
};
use crate::config::model::{Config, Service};
use crate::routing::{Query, hash_key};
use serde::Serialize;

/// A service, as a request meets it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceExplained {
    /// Its name.
    pub name: String,
    /// Its part of the requests, 0..=1; `None` if it gets all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// What backends speak.
    pub protocol: &'static str,
    /// The balancing policy.
    pub policy: String,
    /// What keeps a client with its backend, besides the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<String>,
    /// Whether octets of backends on this host go past TCP: `auto` or `on`, if they may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerate: Option<&'static str>,
    /// Who may be chosen when all are healthy, first those who come first.
    pub candidates: Vec<Candidate>,
    /// Names that DNS resolves to more of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The backend, where the request alone decides and all are healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// What the choice depends on.
    pub choice_by: String,
    /// Requests that wait while all are at their limits; 0: none does.
    pub queue: u32,
    /// Attempts at most, the first among them.
    pub attempts: u32,
    /// What another attempt is made for.
    pub retried_on: Vec<&'static str>,
    /// As it is at the moment, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<ServiceNow>,
}

/// A backend that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub backend: String,
    /// Where it is.
    pub address: String,
    /// Its weight; 0 takes no new clients.
    pub weight: u32,
    /// 0 comes first; others are used when those before have nobody left.
    pub tier: u8,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Explains a service; `None` if the configuration has none of this name.
pub(super) fn explain(
    name: &str,
    share: Option<f64>,
    retries: Option<&Retries>,
    config: &Config,
    query: &Query<'_>,
) -> Option<ServiceExplained> {
    let service = config.service(name)?;
    let retries = retries.unwrap_or(&service.upstream.resilience.retries);
    let spec = ServiceSpec::new(service, &service.upstream);
    let mut candidates: Vec<Candidate> = spec
        .backends
        .iter()
        .map(|backend| Candidate {
            backend: backend.name.clone(),
            address: backend.address.to_string(),
            weight: backend.weight,
            tier: backend.tier,
            zone: backend.zone.clone(),
            limit: (backend.limit != u32::MAX).then_some(backend.limit),
        })
        .collect();
    candidates.sort_by_key(|candidate| candidate.tier);
    let names = spec.names.iter();
    let names: Vec<String> = names.map(|name| question(&name.named.question)).collect();
    let key = key_of(service, query);
    let policy = &service.upstream.balance.policy;
    let choice_by = match (hashed_by(policy), key) {
        (None, _) => by_policy(policy).to_owned(),
        (Some(on), Some(_)) => format!("hash of {on}"),
        (Some(on), None) => format!("at random, for the request has no {on}"),
    };
    let choice = if names.is_empty() {
        choose(spec, key)
    } else {
        None
    };
    Some(ServiceExplained {
        name: name.to_owned(),
        share,
        protocol: match service.upstream.protocol {
            BackendProtocol::H1 => "h1",
            BackendProtocol::H2 => "h2",
            BackendProtocol::Auto => "auto",
        },
        policy: policy.name().to_owned(),
        sticky_cookie: service
            .upstream
            .sticky_cookie
            .as_ref()
            .map(|it| it.name.clone()),
        accelerate: Some(service.upstream.accelerate)
            .filter(|&word| word != Accelerate::Off)
            .map(Accelerate::name),
        candidates,
        names,
        choice,
        choice_by,
        queue: service.upstream.queue,
        attempts: retries.attempts,
        retried_on: retries.on.iter().map(|on| on.word()).collect(),
        now: None,
    })
}

fn question(question: &DnsQuestion) -> String {
    match question {
        DnsQuestion::Host(host, port) => format!("{host}:{port}"),
        DnsQuestion::Service(name) => format!("SRV {name}"),
    }
}

fn key_of(service: &Service, query: &Query<'_>) -> Option<u64> {
    match &service.upstream.balance.policy {
        BalancePolicy::Maglev(on) | BalancePolicy::Ring(on) => hash_key(on, query),
        _ => None,
    }
}

/// Asks the balancer, with all backends healthy and idle. Only what a key decides, or where there
/// is but one, is the same each time.
fn choose(spec: ServiceSpec, key: Option<u64>) -> Option<String> {
    if key.is_none() && spec.backends.len() != 1 {
        return None;
    }
    let registry = Registry::build(None, vec![spec], 0, 0, 0);
    let ask = Ask {
        key,
        sticky: None,
        random: 0,
        now: 0,
        tried: Tried::NONE,
    };
    let chosen = registry.services().first()?.pick(&ask).ok()?;
    Some(chosen.name().to_owned())
}

/// What a policy hashes.
fn hashed_by(policy: &BalancePolicy) -> Option<String> {
    match policy {
        BalancePolicy::Maglev(on) | BalancePolicy::Ring(on) => Some(hashed(on)),
        _ => None,
    }
}

const fn by_policy(policy: &BalancePolicy) -> &'static str {
    match policy {
        BalancePolicy::RoundRobin => "in turn, by weight",
        BalancePolicy::LeastRequests => "fewest requests in progress for its weight",
        BalancePolicy::TwoChoices => "the less busy of two drawn by weight",
        BalancePolicy::PeakEwma => "the faster of two drawn by weight",
        BalancePolicy::Random | BalancePolicy::Maglev(_) | BalancePolicy::Ring(_) => {
            "drawn by weight"
        }
    }
}

/// What a hash is made of, in words.
pub(super) fn hashed(on: &HashOn) -> String {
    match on {
        HashOn::Source => "the client's address".to_owned(),
        HashOn::Path => "the path".to_owned(),
        HashOn::Field(name) => format!("header {name}"),
        HashOn::Cookie(name) => format!("cookie {name}"),
        HashOn::Query(name) => format!("query parameter {name}"),
    }
}
