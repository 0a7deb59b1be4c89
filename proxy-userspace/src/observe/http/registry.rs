//! Which series there are.

use super::{
    BackendCells, CertificateCells, ListenerCells, RouteCells, ServiceCells, StreamCells, TlsCells,
};
use crate::config::model::http::Resilience;
use crate::resilience::Protection;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Cells of all workers under one set of labels.
#[derive(Debug)]
pub struct Series<T> {
    labels: Box<[Box<str>]>,
    cells: Box<[Padded<T>]>,
}

/// On cache lines of its own; two, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T> Series<T> {
    /// The cells of a worker, which no other thread may write. `worker` is below the number that
    /// [`ProxyMetrics::new`] was told.
    #[inline]
    pub fn at(&self, worker: usize) -> &T {
        &self.cells[worker].0
    }

    /// The values of the labels.
    pub fn labels(&self) -> &[Box<str>] {
        &self.labels
    }

    /// The cells of all workers, for reading.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.cells.iter().map(|cells| &cells.0)
    }

    /// Sum of a counter or gauge over all workers. Below zero is seen only while a gauge moves from
    /// one worker to another, and counts as 0.
    pub fn sum(&self, value: impl Fn(&T) -> u64) -> u64 {
        let sum = self
            .all()
            .fold(0u64, |sum, cells| sum.wrapping_add(value(cells)));
        if sum.cast_signed() < 0 { 0 } else { sum }
    }
}

/// Series of one kind by their labels.
#[derive(Debug)]
struct Family<T>(BTreeMap<Box<[Box<str>]>, Weak<Series<T>>>);

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Default> Family<T> {
    fn series(&mut self, workers: usize, labels: &[&str]) -> Arc<Series<T>> {
        let labels: Box<[Box<str>]> = labels.iter().map(|&label| label.into()).collect();
        if let Some(series) = self.0.get(&labels).and_then(Weak::upgrade) {
            return series;
        }
        let series = Arc::new(Series {
            labels: labels.clone(),
            cells: (0..workers).map(|_| Padded::default()).collect(),
        });
        self.0.insert(labels, Arc::downgrade(&series));
        series
    }

    /// Those in use, in order of their labels.
    fn in_use(&mut self) -> Vec<Arc<Series<T>>> {
        let mut in_use = Vec::with_capacity(self.0.len());
        self.0.retain(|_, series| {
            in_use.extend(series.upgrade());
            series.strong_count() > 0
        });
        in_use
    }
}

/// The series of the proxy paths.
#[derive(Debug)]
pub struct ProxyMetrics {
    workers: usize,
    backend_labels: bool,
    families: Mutex<Families>,
}

#[derive(Debug, Default)]
struct Families {
    listeners: Family<ListenerCells>,
    streams: Family<StreamCells>,
    routes: Family<RouteCells>,
    services: Family<ServiceCells>,
    backends: Family<BackendCells>,
    /// Not counted by worker. After a reload there may be two of a service for a while.
    protections: Vec<(Box<str>, Weak<Protection>)>,
    tls: Family<TlsCells>,
    certificates: Family<CertificateCells>,
}

impl ProxyMetrics {
    /// For this many workers. Without `backend_labels` all backends of a service share a series.
    pub fn new(workers: usize, backend_labels: bool) -> Self {
        Self {
            workers,
            backend_labels,
            families: Mutex::default(),
        }
    }

    /// Number of workers, for each of which a series has cells.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The series of a listener.
    pub fn listener(&self, name: &str) -> Arc<Series<ListenerCells>> {
        let mut families = self.families.lock();
        families.listeners.series(self.workers, &[name])
    }

    /// The series of what only listeners for TCP and UDP count.
    pub fn stream(&self, listener: &str) -> Arc<Series<StreamCells>> {
        let mut families = self.families.lock();
        families.streams.series(self.workers, &[listener])
    }

    /// The series of a listener's handshakes.
    pub fn tls(&self, listener: &str) -> Arc<Series<TlsCells>> {
        let mut families = self.families.lock();
        families.tls.series(self.workers, &[listener])
    }

    /// The series of a listener's certificate, which is written once: here.
    pub fn certificate(
        &self,
        [listener, name, serial]: [&str; 3],
        not_after: i64,
    ) -> Arc<Series<CertificateCells>> {
        let mut families = self.families.lock();
        let labels = [listener, name, serial];
        let series = families.certificates.series(self.workers, &labels);
        let cell = &series.at(0).not_after;
        cell.add(not_after.cast_unsigned().wrapping_sub(cell.get()));
        series
    }

