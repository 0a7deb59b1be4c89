//! Who gets a connection or session.

use super::account::{Attempted, Facts, Outcome};
use crate::balance::l7::{Ask, Lease, ServiceState, Tried, Unavailable, WaitError, hash_key};
use crate::config::model::http::{BalancePolicy, HashOn};
use crate::health::outlier as health;
use crate::http::snapshot::ServicePlan;
use crate::http::worker::Worker;
use crate::net::{Stream, Timer};
use crate::observe::access_log::{End, Phase};
use crate::observe::http::{BackendCells, ConnectFailure, RetryReason, Series};
use crate::sockets::Acceleration;
use crate::upstream::connect::{self, ConnectError, Target};
use crate::upstream::pool::Place;
use crate::upstream::tls::Offer;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Backends that are tried for one client at most.
const ATTEMPTS: u32 = Tried::CAPACITY as u32;

/// Of those, how many may be waited for in vain: a client waits as long.
const TIMEOUTS: u32 = 3;

/// A connection to a backend, and what is held as long as it lives.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) held: Held,
    /// What it is accelerated by, if it is.
    pub(super) acceleration: Option<Arc<Acceleration>>,
}

/// What is held of a backend as long as a client has it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) cells: Arc<Series<BackendCells>>,
    _place: Place,
}

impl Held {
    pub(super) fn new(worker: &Worker, lease: Lease, place: Place) -> Self {
        let cells = worker.backend_cells(lease.service().name(), lease.backend());
        cells.at(worker.index).streams.add(1);
        Self {
            lease,
            cells,
            _place: place,
        }
    }
}

/// Chooses a backend and connects to it; where that fails, to another one.
pub(super) async fn reach(
    worker: &Worker,
    service: &ServicePlan,
    client: IpAddr,
    preamble: &[u8],
    facts: &mut Facts,
    timer: &Timer,
) -> Result<Connected, Outcome> {
    let (mut tried, mut timeouts) = (Tried::default(), 0);
    loop {
        let last = facts.attempts.last().map(|last| (last.end, Phase::Connect));
        let is_enough = tried.count() == ATTEMPTS || timeouts == TIMEOUTS;
        if let Some(last) = last.filter(|_| is_enough) {
            return Err(last);
        }
        let lease = lease(worker, service, client, &tried, facts, timer).await;
        let lease = lease.map_err(|ended| match (ended, last) {
            ((End::NoBackend, _), Some(last)) => last,
            (ended, _) => ended,
        })?;
        if last.is_some() {
            service.cells.at(worker.index).retried(RetryReason::Connect);
        }
        tried.add(lease.backend().slot());
        match open(worker, service, lease, preamble, facts, timer).await {
            Ok(connected) => return Ok(connected),
            Err(End::ConnectTimeout) => timeouts += 1,
            // Our own trouble: another backend would not help.
            Err(end @ (End::Exhausted | End::QueueTimeout)) => return Err((end, Phase::Connect)),
            Err(_) => {}
        }
    }
}

/// What is asked of the balancer for a client.
pub(super) fn ask<'t>(
    worker: &Worker,
    service: &ServiceState,
    client: IpAddr,
    tried: &'t Tried,
) -> Ask<'t> {
    Ask {
        key: key(&service.spec().policy, client),
        sticky: None,
        random: worker.random(),
        now: worker.clock.last(),
        tried,
    }
}

/// What hash policies go by: of a connection there is the source alone. Those that go by something
/// of HTTP draw at random.
fn key(policy: &BalancePolicy, source: IpAddr) -> Option<u64> {
    match policy {
        BalancePolicy::Maglev(HashOn::Source) | BalancePolicy::Ring(HashOn::Source) => {
            Some(match source.to_canonical() {
                IpAddr::V4(ip) => hash_key(&ip.octets()),
                IpAddr::V6(ip) => hash_key(&ip.octets()),
            })
        }
        _ => None,
    }
}

