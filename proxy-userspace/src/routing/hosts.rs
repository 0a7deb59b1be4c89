//! From a host to the paths of the routes that hold for it.

use super::conditions::Conditions;
use super::paths::{self, Paths};
use super::{Found, Query};
use crate::config::model::http::{HostMatch, Route};
use crate::types::PatternError;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A map whose keys come from the configuration: clients choose what is looked up, not what is in
/// it, so they cannot make keys collide.
pub(super) type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<Xxh3>>;

/// XXH3 of octets.
#[derive(Default)]
pub(super) struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, octets: &[u8]) {
        self.0 = xxh3_64_with_seed(octets, self.0);
    }

    fn write_usize(&mut self, _length: usize) {
        // The length of a slice, which the hash of its octets knows.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Paths by host.
#[derive(Debug)]
pub(super) struct Hosts {
    exact: Map<Paths>,
    /// By suffix, with the dot that it begins with.
    wildcard: Map<Paths>,
    /// Length of the longest suffix: most hosts need not be looked at from their first dot on.
    longest_suffix: usize,
    /// Routes without hosts.
    any: Paths,
}

impl Hosts {
    /// Hands out matching rules, the most specific first, until `stop` returns true.
    pub(super) fn any(&self, query: &Query<'_>, stop: &mut dyn FnMut(Found) -> bool) -> bool {
        let host = query.host;
        // A name with the root's dot at its end is the same name.
        let host = host.strip_suffix(b".").unwrap_or(host);
        if !self.exact.is_empty()
            && let Some(paths) = self.exact.get(host)
            && paths.any(query, stop)
        {
            return true;
        }
        self.wildcards(host).any(|paths| paths.any(query, stop)) || self.any.any(query, stop)
    }

    /// Wildcards that match, the longest first.
    fn wildcards(&self, host: &[u8]) -> impl Iterator<Item = &Paths> {
        // At least one octet of a label comes before the suffix.
        let from = if self.wildcard.is_empty() {
            host.len()
        } else {
            host.len().saturating_sub(self.longest_suffix).max(1)
        };
        (from..host.len())
            .filter(|&at| host[at] == b'.')
            .filter_map(|at| self.wildcard.get(&host[at..]))
    }
}

/// Collects routes.
#[derive(Default)]
pub(super) struct Builder {
    exact: HashMap<Box<[u8]>, paths::Builder>,
    wildcard: HashMap<Box<[u8]>, paths::Builder>,
    any: paths::Builder,
}

impl Builder {
    /// Adds a route with its index.
    pub(super) fn add(&mut self, index: usize, route: &Route) -> Result<(), PatternError> {
        for (rule, conditions) in route.matches.iter().enumerate() {
            let conditions = Conditions::new(conditions)?;
            let path = &route.matches[rule].path;
            let add = |paths: &mut paths::Builder| {
                paths.add(index, rule, path, conditions.clone());
            };
            for host in &route.hosts {
                match host {
                    HostMatch::Exact(name) => add(self.exact.entry(key(name)).or_default()),
                    HostMatch::Wildcard(suffix) => {
                        add(self.wildcard.entry(key(suffix)).or_default());
                    }
                }
            }
            if route.hosts.is_empty() {
                add(&mut self.any);
            }
        }
        Ok(())
    }

    /// Hosts with all their routes. The error has a route's index.
    pub(super) fn build(self) -> Result<Hosts, (usize, PatternError)> {
        let finish = |hosts: HashMap<Box<[u8]>, paths::Builder>| {
            let hosts = hosts.into_iter();
            hosts
                .map(|(host, paths)| Ok((host, paths.build()?)))
                .collect::<Result<Map<Paths>, _>>()
        };
        let wildcard = finish(self.wildcard)?;
        Ok(Hosts {
            exact: finish(self.exact)?,
            longest_suffix: wildcard
                .keys()
                .map(|suffix| suffix.len())
                .max()
                .unwrap_or(0),
            wildcard,
            any: self.any.build()?,
        })
    }
}

fn key(host: &str) -> Box<[u8]> {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.to_ascii_lowercase().into_bytes().into()
}
