//! What a caller wants changed in the configuration, and on which condition.
//!
//! A change is an edit of the document that `GET /api/v1/config` shows: the configuration in force,
//! with every default. [`apply`] makes the new document, purely; the control task judges that like a
//! file and puts it in force like one, so that a change of one weight and a whole new
//! configuration take the same way.

use crate::admin::api::{Refusal, RefusalKind};
use serde_json::{Map, Value};

/// A change, with what it depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What is to change.
    pub edit: Edit,
    /// Entity tags of which one must be that of the configuration in force; `None` does not care.
    pub condition: Option<Condition>,
    /// Only say what would change.
    pub dry_run: bool,
    /// Write the configuration file, too.
    pub save: bool,
    /// Who wants it.
    pub by: String,
}

/// What is to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Read the file again.
    Reload,
    /// Read again what the configuration in force refers to: certificates, tokens.
    Renew,
    /// This text is the configuration (YAML, of which JSON is a part).
    Whole(String),
    /// A merge patch (RFC 7396) of the document.
    Merge(Value),
    /// One entry of the document.
    Item(Item, ItemEdit),
    /// The configuration of this generation again.
    Rollback(u64),
}

impl Edit {
    /// A word for the history.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Renew => "renew",
            Self::Whole(_) => "put",
            Self::Merge(_) => "patch",
            Self::Item(_, ItemEdit::Put(_)) => "put item",
            Self::Item(_, ItemEdit::Merge(_)) => "patch item",
            Self::Item(_, ItemEdit::Delete) => "delete item",
            Self::Rollback(_) => "rollback",
        }
    }
}

/// An entry of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Of `listeners`, `routes` or `services`.
    Entry(Section, String),
    /// A backend of a service.
    Backend(String, String),
}

/// A list of named entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `listeners`.
    Listeners,
    /// `routes`.
    Routes,
    /// `services`.
    Services,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Listeners, Self::Routes, Self::Services];

    /// The key in the document.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Routes => "routes",
            Self::Services => "services",
        }
    }
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemEdit {
    /// It is this one from now on, whether there was one or not.
    Put(Map<String, Value>),
    /// It is changed by a merge patch.
    Merge(Value),
    /// It is gone.
    Delete,
}

/// The value of `If-Match` (RFC 9110 §13.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Any configuration will do.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

impl Condition {
    /// Reads a field's value. Weak tags never match, and are left out.
    ///
    /// # Errors
    ///
    /// It is neither `*` nor a list of entity tags.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        let value = value.trim();
        if value == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        for tag in value.split(',').map(str::trim) {
            let opaque = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = opaque
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            match inner {
                Some(inner) if !inner.contains('"') => {
                    if opaque.len() == tag.len() {
                        tags.push(inner.to_owned());
                    }
                }
                _ => {
                    let message =
                        format!("If-Match: `{tag}` is no entity tag; write `\"…\"` or `*`");
                    return Err(Refusal::new(RefusalKind::Malformed, message));
                }
            }
        }
        Ok(Self::OneOf(tags))
    }

    /// Judges a configuration by its tag.
    ///
    /// # Errors
    ///
    /// [`RefusalKind::Stale`].
    pub fn check(&self, etag: &str) -> Result<(), Refusal> {
        match self {
            Self::OneOf(tags) if !tags.iter().any(|tag| tag == etag) => {
                let message = "the configuration has changed since you read it: read it again, and \
                               decide again";
                Err(Refusal::new(RefusalKind::Stale, message))
            }
            Self::Any | Self::OneOf(_) => Ok(()),
        }
    }
}

/// Changes one entry of a document.
///
/// # Errors
///
/// [`RefusalKind::NotFound`] if the entry, or the service of a backend, is not there;
/// [`RefusalKind::Invalid`] if the entry calls itself something else.
pub fn apply(document: &mut Value, item: &Item, edit: &ItemEdit) -> Result<(), Refusal> {
    let (list, name) = match item {
        Item::Entry(section, name) => (entries(document, section.key()), name),
        Item::Backend(service, backend) => {
            let services = entries(document, Section::Services.key());
            let found = services.iter_mut().find(|one| one["name"] == **service);
            let found = found.ok_or_else(|| not_found("service", service))?;
            (entries(found, "backends"), backend)
        }
    };
    let at = list.iter().position(|one| is_called(one, name));
    match (edit, at) {
        (ItemEdit::Put(entry), Some(at)) => list[at] = named(entry, name)?,
        (ItemEdit::Put(entry), None) => list.push(named(entry, name)?),
        (ItemEdit::Merge(patch), Some(at)) => {
            let before = list[at].clone();
            merge(&mut list[at], patch);
            if list[at].get("name") != before.get("name") {
                return Err(other_name(name));
            }
        }
        (ItemEdit::Delete, Some(at)) => drop(list.remove(at)),
        (ItemEdit::Merge(_) | ItemEdit::Delete, None) => return Err(not_found(what(item), name)),
    }
    Ok(())
}

