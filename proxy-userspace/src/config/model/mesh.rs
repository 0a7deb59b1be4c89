//! Sidecar-less redirection: whose connections a listener gets, and what becomes of them.

use super::Config;
use super::http::NameRule;
use super::steer::{OnFailure, PortRange};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Whose connections a listener gets besides those that are made to it, and what becomes of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// Paths of the cgroups below their root, each beginning with a slash and not ending with one.
    pub cgroups: Vec<String>,
    /// Which way connections go.
    pub direction: Direction,
    /// Which destinations of outbound ones, of the listener's family.
    pub destinations: Selection<IpNet>,
    /// Who opens inbound ones, of the listener's family.
    pub sources: Selection<IpNet>,
    /// Which ports.
    pub ports: Selection<PortRange>,
    /// Which users.
    pub users: Selection<u32>,
    /// Address at which other network namespaces reach the listener.
    pub reach: Option<IpAddr>,
    /// What happens while nobody serves the listener.
    pub on_failure: OnFailure,
    /// What happens to what no route or name is for.
    pub unmatched: Unmatched,
    /// How long a client may be silent.
    pub detect: Duration,
    /// Ports at which nothing is looked at.
    pub opaque: Vec<PortRange>,
    /// Services for connections by TLS.
    pub names: Vec<NameRule>,
}

/// Which way connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The programs open them.
    Outbound,
    /// Others open them to the programs.
    Inbound,
}

impl Direction {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What is meant of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<T> {
    /// If not empty, nothing else.
    pub only: Vec<T>,
    /// Not these.
    pub except: Vec<T>,
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            except: Vec::new(),
        }
    }
}

/// What becomes of what no route or name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// It goes where it was to go.
    Passthrough,
    /// It is refused.
    Refuse,
}

impl Unmatched {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Refuse => "refuse",
        }
    }
}

impl Config {
    /// True if something is redirected to a listener.
    pub fn redirects(&self) -> bool {
        self.http_listeners.iter().any(|one| one.mesh.is_some())
    }
}

/// True if a cgroup, by its path, is this one or below it.
pub fn is_within(path: &str, chosen: &str) -> bool {
    let chosen = chosen.trim_end_matches('/');
    let rest = path.strip_prefix(chosen);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_within_itself_and_those_above() {
        for (path, chosen, is) in [
            ("/shop", "/shop", true),
            ("/shop/cart", "/shop", true),
            ("/shopping", "/shop", false),
            ("/", "/shop", false),
            ("/shop", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(is_within(path, chosen), is, "{path} in {chosen}");
        }
    }
}
