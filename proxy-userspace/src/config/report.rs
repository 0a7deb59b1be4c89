//! Collects faults while a file is read and judged.

use super::fault::{Code, Fault, Faults, Severity};
use super::yaml::{Document, Kind, NodeId, Span, Step};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

/// Characters of offending text that a fault repeats.
const SHOWN: usize = 60;

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a value.
    Value(NodeId),
    /// At the key of a value.
    Key(NodeId),
    /// Somewhere in the text.
    Text(Span),
    /// Nowhere in particular.
    Whole,
}

/// A fault without its place.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    code: Code,
    message: String,
    expected: Option<String>,
    fix: Option<String>,
    missing: Option<&'static str>,
}

impl Draft {
    /// A fault with this message.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            expected: None,
            fix: None,
            missing: None,
        }
    }

    /// Says what was expected.
    pub(crate) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Says how to mend it.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Suggests a similar word, if there is one.
    pub(crate) fn did_you_mean<'w>(
        self,
        wrong: &str,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Self {
        match similar(wrong, words) {
            Some(word) => self.fix(format!("did you mean `{word}`?")),
            None => self,
        }
    }

    /// The fault is the absence of this key below its place.
    fn of_missing(mut self, key: &'static str) -> Self {
        self.missing = Some(key);
        self
    }
}

/// The word most like `wrong`, if any is like it at all: one slip of the fingers away, or with
/// much in common from the start on.
pub(crate) fn similar<'w>(
    wrong: &str,
    words: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    let normal = |word: &str| word.to_lowercase().replace(['_', ' '], "-");
    let wrong = normal(wrong);
    let likeness = |word: &str| {
        let word = normal(word);
        match strsim::damerau_levenshtein(&wrong, &word) {
            0 => 1.0,
            1 if word.len() > 2 => 0.99,
            _ => strsim::jaro_winkler(&wrong, &word),
        }
    };
    words
        .into_iter()
        .map(|word| (likeness(word), word))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// Likeness (Jaro and Winkler) from which a word is suggested. Lower values suggest nonsense.
const ALIKE: f64 = 0.8;

/// The faults of one file so far.
pub(crate) struct Report<'d> {
    document: &'d Document,
    file: Arc<str>,
    source: Arc<str>,
    faults: RefCell<Vec<Fault>>,
    /// Keys that a map has under a wrong name.
    misspelt: RefCell<HashSet<(NodeId, &'static str)>>,
}

impl<'d> Report<'d> {
    /// An empty report.
    pub(crate) fn new(document: &'d Document, file: Arc<str>, source: Arc<str>) -> Self {
        Self {
            document,
            file,
            source,
            faults: RefCell::new(Vec::new()),
            misspelt: RefCell::new(HashSet::new()),
        }
    }

    /// The tree that is judged.
    pub(crate) fn document(&self) -> &'d Document {
        self.document
    }

    /// Notes an error.
    pub(crate) fn error(&self, place: Place, draft: Draft) {
        self.note(Severity::Error, place, draft);
    }

    /// Notes a warning.
    pub(crate) fn warn(&self, place: Place, message: impl Into<String>, fix: impl Into<String>) {
        let draft = Draft::new(Code::Suspicious, message).fix(fix);
        self.note(Severity::Warning, place, draft);
    }

    /// Remembers that an unknown key of `map` was probably meant to be `key`, which is therefore
    /// not also missing.
    pub(crate) fn expect_key(&self, map: NodeId, key: &'static str) {
        self.misspelt.borrow_mut().insert((map, key));
    }

    /// Notes that `map` lacks `key`, unless it has it under a wrong name.
    pub(crate) fn missing(&self, map: NodeId, key: &'static str, example: &str) {
        if self.misspelt.borrow().contains(&(map, key)) {
            return;
        }
        let draft = Draft::new(Code::MissingKey, format!("the key `{key}` is missing"))
            .fix(format!("add `{key}: {example}`"))
            .of_missing(key);
        self.error(Place::Value(map), draft);
    }

    /// The line in which a node stands, for messages that point to another place.
    pub(crate) fn line(&self, node: NodeId) -> u32 {
        self.document.node(node).span.line
    }

    /// The faults, in the order of the text.
    pub(crate) fn finish(self) -> Faults {
        Faults::new(self.source, self.faults.into_inner())
    }

    fn note(&self, severity: Severity, place: Place, draft: Draft) {
        let (span, mut path) = self.locate(place);
        if let Some(key) = draft.missing {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
        }
        let text = self.text(span);
        let fault = Fault {
            severity,
            code: draft.code,
            file: Arc::clone(&self.file),
            line: span.line,
            column: span.column,
            offset: span.start,
            length: text.len(),
            path,
            text: shorten(text),
            message: draft.message,
            expected: draft.expected,
            fix: draft.fix,
        };
        self.faults.borrow_mut().push(fault);
    }

    fn locate(&self, place: Place) -> (Span, String) {
        match place {
            Place::Value(id) => {
                let node = self.document.node(id);
                let span = match (&node.kind, &node.step) {
                    // A missing value has no text of its own.
                    (Kind::Scalar(scalar), Step::Key(_, key))
                        if scalar.text.is_empty() && !scalar.quoted =>
                    {
                        *key
                    }
                    _ => node.span,
                };
                (span, self.document.path(id))
            }
            Place::Key(id) => {
                let span = match &self.document.node(id).step {
                    Step::Key(_, span) => *span,
                    Step::Root | Step::Index(_) => self.document.node(id).span,
                };
                (span, self.document.path(id))
            }
            Place::Text(span) => (span, String::new()),
            Place::Whole => (Span::default(), String::new()),
        }
    }

    /// The text of a span; for collections, which have only a start, the rest of its line.
    fn text(&self, span: Span) -> &str {
        let source: &str = &self.source;
        if span.line == 0 || !source.is_char_boundary(span.start) {
            return "";
        }
        let text = if span.end > span.start && source.is_char_boundary(span.end) {
            &source[span.start..span.end]
        } else {
            &source[span.start..]
        };
        text.lines().next().unwrap_or("").trim_end()
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
