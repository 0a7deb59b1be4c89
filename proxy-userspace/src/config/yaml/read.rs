//! YAML text → tree.

use super::{Document, Kind, Node, NodeId, ROOT, Scalar, Span, Step};
use crate::config::fault::Code;
use crate::config::report::{Draft, Place};
use granit_parser::{self, Event, Parser, ScalarStyle};
use std::collections::HashMap;

/// Most nodes of a tree, after aliases are resolved.
const MAX_NODES: usize = 2_000_000;

/// Most levels of nesting.
const MAX_DEPTH: u16 = 64;

/// Reading cannot go on.
pub(super) struct Broken(pub(super) Box<(Place, Draft)>);

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

/// Builds a tree from the parser's events.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) document: Document,
    pub(super) problems: Vec<(Place, Draft)>,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
}

impl Builder {
    /// Reads the whole text.
    pub(super) fn run(&mut self, text: &str) -> Result<(), Broken> {
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
            )
            .fix("use fewer aliases"));
        }
        let depth = match step {
            Step::Root => 0,
            _ => self.document.node(parent).depth + 1,
        };
        if depth > MAX_DEPTH {
            return Err(
                broken(span, format!("nested more than {MAX_DEPTH} levels deep"))
                    .fix("close the brackets or indent less"),
            );
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
            return Err(
                broken(span, "no anchor has this name").fix("define it before with `&NAME`")
            );
        };
        if self.open.iter().any(|open| open.id == target) {
            return Err(broken(span, "an alias stands inside its own anchor")
                .fix("write out what is meant"));
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
    Broken(Box::new((
        Place::Text(span),
        Draft::new(Code::Syntax, message),
    )))
}

impl Broken {
    fn fix(self, fix: impl Into<String>) -> Self {
        let (place, draft) = *self.0;
        Self(Box::new((place, draft.fix(fix))))
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
    } else if line.contains("[") && line.contains("]:") {
        broken.fix("put an address with brackets in quotes: `\"[2001:db8::1]:80\"`")
    } else {
        broken.fix(
            "compare the indentation, colons, quotes and brackets of this line and the ones above",
        )
    }
}
