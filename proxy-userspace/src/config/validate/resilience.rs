//! Retries, limits, breakers, and shedding.

use super::actions::respond;
use super::fields::is_token;
use super::{elements, exactly_one, number, or, size, time, time_or_zero};
use crate::config::decode::Field;
use crate::config::defaults::http as defaults;
use crate::config::fault::Code;
use crate::config::file::resilience as file;
use crate::config::file::service::Service;
use crate::config::model::http::{
    Budget, Circuit, CircuitErrors, Concurrency, Fallback, Hedge, HedgeAfter, Overload, Priority,
    Resilience, Retries, RetryOn,
};
use crate::config::report::{Draft, Place, Report};
use std::time::Duration;

/// Most attempts: as many backends as a request remembers.
const ATTEMPTS: u32 = 8;
/// Most content that is kept for another attempt; it is held in memory for each request.
const BUFFER: u64 = 16 << 20;

/// What a service says of it.
pub(super) fn resilience(report: &Report<'_>, keys: &Service) -> Resilience {
    let timeouts = keys.timeouts.value();
    let limit = |field: Option<&Field<_>>| {
        let field = field.filter(|field| field.given().is_some())?;
        Some(time(report, field, Duration::ZERO))
    };
    Resilience {
        retries: retries(report, &keys.retries).unwrap_or_default(),
        budget: budget(keys.retries.value().map(|keys| &keys.budget)),
        per_try_timeout: limit(timeouts.map(|keys| &keys.per_try)),
        request_timeout: limit(timeouts.map(|keys| &keys.request)),
        hedge: hedge(report, keys),
        circuit: circuit(report, &keys.circuit),
        concurrency: concurrency(report, &keys.concurrency),
        fallback: fallback(report, &keys.fallback),
    }
}

/// The retries of a route, which stand in the place of its service's.
pub(super) fn of_route(report: &Report<'_>, field: &Field<file::Retries>) -> Option<Retries> {
    if let Some(at) = field.value().and_then(|keys| keys.budget.given()) {
        let draft = Draft::new(
            Code::Conflict,
            "a budget is shared by all requests of a service",
        )
        .fix("move `budget` to `retries` of the service");
        report.error(Place::Key(at.node), draft);
    }
    retries(report, field)
}

fn retries(report: &Report<'_>, field: &Field<file::Retries>) -> Option<Retries> {
    let keys = field.value()?;
    let default = Retries::default();
    let backoff = keys.backoff.value();
    let base = backoff.map_or(default.backoff_base, |keys| {
        time_or_zero(report, &keys.base, default.backoff_base)
    });
    let max = backoff.map_or(default.backoff_max, |keys| {
        time_or_zero(report, &keys.max, default.backoff_max.max(base))
    });
    if let Some(at) = backoff.and_then(|keys| keys.max.given())
        && max < base
    {
        let draft = Draft::new(Code::Conflict, "the last bound is below the first")
            .expected("`max` of at least `base`");
        report.error(Place::Value(at.node), draft);
    }
    let on = match keys.on.given() {
        None => default.on,
        Some(_) => elements(&keys.on).map(|at| retry_on(at.value)).collect(),
    };
    let statuses: Vec<u16> = elements(&keys.statuses).map(|at| at.value.0).collect();
    needs_statuses(report, keys, &on, &statuses);
    Some(Retries {
        attempts: number(report, &keys.attempts, 1..=ATTEMPTS, default.attempts),
        on,
        statuses,
        methods: methods(report, &keys.methods),
        backoff_base: base,
        backoff_max: max,
        retry_after: time_or_zero(report, &keys.retry_after, default.retry_after),
        buffer_bytes: size(report, &keys.buffer, 0..=BUFFER, default.buffer_bytes),
        announce: or(&keys.announce, default.announce),
    })
}

