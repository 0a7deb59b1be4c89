//! What the proxies add to the view: their listeners, and how they use services.

use super::workers::Workers;
use crate::balance::l7::{BackendState, ServiceState};
use crate::config::model::Config;
use crate::config::model::http::{HttpListener, StreamListener};
use crate::message::{Refusal, RefusedBy};
use crate::observe::access_log::{End, Side};
use crate::observe::http::{
    BackendCells, Code, ConnectFailure, DURATION_BUCKETS, DatagramDrop, DurationSum, Durations,
    ListenerCells, RetryReason, RouteCells, Series,
};
use crate::observe::view::{
    BackendView, CircuitView, ConcurrencyView, DurationsView, HttpListenerView, ProxyBackendView,
    ProxyServiceView, RouteView, ServiceView, StreamListenerView, View,
};
use crate::resilience::Protection;
use proxy_common::backend::BackendState as Shown;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Adds it.
pub(super) fn add(view: &mut View, config: &Config, workers: &Workers) {
    view.http_listeners = listeners(config, workers);
    view.stream_listeners = streams(config, workers);
    view.routes = routes(workers);
    view.acceleration = workers.acceleration();
    view.duration_bounds = DURATION_BUCKETS.to_vec();
    let registry = workers.snapshot().registry();
    let metrics = workers.metrics();
    for service in &mut view.services {
        if let Some(state) = registry.service(&service.name) {
            let cells = metrics.service(&service.name);
            let protections = metrics.protections();
            let protection = protections.get(service.name.as_str());
            let retries = |reason| cells.sum(|cells| cells.retries(reason));
            service.proxy = Some(ProxyServiceView {
                policy: state.spec().policy.name().to_owned(),
                waiting: state.waiting(),
                retries: RetryReason::ALL.iter().copied().map(retries).sum(),
                panic: state.selection().is_panic(),
                retrying: protection.map_or(0, |it| it.retrying.active()),
                circuit: protection.and_then(|it| circuit(it)),
                concurrency: protection.and_then(|it| concurrency(it)),
            });
            backends(service, state, workers);
        }
    }
}

fn circuit(protection: &Protection) -> Option<CircuitView> {
    let breaker = protection.breaker.as_ref()?;
    Some(CircuitView {
        state: breaker.state().name().to_owned(),
        opens: breaker.opens(),
    })
}

fn concurrency(protection: &Protection) -> Option<ConcurrencyView> {
    let limiter = protection.limiter.as_ref()?;
    Some(ConcurrencyView {
        limit: limiter.limit(),
        active: limiter.in_flight(),
        waiting: limiter.waiting(),
    })
}

/// Where listeners listen, which they may not have been told.
fn bound(workers: &Workers) -> BTreeMap<&str, String> {
    let bound = workers.bound();
    bound
        .map(|(name, address)| (name, address.to_string()))
        .collect()
}

/// Listeners that pass TCP or UDP on, in file order.
fn streams(config: &Config, workers: &Workers) -> Vec<StreamListenerView> {
    let metrics = workers.metrics();
    let bound = bound(workers);
    let view = |listener: &StreamListener| {
        let name = listener.name.as_str();
        let (cells, flow) = (metrics.listener(name), metrics.stream(name));
        let failures = End::ALL.iter().filter(|end| end.side() == Side::Backend);
        let drops = DatagramDrop::ALL.iter().copied();
        StreamListenerView {
            name: name.to_owned(),
            protocol: listener.protocol.name().to_owned(),
            address: bound
                .get(name)
                .cloned()
                .unwrap_or_else(|| listener.address.to_string()),
            connections: cells.sum(|cells| cells.connections.get()),
            connections_active: cells.sum(|cells| cells.connections_active.get()),
            failed: failures
                .map(|end| cells.sum(|cells| cells.ends(*end)))
                .sum(),
            refused: cells.sum(refused),
            dropped: drops.map(|why| flow.sum(|cells| cells.drops(why))).sum(),
            received_bytes: flow.sum(|cells| cells.received.get()),
            sent_bytes: flow.sum(|cells| cells.sent.get()),
        }
    };
    config.stream_listeners.iter().map(view).collect()
}

/// Listeners in file order.
fn listeners(config: &Config, workers: &Workers) -> Vec<HttpListenerView> {
    let metrics = workers.metrics();
    let routes = metrics.routes();
    let bound = bound(workers);
    let view = |listener: &HttpListener| {
        let name = listener.name.as_str();
        let cells = metrics.listener(name);
        let own = routes.iter().filter(|series| *series.labels()[0] == *name);
        let mut view = HttpListenerView {
            name: name.to_owned(),
            address: bound
                .get(name)
                .cloned()
                .unwrap_or_else(|| listener.address.to_string()),
            connections: cells.sum(|cells| cells.connections.get()),
            connections_active: cells.sum(|cells| cells.connections_active.get()),
            requests_active: cells.sum(|cells| cells.requests_active.get()),
            refused: cells.sum(refused),
            ..HttpListenerView::default()
        };
        for series in own {
            view.received_bytes += series.sum(|cells| cells.received.get());
            view.sent_bytes += series.sum(|cells| cells.sent.get());
            view.durations = plus(
                &view.durations,
                &durations(series, |cells| &cells.durations),
            );
            for cells in series.all() {
                cells.codes.each(|_, code, count| {
                    view.requests += count;
                    *view.responses.entry(class(code)).or_default() += count;
                });
            }
        }
        view
    };
    config.http_listeners.iter().map(view).collect()
}

