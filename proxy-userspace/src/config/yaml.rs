//! YAML text ↔ values: the only module that knows the YAML library.
//!
//! Reading yields a tree in which every node knows its place in the text and its key path. A
//! deserializer that goes straight to types stops at the first fault; the tree lets
//! [`super::decode`] go on after each one. Scalars are kept as they were written, so that what
//! `10:30` or `0x10` means is decided by the type that is wanted, not by guessing.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved here by copying, within limits, so that a
//! small file cannot become a huge tree. Tags and further documents are refused.

use super::fault::Code;
use super::report::{Draft, Place};
use serde::Serialize;
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};
use std::collections::HashMap;

/// Most nodes of a tree, after aliases are resolved.
const MAX_NODES: usize = 2_000_000;

/// Most levels of nesting.
const MAX_DEPTH: u16 = 64;

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
        if let Err(Broken(place, draft)) = builder.run(text) {
            builder.document.nodes.clear();
            builder.problems.push((place, draft));
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

/// YAML text of a value.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|error| format!("# {error}\n"))
}

/// YAML text as another YAML reader has it, to compare with.
#[cfg(test)]
pub(crate) fn to_value(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).expect("the text is YAML")
}

/// Reading cannot go on.
struct Broken(Place, Draft);

/// A collection that is being read.
struct Open {
    id: NodeId,
    is_map: bool,
    /// The key whose value comes next.
    key: Option<(String, Span)>,
    /// Keys so far and where they stand.
    seen: HashMap<String, Span>,
    /// Values of `<<`.
    merges: Vec<NodeId>,
}

#[derive(Default)]
struct Builder {
    document: Document,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    problems: Vec<(Place, Draft)>,
}

impl Builder {
    fn run(&mut self, text: &str) -> Result<(), Broken> {
        let options = granit_parser::options! { emit_comments: false };
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| syntax(text, &error))?;
            let span = place(&span);
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(broken(span, "a second YAML document starts here")
                            .fix("keep one document per file: remove the line `---`"));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(span, tag.is_some());
                    let quoted = style != ScalarStyle::Plain;
                    self.scalar(text.into_owned(), quoted, span, anchor)?;
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.refuse_tag(span, tag.is_some());
                    self.start(Kind::List(Vec::new()), span, anchor)?;
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.refuse_tag(span, tag.is_some());
                    self.start(Kind::Map(Vec::new()), span, anchor)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end()?,
                Event::Alias(anchor) => self.alias(anchor, span)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn refuse_tag(&mut self, span: Span, tagged: bool) {
        if tagged {
            self.problems.push((
                Place::Text(span),
                Draft::new(Code::Syntax, "YAML tags are not used here").fix("remove the `!…`"),
            ));
        }
    }

    fn scalar(
        &mut self,
        text: String,
        quoted: bool,
        span: Span,
        anchor: usize,
    ) -> Result<(), Broken> {
        if let Some(open) = self.open.last_mut()
            && open.is_map
            && open.key.is_none()
        {
            open.key = Some((text, span));
            return Ok(());
        }
        let scalar = Scalar {
            text,
            quoted,
            substituted: false,
            at_fault: false,
        };
        let id = self.add(Kind::Scalar(scalar), span)?;
        self.anchors.insert(anchor, id);
        Ok(())
    }