    /// The listeners with TLS in use.
    pub fn all_tls(&self) -> Vec<Arc<Series<TlsCells>>> {
        self.families.lock().tls.in_use()
    }

    /// The certificates in use.
    pub fn certificates(&self) -> Vec<Arc<Series<CertificateCells>>> {
        self.families.lock().certificates.in_use()
    }

    /// The series of a route at a listener; `route` is empty for requests that no route matched.
    pub fn route(&self, listener: &str, route: &str) -> Arc<Series<RouteCells>> {
        let mut families = self.families.lock();
        families.routes.series(self.workers, &[listener, route])
    }

    /// The series of a service.
    pub fn service(&self, name: &str) -> Arc<Series<ServiceCells>> {
        let mut families = self.families.lock();
        families.services.series(self.workers, &[name])
    }

    /// The series of a backend.
    pub fn backend(&self, service: &str, backend: &str) -> Arc<Series<BackendCells>> {
        let backend = if self.backend_labels { backend } else { "" };
        let mut families = self.families.lock();
        families.backends.series(self.workers, &[service, backend])
    }

    /// The state that protects a service: the same one as long as its settings stay the same and a
    /// snapshot holds it.
    pub fn protection(&self, service: &str, settings: &Resilience) -> Arc<Protection> {
        let known = &mut self.families.lock().protections;
        known.retain(|(_, known)| known.strong_count() > 0);
        let same = known.iter().filter(|(name, _)| **name == *service);
        let mut same = same.filter_map(|(_, known)| known.upgrade());
        if let Some(same) = same.find(|known| known.settings == *settings) {
            return same;
        }
        let new = Arc::new(Protection::new(settings));
        known.push((service.into(), Arc::downgrade(&new)));
        new
    }

    /// What protects services, by their names, in order of these.
    pub fn protections(&self) -> BTreeMap<Box<str>, Arc<Protection>> {
        let families = self.families.lock();
        let known = families.protections.iter();
        // The newest of a service is the last.
        known
            .filter_map(|(name, known)| Some((name.clone(), known.upgrade()?)))
            .collect()
    }

    /// The listeners in use.
    pub fn listeners(&self) -> Vec<Arc<Series<ListenerCells>>> {
        self.families.lock().listeners.in_use()
    }

    /// The listeners for TCP and UDP in use.
    pub fn streams(&self) -> Vec<Arc<Series<StreamCells>>> {
        self.families.lock().streams.in_use()
    }

    /// The routes in use.
    pub fn routes(&self) -> Vec<Arc<Series<RouteCells>>> {
        self.families.lock().routes.in_use()
    }

    /// The services in use.
    pub fn services(&self) -> Vec<Arc<Series<ServiceCells>>> {
        self.families.lock().services.in_use()
    }

    /// The backends in use.
    pub fn backends(&self) -> Vec<Arc<Series<BackendCells>>> {
        self.families.lock().backends.in_use()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(cells: &BackendCells) -> u64 {
        let mut all = 0;
        cells.codes().each(|_, _, count| all += count);
        all
    }

    #[test]
    fn a_series_goes_on_over_a_reload_and_leaves_with_its_last_holder() {
        let metrics = ProxyMetrics::new(2, true);
        let before = metrics.backend("web", "a");
        before.at(0).request(200, None, 0, 0);
        let after = metrics.backend("web", "a");
        drop(before);
        after.at(1).request(200, None, 0, 0);
        assert_eq!(after.sum(requests), 2);
        assert_eq!(metrics.backends().len(), 1);
        drop(after);
        assert!(metrics.backends().is_empty());
        assert_eq!(metrics.backend("web", "a").sum(requests), 0);
    }

    #[test]
    fn without_their_labels_backends_of_a_service_are_one() {
        let metrics = ProxyMetrics::new(1, false);
        let (a, b) = (metrics.backend("web", "a"), metrics.backend("web", "b"));
        let other = metrics.backend("api", "a");
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &other));
    }

    #[test]
    fn workers_do_not_share_cache_lines() {
        let metrics = ProxyMetrics::new(2, true);
        let series = metrics.listener("a");
        let address = |worker| std::ptr::from_ref(series.at(worker)).addr();
        assert!(address(0).is_multiple_of(128));
        assert!(address(1) - address(0) >= 128);
    }
}
