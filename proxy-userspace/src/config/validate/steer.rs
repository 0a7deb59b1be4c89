//! The key `steer`.

use super::together::Sections;
use super::{elements, need, network};
use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::listener::Listener as File;
use crate::config::file::scalar::Network;
use crate::config::file::steer as file;
use crate::config::model::steer::{Bindings, Listening, OnFailure, PortRange, Steer, own_prefix};
use crate::config::report::{Draft, Place, Report};
use crate::config::yaml::NodeId;
use crate::types::Protocol;
use ipnet::IpNet;
use proxy_common::steer::{BINDINGS, GROUPS, RANGE_LISTS, RANGES};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// The key `steer` of a listener that is bound to this address.
pub(super) fn steer(
    report: &Report<'_>,
    field: &Field<file::Steer>,
    bound: Option<SocketAddr>,
) -> Option<Steer> {
    let at = field.given()?;
    let keys = &at.value;
    need(
        report,
        at.node,
        "addresses",
        "[192.0.2.0/24]",
        &keys.addresses,
    );
    let addresses = addresses(report, &keys.addresses, bound);
    let ports = match keys.ports.given() {
        None => bound
            .map(|bound| PortRange::one(bound.port()))
            .into_iter()
            .collect(),
        Some(at) => ports(report, &keys.ports, at.node),
    };
    Some(Steer {
        addresses,
        ports,
        on_failure: match keys.on_failure.value() {
            Some(file::OnFailure::Open) => OnFailure::Open,
            Some(file::OnFailure::Closed) | None => OnFailure::Closed,
        },
    })
}

fn addresses(
    report: &Report<'_>,
    field: &Field<Vec<Field<Network>>>,
    bound: Option<SocketAddr>,
) -> Vec<IpNet> {
    if let Some(at) = field.given()
        && at.value.is_empty()
    {
        let draft = Draft::new(Code::InvalidValue, "nothing is steered to no addresses")
            .expected("at least one address or prefix");
        report.error(Place::Value(at.node), draft);
    }
    let (mut all, mut known) = (Vec::new(), HashSet::new());
    for at in elements(field) {
        let net = network(report, at);
        if !known.insert(net) {
            let message = format!("`{net}` is in this list already");
            report.warn(Place::Value(at.node), message, "remove one of the two");
            continue;
        }
        if net.addr().is_multicast() {
            let draft = Draft::new(Code::InvalidValue, format!("`{net}` is for multicast"))
                .expected("addresses of hosts");
            report.error(Place::Value(at.node), draft);
        }
        if let Some(bound) = bound
            && bound.is_ipv4() != net.addr().is_ipv4()
        {
            let (is, other) = match bound.is_ipv4() {
                true => ("IPv4", "an IPv6 one, such as `\"::\"`"),
                false => ("IPv6", "an IPv4 one, such as `0.0.0.0`"),
            };
            let draft = Draft::new(
                Code::Conflict,
                format!("`{net}` cannot be steered to a listener whose address is of {is}"),
            )
            .expected(format!("addresses of {is}"))
            .fix(format!("add a listener whose `address` is {other}"));
            report.error(Place::Value(at.node), draft);
        }
        all.push(net);
    }
    all
}

/// Ports without those that are there twice.
fn ports(
    report: &Report<'_>,
    field: &Field<Vec<Field<crate::config::file::scalar::PortRange>>>,
    node: NodeId,
) -> Vec<PortRange> {
    let mut all: Vec<PortRange> = Vec::new();
    for at in elements(field) {
        let (first, last) = at.value.0;
        let range = PortRange { first, last };
        let is_alike = |other: &&PortRange| {
            let same_kind = other.single().is_some() == range.single().is_some();
            same_kind && other.first <= last && first <= other.last
        };
        if let Some(other) = all.iter().find(is_alike) {
            let draft = Draft::new(
                Code::Conflict,
                format!("`{range}` and `{other}` of this list overlap"),
            )
            .fix("make one of the two, or remove one");
            report.error(Place::Value(at.node), draft);
            continue;
        }
        all.push(range);
    }
    if all.is_empty() && field.value().is_some_and(Vec::is_empty) {
        let draft = Draft::new(Code::InvalidValue, "nothing is steered to no ports")
            .expected("at least one port or range")
            .fix("remove `ports` for the listener's own port");
        report.error(Place::Value(node), draft);
    }
    all
}

/// A listener of the proxy paths, and where it stands.
struct Placed<'a, 'f> {
    listening: Listening<'a>,
    file: &'f At<File>,
}

impl Placed<'_, '_> {
    /// Where a prefix stands.
    fn place(&self, prefix: IpNet) -> NodeId {
        let steer = self.file.value.steer.value();
        let mut addresses = steer
            .into_iter()
            .flat_map(|steer| elements(&steer.addresses));
        let found = addresses.find(|at| at.value.0.trunc() == prefix);
        found.map_or(self.file.node, |at| at.node)
    }
}

