//! What a configuration means to the kernel side. Pure.

use crate::config::model::Config;
use crate::config::model::http::HttpListener;
use crate::config::model::mesh::{Direction, Mesh, Selection};
use crate::config::model::steer::{OnFailure, PortRange};
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::redirect::{
    ChosenKey, INBOUND, MeshPrefix, MeshRange, MeshSet, OUTBOUND, PREFIX_FIXED_BITS, PrefixKey,
    RANGES, SETS, set_flag,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A listener that connections are redirected to.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub listener: String,
    /// 4 or 6.
    pub family: u32,
    /// Which way connections go.
    pub direction: Direction,
    /// Paths of the cgroups.
    pub cgroups: Vec<String>,
    /// The rules.
    pub set: Set,
}

/// The rules of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// All but lists without a bound.
    pub settings: MeshSet,
    /// Prefixes of destinations, and whether they are redirected.
    pub prefixes: BTreeMap<IpNet, bool>,
    /// Users, and whether they are redirected.
    pub users: BTreeMap<u32, bool>,
}

/// A cgroup, and what is to hold for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its path.
    pub path: String,
    family: u32,
    direction: Direction,
    /// Number of the set.
    pub set: u32,
}

impl Chosen {
    /// The key in the kernel's table.
    pub fn key(&self, id: u64) -> ChosenKey {
        ChosenKey {
            cgroup: id,
            family: self.family,
            direction: match self.direction {
                Direction::Outbound => OUTBOUND,
                Direction::Inbound => INBOUND,
            },
        }
    }
}

/// What a configuration wants.
pub fn wanted(config: &Config) -> Vec<Wanted> {
    let all = config.http_listeners.iter();
    all.filter_map(|listener| Some(one(listener, listener.mesh.as_ref()?)))
        .collect()
}

fn one(listener: &HttpListener, mesh: &Mesh) -> Wanted {
    let address = listener.address;
    let is_v4 = address.is_ipv4();
    let is_outbound = mesh.direction == Direction::Outbound;
    // Of the other end: whom programs go to, or who comes to them.
    let others = match is_outbound {
        true => &mesh.destinations,
        false => &mesh.sources,
    };
    let mut prefixes = BTreeMap::new();
    if is_outbound && others.only.is_empty() {
        // Whoever means them says so.
        let left_out: &[&str] = match is_v4 {
            true => &["127.0.0.0/8", "169.254.0.0/16"],
            false => &["::1/128", "fe80::/10"],
        };
        prefixes.extend(
            left_out
                .iter()
                .flat_map(|text| text.parse())
                .map(|net| (net, false)),
        );
    }
    prefixes.extend(others.only.iter().map(|net| (*net, true)));
    prefixes.extend(others.except.iter().map(|net| (*net, false)));
    let mut users: BTreeMap<u32, bool> = mesh.users.only.iter().map(|id| (*id, true)).collect();
    users.extend(mesh.users.except.iter().map(|id| (*id, false)));
    let mut settings = MeshSet {
        local: Addr::from(local(address.ip())),
        reach: mesh.reach.map_or(Addr::UNSPECIFIED, Addr::from),
        port: address.port().into(),
        flags: flags(mesh, others),
        ..MeshSet::default()
    };
    // What is left out comes first.
    let out = mesh.ports.except.iter().map(|range| (range, 0));
    let ranges = out.chain(mesh.ports.only.iter().map(|range| (range, 1)));
    for (place, (range, is_in)) in settings.ranges.iter_mut().zip(ranges.clone()) {
        *place = range_of(*range, is_in);
    }
    settings.count = ranges.count().min(RANGES) as u32;
    let name = listener.name.as_bytes();
    let length = name.len().min(settings.name.len() - 1);
    settings.name[..length].copy_from_slice(&name[..length]);
    Wanted {
        listener: listener.name.clone(),
        family: if is_v4 { 4 } else { 6 },
        direction: mesh.direction,
        cgroups: mesh.cgroups.clone(),
        set: Set {
            settings,
            prefixes,
            users,
        },
    }
}

/// Where a listener is found in its own network namespace.
fn local(bound: IpAddr) -> IpAddr {
    match bound {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        bound => bound,
    }
}

fn flags(mesh: &Mesh, others: &Selection<IpNet>) -> u32 {
    let mut flags = set_flag::USED;
    for (is_set, flag) in [
        (mesh.on_failure == OnFailure::Open, set_flag::FAILS_OPEN),
        (!mesh.ports.only.is_empty(), set_flag::ONLY_PORTS),
        (!mesh.users.only.is_empty(), set_flag::ONLY_USERS),
        (!others.only.is_empty(), set_flag::ONLY_PREFIXES),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    flags
}

fn range_of(range: PortRange, is_in: u32) -> MeshRange {
    MeshRange {
        first: range.first,
        last: range.last,
        is_in,
    }
}

/// A prefix as the kernel has it.
pub(super) fn prefix(set: u32, net: IpNet) -> MeshPrefix {
    let before = if net.addr().is_ipv4() { 96 } else { 0 };
    MeshPrefix {
        bits: PREFIX_FIXED_BITS + before + u32::from(net.prefix_len()),
        key: PrefixKey {
            set,
            addr: Addr::from(net.network()).octets,
        },
    }
}

/// Sets with their numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// By the names of listeners.
    pub sets: BTreeMap<String, (u32, Set)>,
    /// Those that nothing is filled in of yet.
    pub fresh: BTreeSet<u32>,
}

/// Gives sets their numbers: those that are as they were keep theirs, others get one that nobody
/// has, for what holds is not changed in its place.
pub fn numbers(wanted: &[Wanted], old: &BTreeMap<String, (u32, Set)>) -> Numbers {
    let taken: BTreeSet<u32> = old.values().map(|(number, _)| *number).collect();
    let mut free = (0..SETS).filter(|number| !taken.contains(number));
    let mut numbers = Numbers {
        sets: BTreeMap::new(),
        fresh: BTreeSet::new(),
    };
    for one in wanted {
        let same = old.get(&one.listener).filter(|(_, set)| *set == one.set);
        let number = same.map(|(number, _)| *number).or_else(|| free.next());
        // A configuration with more than half as many was refused.
        let Some(number) = number else { break };
        if same.is_none() {
            numbers.fresh.insert(number);
        }
        let entry = (number, one.set.clone());
        numbers.sets.insert(one.listener.clone(), entry);
    }
    numbers
}

/// The cgroups with their sets.
pub fn chosen(wanted: &[Wanted], sets: &BTreeMap<String, (u32, Set)>) -> Vec<Chosen> {
    let all = wanted.iter().flat_map(|one| {
        let set = sets.get(&one.listener).map(|(number, _)| *number);
        let cgroups = one.cgroups.iter();
        cgroups.filter_map(move |path| {
            Some(Chosen {
                path: path.clone(),
                family: one.family,
                direction: one.direction,
                set: set?,
            })
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests;
