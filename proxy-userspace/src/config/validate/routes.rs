//! The section `routes`: which requests. What happens to them is judged in [`super::actions`].

use super::actions::{action, edits, fault, mirror, rewrite};
use super::compression::compression;
use super::fields::{field_name, is_token, not_empty, pattern};
use super::http::{networks, security};
use super::{Judged, Listeners, Names, Routes, elements, need, precedence};
use crate::config::decode::{At, Field, Pairs};
use crate::config::fault::Code;
use crate::config::file::listener::Listener;
use crate::config::file::route as file;
use crate::config::model::http::{
    Action, HostMatch, PathMatch, PathRewrite, Route, RouteMatch, ValueMatch, ValueTest,
    default_route,
};
use crate::config::model::mesh::Unmatched;
use crate::config::report::{Draft, Place, Report, similar};
use crate::config::yaml::NodeId;

/// The section `routes`.
pub(super) fn routes<'f>(
    report: &Report<'_>,
    field: &'f Field<Vec<Field<file::Route>>>,
    written: &Field<Vec<Field<Listener>>>,
    listeners: &Listeners<'_>,
) -> Routes<'f> {
    let all_readable =
        !matches!(written, Field::Bad) && written.value().map_or(0, Vec::len) == listeners.len();
    let context = Context {
        listeners,
        all_readable,
    };
    if let Some(at) = field.given()
        && !at.value.is_empty()
        && listeners.http.is_empty()
        && all_readable
    {
        let draft = Draft::new(
            Code::Conflict,
            "there are routes, but no listener speaks HTTP",
        )
        .fix(
            "add to `listeners`: `{name: web, kind: http, address: 0.0.0.0, port: 8080}`, or \
                 remove `routes`",
        );
        report.error(Place::Key(at.node), draft);
    }
    let mut names = Names::default();
    let routes: Routes<'f> = elements(field)
        .filter_map(|at| {
            let model = route(report, at, &mut names, &context)?;
            Some(Judged { model, file: at })
        })
        .collect();
    precedence::check(report, &routes);
    idle_listeners(report, field, listeners, &routes);
    routes
}

/// What routes need to know of listeners.
struct Context<'a, 'f> {
    listeners: &'a Listeners<'f>,
    all_readable: bool,
}

/// The routes that stand for `service` at HTTP listeners.
pub(super) fn shorthands(listeners: &Listeners<'_>) -> Vec<Route> {
    let with_service = listeners.http.iter().filter_map(|listener| {
        let service = listener.file.value.service.value()?;
        Some(default_route(&listener.model.name, &service.0))
    });
    with_service.collect()
}

fn route(
    report: &Report<'_>,
    at: &At<file::Route>,
    names: &mut Names,
    context: &Context<'_, '_>,
) -> Option<Route> {
    let keys = &at.value;
    let name = need(report, at.node, "name", "web", &keys.name);
    if let Some(name) = name {
        names.add(report, "route", &name.value.0, name.node);
    }
    let listeners = listeners(report, &keys.listeners, context);
    let hosts = hosts(report, &keys.hosts);
    let matches = matches(report, &keys.matches);
    let action = action(report, at);
    let rewrite = rewrite(report, &keys.rewrite);
    let request_fields = edits(report, &keys.request_headers, true);
    let response_fields = edits(report, &keys.response_headers, false);
    let compression = compression(report, &keys.compression);
    let mirror = mirror(report, &keys.mirror);
    let fault = fault(report, &keys.fault);
    let timeout = keys
        .timeout
        .given()
        .map(|_| super::time(report, &keys.timeout, std::time::Duration::ZERO));
    let action = action?;
    needs_prefix(report, keys, &matches, &action);
    Some(Route {
        name: name?.value.0.clone(),
        listeners,
        hosts,
        matches,
        action,
        rewrite,
        request_fields,
        response_fields,
        security_headers: keys.security_headers.value().map(|word| security(*word)),
        compression,
        mirror,
        fault,
        timeout,
        retries: super::resilience::of_route(report, &keys.retries),
        priority: super::resilience::priority(&keys.priority),
    })
}

