//! From a path to the rules that hold for it, on one host.

use super::conditions::Conditions;
use super::hosts::Map;
use super::normalise::{normalised, segments, view};
use super::{Found, Query};
use crate::config::model::http::PathMatch;
use crate::types::{PatternError, PatternSet};
use std::ops::Range;

/// The rules of one host by their paths.
#[derive(Debug)]
pub(super) struct Paths {
    /// The trie of segments; the first node is the root.
    nodes: Vec<Node>,
    /// The rules: those of a node stand together, the most specific first.
    rules: Vec<Rule>,
    /// Regular expressions, each for the rule from `regexes.start` on in its order.
    patterns: PatternSet,
    regexes: Range<usize>,
}

/// A place in the trie: the path of the segments that lead here.
#[derive(Debug)]
struct Node {
    children: Map<usize>,
    /// Rules with exactly this path.
    exact: Range<usize>,
    /// Rules with this prefix.
    prefix: Range<usize>,
    /// Number of segments.
    depth: usize,
    /// The node above, counted only if it has prefix rules.
    above: Option<usize>,
}

#[derive(Debug)]
struct Rule {
    route: usize,
    rule: usize,
    conditions: Conditions,
}

impl Paths {
    /// Hands out matching rules, the most specific first, until `stop` returns true.
    pub(super) fn any(&self, query: &Query<'_>, stop: &mut dyn FnMut(Found) -> bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let path = query.path;
        let (deepest, is_whole) = self.walk(path);
        let mut try_all = |rules: Range<usize>, prefix_len: &dyn Fn() -> usize| {
            self.rules[rules].iter().any(|rule| {
                rule.conditions.hold(query)
                    && stop(Found {
                        route: rule.route,
                        rule: rule.rule,
                        prefix_len: prefix_len(),
                    })
            })
        };
        let whole = || path.len();
        if is_whole && try_all(self.nodes[deepest].exact.clone(), &whole) {
            return true;
        }
        let first = self.regexes.start;
        if !self.patterns.is_empty()
            && self.patterns.any(view(path), |index| {
                try_all(first + index..first + index + 1, &whole)
            })
        {
            return true;
        }
        let mut node = Some(deepest);
        while let Some(index) = node {
            let at = &self.nodes[index];
            if try_all(at.prefix.clone(), &|| end_of(path, at.depth)) {
                return true;
            }
            node = at.above;
        }
        false
    }

    /// The deepest node on the path's way, and whether it is the path's end.
    fn walk(&self, path: &[u8]) -> (usize, bool) {
        let mut at = 0;
        if !path.starts_with(b"/") {
            return (at, false);
        }
        for segment in segments(path) {
            let node = &self.nodes[at];
            if node.children.is_empty() {
                return (at, false);
            }
            match node.children.get(&path[segment]) {
                Some(child) => at = *child,
                None => return (at, false),
            }
        }
        (at, true)
    }
}

/// Where the segment with this number (from 1 on) ends.
fn end_of(path: &[u8], depth: usize) -> usize {
    match depth.checked_sub(1) {
        None => 0,
        Some(index) => segments(path).nth(index).map_or(path.len(), |it| it.end),
    }
}

/// Collects rules.
#[derive(Default)]
pub(super) struct Builder {
    exact: Vec<(Vec<Box<[u8]>>, Rule)>,
    prefix: Vec<(Vec<Box<[u8]>>, Rule)>,
    regex: Vec<(String, Rule)>,
}

impl Builder {
    /// Adds a rule.
    pub(super) fn add(
        &mut self,
        route: usize,
        rule: usize,
        path: &PathMatch,
        conditions: Conditions,
    ) {
        let rule = Rule {
            route,
            rule,
            conditions,
        };
        match path {
            PathMatch::Exact(path) => self.exact.push((split(path), rule)),
            PathMatch::Prefix(path) => self.prefix.push((split_prefix(path), rule)),
            PathMatch::Regex(pattern) => self.regex.push((pattern.clone(), rule)),
        }
    }

    /// The rules, found by path. The error has a route's index.
    pub(super) fn build(self) -> Result<Paths, (usize, PatternError)> {
        let mut paths = Paths {
            nodes: vec![node(0, None)],
            rules: Vec::new(),
            patterns: PatternSet::default(),
            regexes: 0..0,
        };
        let mut regex = self.regex;
        regex.sort_by_key(|(_, rule)| order(rule));
        let patterns: Vec<&str> = regex.iter().map(|(pattern, _)| pattern.as_str()).collect();
        paths.patterns =
            PatternSet::new(&patterns).map_err(|(index, error)| (regex[index].1.route, error))?;
        paths.rules.extend(regex.into_iter().map(|(_, rule)| rule));
        paths.regexes = 0..paths.rules.len();
        for (at, rules) in paths.grow(self.exact) {
            paths.nodes[at].exact = rules;
        }
        for (at, rules) in paths.grow(self.prefix) {
            paths.nodes[at].prefix = rules;
        }
        paths.link();
        Ok(paths)
    }
}

impl Paths {
    /// Takes rules in and tells the nodes at their paths' ends.
    fn grow(&mut self, rules: Vec<(Vec<Box<[u8]>>, Rule)>) -> Vec<(usize, Range<usize>)> {
        let mut ends: Vec<(usize, Rule)> = rules
            .into_iter()
            .map(|(segments, rule)| (self.reach(segments), rule))
            .collect();
        ends.sort_by_key(|(at, rule)| (*at, order(rule)));
        let mut ranges: Vec<(usize, Range<usize>)> = Vec::new();
        for (at, rule) in ends {
            let index = self.rules.len();
            self.rules.push(rule);
            match ranges.last_mut() {
                Some((last, range)) if *last == at => range.end = index + 1,
                _ => ranges.push((at, index..index + 1)),
            }
        }
        ranges
    }

    /// The node of a path, made if it is not there.
    fn reach(&mut self, segments: Vec<Box<[u8]>>) -> usize {
        let mut at = 0;
        for segment in segments {
            let next = self.nodes.len();
            let child = *self.nodes[at].children.entry(segment).or_insert(next);
            if child == next {
                self.nodes.push(node(self.nodes[at].depth + 1, Some(at)));
            }
            at = child;
        }
        at
    }

    /// Has each node name the nearest node above it that has prefix rules. Nodes stand after
    /// those above them.
    fn link(&mut self) {
        for index in 0..self.nodes.len() {
            if let Some(above) = self.nodes[index].above
                && self.nodes[above].prefix.is_empty()
            {
                self.nodes[index].above = self.nodes[above].above;
            }
        }
    }
}

fn node(depth: usize, above: Option<usize>) -> Node {
    Node {
        children: Map::default(),
        exact: 0..0,
        prefix: 0..0,
        depth,
        above,
    }
}

/// The segments of a configured path, in the spelling of requests.
fn split(path: &str) -> Vec<Box<[u8]>> {
    let path = normalised(path.as_bytes());
    segments(&path)
        .map(|segment| path[segment].into())
        .collect()
}

/// The segments of a configured prefix: the slash at its end says nothing.
fn split_prefix(path: &str) -> Vec<Box<[u8]>> {
    let mut segments = split(path);
    segments.pop_if(|last| last.is_empty());
    segments
}

/// Number of segments of a prefix: of those that match, the one with the most comes first.
pub(super) fn depth(prefix: &str) -> usize {
    split_prefix(prefix).len()
}

/// The precedence of rules with the same path.
fn order(rule: &Rule) -> impl Ord + use<> {
    (rule.conditions.precedence(), rule.route, rule.rule)
}
