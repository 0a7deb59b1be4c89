//! Which route serves a request. Pure: no I/O, no clock, and time per look-up that hardly depends
//! on the number of routes.
//!
//! ```text
//! path as sent ──normalise──▶ one spelling ──┐
//! host, method, fields, query, source ───────┴──▶ find ──▶ route, rule ──▶ split, rewrite, redirect
//! ```
//!
//! Of all rules that match a request, the most specific one serves it. The precedence is that of
//! the Kubernetes Gateway API, each line deciding where those before it leave a tie:
//!
//! 1. host: exact, then the longest wildcard, then routes without hosts;
//! 2. path: exact, then regular expressions, then the longest prefix;
//! 3. a method before none;
//! 4. more field conditions, then more query conditions, then more cookie conditions;
//! 5. source conditions before none, then workload conditions before none;
//! 6. the order of the file: routes, then their matches.
//!
//! A host whose rules do not match does not hide less specific hosts: they are tried next.
//! `docs/routing.md` says it with examples.
//!
//! Hosts are found by hashing, paths by one walk down a trie of segments and back up, regular
//! expressions of one host by one automaton for all. Only rules for the same host and path are
//! looked at one by one. Look-ups do not allocate, with two rare exceptions: patterns too large
//! for an automaton, see [`crate::types::Pattern`].
//!
//! **No spelling goes around a rule.** A path is matched after [`normalise()`], and the matcher
//! takes for a slash what some servers take for one (`%2F`, `\`, `%5C`) and several slashes for
//! one. What is forwarded keeps these as they are.

mod conditions;
mod explain;
mod hash_on;
mod hosts;
mod normalise;
mod paths;
mod rewrite;
mod server_names;
mod split;
mod values;

pub use explain::{Considered, Difference, Verdict, explain};
pub use hash_on::hash_key;
pub use normalise::{PathRefusal, normalise};
pub use rewrite::{CompiledRewrite, location};
pub use server_names::{NameFound, NameMissing, ServerNames};
pub use split::Shares;

use crate::config::model::http::Route;
use crate::message::{Fields, Method};
use crate::types::PatternError;
use hosts::Hosts;
use std::net::IpAddr;

/// What a rule is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Host without port, in lower case; empty if the request has none.
    pub host: &'a [u8],
    /// Path without query, after [`normalise()`]; `*` or empty where the target has no path.
    pub path: &'a [u8],
    /// Method.
    pub method: &'a Method,
    /// Fields.
    pub fields: &'a Fields,
    /// Query without its question mark.
    pub query: Option<&'a [u8]>,
    /// The client's address; behind trusted proxies, the one that they tell.
    pub source: IpAddr,
    /// The client's cgroup, by its path, if the kernel has told it.
    pub workload: Option<&'a str>,
}

/// A rule that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Index of the route in the list that the router was built from.
    pub route: usize,
    /// Index in the route's `matches`.
    pub rule: usize,
    /// Octets of the path that the rule's prefix covers, without a slash at its end: 0 for the
    /// prefix `/`, the whole path for exact paths and regular expressions.
    pub prefix_len: usize,
}

/// Why a router cannot be built. Routes of a validated configuration have no such fault.
#[derive(Debug, thiserror::Error)]
#[error("route `{route}`: the regular expression of a match is not valid")]
pub struct RouterError {
    /// Name of the route.
    pub route: String,
    /// What is wrong.
    #[source]
    pub cause: PatternError,
}

/// The routes of one listener, ready to be looked up.
#[derive(Debug)]
pub struct Router {
    hosts: Hosts,
}

impl Router {
    /// The router of the listener with this name; routes of other listeners are left out.
    ///
    /// # Errors
    ///
    /// If a regular expression is not valid.
    pub fn build(listener: &str, routes: &[Route]) -> Result<Self, RouterError> {
        let mut builder = hosts::Builder::default();
        for (index, route) in routes.iter().enumerate() {
            if route.listeners.iter().any(|name| name == listener) {
                let added = builder.add(index, route);
                added.map_err(|cause| RouterError {
                    route: route.name.clone(),
                    cause,
                })?;
            }
        }
        let hosts = builder.build().map_err(|(route, cause)| RouterError {
            route: routes[route].name.clone(),
            cause,
        })?;
        Ok(Self { hosts })
    }

    /// The rule that serves this request.
    pub fn find(&self, query: &Query<'_>) -> Option<Found> {
        let mut found = None;
        self.any(query, |candidate| {
            found = Some(candidate);
            true
        });
        found
    }

    /// Hands out all rules that match, the most specific first, until `stop` returns true; for
    /// explanations. A rule may come twice if two of its route's hosts match. True if stopped.
    pub fn any(&self, query: &Query<'_>, mut stop: impl FnMut(Found) -> bool) -> bool {
        self.hosts.any(query, &mut stop)
    }
}

#[cfg(test)]
mod tests;