/// Rules about all listeners together.
pub(super) fn check(report: &Report<'_>, all: &Sections<'_, '_>) {
    let http = all.listeners.http.iter().map(|one| Placed {
        listening: Listening::http(&one.model),
        file: one.file,
    });
    let streams = all.listeners.stream.iter().map(|one| Placed {
        listening: Listening::stream(&one.model),
        file: one.file,
    });
    let mut placed: Vec<_> = http.chain(streams).collect();
    if placed.iter().all(|one| one.listening.steer.is_none()) {
        return;
    }
    // In the order of the file, so that the later of two is told.
    placed.sort_by_key(|one| one.file.node.0);
    overlaps(report, &placed);
    let listening: Vec<_> = placed.iter().map(|one| one.listening).collect();
    limits(report, &placed, &Bindings::build(&listening));
}

/// Notes bindings of two listeners of which neither comes before the other, once for each prefix.
fn overlaps(report: &Report<'_>, placed: &[Placed<'_, '_>]) {
    let mut taken = Taken::default();
    // What a listener is bound to is its own, wherever it stands.
    for (index, one) in placed.iter().enumerate() {
        let (protocol, address) = (one.listening.protocol, one.listening.address);
        let key = (protocol, own_prefix(address.ip()), address.port());
        taken.ports.entry(key).or_insert(index);
    }
    for (index, one) in placed.iter().enumerate() {
        let Some(steer) = one.listening.steer else {
            continue;
        };
        for &prefix in &steer.addresses {
            let ranges = steer.ports.iter();
            let mut clashes = ranges.filter_map(|&range| {
                let other = taken.claim(one.listening.protocol, prefix, range, index)?;
                Some((range, other))
            });
            // All are claimed, and the first is told.
            let first = clashes.next();
            clashes.for_each(drop);
            if let Some((range, other)) = first {
                told(report, (one, prefix, range), &placed[other]);
            }
        }
    }
}

fn told(
    report: &Report<'_>,
    (one, prefix, range): (&Placed<'_, '_>, IpNet, PortRange),
    other: &Placed<'_, '_>,
) {
    let draft = Draft::new(
        Code::Conflict,
        format!(
            "listener `{}` in line {} has `{prefix}` with port {range} already",
            other.listening.name,
            report.line(other.file.node),
        ),
    )
    .expected("bindings of which one comes before the other: a single port before a range, a longer prefix before a shorter one")
    .fix("change one of the two");
    report.error(Place::Value(one.place(prefix)), draft);
}

/// Who has claimed what.
#[derive(Default)]
struct Taken {
    ports: HashMap<(Protocol, IpNet, u16), usize>,
    ranges: HashMap<(Protocol, IpNet), Vec<(PortRange, usize)>>,
}

impl Taken {
    /// Claims ports; gives another one who has one of them.
    fn claim(
        &mut self,
        protocol: Protocol,
        prefix: IpNet,
        range: PortRange,
        who: usize,
    ) -> Option<usize> {
        if let Some(port) = range.single() {
            let first = *self.ports.entry((protocol, prefix, port)).or_insert(who);
            return (first != who).then_some(first);
        }
        let ranges = self.ranges.entry((protocol, prefix)).or_default();
        let overlaps = |other: &&(PortRange, usize)| {
            other.1 != who && other.0.first <= range.last && range.first <= other.0.last
        };
        let found = ranges.iter().find(overlaps).map(|(_, other)| *other);
        ranges.push((range, who));
        found
    }
}

/// Notes what does not fit into the maps.
fn limits(report: &Report<'_>, placed: &[Placed<'_, '_>], bindings: &Bindings) {
    let first = placed.iter().find_map(|one| one.file.value.steer.given());
    let place = first.map_or(Place::Whole, |at| Place::Value(at.node));
    let fault = |what: String, fix: &str| {
        report.error(place, Draft::new(Code::Limit, what).fix(fix));
    };
    let lists: HashSet<_> = bindings.ranges.values().collect();
    for (count, most, what) in [
        (bindings.ports.len(), BINDINGS, "bindings of single ports"),
        (
            bindings.ranges.len(),
            BINDINGS,
            "prefixes with ranges of ports",
        ),
        // While the one half is in force, the other is filled.
        (
            lists.len(),
            RANGE_LISTS / 2,
            "different lists of ranges of ports",
        ),
        (
            bindings.steered.len(),
            GROUPS / 2,
            "listeners beside steered ones",
        ),
    ] {
        if count > most as usize {
            let what = format!("{count} {what} do not fit: at most {most} do");
            fault(
                what,
                "use prefixes in place of addresses, or ranges in place of ports",
            );
        }
    }
    let longest = bindings
        .ranges
        .iter()
        .max_by_key(|(_, ranges)| ranges.len());
    if let Some(((_, prefix), ranges)) = longest
        && ranges.len() > RANGES
    {
        let what = format!(
            "`{prefix}` has {} ranges of ports, with those of the prefixes around it: at most {RANGES} fit",
            ranges.len()
        );
        fault(
            what,
            "join ranges, or name single ports, of which there may be any number",
        );
    }
}
