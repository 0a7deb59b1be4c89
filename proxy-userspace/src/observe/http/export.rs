//! The families of the proxy paths on the metrics page.

use super::certificates;
use super::{
    BackendCells, Code, ConnectFailure, DURATION_BUCKETS, DatagramDrop, DurationSum, Durations,
    HandshakeResult, HandshakeVersion, HedgeResult, ListenerCells, ProxyMetrics, RetryReason,
    RouteCells, Series, StreamCells,
};
use crate::message::{Refusal, RefusedBy};
use crate::observe::access_log::{End, LogCounters};
use crate::observe::condemn;
use crate::observe::counters::ProxySources;
use crate::observe::families::{Families, Value};
use crate::observe::names::{self, Metric};
use crate::observe::trace::SpanCounters;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Writes all of them; only their heads where there are no proxy paths.
pub(in crate::observe) fn proxy(
    sources: Option<&ProxySources>,
    out: &mut Families<'_, '_>,
) -> fmt::Result {
    let nothing = ProxySources {
        metrics: Arc::new(ProxyMetrics::new(1, true)),
        logs: Arc::default(),
        spans: Arc::default(),
        certificates: Arc::default(),
        watch: Arc::default(),
    };
    let sources = sources.unwrap_or(&nothing);
    listeners(&sources.metrics, out)?;
    streams(&sources.metrics, out)?;
    tls(&sources.metrics, out)?;
    certificates::export(&sources.certificates, out)?;
    condemn::export(&sources.watch, out)?;
    routes(&sources.metrics, out)?;
    backends(&sources.metrics, out)?;
    services(&sources.metrics, out)?;
    logs(&sources.logs, out)?;
    spans(&sources.spans, out)
}

fn listeners(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let listeners = metrics.listeners();
    type Field = fn(&ListenerCells) -> u64;
    let fields: [(Metric, Field); 4] = [
        (names::CONNECTIONS, |cells| cells.connections.get()),
        (names::CONNECTIONS_ACTIVE, |cells| {
            cells.connections_active.get()
        }),
        (names::ACCEPT_PAUSES, |cells| cells.accept_pauses.get()),
        (names::REQUESTS_ACTIVE, |cells| cells.requests_active.get()),
    ];
    for (metric, field) in fields {
        let rows = listeners
            .iter()
            .map(|series| (labels::<_, 1>(series), series.sum(field).into()));
        out.many(metric, rows)?;
    }
    let ends = listeners.iter().flat_map(|series| {
        let [listener] = labels(series);
        End::ALL.iter().filter_map(move |&end| {
            let count = seen(series.sum(|cells| cells.ends(end)))?;
            Some(([listener, end.label()], count))
        })
    });
    out.many(names::ENDS, ends)?;
    let refusals = listeners.iter().flat_map(|series| {
        let [listener] = labels(series);
        let sides = [
            (RefusedBy::Client, "client"),
            (RefusedBy::Backend, "backend"),
        ];
        sides.into_iter().flat_map(move |(side, name)| {
            Refusal::ALL.iter().filter_map(move |&refusal| {
                let count = seen(series.sum(|cells| cells.refusals(side, refusal)))?;
                Some(([listener, name, refusal.label()], count))
            })
        })
    });
    out.many(names::REFUSALS, refusals)
}

fn streams(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let streams = metrics.streams();
    type Field = fn(&StreamCells) -> u64;
    let fields: [(Metric, Field); 4] = [
        (names::STREAM_RECEIVED, |cells| cells.received.get()),
        (names::STREAM_SENT, |cells| cells.sent.get()),
        (names::DATAGRAMS_RECEIVED, |cells| {
            cells.datagrams_received.get()
        }),
        (names::DATAGRAMS_SENT, |cells| cells.datagrams_sent.get()),
    ];
    for (metric, field) in fields {
        let rows = streams
            .iter()
            .map(|series| (labels::<_, 1>(series), series.sum(field).into()));
        out.many(metric, rows)?;
    }
    let drops = streams.iter().flat_map(|series| {
        let [listener] = labels(series);
        DatagramDrop::ALL.iter().filter_map(move |&why| {
            let count = seen(series.sum(|cells| cells.drops(why)))?;
            Some(([listener, why.label()], count))
        })
    });
    out.many(names::DATAGRAMS_DROPPED, drops)?;
    durations::<_, 1>(
        names::STREAM_DURATION,
        &streams,
        |cells| &cells.durations,
        out,
    )
}

