//! What a service is to the balancer: the model's part of it, resolved and flattened.

use super::Nanos;
use crate::config::model::http::{
    BackendProtocol, BackendTraits, BalancePolicy, NamedBackend, Upstream,
};
use crate::config::model::outlier::Outlier;
use crate::config::model::{Backend, Service};
use std::net::SocketAddr;
use std::time::Duration;

/// How a service chooses, and among whom.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Name.
    pub name: String,
    /// The policy.
    pub policy: BalancePolicy,
    /// Share of healthy backends of a tier below which it is not enough, 0..=1.
    pub panic_threshold: f64,
    /// How long a weight grows; 0 for not at all.
    pub slow_start: Nanos,
    /// Our own zone.
    pub zone: Option<String>,
    /// Slots of the Maglev ring, a prime.
    pub ring_size: u32,
    /// Requests that may wait; 0: none.
    pub queue: u32,
    /// How long one waits.
    pub queue_timeout: Nanos,
    /// When backends are ejected for what they do with requests; `None` for never.
    pub outlier: Option<Outlier>,
    /// Requests in an interval from which weights of the packet path follow latency, if they do.
    pub weighed_from: Option<u32>,
    /// The servers, without those outside the subset.
    pub backends: Vec<BackendSpec>,
    /// Servers that DNS names, likewise.
    pub names: Vec<NamedSpec>,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSpec {
    /// Name, unique in its service.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// 0 takes no new clients. More than 16 bits, since those of SRV records are factors.
    pub weight: u32,
    /// 0 comes first.
    pub tier: u8,
    /// Its zone.
    pub zone: Option<String>,
    /// Requests at once; `u32::MAX` for no limit.
    pub limit: u32,
}

/// Servers found by name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedSpec {
    /// What DNS is asked, and the traits of each server that it names.
    pub named: NamedBackend,
    /// Requests at once to each; `u32::MAX` for no limit.
    pub limit: u32,
}

impl ServiceSpec {
    /// What the model says of a service. Backends without a port of their own are left out: only
    /// the packet path knows the client's.
    pub fn new(service: &Service, upstream: &Upstream) -> Self {
        let none = BackendTraits::default();
        let traits = upstream.traits.iter().chain(std::iter::repeat(&none));
        let backends = service.backends.iter().zip(traits);
        Self {
            name: service.name.clone(),
            policy: upstream.balance.policy.clone(),
            panic_threshold: upstream.balance.panic_threshold,
            slow_start: nanos(upstream.balance.slow_start),
            zone: upstream.zone.clone(),
            ring_size: service.ring_size,
            queue: upstream.queue,
            queue_timeout: nanos(upstream.queue_timeout),
            outlier: upstream.outlier.clone(),
            weighed_from: upstream.steer_by_latency.map(|rules| rules.min_requests),
            backends: backends
                .filter(|(_, traits)| is_in_subset(traits, upstream))
                .filter_map(|(backend, traits)| BackendSpec::new(backend, traits, upstream))
                .collect(),
            names: upstream
                .names
                .iter()
                .filter(|named| is_in_subset(&named.traits, upstream))
                .map(|named| NamedSpec {
                    named: named.clone(),
                    limit: limit(&named.traits, upstream),
                })
                .collect(),
        }
    }
}

impl BackendSpec {
    fn new(backend: &Backend, traits: &BackendTraits, upstream: &Upstream) -> Option<Self> {
        Some(Self {
            name: backend.name.clone(),
            address: SocketAddr::new(backend.address, backend.port?),
            weight: backend.weight.into(),
            tier: traits.tier,
            zone: traits.zone.clone(),
            limit: limit(traits, upstream),
        })
    }
}

fn is_in_subset(traits: &BackendTraits, upstream: &Upstream) -> bool {
    let mut wanted = upstream.subset.iter();
    wanted.all(|label| traits.labels.contains(label))
}

/// Requests at once. A connection carries one, or with HTTP/2 a stream each; `Auto` counts as
/// HTTP/1, since a request that finds no HTTP/2 connection must still find room for one of its own.
fn limit(traits: &BackendTraits, upstream: &Upstream) -> u32 {
    let connections = traits.max_connections.unwrap_or(upstream.max_connections);
    match (connections, upstream.protocol) {
        (0, _) => u32::MAX,
        (n, BackendProtocol::H2) => n.saturating_mul(upstream.max_streams.max(1)),
        (n, BackendProtocol::H1 | BackendProtocol::Auto) => n,
    }
}

pub(super) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
