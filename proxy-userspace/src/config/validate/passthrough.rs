//! Server names of listeners that pass TLS on.

use super::{elements, need, time};
use crate::config::decode::{At, Field};
use crate::config::defaults::http as defaults;
use crate::config::fault::Code;
use crate::config::file::listener::Listener;
use crate::config::file::passthrough::Names;
use crate::config::model::http::{HostMatch, NameRule, Passthrough};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Octets of a protocol's name at most (RFC 7301 §3.1).
const LONGEST_PROTOCOL: usize = 255;

/// What a rule claims: connections for a host (`None`: all) by a protocol (`None`: the rest).
type Claim = (Option<HostMatch>, Option<String>);

/// Who gets which connection.
pub(super) fn passthrough(report: &Report<'_>, at: &At<Listener>) -> Passthrough {
    let keys = &at.value;
    if keys.names.is_absent() && keys.service.is_absent() {
        let draft = Draft::new(Code::MissingKey, "it is not said who gets the connections")
            .expected("`names`, or `service` for all, or both")
            .fix("add `names: [{hosts: [www.example.com], service: NAME}]`");
        report.error(Place::Key(at.node), draft);
    }
    let names = names(report, &keys.names);
    let mut hello_timeout = defaults::HTTP_TIMEOUTS.head;
    if let Some(timeouts) = keys.timeouts.value() {
        hello_timeout = time(report, &timeouts.head, hello_timeout);
    }
    Passthrough {
        names,
        hello_timeout,
    }
}

/// Rules, of which none claims what another does.
pub(super) fn names(report: &Report<'_>, field: &Field<Vec<Field<Names>>>) -> Vec<NameRule> {
    let mut claims = HashMap::new();
    let names = elements(field).filter_map(|at| {
        let rule = rule(report, at)?;
        claim(report, at, &rule, &mut claims);
        Some(rule)
    });
    names.collect()
}

fn rule(report: &Report<'_>, at: &At<Names>) -> Option<NameRule> {
    let keys = &at.value;
    let service = need(report, at.node, "service", "NAME", &keys.service);
    let (hosts, alpn) = (elements(&keys.hosts), elements(&keys.alpn));
    let hosts: Vec<_> = hosts
        .inspect(|at| host(report, at.node, &at.value.0))
        .collect();
    let alpn: Vec<_> = alpn
        .inspect(|at| protocol(report, at.node, &at.value.0))
        .collect();
    let is_empty = |is_bad: bool, length: usize| !is_bad && length == 0;
    let no_hosts = is_empty(matches!(keys.hosts, Field::Bad), given(&keys.hosts));
    let no_alpn = is_empty(matches!(keys.alpn, Field::Bad), given(&keys.alpn));
    if no_hosts && no_alpn {
        let draft = Draft::new(Code::MissingKey, "this matches every connection")
            .expected("`hosts` or `alpn`, or both")
            .fix("add `hosts`, or write the service as `service` of the listener");
        report.error(Place::Value(at.node), draft);
    }
    Some(NameRule {
        hosts: hosts.into_iter().map(|at| at.value.0.clone()).collect(),
        alpn: alpn.into_iter().map(|at| at.value.0.clone()).collect(),
        service: service?.value.0.clone(),
    })
}

/// Elements of a list, bad ones included.
fn given<T>(list: &Field<Vec<T>>) -> usize {
    list.value().map_or(0, Vec::len)
}

/// Clients name no addresses (RFC 6066 §3), and where they do, it counts as naming nobody.
fn host(report: &Report<'_>, node: NodeId, host: &HostMatch) {
    if let HostMatch::Exact(name) = host
        && (name.starts_with('[') || name.parse::<IpAddr>().is_ok())
    {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{name}` is an address, and no client gives one as the server's name"),
        )
        .expected("a name such as `www.example.com`")
        .fix("remove it; clients that name nobody get the `service` of the listener");
        report.error(Place::Value(node), draft);
    }
}

pub(super) fn protocol(report: &Report<'_>, node: NodeId, name: &str) {
    if name.is_empty() || name.len() > LONGEST_PROTOCOL {
        let draft = Draft::new(Code::InvalidValue, "this is not the name of a protocol")
            .expected("1 to 255 octets, such as `h2` or `http/1.1`");
        report.error(Place::Value(node), draft);
    }
}

/// Notes what another rule, or this one before, claims already.
fn claim(
    report: &Report<'_>,
    at: &At<Names>,
    rule: &NameRule,
    claims: &mut HashMap<Claim, NodeId>,
) {
    let host_nodes = elements(&at.value.hosts).map(|at| at.node);
    let hosts = rule.hosts.iter().cloned().map(Some).zip(host_nodes);
    let hosts: Vec<_> = match rule.hosts.is_empty() {
        true => vec![(None, at.node)],
        false => hosts.collect(),
    };
    let protocols: Vec<_> = match rule.alpn.is_empty() {
        true => vec![None],
        false => rule.alpn.iter().cloned().map(Some).collect(),
    };
    let mut noted = HashSet::new();
    for (host, node) in &hosts {
        for protocol in &protocols {
            let claim = (host.clone(), protocol.clone());
            let Some(first) = claims.insert(claim, *node) else {
                continue;
            };
            // One word is enough for a host that is there twice, whatever its protocols.
            if !noted.insert(node) {
                continue;
            }
            let what = match (host, protocol) {
                (Some(host), None) => format!("`{}`", shown(host)),
                (Some(host), Some(protocol)) => format!("`{}` with `{protocol}`", shown(host)),
                (None, Some(protocol)) => format!("`{protocol}` without a host"),
                (None, None) => continue,
            };
            let line = report.line(first);
            let draft = Draft::new(
                Code::Conflict,
                format!("{what} is in `names` already, in line {line}"),
            )
            .expected("each host and protocol once")
            .fix("remove it from one of the two");
            report.error(Place::Value(*node), draft);
        }
    }
}

fn shown(host: &HostMatch) -> String {
    match host {
        HostMatch::Exact(name) => name.clone(),
        HostMatch::Wildcard(suffix) => format!("*{suffix}"),
    }
}