/// A list of statuses and the word that uses it belong together.
fn needs_statuses(report: &Report<'_>, keys: &file::Retries, on: &[RetryOn], statuses: &[u16]) {
    let is_used = on.contains(&RetryOn::RetriableStatus);
    if let Some(at) = keys.statuses.given()
        && !is_used
    {
        let draft = Draft::new(Code::Conflict, "these statuses are not retried")
            .expected("`retriable-status` in `on`")
            .fix("add `retriable-status` to `on`, or remove `statuses`");
        report.error(Place::Key(at.node), draft);
    }
    if let Some(at) = keys.on.given()
        && is_used
        && statuses.is_empty()
        && !matches!(keys.statuses, Field::Bad)
    {
        let draft = Draft::new(
            Code::MissingKey,
            "`retriable-status` is listed without statuses",
        )
        .fix("add `statuses: [429]`");
        report.error(Place::Key(at.node), draft);
    }
}

fn retry_on(word: file::RetryOn) -> RetryOn {
    match word {
        file::RetryOn::ServerError => RetryOn::ServerError,
        file::RetryOn::GatewayError => RetryOn::GatewayError,
        file::RetryOn::ConnectFailure => RetryOn::ConnectFailure,
        file::RetryOn::Reset => RetryOn::Reset,
        file::RetryOn::RefusedStream => RetryOn::RefusedStream,
        file::RetryOn::Retriable4xx => RetryOn::Retriable4xx,
        file::RetryOn::RetriableStatus => RetryOn::RetriableStatus,
        file::RetryOn::Cancelled => RetryOn::Cancelled,
        file::RetryOn::DeadlineExceeded => RetryOn::DeadlineExceeded,
        file::RetryOn::ResourceExhausted => RetryOn::ResourceExhausted,
        file::RetryOn::Internal => RetryOn::Internal,
        file::RetryOn::Unavailable => RetryOn::Unavailable,
    }
}

