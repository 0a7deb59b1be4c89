//! What is noted of connections and sessions whose flow is traced, when they are over.

use super::account::{Attempted, Facts, Outcome};
use crate::http::streams::StreamPlan;
use crate::http::worker::Worker;
use crate::observe::access_log::{End, Side};
use crate::observe::flow::Stage;
use crate::observe::flow::stages::{Attempt, Tunnel};
use crate::observe::trace::Flow;
use std::time::Duration;

/// Hands over which backends were tried, and how it ended.
#[cold]
pub(super) fn note(
    worker: &Worker,
    plan: &StreamPlan,
    facts: &Facts,
    flow: Flow,
    (end, phase): Outcome,
    total: Duration,
) {
    let service = match end {
        End::NoRoute => None,
        _ => facts.service_name(plan).map(str::to_owned),
    };
    let live = &facts.live;
    for attempted in &facts.attempts {
        let attempt = attempt(attempted, service.clone());
        worker.note(live, flow, None, Stage::Attempt(attempt));
    }
    let name = facts.server_name();
    let tunnel = Tunnel {
        listener: plan.settings.name.clone(),
        service,
        server_name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        end: end.label().to_owned(),
        is_failure: matches!(end.side(), Side::Backend | Side::Proxy),
        flags: end.termination(phase).map(char::from).iter().collect(),
        refusal: facts.refusal.map(|refusal| refusal.label().to_owned()),
        received_bytes: facts.received,
        sent_bytes: facts.sent,
        seconds: total.as_secs_f64(),
    };
    worker.note(live, flow, None, Stage::Tunnel(tunnel));
}

fn attempt(attempted: &Attempted, service: Option<String>) -> Attempt {
    let seconds = |nanos| Duration::from_nanos(nanos).as_secs_f64();
    Attempt {
        service,
        backend: attempted.backend.name().to_owned(),
        address: attempted.backend.address(),
        reused: false,
        connect_seconds: attempted.connect.map(seconds),
        retry: None,
        status: None,
        end: attempted.end.label().to_owned(),
        seconds: seconds(attempted.total),
    }
}
