//! What is laid over the configuration, kept in step with health checks and drains.

use crate::config::model::{Config, Interface, ProbeTarget};
use crate::health::{Check, CheckError, Known, Monitor, Named, Seals, checks};
use crate::kernel::plan::{Drain, Health, Ids, Overlay};
use crate::kernel::store::KernelState;
use proxy_common::backend::{BackendState, probe_mark};
use std::collections::HashMap;

/// True if some probes go to a VIP: their marks name backend ids, which a plan gives out.
pub(crate) fn probes_vips(config: &Config) -> bool {
    let checks = config
        .services
        .iter()
        .filter_map(|service| service.health.as_ref());
    checks
        .into_iter()
        .any(|check| check.target == ProbeTarget::Vip)
}

/// The interfaces on which probes to VIPs are to be aimed; `None` if there are no such probes.
pub(crate) fn aimed(config: &Config) -> Option<&[Interface]> {
    probes_vips(config).then_some(&config.data_plane().interfaces[..])
}

/// The checks of a configuration, whose TLS is in `seals`. A backend that the data plane knows starts with the verdict
/// that it has there, so that neither a restart nor a reload moves flows.
pub(crate) fn checks_for(
    config: &Config,
    named: &Named,
    seals: &Seals,
    kernel: &KernelState,
    overlay: &Overlay,
) -> Result<Vec<Check>, CheckError> {
    let ids = Ids::recover(config, kernel);
    let states: HashMap<u16, u8> = kernel
        .backends
        .iter()
        .map(|(id, backend)| (*id, backend.state))
        .collect();
    checks(config, named, seals, |service, backend| {
        let id = ids
            .of_backend(&service.name, &backend.name)
            .next()
            .map(|(_, id)| id);
        let state = id.and_then(|id| BackendState::from_code(*states.get(&id)?));
        let adopted = match state {
            None | Some(BackendState::Absent) => None,
            Some(BackendState::Up | BackendState::Draining) => Some(true),
            // Down for its drain's sake says nothing about its health.
            Some(BackendState::Down) => {
                let overlay = overlay.get(&service.name, &backend.name);
                Some(overlay.drain == Drain::Expired && overlay.health == Health::Up)
            }
        };
        Known {
            adopted,
            mark: id.map(probe_mark),
        }
    })
}

/// Brings the overlay's health up to what the monitor says. True if something changed.
///
/// Backends that are not checked are up.
pub(crate) fn update_health(
    overlay: &mut Overlay,
    config: &Config,
    named: &Named,
    monitor: &Monitor,
) -> bool {
    let mut changed = false;
    for service in &config.services {
        let fixed = service.backends.iter().map(|backend| backend.name.as_str());
        let named = named.get(&service.name).into_iter().flatten();
        for backend in fixed.chain(named.map(|(name, _)| name.as_str())) {
            let up = monitor.is_up(&service.name, backend).unwrap_or(true);
            let health = if up { Health::Up } else { Health::Down };
            if overlay.get(&service.name, backend).health != health {
                overlay.entry(&service.name, backend).health = health;
                changed = true;
            }
        }
    }
    changed
}

/// Backends that drain: service and backend names.
pub(crate) fn draining<'c>(
    overlay: &'c Overlay,
    config: &'c Config,
) -> impl Iterator<Item = (&'c str, &'c str)> {
    config.services.iter().flat_map(move |service| {
        let backends = service.backends.iter().filter(move |backend| {
            overlay.get(&service.name, &backend.name).drain == Drain::Draining
        });
        backends.map(move |backend| (service.name.as_str(), backend.name.as_str()))
    })
}
