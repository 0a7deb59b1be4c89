//! A service, compiled.

use super::{CompileError, Fixed, Kept};
use crate::balance::l7::ServiceState;
use crate::config::model::Config;
use crate::config::model::http::{Accelerate, BackendProtocol, Fallback, FixedResponse, Upstream};
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::http::{ProxyMetrics, Series, ServiceCells};
use crate::resilience::{Protection, RetryPlan};
use crate::sockets::Acceleration;
use crate::trust::SystemRoots;
use crate::upstream::tls::{ClientSide, Seal};
use std::sync::Arc;
use std::time::SystemTime;

/// A service.
#[derive(Debug)]
pub struct ServicePlan {
    /// Who gets a request.
    pub state: Arc<ServiceState>,
    /// How it is used.
    pub settings: Upstream,
    /// What is counted.
    pub cells: Arc<Series<ServiceCells>>,
    /// Time limits in nanoseconds.
    pub limits: UpstreamLimits,
    /// Which failures are met by another attempt.
    pub retries: RetryPlan,
    /// What all workers count together to protect it.
    pub protection: Arc<Protection>,
    /// What answers when it cannot.
    pub fallback: Option<FallbackPlan>,
    /// TLS, if its backends speak it.
    pub tls: Option<Arc<ClientSide>>,
    /// Passes octets on past TCP, if that is wanted and can be had.
    pub acceleration: Option<Arc<Acceleration>>,
}

/// What answers when a service cannot. A stored copy will be the third kind.
#[derive(Debug)]
pub enum FallbackPlan {
    /// A fixed answer.
    Respond(Fixed),
    /// Another service.
    Service(String),
}

/// Limits of a service.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// To open a connection.
    pub connect: Nanos,
    /// From the request's end to the response's head.
    pub response: Nanos,
    /// Between two pieces of content.
    pub idle: Nanos,
    /// How long an unused connection is kept.
    pub keepalive: Nanos,
    /// From an attempt's begin to the response's head; `u64::MAX` for no limit.
    pub per_try: Nanos,
    /// The whole exchange; `u64::MAX` for no limit.
    pub request: Nanos,
}

/// A fixed answer, compiled.
pub(super) fn fixed(fixed: &FixedResponse) -> Fixed {
    let (kind, body) = (fixed.content_type.as_bytes(), fixed.body.as_bytes());
    Fixed::new(fixed.status, kind, body)
}

impl FallbackPlan {
    fn new(fallback: &Fallback) -> Self {
        match fallback {
            Fallback::Respond(response) => Self::Respond(fixed(response)),
            Fallback::Service(name) => Self::Service(name.clone()),
        }
    }
}

impl UpstreamLimits {
    fn new(settings: &Upstream) -> Self {
        let resilience = &settings.resilience;
        Self {
            connect: nanos(settings.connect_timeout),
            response: nanos(settings.response_timeout),
            idle: nanos(settings.idle_timeout),
            keepalive: nanos(settings.keepalive),
            per_try: resilience.per_try_timeout.map_or(u64::MAX, nanos),
            request: resilience.request_timeout.map_or(u64::MAX, nanos),
        }
    }
}

impl ServicePlan {
    pub(super) fn new(
        state: &Arc<ServiceState>,
        config: &Config,
        kept: &Kept,
        roots: &SystemRoots,
        before: Option<&Self>,
    ) -> Result<Option<Self>, CompileError> {
        let Some(service) = config.service(state.name()) else {
            return Ok(None);
        };
        let settings = service.upstream.clone();
        let before = before.and_then(|before| before.tls.as_ref());
        let tls = ClientSide::new(&settings, roots, before, SystemTime::now());
        let tls = tls.map_err(|source| CompileError::BackendTls {
            service: service.name.clone(),
            source,
        })?;
        let resilience = &settings.resilience;
        let acceleration = kept.acceleration.as_ref();
        let acceleration = acceleration.filter(|_| settings.accelerate != Accelerate::Off);
        Ok(Some(Self {
            tls,
            acceleration: acceleration.cloned(),
            cells: kept.metrics.service(state.name()),
            limits: UpstreamLimits::new(&settings),
            retries: RetryPlan::new(&resilience.retries),
            protection: kept.metrics.protection(state.name(), resilience),
            fallback: resilience.fallback.as_ref().map(FallbackPlan::new),
            state: Arc::clone(state),
            settings,
        }))
    }

    /// A service without anything that a configuration would say of it.
    pub(in crate::http) fn plain(
        state: &Arc<ServiceState>,
        settings: Upstream,
        metrics: &ProxyMetrics,
    ) -> Self {
        Self {
            tls: None,
            acceleration: None,
            cells: metrics.service(state.name()),
            limits: UpstreamLimits::new(&settings),
            retries: RetryPlan::new(&settings.resilience.retries),
            protection: metrics.protection(state.name(), &settings.resilience),
            fallback: None,
            state: Arc::clone(state),
            settings,
        }
    }

    /// What a connection to its backends for this host is sealed by.
    #[inline]
    pub fn seal<'h>(&self, host: &'h [u8]) -> Seal<'h> {
        let tls = self.tls.as_deref();
        tls.map_or_else(Seal::default, |side| side.seal(host))
    }

    /// True if backends are only spoken to in HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.settings.protocol == BackendProtocol::H2
    }
}
