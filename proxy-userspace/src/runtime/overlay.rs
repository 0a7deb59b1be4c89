//! What is laid over the configuration, kept in step with health checks and drains.

use crate::config::model::{Config, Interface, ProbeTarget};
use crate::health::{Check, CheckError, Known, Monitor, Named, Seals, Verdict, checks};
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
            let health = match monitor.verdict(&service.name, backend) {
                None | Some(Verdict::Up) => Health::Up,
                Some(Verdict::Unknown) => Health::Unknown,
                Some(Verdict::Down | Verdict::Held) => Health::Down,
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{NetProber, Options, monitor};

    #[tokio::test]
    async fn who_was_never_probed_is_unknown_and_not_down() {
        let text = "
listeners: [{name: web, kind: http, address: 127.0.0.1, port: 80, service: web}]
services: [{name: web, backends: ['127.0.0.1:81'], health: {tcp: {}}}]";
        let loaded = crate::config::parse("test", text);
        let config = loaded.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        let (config, named) = (config.config, Named::default());
        let (mut overlay, kernel) = (Overlay::default(), KernelState::default());
        let checks = checks_for(&config, &named, &Seals::default(), &kernel, &overlay);
        // Nothing drives it.
        let (monitor, _driver, _changes) = monitor(NetProber, Options::default());
        monitor.reconcile(checks.expect("checks"));
        assert!(update_health(&mut overlay, &config, &named, &monitor));
        let known = overlay.get("web", "127.0.0.1:81");
        assert_eq!(known.health, Health::Unknown);
        assert!(!update_health(&mut overlay, &config, &named, &monitor));
    }
}