fn methods(
    report: &Report<'_>,
    field: &Field<Vec<Field<super::super::file::scalar::Text>>>,
) -> Vec<String> {
    let known = elements(field).filter(|at| {
        let is_good = is_token(&at.value.0);
        if !is_good {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{}` is not a method", at.value.0),
            )
            .expected("a method such as `POST`");
            report.error(Place::Value(at.node), draft);
        }
        is_good
    });
    known.map(|at| at.value.0.clone()).collect()
}

fn budget(field: Option<&Field<file::Budget>>) -> Budget {
    let default = Budget::default();
    let Some(keys) = field.and_then(Field::value) else {
        return default;
    };
    Budget {
        share: keys.share.value().map_or(default.share, |share| share.0),
        min: or(&keys.min, default.min),
    }
}

fn hedge(report: &Report<'_>, service: &Service) -> Option<Hedge> {
    let at = service.hedge.given()?;
    let keys = &at.value;
    if !service.sticky_cookie.is_absent() {
        let draft = Draft::new(
            Code::Conflict,
            "a hedge goes to another backend than the one that `sticky_cookie` keeps a client with",
        )
        .fix("remove `hedge`, or `sticky_cookie`");
        report.error(Place::Key(at.node), draft);
    }
    let there = [
        ("after", !keys.after.is_absent()),
        ("percentile", !keys.percentile.is_absent()),
    ];
    let place = Place::Value(at.node);
    let which = exactly_one(report, place, "when to hedge", "percentile: 95%", &there)?;
    if let Some(min) = keys.min.given()
        && which == 0
    {
        let draft =
            Draft::new(Code::Conflict, "`min` bounds `percentile` only").fix("remove `min`");
        report.error(Place::Key(min.node), draft);
    }
    let after = match which {
        0 => HedgeAfter::Fixed(time(report, &keys.after, Duration::from_millis(1))),
        _ => HedgeAfter::Percentile {
            share: keys.percentile.value()?.0,
            min: time(report, &keys.min, defaults::HEDGE_MIN),
        },
    };
    Some(Hedge { after })
}

fn circuit(report: &Report<'_>, field: &Field<file::Circuit>) -> Circuit {
    let Some(keys) = field.value() else {
        return Circuit::default();
    };
    Circuit {
        connections: or(&keys.connections, 0),
        pending: or(&keys.pending, 0),
        requests: or(&keys.requests, 0),
        retries: or(&keys.retries, 0),
        errors: keys.errors.value().map(|keys| errors(report, keys)),
    }
}

fn errors(report: &Report<'_>, keys: &file::CircuitErrors) -> CircuitErrors {
    let default = CircuitErrors::default();
    let open = time(report, &keys.open, default.open);
    let max_open = time(report, &keys.max_open, default.max_open.max(open));
    if let Some(at) = keys.max_open.given()
        && max_open < open
    {
        let draft = Draft::new(Code::Conflict, "the longest time is below the first")
            .expected("`max_open` of at least `open`");
        report.error(Place::Value(at.node), draft);
    }
    let share = keys.share.value().map_or(default.share, |share| share.0);
    if let Some(at) = keys.share.given()
        && share <= 0.0
    {
        let draft = Draft::new(Code::InvalidValue, "the circuit would always open")
            .expected("more than `0%`");
        report.error(Place::Value(at.node), draft);
    }
    CircuitErrors {
        share,
        window: time(report, &keys.window, default.window),
        min_requests: number(
            report,
            &keys.min_requests,
            1..=1_000_000,
            default.min_requests,
        ),
        open,
        max_open,
        probes: number(report, &keys.probes, 1..=1000, default.probes),
    }
}

fn concurrency(report: &Report<'_>, field: &Field<file::Concurrency>) -> Option<Concurrency> {
    let at = field.given()?;
    let most = 1_000_000;
    let keys = match &at.value {
        file::Concurrency::Max(max) => {
            if !(1..=most).contains(max) {
                let draft = Draft::new(Code::InvalidValue, format!("{max} is out of range"))
                    .expected(format!("a number from 1 to {most}"));
                report.error(Place::Value(at.node), draft);
            }
            return Some(Concurrency::fixed(*max));
        }
        file::Concurrency::Keys(keys) => keys,
    };
    let is_adaptive = or(&keys.adaptive, false);
    if !is_adaptive && keys.max.is_absent() {
        report.missing(at.node, "max", "200");
    }
    if let Some(min) = keys.min.given()
        && !is_adaptive
    {
        let draft = Draft::new(Code::Conflict, "`min` bounds an adaptive limit only")
            .fix("add `adaptive: true`, or remove `min`");
        report.error(Place::Key(min.node), draft);
    }
    let max = number(report, &keys.max, 1..=most, defaults::CONCURRENCY_MAX);
    let min = number(
        report,
        &keys.min,
        1..=most,
        defaults::CONCURRENCY_MIN.min(max),
    );
    if let Some(at) = keys.min.given()
        && min > max
    {
        let draft = Draft::new(Code::Conflict, "the least is above the most")
            .expected("`min` of at most `max`");
        report.error(Place::Value(at.node), draft);
    }
    Some(Concurrency {
        max,
        adaptive: is_adaptive.then_some(min),
        queue: number(report, &keys.queue, 0..=most, defaults::CONCURRENCY_QUEUE),
        queue_timeout: time(
            report,
            &keys.queue_timeout,
            defaults::CONCURRENCY_QUEUE_TIMEOUT,
        ),
    })
}

fn fallback(report: &Report<'_>, field: &Field<file::Fallback>) -> Option<Fallback> {
    let at = field.given()?;
    let keys = &at.value;
    let there = [
        ("respond", !keys.respond.is_absent()),
        ("service", !keys.service.is_absent()),
    ];
    let place = Place::Value(at.node);
    match exactly_one(report, place, "what answers", "respond: 503", &there)? {
        0 => Some(Fallback::Respond(respond(report, keys.respond.given()?)?)),
        _ => Some(Fallback::Service(keys.service.value()?.0.clone())),
    }
}

/// The priority of a route.
pub(super) fn priority(field: &Field<file::Priority>) -> Priority {
    match field.value() {
        None => Priority::default(),
        Some(file::Priority::Low) => Priority::Low,
        Some(file::Priority::Normal) => Priority::Normal,
        Some(file::Priority::High) => Priority::High,
        Some(file::Priority::Critical) => Priority::Critical,
    }
}

/// The section `overload`.
pub(super) fn overload(report: &Report<'_>, field: &Field<file::Overload>) -> Option<Overload> {
    let keys = field.value()?;
    let default = Overload::default();
    Some(Overload {
        lag: time(report, &keys.lag, default.lag),
        hold: time_or_zero(report, &keys.hold, default.hold),
    })
}
