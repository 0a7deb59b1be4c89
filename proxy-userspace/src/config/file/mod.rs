//! What a configuration file may say: exactly what is written, nothing filled in.
//!
//! These types are the one definition of the file's keys. [`super::decode`] reads them,
//! [`super::schema()`] makes the JSON Schema and the reference of them, so their doc comments are
//! written for users. What the values mean together is judged in [`super::validate`].
//!
//! Every field is a [`Field`]. A key with `#[serde(default)]` may be left out; what then holds is
//! given as `default` in the schema and comes from [`super::defaults`].

pub(crate) mod health;
pub(crate) mod l4;
pub(crate) mod listener;
pub(crate) mod scalar;
pub(crate) mod service;

use super::decode::Field;
use schemars::JsonSchema;
use serde::Deserialize;

/// Configuration of sluice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Configuration")]
pub(crate) struct File {
    /// The kernel data plane: where it is attached and how much it can hold.
    pub(crate) l4: Field<l4::L4>,
    /// How the daemon is asked for status, metrics and changes.
    #[serde(default)]
    pub(crate) admin: Field<l4::Admin>,
    /// Which sources may reach any listener. A listener's own rules come first; only where they
    /// have none for a source do these decide.
    #[serde(default)]
    pub(crate) guard: Field<l4::GlobalGuard>,
    /// The addresses that clients use, and which service answers there.
    #[serde(default)]
    pub(crate) listeners: Field<Vec<Field<listener::Listener>>>,
    /// The services: named sets of backends and how they are used.
    #[serde(default)]
    pub(crate) services: Field<Vec<Field<service::Service>>>,
}

/// Words that other balancers use, and ours for the same thing.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("addr", "address"),
    ("algorithm", "selection"),
    ("balance", "selection"),
    ("bind", "address"),
    ("check", "health"),
    ("endpoints", "backends"),
    ("frontends", "listeners"),
    ("health_check", "health"),
    ("healthcheck", "health"),
    ("hostname", "host"),
    ("ip", "address"),
    ("lb_policy", "selection"),
    ("members", "backends"),
    ("nodes", "backends"),
    ("policy", "selection"),
    ("pool", "service"),
    ("pools", "services"),
    ("retries", "fall"),
    ("scheduler", "selection"),
    ("servers", "backends"),
    ("snat", "source_addresses"),
    ("targets", "backends"),
    ("unhealthy_threshold", "fall"),
    ("healthy_threshold", "rise"),
    ("upstream", "service"),
    ("upstreams", "services"),
    ("uri", "path"),
    ("url", "path"),
    ("vip", "address"),
    ("vips", "listeners"),
];

/// Our word for what another balancer calls `key`, if it is one of `known`.
pub(crate) fn other_word(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    let (_, word) = OTHER_WORDS.iter().find(|(other, _)| *other == key)?;
    known.contains(word).then_some(word)
}
