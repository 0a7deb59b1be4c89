//! The key `tracing`.

use super::fields::{field_value, is_token, not_empty};
use super::{Judged, elements, need, time};
use crate::config::decode::{Field, Pairs};
use crate::config::defaults::http as defaults;
use crate::config::fault::Code;
use crate::config::file::listener::Listener;
use crate::config::file::scalar::Text;
use crate::config::file::tracing as file;
use crate::config::model::http::HttpListener;
use crate::config::model::tracing::{Propagation, Tracing};
use crate::config::report::{Draft, Place, Report};
use crate::message::Name;

/// The section `tracing`.
pub(super) fn tracing(report: &Report<'_>, field: &Field<file::Tracing>) -> Option<Tracing> {
    let at = field.given()?;
    let keys = &at.value;
    let endpoint = need(
        report,
        at.node,
        "endpoint",
        "http://127.0.0.1:4318",
        &keys.endpoint,
    );
    let service_name = not_empty(report, &keys.service_name, "a name");
    let attributes = attributes(report, &keys.attributes);
    let headers = headers(report, &keys.headers);
    let timeout = time(report, &keys.timeout, defaults::TRACE_TIMEOUT);
    let mut tracing = Tracing::to(endpoint?.value.0.clone());
    tracing.timeout = timeout;
    tracing.flow_every = keys
        .flow_every
        .value()
        .copied()
        .unwrap_or(defaults::FLOW_EVERY);
    tracing.attributes = attributes;
    tracing.headers = headers;
    if let Some(name) = service_name {
        tracing.service_name = name;
    }
    if keys.propagation.value().is_some() {
        let words = elements(&keys.propagation).map(|at| match at.value {
            file::Propagation::W3c => Propagation::W3c,
            file::Propagation::B3 => Propagation::B3,
            file::Propagation::B3Multi => Propagation::B3Multi,
        });
        tracing.propagation.clear();
        for form in words {
            if !tracing.propagation.contains(&form) {
                tracing.propagation.push(form);
            }
        }
    }
    Some(tracing)
}

/// Requests that are to be traced need somewhere for their spans to go.
pub(super) fn check(
    report: &Report<'_>,
    tracing: &Field<file::Tracing>,
    listeners: &[Judged<'_, HttpListener, Listener>],
) {
    if !tracing.is_absent() {
        return;
    }
    for listener in listeners {
        let Some(at) = listener.file.value.trace_share.given() else {
            continue;
        };
        if listener.model.trace_share > 0.0 {
            let draft = Draft::new(Code::Conflict, "there is no `tracing`, so spans go nowhere")
                .fix("add `tracing: {endpoint: http://HOST:4318}`, or remove `trace_share`");
            report.error(Place::Value(at.node), draft);
        }
    }
}

fn pairs(field: &Field<Pairs<Text>>) -> &[(String, Field<Text>)] {
    field.value().map_or(&[], |pairs| &pairs.0)
}

fn attributes(report: &Report<'_>, field: &Field<Pairs<Text>>) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    for (name, value) in pairs(field) {
        let Some(at) = value.given() else { continue };
        if name == "service.name" {
            let draft = Draft::new(Code::Conflict, "`service.name` is not among the attributes")
                .fix("write it as `service_name` of `tracing`");
            report.error(Place::Key(at.node), draft);
        }
        attributes.push((name.clone(), at.value.0.clone()));
    }
    attributes
}

fn headers(report: &Report<'_>, field: &Field<Pairs<Text>>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, value) in pairs(field) {
        let Some(at) = value.given() else { continue };
        let known = Name::of(name.as_bytes());
        let ours = matches!(
            known,
            Name::Host | Name::ContentLength | Name::ContentType | Name::ContentEncoding
        );
        if !is_token(name) {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{name}` is not the name of a field"),
            )
            .expected("letters, digits and `-`");
            report.error(Place::Key(at.node), draft);
        } else if ours || known.is_hop_by_hop() {
            let draft = Draft::new(
                Code::Conflict,
                format!("`{name}` is written by the exporter itself"),
            )
            .fix("remove it");
            report.error(Place::Key(at.node), draft);
        }
        headers.push((name.clone(), field_value(report, at)));
    }
    headers
}