fn tls(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let listeners = metrics.all_tls();
    let handshakes = listeners.iter().flat_map(|series| {
        let [listener] = labels(series);
        HandshakeVersion::ALL.iter().flat_map(move |&version| {
            HandshakeResult::ALL.iter().filter_map(move |&result| {
                let count = seen(series.sum(|cells| cells.handshakes(version, result)))?;
                Some(([listener, version.label(), result.label()], count))
            })
        })
    });
    out.many(names::TLS_HANDSHAKES, handshakes)?;
    let resumed = listeners.iter().map(|series| {
        let resumed = series.sum(|cells| cells.resumed.get());
        (labels::<_, 1>(series), resumed.into())
    });
    out.many(names::TLS_RESUMED, resumed)?;
    durations::<_, 1>(
        names::TLS_HANDSHAKE_DURATION,
        &listeners,
        |cells| &cells.durations,
        out,
    )?;
    let certificates = metrics.certificates();
    let ends = certificates.iter().map(|series| {
        let not_after = series.at(0).not_after.get();
        (labels::<_, 3>(series), not_after.into())
    });
    out.many(names::CERTIFICATE_NOT_AFTER, ends)
}

fn routes(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let routes = metrics.routes();
    let codes = routes.iter().flat_map(|series| {
        let [listener, route] = labels(series);
        let mut sums = BTreeMap::<(&'static str, Code), u64>::new();
        for cells in series.all() {
            let add = |method, code, count| *sums.entry((method, code)).or_default() += count;
            cells.codes.each(add);
        }
        sums.into_iter().map(move |((method, code), count)| {
            let values = [listener, route, method].map(str::to_owned);
            let [listener, route, method] = values;
            ([listener, route, method, code.to_string()], count.into())
        })
    });
    out.many(names::REQUESTS, codes)?;
    durations::<_, 2>(
        names::REQUEST_DURATION,
        &routes,
        |cells| &cells.durations,
        out,
    )?;
    type Field = fn(&RouteCells) -> u64;
    let fields: [(Metric, Field); 4] = [
        (names::REQUEST_BYTES, |cells| cells.received.get()),
        (names::RESPONSE_BYTES, |cells| cells.sent.get()),
        (names::ROUTE_UPSTREAM_REQUEST_BYTES, |cells| {
            cells.upstream_sent.get()
        }),
        (names::ROUTE_UPSTREAM_RESPONSE_BYTES, |cells| {
            cells.upstream_received.get()
        }),
    ];
    for (metric, field) in fields {
        let rows = routes
            .iter()
            .map(|series| (labels::<_, 2>(series), series.sum(field).into()));
        out.many(metric, rows)?;
    }
    Ok(())
}

fn backends(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let backends = metrics.backends();
    let codes = backends.iter().flat_map(|series| {
        let [service, backend] = labels(series);
        let mut sums = BTreeMap::<Code, u64>::new();
        for cells in series.all() {
            let add = |_, code, count| *sums.entry(code).or_default() += count;
            cells.codes().each(add);
        }
        sums.into_iter().map(move |(code, count)| {
            let [service, backend] = [service, backend].map(str::to_owned);
            ([service, backend, code.to_string()], count.into())
        })
    });
    out.many(names::UPSTREAM_REQUESTS, codes)?;
    durations::<_, 2>(
        names::UPSTREAM_RESPONSE_DURATION,
        &backends,
        |cells| &cells.heads,
        out,
    )?;
    durations::<_, 2>(
        names::UPSTREAM_CONNECT_DURATION,
        &backends,
        |cells| &cells.connects,
        out,
    )?;
    let failures = backends.iter().flat_map(|series| {
        let [service, backend] = labels(series);
        ConnectFailure::ALL.iter().filter_map(move |&reason| {
            let count = seen(series.sum(|cells| cells.connect_failures(reason)))?;
            Some(([service, backend, reason.label()], count))
        })
    });
    out.many(names::UPSTREAM_CONNECT_FAILURES, failures)?;
    type Field = fn(&BackendCells) -> u64;
    let fields: [(Metric, Field); 5] = [
        (names::UPSTREAM_STREAMS, |cells| cells.streams.get()),
        (names::UPSTREAM_STREAM_SENT, |cells| cells.stream_sent.get()),
        (names::UPSTREAM_STREAM_RECEIVED, |cells| {
            cells.stream_received.get()
        }),
        (names::UPSTREAM_REQUEST_BYTES, |cells| cells.sent.get()),
        (names::UPSTREAM_RESPONSE_BYTES, |cells| cells.received.get()),
    ];
    for (metric, field) in fields {
        let rows = backends
            .iter()
            .map(|series| (labels::<_, 2>(series), series.sum(field).into()));
        out.many(metric, rows)?;
    }
    Ok(())
}

fn services(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let services = metrics.services();
    let retries = services.iter().flat_map(|series| {
        let [service] = labels(series);
        RetryReason::ALL.iter().filter_map(move |&reason| {
            let count = seen(series.sum(|cells| cells.retries(reason)))?;
            Some(([service, reason.label()], count))
        })
    });
    out.many(names::RETRIES, retries)?;
    let exhausted = services.iter().filter_map(|series| {
        let count = seen(series.sum(|cells| cells.budget_exhausted.get()))?;
        Some((labels::<_, 1>(series), count))
    });
    out.many(names::RETRY_BUDGET_EXHAUSTED, exhausted)?;
    let hedges = services.iter().flat_map(|series| {
        let [service] = labels(series);
        HedgeResult::ALL.iter().filter_map(move |&result| {
            let count = seen(series.sum(|cells| cells.hedges(result)))?;
            Some(([service, result.label()], count))
        })
    });
    out.many(names::HEDGES, hedges)?;
    protections(metrics, out)?;
    durations::<_, 1>(
        names::QUEUE_DURATION,
        &services,
        |cells| &cells.queue_waits,
        out,
    )
}

fn protections(metrics: &ProxyMetrics, out: &mut Families<'_, '_>) -> fmt::Result {
    let protections = metrics.protections();
    let breakers = || {
        let all = protections.iter();
        all.filter_map(|(name, of)| Some(([&**name], of.breaker.as_ref()?)))
    };
    let states = breakers().map(|(name, breaker)| (name, (breaker.state() as u64).into()));
    out.many(names::CIRCUIT_STATE, states)?;
    let opens = breakers().map(|(name, breaker)| (name, breaker.opens().into()));
    out.many(names::CIRCUIT_OPENS, opens)?;
    let limiters = || {
        let all = protections.iter();
        all.filter_map(|(name, of)| Some(([&**name], of.limiter.as_ref()?)))
    };
    let limits = limiters().map(|(name, it)| (name, u64::from(it.limit()).into()));
    out.many(names::CONCURRENCY_LIMIT, limits)?;
    let active = limiters().map(|(name, it)| (name, u64::from(it.in_flight()).into()));
    out.many(names::CONCURRENCY_ACTIVE, active)
}

fn logs(counters: &LogCounters, out: &mut Families<'_, '_>) -> fmt::Result {
    out.one(names::LOG_LINES, counters.written.load(Relaxed))?;
    let dropped = [
        (["behind"], counters.dropped_behind.load(Relaxed).into()),
        (["failed"], counters.dropped_failed.load(Relaxed).into()),
    ];
    out.many(names::LOG_DROPPED, dropped)?;
    out.one(names::LOG_ERRORS, counters.errors.load(Relaxed))
}

fn spans(counters: &SpanCounters, out: &mut Families<'_, '_>) -> fmt::Result {
    let results = [
        (["exported"], counters.exported.load(Relaxed).into()),
        (["dropped"], counters.dropped.load(Relaxed).into()),
        (["failed"], counters.failed.load(Relaxed).into()),
    ];
    out.many(names::SPANS, results)
}

/// A histogram for each series.
fn durations<T, const N: usize>(
    metric: Metric,
    series: &[Arc<Series<T>>],
    of: impl Fn(&T) -> &Durations,
    out: &mut Families<'_, '_>,
) -> fmt::Result {
    let sums: Vec<DurationSum> = series
        .iter()
        .map(|series| {
            let mut sum = DurationSum::default();
            for cells in series.all() {
                of(cells).add_to(&mut sum);
            }
            sum
        })
        .collect();
    let rows = series
        .iter()
        .zip(&sums)
        .map(|(series, sum)| (labels::<_, N>(series), sum.seconds, &sum.buckets[..]));
    out.histograms(metric, &DURATION_BUCKETS, rows)
}

/// Labels of a series, of which there are `N`.
fn labels<T, const N: usize>(series: &Series<T>) -> [&str; N] {
    std::array::from_fn(|index| &*series.labels()[index])
}

/// A count that is worth a line.
fn seen(count: u64) -> Option<Value> {
    (count > 0).then(|| count.into())
}

#[cfg(test)]
pub(in crate::observe) mod testing {
    use super::*;
    use crate::config::model::http::{CircuitErrors, Concurrency, Resilience};
    use crate::message::Method;
    use crate::observe::access_log::Octets;
    use crate::observe::counters::Counters;
    use std::any::Any;
    use std::time::Duration;

    /// Counts something in each family; the series live as long as what is returned.
    pub(in crate::observe) fn one_of_each(counters: &Counters) -> Vec<Arc<dyn Any>> {
        let metrics = Arc::new(ProxyMetrics::new(2, true));
        let took = Duration::from_millis(2);
        let listener = metrics.listener("in");
        listener.at(0).connections.add(1);
        listener.at(1).ended(End::Complete);
        listener.at(1).refused(RefusedBy::Client, Refusal::ObsFold);
        let tls = metrics.tls("in");
        tls.at(1)
            .handshake(HandshakeVersion::V13, HandshakeResult::Ok);
        let certificate = metrics.certificate(["in", "a.test", "01"], 5);
        let stream = metrics.stream("in");
        stream.at(0).dropped(DatagramDrop::TableFull, 1);
        stream.at(1).durations.observe(took);
        let route = metrics.route("in", "all");
        let octets = Octets { head: 1, body: 2 };
        route
            .at(1)
            .exchange(&Method::Get, 200, took, octets, octets);
        let service = metrics.service("web");
        service.at(0).retried(RetryReason::Connect);
        service.at(0).queue_waits.observe(took);
        service.at(0).budget_exhausted.add(1);
        service.at(0).hedged(HedgeResult::Won);
        let mut settings = Resilience::default();
        settings.circuit.errors = Some(CircuitErrors::default());
        settings.concurrency = Some(Concurrency::fixed(9));
        let protection = metrics.protection("web", &settings);
        let backend = metrics.backend("web", "a");
        backend.at(0).request(0, Some(took), 1, 2);
        backend.at(0).connects.observe(took);
        backend.at(0).connect_failed(ConnectFailure::Refused);
        let _ = counters.proxy.set(ProxySources {
            metrics,
            logs: Arc::default(),
            spans: Arc::default(),
            certificates: certificates::testing::board(),
            watch: Arc::default(),
        });
        vec![
            listener,
            tls,
            certificate,
            stream,
            route,
            service,
            backend,
            protection,
        ]
    }
}
