//! What a route does.

use super::fields::{bad_pattern, field_name, field_value};
use super::upstream::hash_on;
use super::{elements, exactly_one, need, or, size, time};
use crate::config::decode::{At, Field, Pairs};
use crate::config::defaults::http as defaults;
use crate::config::fault::Code;
use crate::config::file::action as file;
use crate::config::file::route::{NewPath, Route};
use crate::config::file::scalar::{Percent, Status, Text};
use crate::config::model::http::{
    Action, Coding, Fault, FieldEdits, Files, FixedResponse, Mirror, PathRewrite, Redirect,
    Rewrite, Split,
};
use crate::config::report::{Draft, Place, Report};
use crate::types::{PatternError, Substitution};
use std::time::Duration;

/// Largest content of a fixed answer, in octets: it is kept in memory, and repeated in `config show`.
const BODY: usize = 64 << 10;

/// Exactly one of the keys that say what happens.
pub(super) fn action(report: &Report<'_>, at: &At<Route>) -> Option<Action> {
    let keys = &at.value;
    let there = [
        ("service", !keys.service.is_absent()),
        ("split", !keys.split.is_absent()),
        ("redirect", !keys.redirect.is_absent()),
        ("respond", !keys.respond.is_absent()),
        ("files", !keys.files.is_absent()),
    ];
    let place = Place::Value(at.node);
    let chosen = exactly_one(report, place, "what happens", "service: NAME", &there);
    if chosen.is_some_and(|chosen| chosen > 1) {
        needs_backend(report, keys, there[chosen.unwrap_or_default()].0);
    }
    // Each is judged, even if there is one too many.
    let service = keys.service.value().map(|name| Action::service(&name.0));
    let split = keys.split.given().and_then(|at| split(report, at));
    let redirect = keys.redirect.given().map(|at| redirect(report, at));
    let respond = keys.respond.given().and_then(|at| respond(report, at));
    let files = keys.files.given().and_then(|at| files(report, at));
    service
        .or(split.map(Action::Forward))
        .or(redirect.map(Action::Redirect))
        .or(respond.map(Action::Respond))
        .or(files.map(Action::Files))
}

/// Keys that change what a backend gets.
fn needs_backend(report: &Report<'_>, keys: &Route, action: &str) {
    let given = [
        ("rewrite", keys.rewrite.given().map(|at| at.node)),
        (
            "request_headers",
            keys.request_headers.given().map(|at| at.node),
        ),
        ("mirror", keys.mirror.given().map(|at| at.node)),
    ];
    for (key, node) in given {
        if let Some(node) = node {
            let draft = Draft::new(
                Code::Conflict,
                format!("with `{action}` no backend gets the request, so `{key}` changes nothing"),
            )
            .expected(format!("`{key}` only with `service` or `split`"))
            .fix("remove it");
            report.error(Place::Key(node), draft);
        }
    }
}

fn split(report: &Report<'_>, at: &At<file::Split>) -> Option<Split> {
    let keys = &at.value;
    let services = need(
        report,
        at.node,
        "services",
        "{stable: 90, canary: 10}",
        &keys.services,
    );
    let sticky = keys.sticky.given().and_then(|at| hash_on(report, at));
    let services = services?;
    let targets: Vec<_> = services
        .value
        .0
        .iter()
        .filter_map(|(name, weight)| Some((name.clone(), *weight.value()?)))
        .collect();
    if services.value.0.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "there is nothing to split between")
            .expected("services and their weights, such as `{stable: 90, canary: 10}`");
        report.error(Place::Value(services.node), draft);
    } else if !targets.is_empty() && targets.iter().all(|(_, weight)| *weight == 0) {
        report.warn(
            Place::Key(services.node),
            "all weights are 0: requests are answered with 503",
            "give one of them a weight above 0",
        );
    }
    Some(Split { targets, sticky })
}

fn redirect(report: &Report<'_>, at: &At<file::Redirect>) -> Redirect {
    let keys = &at.value;
    let default = Redirect::default();
    if let Some(status) = keys.status.given()
        && ![301, 302, 303, 307, 308].contains(&status.value.0)
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("{} is not a status of redirects", status.value.0),
        )
        .expected("301, 302, 303, 307 or 308")
        .fix("write 308 for a lasting redirect that keeps the method, 302 for a passing one");
        report.error(Place::Value(status.node), draft);
    }
    if let Some(host) = keys.host.given()
        && has_port(&host.value.0)
    {
        let draft = Draft::new(Code::InvalidValue, format!("`{}` has a port", host.value.0))
            .expected("a host alone")
            .fix("write the port as `port`");
        report.error(Place::Value(host.node), draft);
    }
    let is_empty = keys.scheme.is_absent()
        && keys.host.is_absent()
        && keys.port.is_absent()
        && keys.path.is_absent();
    if is_empty && or(&keys.keep_query, true) {
        let draft = Draft::new(Code::MissingKey, "the client would be sent to where it is")
            .expected("one of `scheme`, `host`, `port` and `path`")
            .fix("add `scheme: https`, or another part that changes");
        report.error(Place::Key(at.node), draft);
    }
    Redirect {
        status: keys
            .status
            .value()
            .map_or(default.status, |status| status.0),
        scheme: keys.scheme.value().map(|scheme| scheme.0.to_owned()),
        host: keys.host.value().map(|host| host.0.clone()),
        port: keys
            .port
            .given()
            .map(|_| super::number(report, &keys.port, 1..=u16::MAX, 1)),
        path: new_path(report, &keys.path),
        keep_query: or(&keys.keep_query, default.keep_query),
    }
}