/// Routes with what they have served.
fn routes(workers: &Workers) -> Vec<RouteView> {
    let all = workers.metrics().routes();
    let view = |series: &Arc<Series<RouteCells>>| {
        let [listener, name] = [0, 1].map(|label| series.labels()[label].to_string());
        let mut view = RouteView {
            name,
            listener,
            received_bytes: series.sum(|cells| cells.received.get()),
            sent_bytes: series.sum(|cells| cells.sent.get()),
            durations: durations(series, |cells| &cells.durations),
            ..RouteView::default()
        };
        for cells in series.all() {
            cells.codes.each(|_, code, count| {
                view.requests += count;
                *view.responses.entry(class(code)).or_default() += count;
            });
        }
        view
    };
    all.iter().map(view).collect()
}

/// The durations of all workers together.
fn durations<T>(series: &Series<T>, of: impl Fn(&T) -> &Durations) -> DurationsView {
    let mut sum = DurationSum::default();
    for cells in series.all() {
        of(cells).add_to(&mut sum);
    }
    DurationsView {
        count: sum.buckets.iter().sum(),
        sum_seconds: sum.seconds,
        buckets: sum.buckets.to_vec(),
    }
}

fn plus(one: &DurationsView, other: &DurationsView) -> DurationsView {
    let at = |view: &DurationsView, bucket: usize| view.buckets.get(bucket).copied().unwrap_or(0);
    let buckets = 0..one.buckets.len().max(other.buckets.len());
    DurationsView {
        count: one.count + other.count,
        sum_seconds: one.sum_seconds + other.sum_seconds,
        buckets: buckets
            .map(|bucket| at(one, bucket) + at(other, bucket))
            .collect(),
    }
}

fn refused(cells: &ListenerCells) -> u64 {
    let sides = [RefusedBy::Client, RefusedBy::Backend];
    let all = sides
        .into_iter()
        .flat_map(|side| Refusal::ALL.iter().map(move |refusal| (side, *refusal)));
    all.map(|(side, refusal)| cells.refusals(side, refusal))
        .sum()
}

/// The class of a status.
fn class(code: Code) -> String {
    match code {
        Code::Exact(0) | Code::Class(0) => "none".to_owned(),
        Code::Exact(status) => format!("{}xx", status / 100),
        Code::Class(class) => format!("{class}xx"),
    }
}

/// Adds what is known of backends, and those that DNS has named.
fn backends(service: &mut ServiceView, state: &ServiceState, workers: &Workers) {
    for backend in state.backends() {
        let cells = workers.metrics().backend(&service.name, backend.name());
        let mut known = ProxyBackendView {
            in_flight: backend.in_flight(),
            connections: backend.connections(),
            idle: backend.idle().min(backend.connections()),
            requests: cells.sum(|cells| cells.streams.get()),
            connect_failures: cells.sum(connect_failures),
            durations: durations(&cells, |cells| &cells.heads),
            ..ProxyBackendView::default()
        };
        for cells in cells.all() {
            cells.codes().each(|_, code, count| {
                known.requests += count;
                if matches!(code, Code::Exact(0 | 500..) | Code::Class(0 | 5..)) {
                    known.errors += count;
                }
            });
        }
        match service
            .backends
            .iter_mut()
            .find(|one| one.name == backend.name())
        {
            Some(view) => view.proxy = Some(known),
            None => service.backends.push(named(&backend, known)),
        }
    }
}

fn connect_failures(cells: &BackendCells) -> u64 {
    let all = ConnectFailure::ALL.iter();
    all.map(|reason| cells.connect_failures(*reason)).sum()
}

/// A backend that the configuration knows by a name in DNS.
fn named(backend: &BackendState, known: ProxyBackendView) -> BackendView {
    let state = match (backend.is_healthy(), backend.is_draining()) {
        (false, _) => Shown::Down,
        (true, true) => Shown::Draining,
        (true, false) => Shown::Up,
    };
    BackendView {
        name: backend.name().to_owned(),
        address: backend.address().ip().to_string(),
        port: Some(backend.address().port()),
        weight: backend.weight().unwrap_or(1),
        state: state.name().to_owned(),
        why: "named by DNS".to_owned(),
        proxy: Some(known),
        ..BackendView::default()
    }
}
