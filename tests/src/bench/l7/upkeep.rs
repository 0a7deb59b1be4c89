//! What health and resilience cost a request that goes well: everything that is counted or asked
//! about it, in a loop on one thread, without the request itself.
//!
//! All policies are on, as few services have them. What only failures cost is not in it: that a
//! budget is asked, an attempt made again, a backend ejected.

use proxy_userspace::balance::l7::{BackendState, Registry, ServiceSpec, ServiceState};
use proxy_userspace::config::model::Service;
use proxy_userspace::config::model::http::{
    BackendTraits, CircuitErrors, Concurrency, Hedge, HedgeAfter, RetryOn,
};
use proxy_userspace::config::model::outlier::{FailurePercentage, Outlier, Slowness};
use proxy_userspace::health::outlier::Outcome;
use proxy_userspace::message::Method;
use proxy_userspace::resilience::{Event, Protection, RetryPlan, Verdict};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer takes, in nanoseconds.
const LATENCY: u64 = 250_000;

/// Time from one request to the next.
const STEP: u64 = 10_000;

/// A service with every policy.
pub struct Upkeep {
    service: Arc<ServiceState>,
    backend: Arc<BackendState>,
    protection: Protection,
    plan: RetryPlan,
    now: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        let mut settings = Service::new("bench");
        for number in 1..=4 {
            let address = SocketAddr::from(([192, 0, 2, number], 80));
            settings.push_backend(address, 1, BackendTraits::default());
        }
        let upstream = &mut settings.upstream;
        upstream.outlier = Some(Outlier {
            failure_percentage: Some(FailurePercentage {
                threshold: 0.5,
                min_hosts: 2,
                min_requests: 50,
            }),
            latency: Some(Slowness {
                factor: 3.0,
                intervals: 3,
                min_hosts: 3,
                min_requests: 50,
            }),
            ..Outlier::default()
        });
        let resilience = &mut upstream.resilience;
        resilience.retries.on = vec![RetryOn::ServerError, RetryOn::RetriableStatus];
        resilience.circuit.requests = 1000;
        resilience.circuit.errors = Some(CircuitErrors::default());
        resilience.concurrency = Some(Concurrency {
            adaptive: Some(10),
            ..Concurrency::fixed(1000)
        });
        resilience.hedge = Some(Hedge {
            after: HedgeAfter::Percentile {
                share: 0.95,
                min: Duration::from_millis(1),
            },
        });
        let protection = Protection::new(resilience);
        let plan = RetryPlan::new(&resilience.retries);
        let spec = ServiceSpec::new(&settings, &settings.upstream);
        let registry = Registry::build(None, vec![spec], 0, 0, 0);
        registry.activate(None, 0);
        let service = Arc::clone(&registry.services()[0]);
        let backend = service.backends().swap_remove(0);
        Self {
            service,
            backend,
            protection,
            plan,
            now: 0,
        }
    }
}

impl Upkeep {
    /// What passive health is told of one answer.
    pub fn report(&mut self) {
        self.now += STEP;
        let outcome = black_box(Outcome::Answered(Some(LATENCY)));
        self.service.report(&self.backend, outcome, self.now, || 0);
    }

    /// All of one request; false if it was refused, which would be a fault of this file.
    pub fn request(&mut self) -> bool {
        self.now += STEP;
        let now = self.now;
        let protection = black_box(&self.protection);
        let (Some(breaker), Some(limiter)) = (&protection.breaker, &protection.limiter) else {
            return false;
        };
        if !protection.try_begin() || !limiter.try_begin() {
            return false;
        }
        let Some(period) = breaker.admit(now) else {
            return false;
        };
        black_box(protection.hedge_after());
        breaker.report(period, Verdict::Good, now);
        limiter.observe(LATENCY, now);
        if let Some(latencies) = &protection.latencies {
            latencies.observe(LATENCY, now);
        }
        let answer = black_box(Event::Answer {
            status: 200,
            grpc: None,
        });
        let is_repeated = self.plan.reason(answer, &Method::Get).is_some();
        limiter.end();
        protection.end();
        self.report();
        !is_repeated
    }
}
