//! The balancer from outside: services built from specifications, picks counted.

mod eligibility;
mod outliers;
mod policies;
mod reload;
mod simulation;
mod waiting;

use super::*;
use crate::config::model::http::{BalancePolicy, HashOn};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// A second.
const S: Nanos = 1_000_000_000;

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 80))
}

fn backend(index: usize, weight: u16) -> BackendSpec {
    BackendSpec {
        name: format!("b{index}"),
        address: address(index),
        weight: weight.into(),
        tier: 0,
        zone: None,
        limit: u32::MAX,
    }
}

fn spec(policy: BalancePolicy, weights: &[u16]) -> ServiceSpec {
    let backends = weights.iter().enumerate();
    ServiceSpec {
        name: "shop".into(),
        policy,
        panic_threshold: 0.0,
        slow_start: 0,
        zone: None,
        ring_size: 4099,
        queue: 0,
        queue_timeout: S,
        outlier: None,
        weighed_from: None,
        backends: backends.map(|(i, weight)| backend(i, *weight)).collect(),
        names: Vec::new(),
    }
}

fn service(spec: ServiceSpec) -> Arc<ServiceState> {
    let registry = Registry::build(None, vec![spec], 7, 0, S);
    registry.activate(None, S);
    Arc::clone(&registry.services()[0])
}

fn all_policies() -> Vec<BalancePolicy> {
    vec![
        BalancePolicy::RoundRobin,
        BalancePolicy::LeastRequests,
        BalancePolicy::TwoChoices,
        BalancePolicy::PeakEwma,
        BalancePolicy::Random,
        BalancePolicy::Maglev(HashOn::Source),
        BalancePolicy::Ring(HashOn::Source),
    ]
}

/// A request with this random number, for which nothing is special.
fn ask(random: u64) -> Ask<'static> {
    Ask {
        key: None,
        sticky: None,
        random: proxy_common::hash::mix(random),
        now: S,
        tried: Tried::NONE,
    }
}

/// Picks one and ends the request at once.
fn pick(service: &ServiceState, ask: &Ask<'_>) -> Result<String, Unavailable> {
    let backend = service.pick(ask)?;
    service.release(&backend);
    Ok(backend.name().to_owned())
}

/// Shares of `count` picks, one after the other.
fn shares(service: &ServiceState, count: u64) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for random in 0..count {
        let name = pick(service, &ask(random)).expect("somebody");
        *shares.entry(name).or_insert(0.0) += 1.0 / count as f64;
    }
    shares
}

fn share(shares: &BTreeMap<String, f64>, name: &str) -> f64 {
    shares.get(name).copied().unwrap_or(0.0)
}
