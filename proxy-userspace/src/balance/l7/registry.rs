//! The services of a configuration, and what they take over from the one before.

use super::backend::Slots;
use super::news::News;
use super::service::{Secrets, ServiceState};
use super::spec::ServiceSpec;
use super::{Nanos, hash_key};
use std::collections::HashMap;
use std::sync::Arc;

/// The services of one configuration.
#[derive(Debug)]
pub struct Registry {
    services: Vec<Arc<ServiceState>>,
    by_name: HashMap<String, usize>,
    slots: Arc<Slots>,
    news: Arc<News>,
}

impl Registry {
    /// The services of `specs`, in that order. Backends of the same name and address in a service
    /// of the same name are the same ones as in `old`: their counts, limits, averages, health and
    /// drains go on.
    ///
    /// `secret` is what cookies are made with, equal on all balancers of a fleet; `seed` is random.
    /// Nothing of `old` changes, so the result may be thrown away. To put it in force:
    /// [`Registry::activate`].
    pub fn build(
        old: Option<&Self>,
        specs: Vec<ServiceSpec>,
        secret: u64,
        seed: u64,
        now: Nanos,
    ) -> Self {
        let slots = old.map(|old| Arc::clone(&old.slots)).unwrap_or_default();
        let news = old.map(|old| Arc::clone(&old.news)).unwrap_or_default();
        let services: Vec<Arc<ServiceState>> = specs
            .into_iter()
            .map(|spec| {
                let old = old.and_then(|old| old.service(&spec.name)).cloned();
                let secrets = Secrets {
                    sticky: secret,
                    seed: seed ^ hash_key(spec.name.as_bytes()),
                };
                Arc::new(ServiceState::new(
                    spec,
                    old.as_deref(),
                    (&slots, &news),
                    &secrets,
                    now,
                ))
            })
            .collect();
        let names = services.iter().map(|service| service.name().to_owned());
        Self {
            by_name: names.zip(0..).collect(),
            services,
            slots,
            news,
        }
    }

    /// Puts the services in force in the place of those of `old`: limits of backends that both
    /// have, and who may be given to those who wait. Called once, when the snapshot that holds
    /// this registry is swapped in.
    pub fn activate(&self, old: Option<&Self>, now: Nanos) {
        for old in old.iter().flat_map(|old| &old.services) {
            old.close(self.service(old.name()).map(|new| &**new));
        }
        for service in &self.services {
            service.publish(now);
        }
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceState>> {
        self.by_name.get(name).map(|index| &self.services[*index])
    }

    /// All, in the order of the specification.
    pub fn services(&self) -> &[Arc<ServiceState>] {
        &self.services
    }

    /// What the balancers tell, those of later configurations too.
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// Watches for outliers: see [`ServiceState::watch_outliers`].
    pub fn watch_outliers(&self, now: Nanos, mut random: impl FnMut() -> u64) {
        for service in &self.services {
            service.watch_outliers(now, &mut random);
        }
    }

    /// Makes the selections anew whose slow start has a step due at `now`, and returns when the
    /// next one is.
    pub fn tick(&self, now: Nanos) -> Option<Nanos> {
        let next = self.services.iter().filter_map(|service| {
            let next = service.next_change()?;
            if next <= now {
                service.publish(now)
            } else {
                Some(next)
            }
        });
        next.min()
    }
}