/// Names of HTTP listeners.
fn listeners(
    report: &Report<'_>,
    field: &Field<Vec<Field<crate::config::file::scalar::Name>>>,
    context: &Context<'_, '_>,
) -> Vec<String> {
    let http = context.listeners.http.iter();
    let http: Vec<&str> = http.map(|listener| listener.model.name.as_str()).collect();
    let Some(list) = field.given() else {
        return http.into_iter().map(str::to_owned).collect();
    };
    if list.value.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "the route holds for no listener")
            .expected("at least one name")
            .fix("remove `listeners` for all HTTP listeners");
        report.error(Place::Value(list.node), draft);
    }
    let mut names: Vec<String> = Vec::new();
    for at in elements(field) {
        let name = at.value.0.as_str();
        if names.iter().any(|other| other == name) {
            report.warn(
                Place::Value(at.node),
                format!("`{name}` is in this list already"),
                "remove one of the two",
            );
            continue;
        }
        names.push(name.to_owned());
        if !http.contains(&name) && context.all_readable {
            not_http(report, at.node, name, context.listeners, &http);
        }
    }
    names
}

fn not_http(
    report: &Report<'_>,
    node: NodeId,
    name: &str,
    listeners: &Listeners<'_>,
    http: &[&str],
) {
    let l4 = listeners.l4.iter().map(|it| (it.model.name.as_str(), "l4"));
    let stream = listeners.stream.iter();
    let stream = stream.map(|it| (it.model.name.as_str(), it.model.protocol.name()));
    let draft = match l4.chain(stream).find(|(other, _)| *other == name) {
        Some((_, kind)) => Draft::new(
            Code::Conflict,
            format!("listener `{name}` has kind `{kind}`, which knows no routes"),
        )
        .expected("a listener of kind `http`")
        .fix("change its kind, or remove it from this list"),
        None => {
            let draft = Draft::new(Code::UnknownName, format!("there is no listener `{name}`"));
            match similar(name, http.iter().copied()) {
                Some(word) => draft.fix(format!("did you mean `{word}`?")),
                None => draft.fix(format!("add `- name: {name}` to `listeners`")),
            }
        }
    };
    report.error(Place::Value(node), draft);
}

fn hosts(
    report: &Report<'_>,
    field: &Field<Vec<Field<crate::config::file::scalar::Host>>>,
) -> Vec<HostMatch> {
    if let Some(list) = field.given()
        && list.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "the route holds for no host")
            .expected("at least one host")
            .fix("remove `hosts` for all hosts");
        report.error(Place::Value(list.node), draft);
    }
    let mut hosts = Vec::new();
    for at in elements(field) {
        if hosts.contains(&at.value.0) {
            report.warn(
                Place::Value(at.node),
                "this host is in the list already",
                "remove one of the two",
            );
        } else {
            hosts.push(at.value.0.clone());
        }
    }
    hosts
}

fn matches(report: &Report<'_>, field: &Field<Vec<Field<file::Match>>>) -> Vec<RouteMatch> {
    let Some(list) = field.given() else {
        return vec![RouteMatch::default()];
    };
    if list.value.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "the route matches no request")
            .expected("at least one element, such as `/`")
            .fix("remove `match` for all requests");
        report.error(Place::Value(list.node), draft);
    }
    let matches = elements(field).map(|at| match &at.value {
        file::Match::Prefix(path) => RouteMatch {
            path: PathMatch::Prefix(path.0.clone()),
            ..RouteMatch::default()
        },
        file::Match::Keys(keys) => one_match(report, keys),
    });
    matches.collect()
}

fn one_match(report: &Report<'_>, keys: &file::MatchKeys) -> RouteMatch {
    let host = "use `hosts` of the route";
    let fields = values(report, &keys.headers, &|place, name| {
        field_name(report, place, name, host);
    });
    let cookies = values(report, &keys.cookies, &|place, name| {
        if !is_token(name) {
            let draft = Draft::new(
                Code::InvalidValue,
                format!("`{name}` is not the name of a cookie"),
            )
            .expected("letters, digits, `-` and `_`");
            report.error(place, draft);
        }
    });
    RouteMatch {
        path: path(report, &keys.path).unwrap_or(PathMatch::Prefix("/".to_owned())),
        method: method(report, &keys.method),
        fields: lower(report, &keys.headers, fields),
        query: values(report, &keys.query, &|_, _| {}),
        cookies,
        sources: sources(report, keys),
        workloads: workloads(report, keys),
    }
}

