//! What differs between two configurations, as a list of named changes.
//!
//! Pure: a reload shows the list to the operator and logs it; carrying it out is planned from
//! the models themselves. Listeners, routes, services, backends and interfaces are told apart by name,
//! settings by their key in the file.

use super::effective::effective;
use super::model::Config;
use serde_json::{Map, Value};
use std::fmt;

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Something is new.
    Added(Subject),
    /// Something is gone.
    Removed(Subject),
    /// A setting has another value.
    Setting {
        /// Whose setting.
        subject: Subject,
        /// Key of the setting, such as `weight` or `timeouts.syn`.
        key: String,
        /// Value before, as the file would have it; `None` if it was not given.
        from: Option<String>,
        /// Value after.
        to: Option<String>,
    },
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The section `l4`, `workers`, `admin`, `process`, `guard`, `tracing`, `overload`,
    /// `condemn` or `connect`.
    Section(&'static str),
    /// An interface.
    Interface(String),
    /// A listener.
    Listener(String),
    /// A route.
    Route(String),
    /// A service.
    Service(String),
    /// A backend of a service.
    Backend {
        /// Name of the service.
        service: String,
        /// Name of the backend.
        backend: String,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(name) => f.write_str(name),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Listener(name) => write!(f, "listener {name}"),
            Self::Route(name) => write!(f, "route {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Backend { service, backend } => {
                write!(f, "service {service}: backend {backend}")
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(subject) => write!(f, "{subject} added"),
            Self::Removed(subject) => write!(f, "{subject} removed"),
            Self::Setting {
                subject,
                key,
                from,
                to,
            } => {
                let value = |value: &Option<String>| match value {
                    Some(text) => text.clone(),
                    None => "(not given)".to_owned(),
                };
                write!(f, "{subject}: {key} {} → {}", value(from), value(to))
            }
        }
    }
}

/// Settings of `l4`, `workers` and `admin` that a running daemon cannot change.
const AT_START: [&str; 8] = [
    "count",
    "pin_dir",
    "flow_capacity",
    "backend_capacity",
    "kernel_log",
    "socket",
    "listen",
    "api",
];

impl Change {
    /// True if the change takes effect only when the daemon is started anew: it is about what is
    /// made at start, the maps, their directory and the admin sockets.
    pub fn needs_restart(&self) -> bool {
        match self {
            Self::Setting {
                subject: Subject::Section("l4" | "workers" | "admin"),
                key,
                ..
            } => AT_START.contains(&key.as_str()),
            Self::Setting {
                subject: Subject::Section("process"),
                ..
            } => true,
            Self::Added(_) | Self::Removed(_) | Self::Setting { .. } => false,
        }
    }
}

/// What is different in the sections that are no lists.
fn sections(old: &Value, new: &Value, changes: &mut Vec<Change>) {
    match (old["l4"].is_null(), new["l4"].is_null()) {
        (true, false) => changes.push(Change::Added(Subject::Section("l4"))),
        (false, true) => changes.push(Change::Removed(Subject::Section("l4"))),
        _ => {}
    }
    let has_both = !old["l4"].is_null() && !new["l4"].is_null();
    let sections = [
        "l4", "workers", "admin", "process", "guard", "tracing", "acme", "overload", "condemn",
        "connect",
    ];
    // A section that comes or goes says so in one line.
    for section in sections
        .into_iter()
        .filter(|name| has_both || *name != "l4")
    {
        settings(
            &Subject::Section(section),
            &old[section],
            &new[section],
            &["interfaces"],
            changes,
        );
    }
}

/// What is different in `new`: sections, then interfaces, listeners, routes and services by their order
/// in the file.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    let (old, new) = (effective(old), effective(new));
    let mut changes = Vec::new();
    sections(&old, &new, &mut changes);
    named(
        &old["l4"]["interfaces"],
        &new["l4"]["interfaces"],
        &|name| Subject::Interface(name.to_owned()),
        &mut changes,
        &mut |_, _, _, _| {},
    );
    named(
        &old["listeners"],
        &new["listeners"],
        &|name| Subject::Listener(name.to_owned()),
        &mut changes,
        &mut |_, _, _, _| {},
    );
    named(
        &old["routes"],
        &new["routes"],
        &|name| Subject::Route(name.to_owned()),
        &mut changes,
        &mut |_, _, _, _| {},
    );
    named(
        &old["services"],
        &new["services"],
        &|name| Subject::Service(name.to_owned()),
        &mut changes,
        &mut |service, old, new, changes| {
            let subject = |name: &str| Subject::Backend {
                service: service.to_owned(),
                backend: name.to_owned(),
            };
            named(
                &old["backends"],
                &new["backends"],
                &subject,
                changes,
                &mut |_, _, _, _| {},
            );
        },
    );
    changes
}

/// Compares two elements of the same name further.
type Deeper<'a> = &'a mut dyn FnMut(&str, &Value, &Value, &mut Vec<Change>);

/// Compares two lists of maps with names.
fn named(
    old: &Value,
    new: &Value,
    subject: &dyn Fn(&str) -> Subject,
    changes: &mut Vec<Change>,
    deeper: Deeper<'_>,
) {
    let by_name = |list: &Value| -> Map<String, Value> {
        let items = list.as_array().into_iter().flatten();
        items
            .filter_map(|item| Some((item["name"].as_str()?.to_owned(), item.clone())))
            .collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.push(Change::Removed(subject(name)));
    }
    for (name, new) in &new {
        match old.get(name) {
            None => changes.push(Change::Added(subject(name))),
            Some(old) => {
                settings(&subject(name), old, new, &["backends"], changes);
                deeper(name, old, new, changes);
            }
        }
    }
}

/// Compares two maps of settings, those inside them too, except the keys in `apart`.
fn settings(
    subject: &Subject,
    old: &Value,
    new: &Value,
    apart: &[&str],
    changes: &mut Vec<Change>,
) {
    let (old, new) = (flat(old, apart), flat(new, apart));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(gone) {
        let (from, to) = (old.get(key), new.get(key));
        if from != to {
            let shown = |value| match is_secret(subject, key) {
                true => "(secret)".to_owned(),
                false => shown(value),
            };
            changes.push(Change::Setting {
                subject: subject.clone(),
                key: key.clone(),
                from: from.map(shown),
                to: to.map(shown),
            });
        }
    }
}

/// True for what must not stand in the daemon's log: credentials for a collector.
fn is_secret(subject: &Subject, key: &str) -> bool {
    *subject == Subject::Section("tracing") && key.starts_with("headers")
}

/// The settings of a map with their paths as keys.
fn flat(map: &Value, apart: &[&str]) -> Map<String, Value> {
    let mut flattened = Map::new();
    for (key, value) in map.as_object().into_iter().flatten() {
        if apart.contains(&key.as_str()) {
            continue;
        }
        match value {
            // An empty map (`tcp: {}`) is a setting of its own.
            Value::Object(inner) if !inner.is_empty() => {
                for (rest, value) in flat(value, &[]) {
                    flattened.insert(format!("{key}.{rest}"), value);
                }
            }
            _ => {
                flattened.insert(key.clone(), value.clone());
            }
        }
    }
    flattened
}

/// A value as the file would have it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
