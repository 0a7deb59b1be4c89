//! TLS of checks: as requests speak it to the same backends, unless the check says otherwise.
//!
//! A check negotiates anew each time. What it finds out is whether the backend's certificate is
//! good now, which a session that is resumed would not tell.

use crate::config::model::http::TlsName;
use crate::config::model::{CheckTls, Config, Probe, Service};
use crate::trust::{SystemRoots, Trust, TrustError};
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// TLS of the check of one backend.
#[derive(Clone, Debug)]
pub struct ProbeTls {
    /// Whose certificates are believed, what is shown and what is offered.
    pub config: Arc<ClientConfig>,
    /// Whose certificate the backend must have.
    pub name: ServerName<'static>,
    /// Equal only where settings and the contents of files are.
    digest: Arc<str>,
}

impl PartialEq for ProbeTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.name == other.name
    }
}

/// TLS of the checks of all services, as the files were when they were read.
#[derive(Clone, Debug, Default)]
pub struct Seals(HashMap<String, Seal>);

#[derive(Clone, Debug)]
struct Seal {
    config: Arc<ClientConfig>,
    digest: Arc<str>,
    name: TlsName,
}

/// The TLS of a check cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[error("TLS of the health check of service `{service}`")]
pub struct SealError {
    /// Name of the service.
    pub service: String,
    /// Why.
    #[source]
    pub source: TrustError,
}

impl Seals {
    /// Reads the files of all checks that speak TLS.
    ///
    /// # Errors
    ///
    /// [`SealError`] for the first service whose files cannot be used.
    pub fn read(config: &Config, now: SystemTime) -> Result<Self, SealError> {
        let roots = SystemRoots::default();
        let mut seals = HashMap::new();
        for service in &config.services {
            let seal = seal(service, &roots, now).map_err(|source| SealError {
                service: service.name.clone(),
                source,
            })?;
            seals.extend(seal.map(|seal| (service.name.clone(), seal)));
        }
        Ok(Self(seals))
    }

    /// TLS of the check of a service's backend at this address; `None` if it speaks none.
    pub(super) fn of(&self, service: &str, address: IpAddr) -> Option<ProbeTls> {
        let seal = self.0.get(service)?;
        let name = match &seal.name {
            TlsName::Address => ServerName::from(address.to_canonical()),
            // Validation has refused what is no name.
            TlsName::Host(name) => ServerName::try_from(name.clone()).ok()?,
        };
        Some(ProbeTls {
            config: Arc::clone(&seal.config),
            name,
            digest: Arc::clone(&seal.digest),
        })
    }
}

fn seal(
    service: &Service,
    roots: &SystemRoots,
    now: SystemTime,
) -> Result<Option<Seal>, TrustError> {
    let Some(check) = &service.health else {
        return Ok(None);
    };
    let settings = match &check.tls {
        CheckTls::Off => None,
        CheckTls::Own(settings) => Some(&**settings),
        CheckTls::Service => service.upstream.tls.as_ref(),
    };
    let Some(settings) = settings else {
        return Ok(None);
    };
    let trust = Trust::read(settings, roots, now)?;
    let mut config = trust.config;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match &check.probe {
        Probe::Tcp => settings
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect(),
        Probe::Http(_) => vec![b"http/1.1".to_vec()],
        Probe::Grpc(_) => vec![b"h2".to_vec()],
    };
    Ok(Some(Seal {
        config: Arc::new(config),
        digest: trust.digest.into(),
        name: service.check_name(),
    }))
}