fn workloads(report: &Report<'_>, keys: &file::MatchKeys) -> Vec<String> {
    if let Some(list) = keys.workloads.given()
        && list.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "the match is for no workload")
            .expected("at least one path of a cgroup")
            .fix("remove `workloads` for all workloads");
        report.error(Place::Value(list.node), draft);
    }
    let paths = elements(&keys.workloads).map(|at| at.value.0.clone());
    paths.collect()
}

fn sources(report: &Report<'_>, keys: &file::MatchKeys) -> Vec<ipnet::IpNet> {
    if let Some(list) = keys.sources.given()
        && list.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "the match is for no source")
            .expected("at least one address or prefix")
            .fix("remove `sources` for all sources");
        report.error(Place::Value(list.node), draft);
    }
    networks(report, &keys.sources)
}

/// Names of fields in lower case. Two that differ only in case are one.
fn lower(
    report: &Report<'_>,
    field: &Field<Pairs<file::ValueTest>>,
    mut tests: Vec<ValueMatch>,
) -> Vec<ValueMatch> {
    let mut seen: Vec<String> = Vec::new();
    for test in &mut tests {
        test.name.make_ascii_lowercase();
        if seen.contains(&test.name)
            && let Some(at) = field.given()
        {
            let draft = Draft::new(
                Code::Conflict,
                format!("`{}` stands here in two spellings", test.name),
            )
            .fix("keep one of them: names of fields have no case");
            report.error(Place::Key(at.node), draft);
        }
        seen.push(test.name.clone());
    }
    tests
}

fn path(report: &Report<'_>, field: &Field<file::PathTest>) -> Option<PathMatch> {
    let at = field.given()?;
    let keys = match &at.value {
        file::PathTest::Prefix(path) => return Some(PathMatch::Prefix(path.0.clone())),
        file::PathTest::Keys(keys) => keys,
    };
    let there = [
        ("exact", !keys.exact.is_absent()),
        ("prefix", !keys.prefix.is_absent()),
        ("regex", !keys.regex.is_absent()),
    ];
    let place = Place::Value(at.node);
    super::exactly_one(report, place, "which path", "prefix: /api", &there)?;
    if let Some(path) = keys.exact.value() {
        return Some(PathMatch::Exact(path.0.clone()));
    }
    if let Some(path) = keys.prefix.value() {
        return Some(PathMatch::Prefix(path.0.clone()));
    }
    let at = keys.regex.given()?;
    // A pattern that could never match a path is a slip.
    let begins = at
        .value
        .trim_start_matches(['^', '(', '?', ':', 'i', ')', '\\']);
    if !begins.starts_with(['/', '.', '[']) {
        report.warn(
            Place::Value(at.node),
            format!(
                "`{}` does not seem to begin with a slash, as every path does",
                at.value
            ),
            "begin it with `/`, or with `.*` for any beginning",
        );
    }
    Some(PathMatch::Regex(pattern(report, at)))
}

