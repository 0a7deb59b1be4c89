//! Why a route serves a request, and why those that come before it do not. For people: it looks at
//! every rule, and takes its time.
//!
//! **The router is the judge.** Of each rule a router is built that holds nothing else, first with
//! its host alone, then with one condition more at a time, in the order of precedence; the first
//! condition with which it finds nothing is the one that does not hold. So an explanation cannot
//! say anything else than what happens. Only the order of rules is told anew here, and compared
//! with the router's by the tests.

use super::conditions::Conditions;
use super::paths::depth;
use super::{Found, Query, Router, RouterError};
use crate::config::model::http::{Action, FixedResponse, HostMatch, PathMatch, Route, RouteMatch};
use std::cmp::Reverse;

/// A rule, and whether it holds for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Index of the route.
    pub route: usize,
    /// Index in the route's `matches`.
    pub rule: usize,
    /// Index of the most specific of the route's hosts that matches; `None` if none does, or if it
    /// has none.
    pub host: Option<usize>,
    /// What was found.
    pub verdict: Verdict,
}

/// Whether a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Matches(Found),
    /// It does not, because of this. What comes later in the order of precedence was not looked at.
    Differs(Difference),
}

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// None of the route's hosts.
    Host,
    /// The path.
    Path,
    /// The method.
    Method,
    /// The condition of this number on a field.
    Field(usize),
    /// On a parameter of the query.
    Query(usize),
    /// On a cookie.
    Cookie(usize),
    /// The client's address.
    Source,
    /// The client's cgroup.
    Workload,
}

/// Every rule of a listener, in the order of precedence; those whose hosts do not match come last.
/// The first that matches serves the request.
///
/// # Errors
///
/// If a regular expression is not valid.
pub fn explain(
    listener: &str,
    routes: &[Route],
    query: &Query<'_>,
) -> Result<Vec<Considered>, RouterError> {
    let mut ranked = Vec::new();
    let own = routes.iter().enumerate();
    let own = own.filter(|(_, route)| route.listeners.iter().any(|name| name == listener));
    for (index, route) in own {
        let host = nearest_host(route, query)?;
        for (rule, conditions) in route.matches.iter().enumerate() {
            let verdict = match host {
                None => Verdict::Differs(Difference::Host),
                Some(host) => judge(route, host, conditions, query)?,
            };
            let verdict = match verdict {
                Verdict::Matches(found) => Verdict::Matches(Found {
                    route: index,
                    rule,
                    ..found
                }),
                differs => differs,
            };
            let precedence = Conditions::new(conditions).map_err(|cause| RouterError {
                route: route.name.clone(),
                cause,
            })?;
            let host = host.flatten();
            let rank = (
                verdict == Verdict::Differs(Difference::Host),
                host_rank(host.map(|host| &route.hosts[host])),
                path_rank(&conditions.path),
                precedence.precedence(),
                index,
                rule,
            );
            let considered = Considered {
                route: index,
                rule,
                host,
                verdict,
            };
            ranked.push((rank, considered));
        }
    }
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(ranked.into_iter().map(|(_, one)| one).collect())
}

/// The most specific of the route's hosts that matches: `Some(None)` if it takes every host,
/// `None` if there is none.
#[expect(
    clippy::option_option,
    reason = "no match, and no need of one, are two things"
)]
fn nearest_host(route: &Route, query: &Query<'_>) -> Result<Option<Option<usize>>, RouterError> {
    if route.hosts.is_empty() {
        return Ok(Some(None));
    }
    let mut nearest: Option<usize> = None;
    for (index, host) in route.hosts.iter().enumerate() {
        let hosts = std::slice::from_ref(host);
        if holds(route, hosts, RouteMatch::default(), query)?.is_some()
            && nearest
                .is_none_or(|best| host_rank(Some(host)) < host_rank(Some(&route.hosts[best])))
        {
            nearest = Some(index);
        }
    }
    Ok(nearest.map(Some))
}

fn judge(
    route: &Route,
    host: Option<usize>,
    rule: &RouteMatch,
    query: &Query<'_>,
) -> Result<Verdict, RouterError> {
    let hosts: &[HostMatch] = host.map_or(&[], |host| &route.hosts[host..=host]);
    let mut so_far = RouteMatch::default();
    for (difference, add) in conditions_of(rule) {
        add(&mut so_far, rule);
        if holds(route, hosts, so_far.clone(), query)?.is_none() {
            return Ok(Verdict::Differs(difference));
        }
    }
    // With all of its conditions: what was asked last.
    Ok(match holds(route, hosts, so_far, query)? {
        Some(found) => Verdict::Matches(found),
        None => Verdict::Differs(Difference::Workload),
    })
}

/// Adds one condition of a rule to another.
type Add = Box<dyn Fn(&mut RouteMatch, &RouteMatch)>;

/// The conditions of a rule, in the order of precedence.
fn conditions_of(rule: &RouteMatch) -> Vec<(Difference, Add)> {
    let mut all: Vec<(Difference, Add)> = Vec::new();
    all.push((
        Difference::Path,
        Box::new(|to, from| to.path = from.path.clone()),
    ));
    all.push((
        Difference::Method,
        Box::new(|to, from| to.method.clone_from(&from.method)),
    ));
    for at in 0..rule.fields.len() {
        let add: Add = Box::new(move |to, from| to.fields.push(from.fields[at].clone()));
        all.push((Difference::Field(at), add));
    }
    for at in 0..rule.query.len() {
        let add: Add = Box::new(move |to, from| to.query.push(from.query[at].clone()));
        all.push((Difference::Query(at), add));
    }
    for at in 0..rule.cookies.len() {
        let add: Add = Box::new(move |to, from| to.cookies.push(from.cookies[at].clone()));
        all.push((Difference::Cookie(at), add));
    }
    all.push((
        Difference::Source,
        Box::new(|to, from| to.sources.clone_from(&from.sources)),
    ));
    all.push((
        Difference::Workload,
        Box::new(|to, from| to.workloads.clone_from(&from.workloads)),
    ));
    all
}

/// Asks a router that holds this rule and no other.
fn holds(
    route: &Route,
    hosts: &[HostMatch],
    rule: RouteMatch,
    query: &Query<'_>,
) -> Result<Option<Found>, RouterError> {
    const LISTENER: &str = "";
    let action = Action::Respond(FixedResponse::new(200));
    let mut alone = Route::catch_all(route.name.clone(), LISTENER, action);
    alone.hosts = hosts.to_vec();
    alone.matches = vec![rule];
    Ok(Router::build(LISTENER, &[alone])?.find(query))
}

fn host_rank(host: Option<&HostMatch>) -> impl Ord + use<> {
    match host {
        Some(HostMatch::Exact(_)) => (0, Reverse(0)),
        Some(HostMatch::Wildcard(suffix)) => (1, Reverse(suffix.len())),
        None => (2, Reverse(0)),
    }
}

fn path_rank(path: &PathMatch) -> impl Ord + use<> {
    match path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(_) => (1, Reverse(0)),
        PathMatch::Prefix(path) => (2, Reverse(depth(path))),
    }
}
