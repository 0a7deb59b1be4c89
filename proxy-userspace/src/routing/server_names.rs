//! Who gets a TLS connection that is passed on: by the server's name and the protocols that the
//! client's first message asks for.
//!
//! The longest host comes first, as for routes: an exact one, then wildcards from the longest to
//! the shortest, then rules for every host, then the listener's own service. Within a host the
//! client's order of protocols decides (it is the one that knows what it likes), then the rule
//! that asks for none. A host whose rules all ask for other protocols is passed over.

use super::hosts::Map;
use crate::config::model::http::{HostMatch, Passthrough};
use std::collections::HashMap;

/// Rules by host.
#[derive(Debug)]
pub struct ServerNames {
    exact: Map<Rules>,
    /// By suffix, with the dot that it begins with.
    wildcard: Map<Rules>,
    any: Rules,
    has_default: bool,
}

/// The rules of one host.
#[derive(Debug, Default)]
struct Rules {
    by_protocol: Vec<(Box<[u8]>, usize)>,
    /// The one that asks for no protocol.
    other: Option<usize>,
}

/// What a connection is passed on by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameFound<'a> {
    /// Index of the rule; `None` for the listener's own service.
    pub rule: Option<usize>,
    /// The protocol that the rule asked for.
    pub protocol: Option<&'a [u8]>,
}

/// Nobody gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameMissing {
    /// No rule is for the server's name, or for those who say none.
    Name,
    /// Some is, but for other protocols.
    Protocol,
}

impl ServerNames {
    /// Compiles rules. `has_default`: the listener has a service of its own.
    pub fn build(names: &Passthrough, has_default: bool) -> Self {
        let mut all = Self {
            exact: HashMap::default(),
            wildcard: HashMap::default(),
            any: Rules::default(),
            has_default,
        };
        for (index, rule) in names.names.iter().enumerate() {
            let add = |rules: &mut Rules| {
                for protocol in &rule.alpn {
                    let name = protocol.as_bytes().into();
                    rules.by_protocol.push((name, index));
                }
                if rule.alpn.is_empty() {
                    rules.other = Some(index);
                }
            };
            for host in &rule.hosts {
                let (map, name) = match host {
                    HostMatch::Exact(name) => (&mut all.exact, name),
                    HostMatch::Wildcard(suffix) => (&mut all.wildcard, suffix),
                };
                let name = name.strip_suffix('.').unwrap_or(name);
                let name = name.to_ascii_lowercase().into_bytes();
                add(map.entry(name.into()).or_default());
            }
            if rule.hosts.is_empty() {
                add(&mut all.any);
            }
        }
        all
    }

    /// The rule for a client. `name` is in lower case and without the root's dot; `None` for a
    /// client that says none.
    ///
    /// # Errors
    ///
    /// [`NameMissing`] where there is none, and the listener has no service of its own.
    pub fn find<'a>(
        &self,
        name: Option<&str>,
        protocols: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<NameFound<'a>, NameMissing> {
        let mut missing = NameMissing::Name;
        for rules in self.for_name(name.unwrap_or_default().as_bytes()) {
            if let Some(found) = rules.find(protocols.clone()) {
                return Ok(found);
            }
            if !rules.by_protocol.is_empty() {
                missing = NameMissing::Protocol;
            }
        }
        let own = NameFound {
            rule: None,
            protocol: None,
        };
        if self.has_default {
            Ok(own)
        } else {
            Err(missing)
        }
    }

    /// Rules that hold for a name, those of the longest host first.
    fn for_name<'s>(&'s self, name: &'s [u8]) -> impl Iterator<Item = &'s Rules> {
        // At least one octet of a label comes before the suffix.
        let dots = (1..name.len()).filter(|&at| name[at] == b'.');
        let wildcards = dots.filter_map(|at| self.wildcard.get(&name[at..]));
        let exact = self.exact.get(name).into_iter();
        exact.chain(wildcards).chain([&self.any])
    }
}

