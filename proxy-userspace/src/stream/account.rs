//! What a connection or session was, told to the metrics and to the access log.

use super::flow;
use super::passthrough::Asked;
use crate::balance::l7::{BackendState, ServiceState};
use crate::health::outlier as health;
use crate::http::census::Live;
use crate::http::secure::Secured;
use crate::http::snapshot::ListenerId;
use crate::http::streams::StreamPlan;
use crate::http::worker::Worker;
use crate::message::{Refusal, RefusedBy};
use crate::net::Nanos;
use crate::observe::access_log::{
    Attempt, Counts, End, Octets, Phase, Preread, Record, Side, Times, Traffic,
};
use crate::sockets::redirect::Redirected;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Whose connection or session it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peers {
    /// The client's end; behind a PROXY header, what that says.
    pub(super) client: SocketAddr,
    /// Our end, likewise.
    pub(super) server: SocketAddr,
    /// Its number, unique in the life of the process.
    pub(super) number: u64,
    /// Where it came in.
    pub(super) listener: ListenerId,
}

/// What is to be said of it at its end.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) began: Nanos,
    /// How long it waited for a place at a backend.
    pub(super) queued: Option<Nanos>,
    pub(super) attempts: Vec<Attempted>,
    /// Octets from the client and to it.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// What the client asked for, where TLS is passed on.
    pub(super) asked: Option<Box<Asked>>,
    /// What its connection is sealed by, where TLS ends here.
    pub(super) secured: Option<Box<Secured>>,
    /// Why what it sent was refused.
    pub(super) refusal: Option<Refusal>,
    /// It was told why its connection ends.
    pub(super) is_told: bool,
    /// What is told of it while it lives.
    pub(super) live: Rc<Live>,
    /// Whose it is, if it was redirected.
    pub(super) redirected: Option<Rc<Redirected>>,
    /// The service whose VIP it has dialled, and its number in the snapshot it began with.
    pub(super) vip: Option<(usize, Arc<ServiceState>)>,
    /// The client begins with a ClientHello, as far as it is known.
    pub(super) is_tls: bool,
    /// Much flows here, and nothing of it past TCP.
    pub(super) is_plain: bool,
}

/// A backend that was tried.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) backend: Arc<BackendState>,
    pub(super) end: End,
    pub(super) began: Nanos,
    /// Until the connection was there.
    pub(super) connect: Option<Nanos>,
    /// Until its first octet.
    pub(super) first: Option<Nanos>,
    pub(super) total: Nanos,
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// How it ended, and how far it had come.
pub(super) type Outcome = (End, Phase);

impl Facts {
    pub(super) fn new(began: Nanos, live: Rc<Live>) -> Self {
        Self {
            began,
            queued: None,
            attempts: Vec::new(),
            received: 0,
            sent: 0,
            asked: None,
            secured: None,
            refusal: None,
            is_told: false,
            live,
            redirected: None,
            vip: None,
            is_tls: true,
            is_plain: false,
        }
    }

    /// The name that the client has asked for, in TLS that ends here or is passed on.
    pub(super) fn server_name(&self) -> &str {
        let asked = self.asked.as_ref();
        let asked = asked.and_then(|asked| asked.hello.server_name.as_deref());
        let secured = self.secured.as_ref();
        let name = asked.or_else(|| secured?.server_name());
        name.unwrap_or_default()
    }

    /// The name of the service that was chosen.
    pub(super) fn service_name<'n>(&'n self, plan: &'n StreamPlan) -> Option<&'n str> {
        let rule = self.rule();
        match &self.vip {
            Some((_, service)) if rule.is_none() => Some(service.name()),
            _ => plan.service_name(rule),
        }
    }

    /// The rule of names by which the service was chosen.
    pub(super) fn rule(&self) -> Option<usize> {
        self.asked.as_ref()?.rule
    }
}

impl Attempted {
    pub(super) fn new(backend: &Arc<BackendState>, began: Nanos) -> Self {
        Self {
            backend: Arc::clone(backend),
            end: End::Complete,
            began,
            connect: None,
            first: None,
            total: 0,
            sent: 0,
            received: 0,
        }
    }
}

