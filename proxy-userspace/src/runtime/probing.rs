//! Measures health probes on their way through.

use crate::config::model::HealthCheck;
use crate::health::{Outcome, ProbeTls, Prober, Target};
use crate::observe::counters::Counters;
use std::sync::Arc;
use tokio::time::Instant;

/// A prober whose probes are timed.
#[derive(Clone, Debug)]
pub(super) struct CountingProber<P> {
    inner: P,
    counters: Arc<Counters>,
}

impl<P> CountingProber<P> {
    /// Times the probes of `inner`.
    pub(super) const fn new(inner: P, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

impl<P: Prober> Prober for CountingProber<P> {
    fn probe(
        &self,
        target: Target,
        check: Arc<HealthCheck>,
        tls: Option<ProbeTls>,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        let counters = Arc::clone(&self.counters);
        let probe = self.inner.probe(target, check, tls);
        async move {
            let started = Instant::now();
            let outcome = probe.await;
            counters.probe(started.elapsed());
            outcome
        }
    }
}