impl Rules {
    fn find<'a>(&self, mut protocols: impl Iterator<Item = &'a [u8]>) -> Option<NameFound<'a>> {
        let by_protocol = protocols.find_map(|protocol| {
            let mut rules = self.by_protocol.iter();
            let (_, rule) = rules.find(|(name, _)| **name == *protocol)?;
            Some(NameFound {
                rule: Some(*rule),
                protocol: Some(protocol),
            })
        });
        by_protocol.or_else(|| {
            self.other.map(|rule| NameFound {
                rule: Some(rule),
                protocol: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::http::NameRule;
    use std::time::Duration;

    /// Rules `hosts / protocols`, both separated by blanks.
    fn names(rules: &[&str], has_default: bool) -> ServerNames {
        let rule = |text: &&str| {
            let (hosts, alpn) = text.split_once('/').expect("a slash");
            let host = |host: &str| match host.strip_prefix('*') {
                Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
                None => HostMatch::Exact(host.to_owned()),
            };
            NameRule {
                hosts: hosts.split_whitespace().map(host).collect(),
                alpn: alpn.split_whitespace().map(str::to_owned).collect(),
                service: String::new(),
            }
        };
        let names = Passthrough {
            names: rules.iter().map(rule).collect(),
            hello_timeout: Duration::ZERO,
        };
        ServerNames::build(&names, has_default)
    }

    fn find(names: &ServerNames, name: &str, alpn: &str) -> Result<Option<usize>, NameMissing> {
        let protocols = alpn.split_whitespace().map(str::as_bytes);
        let name = Some(name).filter(|name| !name.is_empty());
        names.find(name, protocols).map(|found| found.rule)
    }

    #[test]
    fn the_longest_host_comes_first_whatever_the_order() {
        let rules = ["*.test /", "a.b.test /", "*.b.test /", "/ h3"];
        let names = names(&rules, false);
        assert_eq!(find(&names, "a.b.test", ""), Ok(Some(1)));
        assert_eq!(find(&names, "c.b.test", ""), Ok(Some(2)));
        assert_eq!(find(&names, "d.c.b.test", ""), Ok(Some(2)));
        assert_eq!(find(&names, "b.test", ""), Ok(Some(0)));
        // A wildcard is for names below, and not for its own.
        assert_eq!(find(&names, "test", ""), Err(NameMissing::Protocol));
        assert_eq!(find(&names, "test", "h3"), Ok(Some(3)));
        assert_eq!(find(&names, "", "h3"), Ok(Some(3)));
    }

    #[test]
    fn the_client_s_order_of_protocols_decides_within_a_host() {
        let names = names(
            &["a.test / h2", "a.test / http/1.1", "a.test /", "*.test / x"],
            false,
        );
        assert_eq!(find(&names, "a.test", "h2 http/1.1"), Ok(Some(0)));
        assert_eq!(find(&names, "a.test", "http/1.1 h2"), Ok(Some(1)));
        assert_eq!(find(&names, "a.test", "y h2"), Ok(Some(0)));
        assert_eq!(find(&names, "a.test", "y"), Ok(Some(2)));
        let found = names.find(Some("b.test"), [&b"y"[..], b"x"].into_iter());
        let protocol = found.map(|found| found.protocol);
        assert_eq!(protocol, Ok(Some(&b"x"[..])));
    }

    #[test]
    fn a_host_for_other_protocols_is_passed_over() {
        let rules = ["a.test / h2", "*.test /"];
        assert_eq!(find(&names(&rules, false), "a.test", "x"), Ok(Some(1)));
        assert_eq!(find(&names(&rules[..1], true), "a.test", "x"), Ok(None));
        let missing = find(&names(&rules[..1], false), "a.test", "x");
        assert_eq!(missing, Err(NameMissing::Protocol));
    }

    #[test]
    fn who_says_no_name_gets_what_is_for_all() {
        let rules = ["a.test /", "*.test /"];
        assert_eq!(find(&names(&rules, true), "", ""), Ok(None));
        assert_eq!(find(&names(&rules, false), "", ""), Err(NameMissing::Name));
        assert_eq!(
            find(&names(&rules, false), "b.example", ""),
            Err(NameMissing::Name)
        );
    }
}
