//! Rules and differences in words.

use crate::config::model::http::{HostMatch, PathMatch, Route, RouteMatch, ValueMatch, ValueTest};
use crate::message::RequestHead;
use crate::routing::{Considered, Difference, Verdict};
use serde::Serialize;
use std::net::IpAddr;

/// A rule that was considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplained {
    /// Name of the route.
    pub route: String,
    /// The host that matched; `None` if the route takes every host, or none matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the rule asks for besides the host.
    pub asks: Vec<String>,
    /// True for the one that serves the request.
    pub serves: bool,
    /// Why it does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A rule in words.
pub(super) fn describe(
    considered: &Considered,
    routes: &[Route],
    head: &RequestHead,
    from: (IpAddr, Option<&str>),
) -> RuleExplained {
    let route = &routes[considered.route];
    let rule = &route.matches[considered.rule];
    let because = match considered.verdict {
        Verdict::Matches(_) => None,
        Verdict::Differs(difference) => Some(because(difference, rule, head, from)),
    };
    RuleExplained {
        route: route.name.clone(),
        host: considered.host.map(|host| host_name(&route.hosts[host])),
        asks: asks(rule),
        serves: because.is_none(),
        because,
    }
}

/// As the configuration writes it.
pub(super) fn host_name(host: &HostMatch) -> String {
    match host {
        HostMatch::Exact(name) => name.clone(),
        HostMatch::Wildcard(suffix) => format!("*{suffix}"),
    }
}

fn asks(rule: &RouteMatch) -> Vec<String> {
    let mut asks = vec![match &rule.path {
        PathMatch::Exact(path) => format!("path = {path}"),
        PathMatch::Prefix(path) => format!("path {path}"),
        PathMatch::Regex(pattern) => format!("path ~ {pattern}"),
    }];
    asks.extend(
        rule.method
            .as_ref()
            .map(|method| format!("method {method}")),
    );
    let values = [
        ("header", &rule.fields),
        ("query", &rule.query),
        ("cookie", &rule.cookies),
    ];
    for (kind, tests) in values {
        asks.extend(tests.iter().map(|test| format!("{kind} {}", value(test))));
    }
    if !rule.sources.is_empty() {
        asks.push(format!("source in {}", list(&rule.sources)));
    }
    if !rule.workloads.is_empty() {
        asks.push(format!("workload in {}", rule.workloads.join(", ")));
    }
    asks
}

fn value(test: &ValueMatch) -> String {
    let name = &test.name;
    match &test.value {
        ValueTest::Present => format!("{name} present"),
        ValueTest::Absent => format!("{name} absent"),
        ValueTest::Exact(text) => format!("{name} = {text}"),
        ValueTest::Prefix(text) => format!("{name} = {text}…"),
        ValueTest::Regex(pattern) => format!("{name} ~ {pattern}"),
    }
}

fn because(
    difference: Difference,
    rule: &RouteMatch,
    head: &RequestHead,
    (client, workload): (IpAddr, Option<&str>),
) -> String {
    match difference {
        Difference::Host => "it is for other hosts".to_owned(),
        Difference::Path => format!("the path is {}", text(head.path())),
        Difference::Method => format!("the method is {}", text(head.method.as_bytes())),
        Difference::Field(at) => {
            let test = &rule.fields[at];
            let sent = head.fields.get_named(test.name.as_bytes());
            match (sent, &test.value) {
                (Some(sent), _) => format!("the header {} is `{}`", test.name, text(sent)),
                (None, _) => format!("there is no header {}", test.name),
            }
        }
        Difference::Query(at) => lacks("parameter of the query", &rule.query[at]),
        Difference::Cookie(at) => lacks("cookie", &rule.cookies[at]),
        Difference::Source => format!("the client is {client}"),
        Difference::Workload => match workload {
            Some(path) => format!("the workload is {path}"),
            None => "the client is no workload: see --workload".to_owned(),
        },
    }
}

fn lacks(kind: &str, test: &ValueMatch) -> String {
    let name = &test.name;
    match &test.value {
        ValueTest::Absent => format!("there is a {kind} {name}"),
        ValueTest::Present => format!("there is no {kind} {name}"),
        _ => format!("no {kind} {name} is like that"),
    }
}

/// Octets of a message for people.
pub(super) fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).escape_debug().to_string()
}

pub(super) fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}
