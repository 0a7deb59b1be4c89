//! Health and metrics.

use super::Shared;
use super::answer::Asked;
use crate::admin::api::{Refusal, RefusalKind, Stat, StatsAnswer, StatsFormat, StatsQuery};
use crate::admin::control::Command;
use crate::observe::metrics;
use crate::observe::process::ProcessUsage;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use regex_automata::meta::Regex;
use schemars::JsonSchema;
use std::fmt::Write as _;

/// Octets of a compiled filter at most.
const MAX_FILTER: usize = 1 << 20;

/// Query of `/readyz`, which reads it by itself: a word without a value is enough.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it stands in the document only")]
pub(super) struct VerboseQuery {
    /// Show every check, not only those that fail.
    verbose: Option<String>,
}

/// Alive as long as the control task is: if it is gone, only a restart helps.
pub(super) async fn livez(State(shared): State<Shared>) -> Response {
    if shared.handle.is_closed() {
        let text = "the control task is gone\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    } else {
        "ok\n".into_response()
    }
}

/// Every check on a line of its own with `?verbose`, else only those that fail.
pub(super) async fn readyz(State(shared): State<Shared>, request: Request) -> Response {
    let verbose = request.uri().query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair == "verbose" || pair.starts_with("verbose="))
    });
    let checks = shared.readiness.checks();
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || !check.ok) {
        let mark = if check.ok { "[+]" } else { "[-]" };
        let word = if check.ok {
            "ok"
        } else {
            check.detail.as_str()
        };
        let _ = writeln!(text, "{mark} {}: {word}", check.name);
    }
    let ready = checks.iter().all(|check| check.ok);
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text).into_response()
}

pub(super) async fn metrics_page(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let text = text(&shared).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn text(shared: &Shared) -> Result<String, Refusal> {
    let view = shared.handle.ask(Command::View).await?;
    let ready = shared.readiness.ready();
    let counters = shared.counters.clone();
    metrics::page(view, counters, ready, ProcessUsage::read())
        .map_err(|error| Refusal::internal(&error))
}

/// The same numbers as a list, for those who have no parser for metrics at hand.
pub(super) async fn stats(
    State(shared): State<Shared>,
    Asked(query): Asked<StatsQuery>,
) -> Result<Response, Refusal> {
    let filter = query.filter.as_deref().map(|pattern| {
        let config = Regex::config().nfa_size_limit(Some(MAX_FILTER));
        let built = Regex::builder().configure(config).build(pattern);
        built.map_err(|error| Refusal::new(RefusalKind::Invalid, format!("filter: {error}")))
    });
    let filter = filter.transpose()?;
    let page = text(&shared).await?;
    let stats = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| filter.as_ref().is_none_or(|filter| filter.is_match(*name)));
    Ok(match query.format {
        StatsFormat::Text => {
            let lines: String = stats
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], lines).into_response()
        }
        StatsFormat::Json => {
            let stats = stats.map(|(name, value)| Stat {
                name: name.to_owned(),
                // What is not a number in JSON (NaN, +Inf) is none here.
                value: value.parse().ok().filter(|value: &f64| value.is_finite()),
            });
            Json(StatsAnswer {
                stats: stats.collect(),
            })
            .into_response()
        }
    })
}
