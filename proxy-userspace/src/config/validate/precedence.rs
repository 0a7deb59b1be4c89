//! Routes that stand in each other's way.

use super::Routes;
use crate::config::model::http::{Action, HostMatch, PathMatch, Route, RouteMatch};
use crate::config::report::{Place, Report};
use std::collections::HashMap;

/// Applies every rule.
pub(super) fn check(report: &Report<'_>, routes: &Routes<'_>) {
    same_twice(report, routes);
    evaded(report, routes);
}

/// Rules that ask for the same: the second one never serves a request.
fn same_twice(report: &Report<'_>, routes: &Routes<'_>) {
    type Key<'a> = (&'a str, Option<&'a HostMatch>, String);
    let mut seen: HashMap<Key<'_>, usize> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let all = [None];
        let hosts: Vec<_> = match route.model.hosts.as_slice() {
            [] => all.to_vec(),
            hosts => hosts.iter().map(Some).collect(),
        };
        let mut first = None;
        for rule in &route.model.matches {
            let conditions = format!("{rule:?}");
            for listener in &route.model.listeners {
                for host in &hosts {
                    let key = (listener.as_str(), *host, conditions.clone());
                    let earlier = *seen.entry(key).or_insert(index);
                    if earlier != index {
                        first.get_or_insert(earlier);
                    }
                }
            }
        }
        if let Some(earlier) = first {
            let name = route.file.value.name.given();
            let other = &routes[earlier];
            report.warn(
                Place::Value(name.map_or(route.file.node, |name| name.node)),
                format!(
                    "the route `{}` in line {} matches some of the same requests in the same way, and \
                     comes first",
                    other.model.name,
                    report.line(other.file.node)
                ),
                "remove one of the two matches, or add a condition to one",
            );
        }
    }
}

/// Refusals that a route with a more specific host comes before: hosts are compared before paths,
/// which is easily forgotten where it matters most.
fn evaded(report: &Report<'_>, routes: &Routes<'_>) {
    let refuses = |route: &Route| matches!(&route.action, Action::Respond(it) if it.status >= 400);
    for refusal in routes.iter().filter(|route| refuses(&route.model)) {
        let found = routes.iter().find_map(|other| {
            if refuses(&other.model) {
                return None;
            }
            let host = more_specific(&refusal.model, &other.model)?;
            let path = refusal.model.matches.iter().find_map(|rule| {
                let mut others = other.model.matches.iter();
                others
                    .any(|other| covers(other, rule))
                    .then(|| text(&rule.path))
            })?;
            Some((other, host, path))
        });
        let Some((other, host, path)) = found else {
            continue;
        };
        let name = refusal.file.value.name.given();
        report.warn(
            Place::Value(name.map_or(refusal.file.node, |name| name.node)),
            format!(
                "this answer does not stop requests for `{path}` at `{host}`: there the route `{}` in \
                 line {} comes first, because its host is more specific",
                other.model.name,
                report.line(other.file.node)
            ),
            format!("add `{host}` to `hosts` of this route"),
        );
    }
}

/// A host of `other` that lies within the hosts of `route` and is more specific.
fn more_specific(route: &Route, other: &Route) -> Option<String> {
    let share = |name: &String| route.listeners.contains(name);
    if !other.listeners.iter().any(share) {
        return None;
    }
    let spelled = |host: &HostMatch| match host {
        HostMatch::Exact(name) => name.clone(),
        HostMatch::Wildcard(suffix) => format!("*{suffix}"),
    };
    let within = |host: &&HostMatch| {
        !route.hosts.contains(host)
            && (route.hosts.is_empty() || route.hosts.iter().any(|wide| contains(wide, host)))
    };
    other.hosts.iter().find(within).map(spelled)
}

/// True if all names of `narrow` are names of `wide`.
fn contains(wide: &HostMatch, narrow: &HostMatch) -> bool {
    let HostMatch::Wildcard(suffix) = wide else {
        return false;
    };
    let (HostMatch::Exact(name) | HostMatch::Wildcard(name)) = narrow;
    name.len() > suffix.len() && name.ends_with(suffix.as_str())
}

/// True if `wide` asks for nothing but a prefix of the path that `rule` asks for.
fn covers(wide: &RouteMatch, rule: &RouteMatch) -> bool {
    let PathMatch::Prefix(prefix) = &wide.path else {
        return false;
    };
    let prefix = prefix.trim_end_matches('/');
    let is_bare = RouteMatch {
        path: wide.path.clone(),
        ..RouteMatch::default()
    } == *wide;
    let below = match &rule.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(_) => prefix.is_empty(),
    };
    is_bare && below
}

fn text(path: &PathMatch) -> &str {
    match path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path) => path,
    }
}
