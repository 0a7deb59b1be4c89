//! Retries, limits, breakers, and shedding.

use super::map;
use super::routes::respond;
use crate::config::defaults::{percent, size, text};
use crate::config::model::http::{
    Budget, Circuit, CircuitErrors, Concurrency, Fallback, Hedge, HedgeAfter, Overload, Resilience,
    Retries,
};
use serde_json::{Map, Value, json};

/// The keys of a service: all that have defaults if `all`, else those that are not as by default.
pub(super) fn keys(of: &Resilience, all: bool) -> Map<String, Value> {
    let default = Resilience::default();
    let retries_differ = of.retries != default.retries || of.budget != default.budget;
    let keys = map([
        (
            "retries",
            (all || retries_differ).then(|| retries(&of.retries, Some(&of.budget))),
        ),
        ("hedge", of.hedge.as_ref().map(hedge)),
        (
            "circuit",
            (of.circuit != default.circuit).then(|| circuit(&of.circuit)),
        ),
        ("concurrency", of.concurrency.as_ref().map(concurrency)),
        ("fallback", of.fallback.as_ref().map(fallback)),
    ]);
    match keys {
        Value::Object(keys) => keys,
        _ => Map::new(),
    }
}

/// The key `retries`; those of a route have no budget.
pub(super) fn retries(retries: &Retries, budget: Option<&Budget>) -> Value {
    let on = retries.on.iter().map(|on| json!(on.word()));
    let statuses = (!retries.statuses.is_empty()).then(|| json!(retries.statuses));
    map([
        ("attempts", Some(json!(retries.attempts))),
        ("on", Some(on.collect())),
        ("statuses", statuses),
        ("methods", Some(json!(retries.methods))),
        (
            "backoff",
            Some(json!({
                "base": text(retries.backoff_base),
                "max": text(retries.backoff_max),
            })),
        ),
        ("retry_after", Some(json!(text(retries.retry_after)))),
        ("buffer", Some(json!(size(retries.buffer_bytes)))),
        (
            "budget",
            budget.map(|budget| json!({"share": percent(budget.share), "min": budget.min})),
        ),
        ("announce", Some(json!(retries.announce))),
    ])
}

fn hedge(hedge: &Hedge) -> Value {
    match hedge.after {
        HedgeAfter::Fixed(after) => json!({ "after": text(after) }),
        HedgeAfter::Percentile { share, min } => {
            json!({ "percentile": percent(share), "min": text(min) })
        }
    }
}

fn circuit(circuit: &Circuit) -> Value {
    map([
        ("connections", Some(json!(circuit.connections))),
        ("pending", Some(json!(circuit.pending))),
        ("requests", Some(json!(circuit.requests))),
        ("retries", Some(json!(circuit.retries))),
        ("errors", circuit.errors.as_ref().map(errors)),
    ])
}

fn errors(errors: &CircuitErrors) -> Value {
    json!({
        "share": percent(errors.share),
        "window": text(errors.window),
        "min_requests": errors.min_requests,
        "open": text(errors.open),
        "max_open": text(errors.max_open),
        "probes": errors.probes,
    })
}

fn concurrency(concurrency: &Concurrency) -> Value {
    map([
        ("max", Some(json!(concurrency.max))),
        ("adaptive", Some(json!(concurrency.adaptive.is_some()))),
        ("min", concurrency.adaptive.map(Value::from)),
        ("queue", Some(json!(concurrency.queue))),
        (
            "queue_timeout",
            Some(json!(text(concurrency.queue_timeout))),
        ),
    ])
}

fn fallback(fallback: &Fallback) -> Value {
    match fallback {
        Fallback::Respond(response) => json!({ "respond": respond(response) }),
        Fallback::Service(name) => json!({ "service": name }),
    }
}

/// The section `overload`.
pub(super) fn overload(overload: &Overload) -> Value {
    json!({"lag": text(overload.lag), "hold": text(overload.hold)})
}
