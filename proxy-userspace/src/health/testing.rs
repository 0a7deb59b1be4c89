//! What the tests of this module share.

use super::checks::{BackendName, Check};
use super::outcome::{Failure, FailureKind, Outcome, Passed};
use super::probe::Target;
use crate::config::model::{CheckTls, Damping, HealthCheck, HttpProbe, Probe, ProbeTarget};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Every second, rise 2, fall 3, without jitter, never damped.
pub(super) fn health_check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        target: ProbeTarget::Backend,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(200),
        jitter: 0.0,
        rise: 2,
        fall: 3,
        damping: never_damped(),
        tls: CheckTls::Service,
        server_name: None,
    }
}

pub(super) fn never_damped() -> Damping {
    Damping {
        half_life: Duration::from_secs(60),
        suppress: f64::INFINITY,
        reuse: 1.0,
    }
}

pub(super) fn http_probe() -> HttpProbe {
    HttpProbe {
        method: "GET".to_owned(),
        path: "/health?deep=1".to_owned(),
        host: None,
        statuses: vec![(200, 299)],
        body_contains: None,
    }
}

/// The address of the `index`th server.
pub(super) fn address(index: usize) -> SocketAddr {
    let [_, high, middle, low] = (index as u32).to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 80))
}

/// The check of the backend `web/bINDEX`.
pub(super) fn check(index: usize, health: &Arc<HealthCheck>) -> Check {
    Check {
        name: BackendName::new("web", format!("b{index}")),
        server: (address(index).ip(), Some(80)),
        target: Target::new(address(index)),
        health: health.clone(),
        tls: None,
        adopted: None,
    }
}

pub(super) fn pass() -> Outcome {
    Ok(Passed {
        latency: Duration::from_millis(1),
    })
}

pub(super) fn fail(kind: FailureKind) -> Outcome {
    Err(Failure::new(kind, "test"))
}

pub(super) fn refuse() -> Outcome {
    fail(FailureKind::Refused)
}
