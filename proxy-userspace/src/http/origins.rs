//! Where redirected connections were to go, as services of one backend each.
//!
//! To the engine each is a service like others: its connections are kept and used again, failures
//! are met by other attempts, and both kinds of HTTP can be spoken to it. Each worker knows those
//! that it has met, a bounded number of them. In metrics all are one, for what programs dial has no
//! bound.

use super::snapshot::{ServicePlan, Snapshot};
use crate::balance::l7::{BackendSpec, Registry, ServiceSpec};
use crate::config::model::Service;
use crate::config::model::http::{BackendProtocol, Upstream};
use crate::net::Nanos;
use crate::observe::http::ProxyMetrics;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The name of all of them, which no service of a file can have.
pub const NAME: &str = "(original)";

/// How many a worker knows at most.
const MOST: usize = 1024;

/// Where a worker's redirected connections were to go.
#[derive(Debug)]
pub(super) struct Origins<S> {
    known: HashMap<(SocketAddr, bool), Known<S>>,
    /// Counts uses.
    turn: u64,
}

#[derive(Debug)]
struct Known<S> {
    service: Arc<S>,
    used: u64,
}

impl<S> Default for Origins<S> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            turn: 0,
        }
    }
}

impl<S> Origins<S> {
    /// The service of an address; `is_h2`: HTTP/2 is spoken to it, else HTTP/1.
    pub(super) fn service(
        &mut self,
        address: SocketAddr,
        is_h2: bool,
        make: impl FnOnce() -> S,
    ) -> Arc<S> {
        self.turn += 1;
        let used = self.turn;
        if let Some(known) = self.known.get_mut(&(address, is_h2)) {
            known.used = used;
            return Arc::clone(&known.service);
        }
        if self.known.len() >= MOST {
            // Half of them at once, so that whoever dials around does not have all looked through
            // for each.
            let mut uses: Vec<u64> = self.known.values().map(|known| known.used).collect();
            uses.sort_unstable();
            let oldest = uses[uses.len() / 2];
            self.known.retain(|_, known| known.used > oldest);
        }
        let service = Arc::new(make());
        let known = Known {
            service: Arc::clone(&service),
            used,
        };
        self.known.insert((address, is_h2), known);
        service
    }
}

/// A service with this one backend, counted with all of its kind.
pub(super) fn service(
    address: SocketAddr,
    is_h2: bool,
    snapshot: &Snapshot,
    metrics: &ProxyMetrics,
    (seed, now): (u64, Nanos),
) -> ServicePlan {
    let settings = Upstream {
        protocol: match is_h2 {
            true => BackendProtocol::H2,
            false => BackendProtocol::H1,
        },
        // There is nobody else to ask, and what is dialled is to be tried.
        outlier: None,
        ..Upstream::default()
    };
    let spec = ServiceSpec {
        backends: vec![BackendSpec {
            name: NAME.to_owned(),
            address,
            weight: 1,
            tier: 0,
            zone: None,
            limit: u32::MAX,
        }],
        ..ServiceSpec::new(&Service::new(NAME), &settings)
    };
    // Of the same numbers for backends as those of the configuration.
    let registry = Registry::build(Some(snapshot.registry()), vec![spec], seed, seed, now);
    registry.activate(None, now);
    let state = &registry.services()[0];
    ServicePlan::plain(state, settings, metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_known_origins_is_bounded_and_the_latest_stay() {
        let mut origins = Origins::default();
        let mut made = 0;
        let mut ask = |port: u16, is_h2| {
            let address = SocketAddr::from(([192, 0, 2, 1], port));
            let service = origins.service(address, is_h2, || {
                made += 1;
                made
            });
            (*service, origins.known.len())
        };
        assert_eq!(ask(1, false), (1, 1));
        assert_eq!(ask(1, true), (2, 2));
        for port in 2..MOST as u16 {
            ask(port, false);
        }
        // The oldest two are asked for again, and so are the latest.
        assert_eq!(ask(1, false), (1, MOST));
        assert_eq!(ask(1, true), (2, MOST));
        let (_, known) = ask(u16::MAX, false);
        assert!(known <= MOST / 2 + 1, "{known}");
        assert_eq!(ask(1, false).0, 1);
        assert_eq!(ask(1, true).0, 2);
        let (again, _) = ask(2, false);
        assert!(again > MOST as u32, "forgotten: {again}");
    }
}