/// True if a host has a port after it.
fn has_port(host: &str) -> bool {
    host[host.rfind(']').unwrap_or(0)..].contains(':')
}

pub(super) fn respond(report: &Report<'_>, at: &At<file::Respond>) -> Option<FixedResponse> {
    let keys = match &at.value {
        file::Respond::Status(status) => return Some(FixedResponse::new(status.0)),
        file::Respond::Keys(keys) => keys,
    };
    let status = need(report, at.node, "status", "404", &keys.status);
    if let Some(body) = keys.body.given() {
        if body.value.len() > BODY {
            let draft = Draft::new(
                Code::Limit,
                format!("the content has {} octets", body.value.len()),
            )
            .expected(format!("at most {BODY}"))
            .fix("put it in a file, and use `files`");
            report.error(Place::Value(body.node), draft);
        }
        if let Some(Status(bare @ (204 | 205 | 304))) = status.map(|at| &at.value)
            && !body.value.is_empty()
        {
            let draft = Draft::new(
                Code::Conflict,
                format!("an answer with status {bare} has no content"),
            )
            .fix("remove `body`, or use another status");
            report.error(Place::Value(body.node), draft);
        }
    }
    let content_type = keys.content_type.given();
    let content_type = content_type.map(|at| field_value(report, at));
    let default = FixedResponse::new(status?.value.0);
    Some(FixedResponse {
        body: or(&keys.body, String::new()),
        content_type: content_type.unwrap_or(default.content_type),
        ..default
    })
}

fn files(report: &Report<'_>, at: &At<file::Files>) -> Option<Files> {
    let keys = match &at.value {
        file::Files::Root(root) => return Some(Files::new(&root.0)),
        file::Files::Keys(keys) => keys,
    };
    let root = need(report, at.node, "root", "/srv/www", &keys.root);
    for at in elements(&keys.index) {
        if at.value.0.is_empty() || at.value.0.contains('/') || at.value.0 == ".." {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{}` is not the name of a file", at.value.0),
            )
            .expected("a name such as `index.html`, without `/`");
            report.error(Place::Value(at.node), draft);
        }
    }
    if let Some(at) = keys.fallback.given() {
        let inside = !at.value.0.is_empty()
            && at
                .value
                .0
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."));
        if !inside {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{}` is not a path below `root`", at.value.0),
            )
            .expected("a path such as `index.html`, without `/` at its beginning and without `..`");
            report.error(Place::Value(at.node), draft);
        }
    }
    let cache_control = keys.cache_control.given();
    let cache_control = cache_control.map(|at| field_value(report, at));
    let default = Files::new(&root?.value.0);
    Some(Files {
        index: match &keys.index {
            Field::Given(_) => elements(&keys.index).map(|at| at.value.0.clone()).collect(),
            _ => default.index,
        },
        list: or(&keys.list, default.list),
        strip_prefix: keys
            .strip_prefix
            .value()
            .map_or(default.strip_prefix, |path| path.0.clone()),
        precompressed: codings(report, &keys.precompressed),
        cache_control,
        fallback: keys.fallback.value().map(|path| path.0.clone()),
        root: default.root,
    })
}

/// A list of codings, each once.
pub(super) fn codings(report: &Report<'_>, field: &Field<Vec<Field<file::Coding>>>) -> Vec<Coding> {
    let mut kinds = Vec::new();
    for at in elements(field) {
        let kind = match at.value {
            file::Coding::Brotli => Coding::Brotli,
            file::Coding::Zstd => Coding::Zstd,
            file::Coding::Gzip => Coding::Gzip,
        };
        if kinds.contains(&kind) {
            report.warn(
                Place::Value(at.node),
                "this coding is in the list already",
                "remove one of the two",
            );
        } else {
            kinds.push(kind);
        }
    }
    kinds
}

/// The key `rewrite`.
pub(super) fn rewrite(report: &Report<'_>, field: &Field<file::Rewrite>) -> Rewrite {
    let Some(at) = field.given() else {
        return Rewrite::default();
    };
    if at.value.path.is_absent() && at.value.host.is_absent() {
        let draft = Draft::new(Code::MissingKey, "nothing is rewritten")
            .expected("`path`, `host` or both")
            .fix("remove `rewrite`");
        report.error(Place::Key(at.node), draft);
    }
    Rewrite {
        path: new_path(report, &at.value.path),
        host: at.value.host.value().map(|host| host.0.clone()),
    }
}