/// Counts and logs a connection or session. `service` is where its backend was chosen, if it came
/// to that.
pub(super) fn account(
    worker: &Worker,
    plan: &StreamPlan,
    peers: &Peers,
    facts: &Facts,
    (end, phase): Outcome,
    service: Option<&ServiceState>,
    traffic: Traffic,
) {
    let now = worker.clock.read();
    let total = Duration::from_nanos(now.saturating_sub(facts.began));
    plan.cells.at(worker.index).ended(end);
    plan.flow.at(worker.index).durations.observe(total);
    if let (Some(service), Some(last)) = (service, facts.attempts.last())
        && let Some(outcome) = outcome(last)
    {
        service.report(&last.backend, outcome, now, || worker.random());
    }
    if let Some(flow) = worker.flow(&facts.live) {
        flow::note(worker, plan, facts, flow, (end, phase), total);
    }
    let Some(log) = &plan.log else {
        return;
    };
    let attempts: Vec<Attempt<'_>> = facts.attempts.iter().map(attempt).collect();
    let body = |octets| Octets {
        head: 0,
        body: octets,
    };
    let last = facts.attempts.last();
    let mut record = Record::new(&plan.settings.name, peers.client, peers.server);
    record.traffic = traffic;
    record.service = match end {
        End::NoRoute => None,
        _ => facts.service_name(plan),
    };
    let protocols = protocols(facts);
    record.preread = facts.asked.as_ref().map(|asked| Preread {
        server_name: asked.hello.server_name.as_deref(),
        protocols: &protocols,
        version: asked.hello.version_name(),
    });
    record.tls = facts.secured.as_ref().map(|secured| secured.record());
    record.refusal = facts.refusal.map(|refusal| (RefusedBy::Client, refusal));
    record.attempts = &attempts;
    record.workload = facts.redirected.as_ref().map(|it| &*it.workload);
    record.connection = peers.number;
    record.status = status(end, last);
    record.received = body(facts.received);
    record.sent = body(facts.sent);
    record.times = Times {
        ended_at: worker.wall(now),
        total,
        queue: last.map(|_| Duration::from_nanos(facts.queued.unwrap_or(0))),
        connect: last.and_then(|last| last.connect.map(Duration::from_nanos)),
        ..Times::default()
    };
    record.counts = counts(plan, last, service);
    (record.end, record.phase) = (end, phase);
    worker.log_as(peers.listener, log, &record);
}

/// The protocols that the client offers, with commas between them as in nginx.
fn protocols(facts: &Facts) -> Vec<u8> {
    let asked = facts.asked.iter();
    let names: Vec<_> = asked.flat_map(|asked| asked.hello.protocols()).collect();
    names.join(&b","[..])
}

/// What a connection says about its backend, besides that it could be opened, which was reported
/// when it was. One that is reset before it has had an octet was taken by something in the server's
/// place.
fn outcome(attempt: &Attempted) -> Option<health::Outcome> {
    match (attempt.end, attempt.received) {
        (_, 1..) => Some(health::Outcome::Served),
        (End::BackendReset, 0) if attempt.connect.is_some() => Some(health::Outcome::GatewayError),
        _ => None,
    }
}

fn attempt(attempt: &Attempted) -> Attempt<'_> {
    Attempt {
        backend: attempt.backend.name(),
        address: attempt.backend.address(),
        reused: false,
        status: 0,
        end: attempt.end,
        connect: attempt.connect.map(Duration::from_nanos),
        head: attempt.first.map(Duration::from_nanos),
        total: Duration::from_nanos(attempt.total),
        sent: attempt.sent,
        received: Octets {
            head: 0,
            body: attempt.received,
        },
    }
}

/// nginx's `$status` of a session: 200 once a backend had it, however it ended then.
fn status(end: End, last: Option<&Attempted>) -> u16 {
    match end {
        End::ClientProtocol => 400,
        End::NoRoute => 404,
        End::Denied => 403,
        End::QueueFull | End::QueueTimeout => 503,
        End::Exhausted | End::Internal => 500,
        End::NoBackend => 502,
        _ if last.is_some_and(|last| last.connect.is_some()) => 200,
        end if end.side() == Side::Backend => 502,
        // It went away before a backend was there.
        _ => 200,
    }
}

fn counts(plan: &StreamPlan, last: Option<&Attempted>, service: Option<&ServiceState>) -> Counts {
    let of_service = service.map(ServiceState::backends).unwrap_or_default();
    let [listener, process] = plan.open();
    Counts {
        process,
        listener,
        service: of_service.iter().map(|backend| backend.in_flight()).sum(),
        backend: last.map_or(0, |last| last.backend.in_flight()),
        backend_queue: 0,
        service_queue: service.map_or(0, ServiceState::waiting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::l7::Slots;

    #[test]
    fn a_status_is_that_of_the_whole_session() {
        let slot = Arc::<Slots>::default().take();
        let address = "127.0.0.1:1".parse().expect("an address");
        let backend = Arc::new(BackendState::new("a", address, 0, slot, 0));
        let mut attempted = Attempted::new(&backend, 0);
        assert_eq!(status(End::ConnectFailed, Some(&attempted)), 502);
        assert_eq!(status(End::NoBackend, None), 502);
        assert_eq!(status(End::QueueFull, None), 503);
        assert_eq!(status(End::ClientProtocol, None), 400);
        assert_eq!(status(End::ClientClosed, None), 200);
        attempted.connect = Some(1);
        for end in [End::Complete, End::BackendReset, End::Stopped] {
            assert_eq!(status(end, Some(&attempted)), 200);
        }
    }
}