/// The entry of a document.
///
/// # Errors
///
/// [`RefusalKind::NotFound`].
pub fn find(document: &Value, item: &Item) -> Result<Value, Refusal> {
    let missing = |name: &str| not_found(what(item), name);
    let within = |value: &Value, key: &str, name: &str| {
        let list = value[key].as_array();
        list.and_then(|list| list.iter().find(|one| is_called(one, name)).cloned())
    };
    match item {
        Item::Entry(section, name) => {
            within(document, section.key(), name).ok_or_else(|| missing(name))
        }
        Item::Backend(service, backend) => {
            let found = within(document, Section::Services.key(), service);
            let found = found.ok_or_else(|| not_found("service", service))?;
            within(&found, "backends", backend).ok_or_else(|| missing(backend))
        }
    }
}

/// Changes a value by a merge patch (RFC 7396 §2).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                // Keeps the order of the others.
                target.shift_remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

const fn what(item: &Item) -> &'static str {
    match item {
        Item::Entry(Section::Listeners, _) => "listener",
        Item::Entry(Section::Routes, _) => "route",
        Item::Entry(Section::Services, _) => "service",
        Item::Backend(..) => "backend",
    }
}

/// The list of this key, which is made if there is none.
fn entries<'v>(value: &'v mut Value, key: &str) -> &'v mut Vec<Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let list = &mut value[key];
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut().expect("made so above")
}

/// Backends without a name are called by their address.
fn is_called(entry: &Value, name: &str) -> bool {
    match entry {
        Value::String(address) => address == name,
        entry => entry
            .get("name")
            .or_else(|| entry.get("address"))
            .is_some_and(|found| *found == *name),
    }
}

fn named(entry: &Map<String, Value>, name: &str) -> Result<Value, Refusal> {
    let mut entry = entry.clone();
    match entry.get("name") {
        None => {
            entry.shift_insert(0, "name".to_owned(), name.into());
        }
        Some(own) if *own == *name => {}
        Some(_) => return Err(other_name(name)),
    }
    Ok(Value::Object(entry))
}

fn other_name(name: &str) -> Refusal {
    let message =
        format!("the path says `{name}`, and `name` something else: add a new one instead");
    Refusal::new(RefusalKind::Invalid, message)
}

fn not_found(what: &str, name: &str) -> Refusal {
    Refusal::new(
        RefusalKind::NotFound,
        format!("there is no {what} `{name}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "services": [
                {"name": "web", "backends": [{"name": "b1", "address": "10.0.0.1:80", "weight": 1}]},
                {"name": "app", "backends": []},
            ],
        })
    }

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("no map"),
        }
    }

    fn backend(name: &str) -> Item {
        Item::Backend("web".to_owned(), name.to_owned())
    }

    /// The cases of RFC 7396, appendix A.
    #[test]
    fn merge_patches_do_what_the_rfc_says() {
        for (target, patch, expected) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            let mut value = target.clone();
            merge(&mut value, &patch);
            assert_eq!(value, expected, "{target} {patch}");
        }
    }

    #[test]
    fn a_backend_is_added_changed_and_removed() {
        let mut document = document();
        let entry = map(json!({"address": "10.0.0.2:80"}));
        apply(&mut document, &backend("b2"), &ItemEdit::Put(entry)).expect("added");
        apply(
            &mut document,
            &backend("b1"),
            &ItemEdit::Merge(json!({"weight": 5})),
        )
        .expect("there");
        let backends = &document["services"][0]["backends"];
        assert_eq!(backends[0]["weight"], 5);
        assert_eq!(backends[1], json!({"name": "b2", "address": "10.0.0.2:80"}));
        apply(&mut document, &backend("b1"), &ItemEdit::Delete).expect("there");
        assert!(find(&document, &backend("b1")).is_err());
        assert_eq!(
            find(&document, &backend("b2")).expect("there")["name"],
            "b2"
        );
    }

    #[test]
    fn what_is_not_there_or_called_otherwise_is_refused() {
        let kind = |item: Item, edit: ItemEdit| {
            let refusal = apply(&mut document(), &item, &edit).expect_err("refused");
            refusal.kind
        };
        assert_eq!(kind(backend("b9"), ItemEdit::Delete), RefusalKind::NotFound);
        let nobody = Item::Backend("nobody".to_owned(), "b1".to_owned());
        assert_eq!(kind(nobody, ItemEdit::Delete), RefusalKind::NotFound);
        let other = map(json!({"name": "b3", "address": "10.0.0.1:80"}));
        assert_eq!(
            kind(backend("b1"), ItemEdit::Put(other)),
            RefusalKind::Invalid
        );
        let rename = ItemEdit::Merge(json!({"name": "b3"}));
        assert_eq!(kind(backend("b1"), rename), RefusalKind::Invalid);
    }

    #[test]
    fn a_condition_holds_for_its_tags_and_never_for_weak_ones() {
        let check = |value: &str| Condition::parse(value).map(|known| known.check("12-ab").is_ok());
        assert_eq!(check("*"), Ok(true));
        assert_eq!(check("\"12-ab\""), Ok(true));
        assert_eq!(check("\"1-c\", \"12-ab\""), Ok(true));
        assert_eq!(check("W/\"12-ab\""), Ok(false));
        assert_eq!(check("\"13-ab\""), Ok(false));
        for malformed in ["", "12-ab", "\"12", "\"a\"b\"", "\"a\","] {
            assert!(check(malformed).is_err(), "{malformed}");
        }
    }
}