    fn start(&mut self, kind: Kind, span: Span, anchor: usize) -> Result<(), Broken> {
        let is_map = matches!(kind, Kind::Map(_));
        let id = self.add(kind, span)?;
        self.anchors.insert(anchor, id);
        self.open.push(Open {
            id,
            is_map,
            key: None,
            seen: HashMap::new(),
            merges: Vec::new(),
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        if let Some(open) = self.open.pop() {
            for merge in &open.merges {
                self.merge(open.id, &open.seen, *merge)?;
            }
        }
        Ok(())
    }

    /// Adds a value to the collection that is being read.
    fn add(&mut self, kind: Kind, span: Span) -> Result<NodeId, Broken> {
        let Some(open) = self.open.last_mut() else {
            return self.push(ROOT, Step::Root, kind, span);
        };
        let parent = open.id;
        if !open.is_map {
            let index = match &self.document.nodes[parent.0 as usize].kind {
                Kind::List(items) => items.len(),
                Kind::Scalar(_) | Kind::Map(_) => 0,
            };
            let id = self.push(parent, Step::Index(index), kind, span)?;
            self.link(parent, id);
            return Ok(id);
        }
        let Some((key, key_span)) = open.key.take() else {
            return Err(broken(span, "a list or map is used as a key")
                .fix("use plain text as key; quote a value that starts with `[`, `{` or `*`"));
        };
        let merges = key == "<<";
        let first = if merges {
            None
        } else {
            open.seen.get(&key).copied()
        };
        if first.is_none() && !merges {
            open.seen.insert(key.clone(), key_span);
        }
        let step = Step::Key(key.clone(), key_span);
        let id = self.push(parent, step, kind, span)?;
        match first {
            Some(first) => self.problems.push((
                Place::Key(id),
                Draft::new(
                    Code::DuplicateKey,
                    format!("the key `{key}` was already given in line {}", first.line),
                )
                .fix("remove one of the two"),
            )),
            None if merges => {
                if let Some(open) = self.open.last_mut() {
                    open.merges.push(id);
                }
            }
            None => self.link(parent, id),
        }
        Ok(id)
    }

    fn push(
        &mut self,
        parent: NodeId,
        step: Step,
        kind: Kind,
        span: Span,
    ) -> Result<NodeId, Broken> {
        if self.document.nodes.len() >= MAX_NODES {
            return Err(broken(
                span,
                format!("the file has more than {MAX_NODES} values, aliases included"),
            ));
        }
        let depth = match step {
            Step::Root => 0,
            _ => self.document.node(parent).depth + 1,
        };
        if depth > MAX_DEPTH {
            return Err(broken(
                span,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        let id = NodeId(self.document.nodes.len() as u32);
        self.document.nodes.push(Node {
            parent,
            step,
            span,
            kind,
            depth,
        });
        Ok(id)
    }

    fn link(&mut self, parent: NodeId, child: NodeId) {
        match &mut self.document.nodes[parent.0 as usize].kind {
            Kind::List(children) | Kind::Map(children) => children.push(child),
            Kind::Scalar(_) => {}
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Broken> {
        let Some(target) = self.anchors.get(&anchor).copied() else {
            return Err(broken(span, "no anchor has this name"));
        };
        if self.open.iter().any(|open| open.id == target) {
            return Err(broken(span, "an alias stands inside its own anchor"));
        }
        let node = self.document.node(target).clone();
        if let Kind::Scalar(scalar) = &node.kind {
            return self.scalar(scalar.text.clone(), scalar.quoted, span, 0);
        }
        let id = self.add(empty(&node.kind), node.span)?;
        self.copy_children(&node.kind, id)
    }

    fn copy_children(&mut self, from: &Kind, to: NodeId) -> Result<(), Broken> {
        let (Kind::List(children) | Kind::Map(children)) = from else {
            return Ok(());
        };
        for child in children {
            self.copy(*child, to)?;
        }
        Ok(())
    }

    fn copy(&mut self, from: NodeId, parent: NodeId) -> Result<(), Broken> {
        let node = self.document.node(from).clone();
        let id = self.push(parent, node.step, empty(&node.kind), node.span)?;
        self.link(parent, id);
        self.copy_children(&node.kind, id)
    }

    /// Copies the entries of a `<<` value that the map itself does not have.
    fn merge(
        &mut self,
        into: NodeId,
        own: &HashMap<String, Span>,
        from: NodeId,
    ) -> Result<(), Broken> {
        let node = self.document.node(from).clone();
        match &node.kind {
            Kind::Map(children) => {
                for child in children {
                    let taken = match &self.document.node(*child).step {
                        Step::Key(key, _) => {
                            own.contains_key(key) || self.document.child(into, key).is_some()
                        }
                        Step::Root | Step::Index(_) => true,
                    };
                    if !taken {
                        self.copy(*child, into)?;
                    }
                }
            }
            Kind::List(items) => {
                for item in items {
                    self.merge(into, own, *item)?;
                }
            }
            Kind::Scalar(_) => self.problems.push((
                Place::Value(from),
                Draft::new(Code::Syntax, "only maps can be merged with `<<`")
                    .expected("an alias of a map, or a list of them"),
            )),
        }
        Ok(())
    }
}

/// The kind without children; scalars as they are.
fn empty(kind: &Kind) -> Kind {
    match kind {
        Kind::Scalar(scalar) => Kind::Scalar(scalar.clone()),
        Kind::List(_) => Kind::List(Vec::new()),
        Kind::Map(_) => Kind::Map(Vec::new()),
    }
}

fn place(span: &granit_parser::Span) -> Span {
    let start = span.start.byte_offset().unwrap_or_default();
    Span {
        start,
        end: span.end.byte_offset().unwrap_or(start).max(start),
        line: span.start.line() as u32,
        column: span.start.col() as u32 + 1,
    }
}

fn broken(span: Span, message: impl Into<String>) -> Broken {
    Broken(Place::Text(span), Draft::new(Code::Syntax, message))
}

impl Broken {
    fn fix(self, fix: impl Into<String>) -> Self {
        Self(self.0, self.1.fix(fix))
    }
}

/// A syntax error with a hint for the usual causes.
fn syntax(text: &str, error: &granit_parser::ScanError) -> Broken {
    let mark = error.marker();
    let start = mark.byte_offset().unwrap_or_default().min(text.len());
    let span = Span {
        start,
        end: start,
        line: mark.line() as u32,
        column: mark.col() as u32 + 1,
    };
    let line = text
        .lines()
        .nth(mark.line().saturating_sub(1))
        .unwrap_or("");
    let indent = &line[..line.len() - line.trim_start().len()];
    let broken = broken(span, format!("this is not YAML: {}", error.info()));
    if indent.contains('\t') {
        broken.fix("indent with spaces: YAML does not allow tabs")
    } else if line.contains("${") {
        broken.fix("put the value with `${…}` in double quotes")
    } else if matches!(error.kind(), granit_parser::ErrorKind::UnknownAnchor) {
        broken.fix("define it before with `&NAME`, or quote text that starts with `*`")
    } else {
        broken.fix("compare the indentation, colons and quotes of this line and the one above")
    }
}