fn new_path(report: &Report<'_>, field: &NewPath) -> Option<PathRewrite> {
    let at = field.given()?;
    let keys = match &at.value {
        file::PathRewrite::Full(path) => return Some(PathRewrite::Full(path.0.clone())),
        file::PathRewrite::Keys(keys) => keys,
    };
    let there = [
        ("prefix", !keys.prefix.is_absent()),
        ("regex", !keys.regex.is_absent()),
    ];
    let place = Place::Value(at.node);
    exactly_one(report, place, "what the new path is", "prefix: /", &there)?;
    if let Some(prefix) = keys.prefix.value() {
        return Some(PathRewrite::Prefix(prefix.0.clone()));
    }
    let replacement = need(report, at.node, "replacement", "/new/$1", &keys.replacement);
    let (pattern, replacement) = (keys.regex.given()?, replacement?);
    match Substitution::new(&pattern.value, &replacement.value.0) {
        Ok(_) => {}
        Err(error @ (PatternError::NoSuchGroup { .. } | PatternError::Dollar)) => {
            let draft = Draft::new(
                Code::InvalidValue,
                format!(
                    "`{}` is not a valid replacement: {error}",
                    replacement.value.0
                ),
            )
            .expected("`$0` for the match, `$1` to `$9` for its groups, `$$` for a dollar sign");
            report.error(Place::Value(replacement.node), draft);
        }
        Err(error) => bad_pattern(report, Place::Value(pattern.node), &pattern.value, &error),
    }
    let text = &replacement.value.0;
    if !text.chars().all(|c| c.is_ascii_graphic()) || text.contains(['?', '#']) {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{text}` cannot be part of a path"),
        )
        .expected("no blanks, no `?` and no `#`; what is not ASCII is percent-encoded");
        report.error(Place::Value(replacement.node), draft);
    }
    Some(PathRewrite::Regex {
        pattern: pattern.value.clone(),
        replacement: text.clone(),
    })
}

/// The keys `request_headers` and `response_headers`.
pub(super) fn edits(
    report: &Report<'_>,
    field: &Field<file::Edits>,
    of_request: bool,
) -> FieldEdits {
    let Some(keys) = field.value() else {
        return FieldEdits::default();
    };
    let host = if of_request {
        "use `rewrite: {host: …}`"
    } else {
        "remove it: responses have no `Host`"
    };
    let pairs = |field: &Field<Pairs<Text>>| {
        let pairs = field.value().map_or(&[][..], |pairs| &pairs.0);
        let pairs = pairs.iter().filter_map(|(name, value)| {
            let at = value.given()?;
            field_name(report, Place::Key(at.node), name, host);
            Some((name.clone(), field_value(report, at)))
        });
        pairs.collect()
    };
    let remove = elements(&keys.remove).map(|at| {
        field_name(report, Place::Value(at.node), &at.value.0, host);
        at.value.0.clone()
    });
    FieldEdits {
        remove: remove.collect(),
        set: pairs(&keys.set),
        add: pairs(&keys.add),
    }
}

/// The key `mirror`.
pub(super) fn mirror(report: &Report<'_>, field: &Field<file::Mirror>) -> Option<Mirror> {
    let at = field.given()?;
    let keys = &at.value;
    let service = need(report, at.node, "service", "NAME", &keys.service);
    let max_body_bytes = size(report, &keys.max_body, 0..=16 << 20, defaults::MIRROR_BODY);
    let default = Mirror::new(&service?.value.0);
    Some(Mirror {
        share: share(&keys.share),
        max_body_bytes,
        ..default
    })
}

/// A share, by default all.
fn share(field: &Field<Percent>) -> f64 {
    field.value().map_or(1.0, |share| share.0)
}

/// The key `fault`.
pub(super) fn fault(report: &Report<'_>, field: &Field<file::Fault>) -> Option<Fault> {
    let at = field.given()?;
    let keys = &at.value;
    if keys.delay.is_absent() && keys.abort.is_absent() {
        let draft = Draft::new(Code::MissingKey, "no fault is given")
            .expected("`delay`, `abort` or both")
            .fix("add `delay: {time: 1s, share: 1%}`, or remove `fault`");
        report.error(Place::Key(at.node), draft);
    }
    let delay = keys.delay.given().and_then(|at| {
        need(report, at.node, "time", "1s", &at.value.time)?;
        let delay = time(report, &at.value.time, Duration::ZERO);
        Some((delay, share(&at.value.share)))
    });
    let abort = keys.abort.given().and_then(|at| {
        let status = need(report, at.node, "status", "503", &at.value.status)?;
        Some((status.value.0, share(&at.value.share)))
    });
    Some(Fault { delay, abort })
}
