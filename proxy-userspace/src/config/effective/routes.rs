//! Routes.

use super::http::prefixes;
use super::map;
use super::upstream::hash_on;
use crate::config::defaults::{percent, size, text};
use crate::config::model::http::{
    Action, Fault, FieldEdits, Files, FixedResponse, HostMatch, Mirror, PathMatch, PathRewrite,
    Redirect, Rewrite, Route, RouteMatch, Split, ValueMatch, ValueTest,
};
use serde_json::{Map, Value, json};

pub(super) fn host(host: &HostMatch) -> Value {
    match host {
        HostMatch::Exact(name) => json!(name),
        HostMatch::Wildcard(suffix) => json!(format!("*{suffix}")),
    }
}

pub(super) fn route(route: &Route) -> Value {
    let (key, action) = action(&route.action);
    let hosts = route.hosts.iter().map(host);
    map([
        ("name", Some(json!(route.name))),
        ("listeners", Some(json!(route.listeners))),
        ("hosts", (!route.hosts.is_empty()).then(|| hosts.collect())),
        ("match", Some(route.matches.iter().map(condition).collect())),
        (key, Some(action)),
        ("rewrite", rewrite(&route.rewrite)),
        ("request_headers", edits(&route.request_fields)),
        ("response_headers", edits(&route.response_fields)),
        (
            "security_headers",
            route.security_headers.map(|preset| json!(preset.name())),
        ),
        (
            "compression",
            route.compression.as_ref().map(super::http::compression),
        ),
        ("mirror", route.mirror.as_ref().map(mirror)),
        ("fault", route.fault.as_ref().map(fault)),
        ("timeout", route.timeout.map(|time| json!(text(time)))),
        (
            "retries",
            route
                .retries
                .as_ref()
                .map(|retries| super::resilience::retries(retries, None)),
        ),
        ("priority", Some(json!(route.priority.word()))),
    ])
}

fn condition(rule: &RouteMatch) -> Value {
    let path = match &rule.path {
        PathMatch::Exact(path) => json!({ "exact": path }),
        PathMatch::Prefix(path) => json!({ "prefix": path }),
        PathMatch::Regex(pattern) => json!({ "regex": pattern }),
    };
    let values = |tests: &[ValueMatch]| {
        let pairs = tests.iter().map(|test| (test.name.clone(), value(test)));
        (!tests.is_empty()).then(|| Value::Object(pairs.collect()))
    };
    map([
        ("path", Some(path)),
        ("method", rule.method.as_ref().map(|method| json!(method))),
        ("headers", values(&rule.fields)),
        ("query", values(&rule.query)),
        ("cookies", values(&rule.cookies)),
        (
            "sources",
            (!rule.sources.is_empty()).then(|| prefixes(&rule.sources)),
        ),
        (
            "workloads",
            (!rule.workloads.is_empty()).then(|| json!(rule.workloads)),
        ),
    ])
}

fn value(test: &ValueMatch) -> Value {
    match &test.value {
        ValueTest::Present => json!({ "present": true }),
        ValueTest::Absent => json!({ "present": false }),
        ValueTest::Exact(text) => json!({ "exact": text }),
        ValueTest::Prefix(text) => json!({ "prefix": text }),
        ValueTest::Regex(pattern) => json!({ "regex": pattern }),
    }
}

/// The key of an action and its value.
fn action(action: &Action) -> (&'static str, Value) {
    match action {
        Action::Forward(split) => forward(split),
        Action::Redirect(redirect) => ("redirect", self::redirect(redirect)),
        Action::Respond(response) => ("respond", respond(response)),
        Action::Files(files) => ("files", self::files(files)),
    }
}

fn forward(split: &Split) -> (&'static str, Value) {
    if let ([(service, 1)], None) = (split.targets.as_slice(), &split.sticky) {
        return ("service", json!(service));
    }
    let services = split.targets.iter();
    let services: Map<_, _> = services
        .map(|(name, weight)| (name.clone(), json!(weight)))
        .collect();
    let split = map([
        ("services", Some(Value::Object(services))),
        ("sticky", split.sticky.as_ref().map(hash_on)),
    ]);
    ("split", split)
}

fn redirect(redirect: &Redirect) -> Value {
    map([
        ("status", Some(json!(redirect.status))),
        ("scheme", redirect.scheme.as_ref().map(|it| json!(it))),
        ("host", redirect.host.as_ref().map(|it| json!(it))),
        ("port", redirect.port.map(Value::from)),
        ("path", redirect.path.as_ref().map(new_path)),
        ("keep_query", Some(json!(redirect.keep_query))),
    ])
}

pub(super) fn respond(response: &FixedResponse) -> Value {
    json!({
        "status": response.status,
        "body": response.body,
        "content_type": response.content_type,
    })
}

fn files(files: &Files) -> Value {
    let precompressed = files.precompressed.iter().map(|kind| json!(kind.word()));
    map([
        ("root", Some(json!(files.root))),
        ("index", Some(json!(files.index))),
        ("list", Some(json!(files.list))),
        ("strip_prefix", Some(json!(files.strip_prefix))),
        ("precompressed", Some(precompressed.collect())),
        (
            "cache_control",
            files.cache_control.as_ref().map(|it| json!(it)),
        ),
        ("fallback", files.fallback.as_ref().map(|it| json!(it))),
    ])
}

fn rewrite(rewrite: &Rewrite) -> Option<Value> {
    let is_empty = *rewrite == Rewrite::default();
    (!is_empty).then(|| {
        map([
            ("path", rewrite.path.as_ref().map(new_path)),
            ("host", rewrite.host.as_ref().map(|host| json!(host))),
        ])
    })
}

fn new_path(path: &PathRewrite) -> Value {
    match path {
        PathRewrite::Full(path) => json!(path),
        PathRewrite::Prefix(prefix) => json!({ "prefix": prefix }),
        PathRewrite::Regex {
            pattern,
            replacement,
        } => json!({ "regex": pattern, "replacement": replacement }),
    }
}

fn edits(edits: &FieldEdits) -> Option<Value> {
    let pairs = |list: &[(String, String)]| {
        let pairs = list.iter();
        let pairs = pairs.map(|(name, value)| (name.clone(), json!(value)));
        Value::Object(pairs.collect())
    };
    let is_empty = *edits == FieldEdits::default();
    (!is_empty).then(|| {
        json!({
            "remove": edits.remove,
            "set": pairs(&edits.set),
            "add": pairs(&edits.add),
        })
    })
}

fn mirror(mirror: &Mirror) -> Value {
    json!({
        "service": mirror.service,
        "share": percent(mirror.share),
        "max_body": size(mirror.max_body_bytes),
    })
}

fn fault(fault: &Fault) -> Value {
    let delay = fault.delay.as_ref();
    let abort = fault.abort.as_ref();
    map([
        (
            "delay",
            delay.map(|(time, share)| json!({"time": text(*time), "share": percent(*share)})),
        ),
        (
            "abort",
            abort.map(|(status, share)| json!({"status": status, "share": percent(*share)})),
        ),
    ])
}
