//! What a rule asks of a request beside its host and path.

use super::Query;
use super::values::{cookies, decoded, parameters};
use crate::config::model::http::{RouteMatch, ValueMatch, ValueTest};
use crate::config::model::mesh::is_within;
use crate::message::{Method, Name};
use crate::types::{Pattern, PatternError};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Conditions of a rule, all of which must hold. Most rules have none.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    method: Option<Method>,
    /// `None` if there are no others.
    others: Option<Arc<Others>>,
}

#[derive(Debug)]
struct Others {
    fields: Vec<(Name, Box<[u8]>, Test)>,
    query: Vec<(Box<[u8]>, Test)>,
    cookies: Vec<(Box<[u8]>, Test)>,
    sources: Sources,
    workloads: Box<[Box<str>]>,
}

impl Conditions {
    /// The conditions of a match, without its path.
    pub(super) fn new(rule: &RouteMatch) -> Result<Self, PatternError> {
        let named = |tests: &[ValueMatch]| {
            let tests = tests.iter().map(|test| {
                let name: Box<[u8]> = test.name.as_bytes().into();
                Ok((name, Test::new(&test.value)?))
            });
            tests.collect::<Result<Vec<_>, PatternError>>()
        };
        let others = Others {
            fields: named(&rule.fields)?
                .into_iter()
                .map(|(name, test)| (Name::of(&name), name, test))
                .collect(),
            query: named(&rule.query)?,
            cookies: named(&rule.cookies)?,
            sources: Sources::new(&rule.sources),
            workloads: rule
                .workloads
                .iter()
                .map(|path| path.as_str().into())
                .collect(),
        };
        let is_empty = others.fields.is_empty()
            && others.query.is_empty()
            && others.cookies.is_empty()
            && others.sources.is_empty()
            && others.workloads.is_empty();
        Ok(Self {
            method: rule
                .method
                .as_ref()
                .map(|method| Method::of(method.as_bytes())),
            others: (!is_empty).then(|| Arc::new(others)),
        })
    }

    /// Sorts rules for the same host and path: the more specific first.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let others = self.others.as_deref();
        let count = |of: fn(&Others) -> usize| Reverse(others.map_or(0, of));
        (
            self.method.is_none(),
            count(|others| others.fields.len()),
            count(|others| others.query.len()),
            count(|others| others.cookies.len()),
            others.is_none_or(|others| others.sources.is_empty()),
            others.is_none_or(|others| others.workloads.is_empty()),
        )
    }

    /// True if all hold.
    pub(super) fn hold(&self, query: &Query<'_>) -> bool {
        if self
            .method
            .as_ref()
            .is_some_and(|method| method != query.method)
        {
            return false;
        }
        let Some(others) = &self.others else {
            return true;
        };
        (others.sources.is_empty() || others.sources.contains(query.source))
            && others.is_workload(query.workload)
            && others
                .fields
                .iter()
                .all(|(name, spelled, test)| match name {
                    Name::Other => test.holds(query.fields.all_named(spelled).map(octets)),
                    known => test.holds(query.fields.all(*known).map(octets)),
                })
            && others
                .query
                .iter()
                .all(|(name, test)| test.holds(parameters(query.query, name).map(decoded)))
            && others
                .cookies
                .iter()
                .all(|(name, test)| test.holds(cookies(query.fields, name).map(octets)))
    }
}

impl Others {
    fn is_workload(&self, path: Option<&str>) -> bool {
        let mut wanted = self.workloads.iter();
        self.workloads.is_empty()
            || path.is_some_and(|path| wanted.any(|wanted| is_within(path, wanted)))
    }
}

fn octets(value: &[u8]) -> impl Iterator<Item = u8> {
    value.iter().copied()
}

/// What a value must be.
#[derive(Debug)]
enum Test {
    Present,
    Absent,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Pattern),
}

impl Test {
    fn new(test: &ValueTest) -> Result<Self, PatternError> {
        Ok(match test {
            ValueTest::Present => Self::Present,
            ValueTest::Absent => Self::Absent,
            ValueTest::Exact(text) => Self::Exact(text.as_bytes().into()),
            ValueTest::Prefix(text) => Self::Prefix(text.as_bytes().into()),
            ValueTest::Regex(pattern) => Self::Regex(Pattern::new(pattern)?),
        })
    }

    /// True if it holds for one of the values (or, for [`Test::Absent`], if there are none).
    fn holds(&self, mut values: impl Iterator<Item = impl Iterator<Item = u8>>) -> bool {
        match self {
            Self::Present => values.next().is_some(),
            Self::Absent => values.next().is_none(),
            Self::Exact(text) => values.any(|value| value.eq(text.iter().copied())),
            Self::Prefix(text) => values.any(|mut value| {
                let mut text = text.iter();
                text.all(|&octet| value.next() == Some(octet))
            }),
            Self::Regex(pattern) => values.any(|value| pattern.is_match_of(value)),
        }
    }
}

/// Prefixes of addresses, as ranges that neither touch nor overlap, in order: long lists are
/// searched by halving.
#[derive(Debug, Default)]
struct Sources {
    v4: Vec<RangeInclusive<u32>>,
    v6: Vec<RangeInclusive<u128>>,
}

impl Sources {
    fn new(prefixes: &[IpNet]) -> Self {
        let mut sources = Self::default();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(net) => sources
                    .v4
                    .push(net.network().into()..=net.broadcast().into()),
                IpNet::V6(net) => sources
                    .v6
                    .push(net.network().into()..=net.broadcast().into()),
            }
        }
        merge(&mut sources.v4);
        merge(&mut sources.v6);
        sources
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn contains(&self, address: IpAddr) -> bool {
        // A dual-stack socket tells IPv4 addresses in IPv6 form.
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, address.into()),
            IpAddr::V6(address) => within(&self.v6, address.into()),
        }
    }
}

fn merge<T: Copy + Ord>(ranges: &mut Vec<RangeInclusive<T>>) {
    ranges.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<T>> = Vec::with_capacity(ranges.len());
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    *ranges = merged;
}

fn within<T: Copy + Ord>(ranges: &[RangeInclusive<T>], address: T) -> bool {
    let after = ranges.partition_point(|range| *range.start() <= address);
    after > 0 && ranges[after - 1].contains(&address)
}