/// Chooses a backend; waits for one if all are busy and that is allowed.
async fn lease(
    worker: &Worker,
    service: &ServicePlan,
    client: IpAddr,
    tried: &Tried,
    facts: &mut Facts,
    timer: &Timer,
) -> Result<Lease, Outcome> {
    let ask = ask(worker, &service.state, client, tried);
    match service.state.lease(&ask) {
        Ok(lease) => return Ok(lease),
        Err(Unavailable::Busy) => {}
        Err(_) => return Err((End::NoBackend, Phase::Queue)),
    }
    let began = worker.clock.read();
    let waiting = service.state.wait(&ask);
    let mut waiting = waiting.map_err(|_| (End::QueueFull, Phase::Queue))?;
    timer.set(waiting.deadline());
    let waited = poll_fn(|cx| {
        // Sets the waker; when time is over the balancer is the one to say so.
        timer.poll_expired(cx);
        waiting.poll(cx, timer.now())
    });
    let waited = waited.await;
    let took = worker.clock.read() - began;
    facts.queued = Some(facts.queued.unwrap_or(0) + took);
    let cells = service.cells.at(worker.index);
    cells.queue_waits.observe(Duration::from_nanos(took));
    waited.map_err(|error| match error {
        WaitError::Timeout => (End::QueueTimeout, Phase::Queue),
        WaitError::Unavailable(_) => (End::NoBackend, Phase::Queue),
    })
}

async fn open(
    worker: &Worker,
    service: &ServicePlan,
    lease: Lease,
    preamble: &[u8],
    facts: &mut Facts,
    timer: &Timer,
) -> Result<Connected, End> {
    let (backend, began) = (Arc::clone(lease.backend()), worker.clock.read());
    let by = began.saturating_add(service.limits.connect);
    let place = worker.place(&backend, by).await.ok_or(End::QueueTimeout)?;
    facts.attempts.push(Attempted::new(&backend, began));
    let host = facts.server_name();
    let target = Target {
        backend: &backend,
        tls: (service.tls.as_deref()).map(|side| (side, Offer::Stream, side.seal(host.as_bytes()))),
        preamble,
        watches: &worker.watches,
        acceleration: service.acceleration.as_deref().filter(|_| !facts.is_plain),
    };
    let connected = connect::open(&target, timer, service.limits.connect).await;
    let took = worker.clock.read() - began;
    let failure = match &connected {
        Ok(_) => None,
        Err(ConnectError::Timeout) => Some((End::ConnectTimeout, ConnectFailure::Timeout)),
        Err(error) if error.is_exhaustion() => Some((End::Exhausted, ConnectFailure::Local)),
        Err(ConnectError::Io(error)) => Some((End::ConnectFailed, failure(error))),
        Err(ConnectError::Tls(failure)) => Some((failure.end(), failure.reason())),
    };
    worker.count_backend(service.state.name(), &backend, |cells| match failure {
        None => cells.connects.observe(Duration::from_nanos(took)),
        Some((_, reason)) => cells.connect_failed(reason),
    });
    let (now, random) = (worker.clock.last(), || worker.random());
    match failure {
        None => {
            backend.latency().observe(took, now);
            let outcome = health::Outcome::Connected(took);
            service.state.report(&backend, outcome, now, random);
        }
        // Our own trouble.
        Some((End::Exhausted, _)) => {}
        Some(_) => {
            backend.latency().observe_failure(now);
            let outcome = health::Outcome::ConnectFailure;
            service.state.report(&backend, outcome, now, random);
        }
    }
    if let Some(attempt) = facts.attempts.last_mut() {
        attempt.connect = failure.is_none().then_some(took);
        attempt.total = took;
        attempt.end = failure.map_or(End::Complete, |(end, _)| end);
    }
    match (connected, failure) {
        (Ok(stream), _) => Ok(Connected {
            stream,
            held: Held::new(worker, lease, place),
            acceleration: service.acceleration.clone().filter(|_| !facts.is_plain),
        }),
        (Err(_), failure) => Err(failure.map_or(End::ConnectFailed, |(end, _)| end)),
    }
}

/// What the network has said of a backend.
pub(super) fn failure(error: &io::Error) -> ConnectFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ConnectFailure::Unreachable
        }
        _ => ConnectFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_policies_go_by_the_source_whatever_its_notation() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let on_source = BalancePolicy::Maglev(HashOn::Source);
        let of = |text| key(&on_source, ip(text));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert!(of("192.0.2.1").is_some());
        assert_eq!(key(&BalancePolicy::Ring(HashOn::Path), ip("::1")), None);
        assert_eq!(key(&BalancePolicy::RoundRobin, ip("::1")), None);
    }
}
