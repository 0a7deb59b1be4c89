//! YAML text ↔ values: the only module that knows the YAML library.
//!
//! Reading yields a tree in which every node knows its place in the text and its key path. A
//! deserializer that goes straight to types stops at the first fault; the tree lets
//! [`super::decode`] go on after each one. Scalars are kept as they were written, so that what
//! `10:30` or `0x10` means is decided by the type that is wanted, not by guessing.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved here by copying, within limits, so that a
//! small file cannot become a huge tree. Tags and further documents are refused.

mod read;

use super::report::{Draft, Place};
use read::{Broken, Builder};
use serde::Serialize;
use serde_json::Value;

/// Where something stands in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// Offset in octets.
    pub(crate) start: usize,
    /// Offset in octets, exclusive. Equal to `start` for collections in block style.
    pub(crate) end: usize,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Column in characters, from 1.
    pub(crate) column: u32,
}

/// Index of a node in its [`Document`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u32);

/// The root of every document that has one.
pub(crate) const ROOT: NodeId = NodeId(0);

/// One value of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What contains it; the root contains itself.
    pub(crate) parent: NodeId,
    /// How it is reached from there.
    pub(crate) step: Step,
    /// Where the value stands.
    pub(crate) span: Span,
    /// The value.
    pub(crate) kind: Kind,
    depth: u16,
}

/// The last step of a node's path.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The root.
    Root,
    /// A key of a map, and where the key stands.
    Key(String, Span),
    /// An element of a list.
    Index(usize),
}

/// A node's value.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Text, a number, a truth value or null: as it was written.
    Scalar(Scalar),
    /// A list.
    List(Vec<NodeId>),
    /// A map in the order of the text, each key once.
    Map(Vec<NodeId>),
}

/// A scalar as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// The text, with escapes resolved and variables filled in.
    pub(crate) text: String,
    /// Written in quotes or as a block.
    pub(crate) quoted: bool,
    /// The text comes from environment variables, at least in part.
    pub(crate) substituted: bool,
    /// A variable could not be filled in, which is noted already.
    pub(crate) at_fault: bool,
}

impl Scalar {
    /// True for the absence of a value.
    pub(crate) fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// True where YAML's core schema (YAML 1.2.2 §10.3.2) takes the scalar for text.
    pub(crate) fn is_text(&self) -> bool {
        self.quoted || !(self.is_null() || self.is_bool() || self.number().is_some())
    }

    /// True where YAML's core schema takes the scalar for a truth value.
    pub(crate) fn is_bool(&self) -> bool {
        matches!(
            self.text.as_str(),
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE"
        )
    }

    /// The number that YAML's core schema takes the text for, quotes apart.
    pub(crate) fn number(&self) -> Option<Number> {
        let text = self.text.as_str();
        let radix = |prefix, radix| {
            let digits = text.strip_prefix(prefix)?;
            i128::from_str_radix(digits, radix).ok().map(Number::Whole)
        };
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
            return None;
        }
        let digits = text.trim_start_matches(['+', '-']);
        match digits {
            ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => {
                return Some(Number::Real(f64::INFINITY));
            }
            _ => {}
        }
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        radix("0x", 16)
            .or_else(|| radix("0o", 8))
            .or_else(|| text.parse().ok().map(Number::Whole))
            .or_else(|| text.parse().ok().map(Number::Real))
    }
}

impl Scalar {
    fn value(&self) -> Value {
        if self.is_null() {
            return Value::Null;
        }
        if self.quoted {
            return self.text.clone().into();
        }
        if self.is_bool() {
            return self.text.eq_ignore_ascii_case("true").into();
        }
        let number = match self.number() {
            Some(Number::Whole(number)) => serde_json::Number::from_i128(number),
            Some(Number::Real(number)) => serde_json::Number::from_f64(number),
            None => None,
        };
        number.map_or_else(|| self.text.clone().into(), Value::Number)
    }
}

/// A number in a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// Without a fraction.
    Whole(i128),
    /// With one.
    Real(f64),
}

/// A whole file as a tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    nodes: Vec<Node>,
}

impl Document {
    /// The tree of `text`, and what is wrong with the text as YAML.
    ///
    /// After a syntax error the tree is empty, because what a half-read file lacks is unknown.
    pub(crate) fn parse(text: &str) -> (Self, Vec<(Place, Draft)>) {
        let mut builder = Builder::default();
        if let Err(Broken(problem)) = builder.run(text) {
            builder.document.nodes.clear();
            builder.problems.push(*problem);
        }
        (builder.document, builder.problems)
    }

    /// True if the text holds no value at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node.
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The value below a node, its scalars by YAML's core schema.
    fn value(&self, id: NodeId) -> Value {
        match &self.node(id).kind {
            Kind::Scalar(scalar) => scalar.value(),
            Kind::List(children) => children.iter().map(|child| self.value(*child)).collect(),
            Kind::Map(children) => {
                let entries = children.iter().map(|child| match &self.node(*child).step {
                    Step::Key(key, _) => (key.clone(), self.value(*child)),
                    Step::Root | Step::Index(_) => unreachable!("children of maps have keys"),
                });
                Value::Object(entries.collect())
            }
        }
    }

    /// The child of a map under `key`.
    pub(crate) fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let Kind::Map(children) = &self.node(id).kind else {
            return None;
        };
        children
            .iter()
            .copied()
            .find(|child| matches!(&self.node(*child).step, Step::Key(name, _) if name == key))
    }

    /// Every scalar, to fill in variables.
    pub(crate) fn scalars_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Scalar)> {
        self.nodes
            .iter_mut()
            .enumerate()
            .filter_map(|(index, node)| match &mut node.kind {
                Kind::Scalar(scalar) => Some((NodeId(index as u32), scalar)),
                Kind::List(_) | Kind::Map(_) => None,
            })
    }

    /// The node's key path, such as `services[2].backends[0].port`; empty for the root.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = id;
        loop {
            let node = self.node(at);
            match &node.step {
                Step::Root => break,
                step => steps.push(step),
            }
            at = node.parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key, _) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

/// YAML text as a value, whatever it is about; `None` if it is none, or empty.
pub fn to_json(text: &str) -> Option<Value> {
    let (document, problems) = Document::parse(text);
    let is_read = problems.is_empty() && !document.is_empty();
    is_read.then(|| document.value(ROOT))
}

/// YAML text of a value.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    let options = serde_saphyr::ser_options! {
        compact_list_indent: false,
        prefer_block_scalars: false,
        yaml_12: true,
        no_lang_directive: true,
    };
    serde_saphyr::to_string_with_options(value, options)
        .unwrap_or_else(|error| format!("# {error}\n"))
}

/// YAML text as another YAML reader has it, to compare with.
#[cfg(test)]
pub(crate) fn to_value(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("the text is YAML")
}

#[cfg(test)]
mod tests;