fn method(report: &Report<'_>, field: &Field<String>) -> Option<String> {
    const USUAL: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let at = field.given()?;
    if !is_token(&at.value) {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{}` is not a method", at.value),
        )
        .expected("a method such as `GET`; for several, one element of `match` each");
        report.error(Place::Value(at.node), draft);
    } else if let Some(usual) = USUAL
        .iter()
        .find(|usual| usual.eq_ignore_ascii_case(&at.value) && **usual != at.value)
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!(
                "`{}` is not the method `{usual}`: methods have case",
                at.value
            ),
        )
        .fix(format!("write `{usual}`"));
        report.error(Place::Value(at.node), draft);
    }
    Some(at.value.clone())
}

/// Named values and their tests; `judge` looks at each name.
fn values(
    report: &Report<'_>,
    field: &Field<Pairs<file::ValueTest>>,
    judge: &dyn Fn(Place, &str),
) -> Vec<ValueMatch> {
    let pairs = field.value().map_or(&[][..], |pairs| &pairs.0);
    let tests = pairs.iter().filter_map(|(name, test)| {
        let at = test.given()?;
        judge(Place::Key(at.node), name);
        Some(ValueMatch {
            name: name.clone(),
            value: value(report, at)?,
        })
    });
    tests.collect()
}

fn value(report: &Report<'_>, at: &At<file::ValueTest>) -> Option<ValueTest> {
    let keys = match &at.value {
        file::ValueTest::Exact(text) => return Some(ValueTest::Exact(text.0.clone())),
        file::ValueTest::Keys(keys) => keys,
    };
    let there = [
        ("exact", !keys.exact.is_absent()),
        ("prefix", !keys.prefix.is_absent()),
        ("regex", !keys.regex.is_absent()),
        ("present", !keys.present.is_absent()),
    ];
    let place = Place::Value(at.node);
    super::exactly_one(
        report,
        place,
        "what the value must be",
        "present: true",
        &there,
    )?;
    if let Some(text) = keys.exact.value() {
        return Some(ValueTest::Exact(text.0.clone()));
    }
    if let Some(is_there) = keys.present.value() {
        return Some(if *is_there {
            ValueTest::Present
        } else {
            ValueTest::Absent
        });
    }
    if let Some(at) = keys.regex.given() {
        return Some(ValueTest::Regex(pattern(report, at)));
    }
    let what = "the beginning of a value; for any value write `present: true`";
    not_empty(report, &keys.prefix, what).map(ValueTest::Prefix)
}

/// A prefix can be replaced only where there is one.
fn needs_prefix(report: &Report<'_>, keys: &file::Route, matches: &[RouteMatch], action: &Action) {
    let prefix = |path: &Option<PathRewrite>| matches!(path, Some(PathRewrite::Prefix(_)));
    let rewrites = keys.rewrite.value().map(|rewrite| &rewrite.path);
    let redirects = keys.redirect.value().map(|redirect| &redirect.path);
    let field = match action {
        Action::Redirect(redirect) if prefix(&redirect.path) => redirects,
        Action::Forward(_) => rewrites,
        _ => None,
    };
    let Some(at) = field.and_then(Field::given) else {
        return;
    };
    let replaces = match &at.value {
        crate::config::file::action::PathRewrite::Keys(keys) => !keys.prefix.is_absent(),
        crate::config::file::action::PathRewrite::Full(_) => false,
    };
    let is_prefix = |rule: &RouteMatch| matches!(rule.path, PathMatch::Prefix(_));
    if replaces && !matches.iter().all(is_prefix) {
        let draft = Draft::new(
            Code::Conflict,
            "a match of this route has no prefix that could be replaced",
        )
        .expected("only prefixes as paths in `match`")
        .fix("write the whole new path, or use `regex` and `replacement`");
        report.error(Place::Value(at.node), draft);
    }
}

/// HTTP listeners that would answer every request with 404.
fn idle_listeners(
    report: &Report<'_>,
    field: &Field<Vec<Field<file::Route>>>,
    listeners: &Listeners<'_>,
    routes: &Routes<'_>,
) {
    let known = |name: &String| {
        let mut http = listeners.http.iter();
        http.any(|listener| listener.model.name == *name)
    };
    let resolved = |names: &Vec<String>| !names.is_empty() && names.iter().all(known);
    // A name that is wrong is probably that of the listener that seems to be idle.
    let readable = routes.iter().all(|route| resolved(&route.model.listeners))
        && !matches!(field, Field::Bad)
        && field.value().map_or(0, Vec::len) == routes.len();
    for listener in &listeners.http {
        let name = &listener.model.name;
        let has_route = || {
            let mut routes = routes.iter();
            routes.any(|route| route.model.listeners.contains(name))
        };
        let redirects = listener.model.https_redirect.is_some();
        let mesh = listener.model.mesh.as_ref();
        let passes = mesh.is_some_and(|mesh| mesh.unmatched == Unmatched::Passthrough);
        // Who is refused unless a name in the handshake is known has asked for just that.
        let by_name = mesh.is_some_and(|mesh| !mesh.names.is_empty());
        let is_alone = listener.file.value.service.is_absent() && !redirects && !passes && !by_name;
        if readable && is_alone && !has_route() {
            let draft = Draft::new(
                Code::MissingKey,
                "the listener has neither a service nor a route: every request would be answered with 404",
            )
            .fix("add `service: NAME` here, or a route to `routes`");
            report.error(Place::Value(listener.file.node), draft);
        }
    }
}
