//! What is to be probed: the checks of a configuration, one for each backend of a service that
//! has a health check.

use super::probe::Target;
use super::sealed::{ProbeTls, Seals};
use crate::config::model::{Backend, Config, HealthCheck, Listener, ProbeTarget, Service};
use crate::types::{PortMatch, Protocol};
use ipnet::IpNet;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A backend of a service, by name: what stays the same when its address, weight or check change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendName {
    /// The service's name.
    pub service: Arc<str>,
    /// The backend's name, unique in its service.
    pub backend: Arc<str>,
}

impl BackendName {
    /// The backend `backend` of `service`.
    pub fn new(service: impl Into<Arc<str>>, backend: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            backend: backend.into(),
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.backend)
    }
}

/// The health check of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whose it is.
    pub name: BackendName,
    /// The server behind the name: another one inherits nothing.
    pub server: (IpAddr, Option<u16>),
    /// Where the probes go.
    pub target: Target,
    /// What they ask, and how often.
    pub health: Arc<HealthCheck>,
    /// TLS that they speak, if any.
    pub tls: Option<ProbeTls>,
    /// Whether the running data plane already gives it traffic; `None` if it is new there. Only
    /// looked at when the monitor does not know the backend.
    pub adopted: Option<bool>,
}

/// Backends that DNS has named: by service, their names and where they are.
pub type Named = HashMap<String, Vec<(String, SocketAddr)>>;

/// What the data plane knows of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether a running data plane gives it traffic; `None` if it is new there.
    pub adopted: Option<bool>,
    /// The mark by which its probes to the VIP are recognised.
    pub mark: Option<u32>,
}

/// The checks of a configuration, in its order, and of what DNS has named. `seals` is the TLS of
/// this configuration's checks, and `known` says what the data plane knows.
///
/// # Errors
///
/// [`CheckError`] for the first service whose probes have no destination; the configuration's
/// validation refuses such services earlier.
pub fn checks(
    config: &Config,
    named: &Named,
    seals: &Seals,
    known: impl Fn(&Service, &Backend) -> Known,
) -> Result<Vec<Check>, CheckError> {
    let mut checks = Vec::new();
    for service in &config.services {
        let Some(health) = &service.health else {
            continue;
        };
        let health = Arc::new(health.clone());
        let service_name: Arc<str> = service.name.as_str().into();
        for backend in &service.backends {
            let known = known(service, backend);
            let address = destination(config, service, backend, &health)?;
            let via_vip = health.target == ProbeTarget::Vip;
            checks.push(Check {
                name: BackendName::new(service_name.clone(), backend.name.as_str()),
                server: (backend.address, backend.port),
                target: Target {
                    mark: known.mark.filter(|_| via_vip),
                    through: via_vip.then_some(backend.address),
                    ..Target::new(address)
                },
                health: health.clone(),
                tls: seals.of(&service.name, backend.address),
                adopted: known.adopted,
            });
        }
        for (name, address) in named.get(&service.name).into_iter().flatten() {
            let port = health.port.unwrap_or(address.port());
            checks.push(Check {
                name: BackendName::new(service_name.clone(), name.as_str()),
                server: (address.ip(), Some(address.port())),
                target: Target::new(SocketAddr::new(address.ip(), port)),
                health: health.clone(),
                tls: seals.of(&service.name, address.ip()),
                adopted: None,
            });
        }
    }
    Ok(checks)
}

/// A service's probes have no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Neither the check nor the backend nor a listener names a port.
    #[error("service `{service}`: backend `{backend}` has no port to probe: set `health.port`")]
    NoPort {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
    },
    /// Probes go to the VIP, and there is none.
    #[error(
        "service `{service}`: health probes go to the VIP, but no TCP listener with the port to \
         probe uses the service: set `target: backend`"
    )]
    NoVip {
        /// The service.
        service: String,
    },
}

/// Where the probes of a backend go: port of the check, else of the backend, else of the first
/// listener that has one.
///
/// Probes to a VIP open connections, and DSR keeps their port: they go to the first TCP listener
/// at the check's port, or without one to the first TCP listener with a port of its own. Of a
/// prefix [`one_of`] its addresses is probed.
fn destination(
    config: &Config,
    service: &Service,
    backend: &Backend,
    health: &HealthCheck,
) -> Result<SocketAddr, CheckError> {
    let listeners = || {
        config
            .listeners
            .iter()
            .filter(|listener| listener.service == service.name)
    };
    let single = |listener: &Listener| match listener.port {
        PortMatch::One(port) => Some(port),
        PortMatch::All => None,
    };
    let (address, port) = match health.target {
        ProbeTarget::Backend => {
            let port = health
                .port
                .or(backend.port)
                .or_else(|| listeners().find_map(single));
            (backend.address, port)
        }
        ProbeTarget::Vip => {
            let tcp = || listeners().filter(|listener| listener.protocol == Protocol::Tcp);
            let serves = |port: u16| {
                move |listener: &&Listener| match listener.port {
                    PortMatch::One(own) => own == port,
                    PortMatch::All => true,
                }
            };
            let vip = match health.port {
                Some(port) => tcp().find(serves(port)),
                None => tcp()
                    .find(|listener| single(listener).is_some())
                    .or_else(|| tcp().next()),
            };
            let vip = vip.ok_or_else(|| CheckError::NoVip {
                service: service.name.clone(),
            })?;
            (one_of(vip.vip), health.port.or_else(|| single(vip)))
        }
    };
    let port = port.ok_or_else(|| CheckError::NoPort {
        service: service.name.clone(),
        backend: backend.name.clone(),
    })?;
    Ok(SocketAddr::new(address, port))
}

/// The address of a VIP that is probed. A prefix's very first address would be the network's own
/// (or the routers', RFC 4291 §2.6.1) where a backend has the prefix on an interface, so it is the
/// one behind it.
fn one_of(vip: IpNet) -> IpAddr {
    match vip.hosts().take(2).last() {
        Some(second) if vip.addr().is_ipv6() => second,
        _ => vip.hosts().next().unwrap_or(vip.addr()),
    }
}

#[cfg(test)]
mod tests;
