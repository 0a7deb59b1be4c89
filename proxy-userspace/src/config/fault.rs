//! What is wrong with a configuration file, in a form that people and programs can use.
//!
//! A fault knows its place (file, line, column, key path), the text that is there, what was
//! expected and how to mend it. Faults are collected, never thrown: one run shows all of them.

mod excerpt;

use excerpt::Excerpt;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, Severity as Level};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Faults that are drawn with their source; the others are only counted.
const DRAWN: usize = 100;

/// Characters of a label beside a caret.
const LABEL: usize = 60;

/// How grave a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably does not do what was meant. Fatal with `--strict`.
    Warning,
}

impl Severity {
    /// The word used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The kind of a fault: a stable word for programs, and for looking it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The file cannot be read.
    Unreadable,
    /// The text is not YAML, or uses a part of YAML that is refused.
    Syntax,
    /// A key stands twice in one map.
    DuplicateKey,
    /// A key that does not exist.
    UnknownKey,
    /// A key that must be given is not.
    MissingKey,
    /// A list where a map belongs, text where a number belongs …
    WrongType,
    /// The type is right, the value is not.
    InvalidValue,
    /// An environment variable is not set.
    UnsetVariable,
    /// Two things have the same name.
    DuplicateName,
    /// A name that nothing has.
    UnknownName,
    /// Two settings contradict each other.
    Conflict,
    /// More than the data plane can hold.
    Limit,
    /// Allowed, but probably not what was meant.
    Suspicious,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::Unreadable,
        Self::Syntax,
        Self::DuplicateKey,
        Self::UnknownKey,
        Self::MissingKey,
        Self::WrongType,
        Self::InvalidValue,
        Self::UnsetVariable,
        Self::DuplicateName,
        Self::UnknownName,
        Self::Conflict,
        Self::Limit,
        Self::Suspicious,
    ];

    /// What it means, in a sentence for users.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Unreadable => "The file cannot be read.",
            Self::Syntax => "The text is not YAML, or uses a part of YAML that is refused.",
            Self::DuplicateKey => "A key stands twice in one map.",
            Self::UnknownKey => "There is no such key.",
            Self::MissingKey => "A key that must be given is not.",
            Self::WrongType => "A list where a map belongs, text where a number belongs …",
            Self::InvalidValue => "The type is right, the value is not.",
            Self::UnsetVariable => "An environment variable is not set.",
            Self::DuplicateName => "Two things of one kind have the same name.",
            Self::UnknownName => "A name that nothing has.",
            Self::Conflict => "Two settings contradict each other.",
            Self::Limit => "More than the data plane can hold.",
            Self::Suspicious => "A warning: allowed, but probably not what was meant.",
        }
    }

    /// The word used in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::DuplicateKey => "duplicate-key",
            Self::UnknownKey => "unknown-key",
            Self::MissingKey => "missing-key",
            Self::WrongType => "wrong-type",
            Self::InvalidValue => "invalid-value",
            Self::UnsetVariable => "unset-variable",
            Self::DuplicateName => "duplicate-name",
            Self::UnknownName => "unknown-name",
            Self::Conflict => "conflict",
            Self::Limit => "limit",
            Self::Suspicious => "suspicious",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How grave it is.
    pub severity: Severity,
    /// What kind it is.
    pub code: Code,
    /// Name of the file.
    pub file: Arc<str>,
    /// Line, counted from 1; 0 where the fault has no place in the text.
    pub line: u32,
    /// Column in characters, counted from 1; 0 as for `line`.
    pub column: u32,
    /// Offset of the text in octets.
    pub offset: usize,
    /// Octets of the text.
    pub length: usize,
    /// Path of the key, such as `services[2].backends[0].port`; empty for the whole file.
    pub path: String,
    /// The text that is there, shortened.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What was expected.
    pub expected: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line != 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.severity.name())?;
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

/// Faults of one file together with its text, in the order of the text.
#[derive(Clone, Debug)]
pub struct Faults {
    source: Arc<str>,
    list: Vec<Fault>,
}

impl Faults {
    /// Orders `list` by place and drops what is said twice (an anchor's content that is used in
    /// several places is at fault in each of them).
    pub(crate) fn new(source: Arc<str>, mut list: Vec<Fault>) -> Self {
        list.sort_by_key(|fault| (fault.offset, fault.severity));
        let mut seen = std::collections::HashSet::new();
        list.retain(|fault| seen.insert((fault.offset, fault.length, fault.message.clone())));
        Self { source, list }
    }

    /// The faults, in the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Draws each fault with its source line and a caret.
    ///
    /// Colour is the caller's choice: pass whether the output is a terminal and `NO_COLOR` is
    /// not set.
    pub fn pretty(&self, colour: bool) -> String {
        let theme = if colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
        let mut out = String::new();
        for fault in self.list.iter().take(DRAWN) {
            if !out.is_empty() {
                out.push('\n');
            }
            let (offset, length) = (fault.offset, fault.length);
            let drawing = Drawing {
                fault,
                source: Excerpt::new(&fault.file, &self.source, offset, length),
            };
            if handler.render_report(&mut out, &drawing).is_err() {
                out.push_str(&format!("{fault}\n"));
            }
        }
        if self.list.len() > DRAWN {
            out.push_str(&format!("\n… and {} more\n", self.list.len() - DRAWN));
        }
        out
    }

    /// How many errors and warnings there are, as in `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |severity: Severity| {
            let count = self.list.iter().filter(|fault| fault.severity == severity);
            (count.count(), severity.name())
        };
        let parts: Vec<_> = [count(Severity::Error), count(Severity::Warning)]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| match count {
                1 => format!("1 {name}"),
                _ => format!("{count} {name}s"),
            })
            .collect();
        if parts.is_empty() {
            "no errors".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A fault with its source, as miette wants it.
#[derive(Debug)]
struct Drawing<'a> {
    fault: &'a Fault,
    source: Excerpt,
}

impl Drawing<'_> {
    /// What was expected, if it is too long for a label or there is no place for one.
    fn expected_apart(&self) -> Option<&str> {
        let expected = self.fault.expected.as_deref()?;
        (self.fault.line == 0 || expected.chars().count() > LABEL).then_some(expected)
    }
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.fault.path.is_empty() {
            write!(f, "{}: ", self.fault.path)?;
        }
        f.write_str(&self.fault.message)
    }
}

impl std::error::Error for Drawing<'_> {}

impl miette::Diagnostic for Drawing<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.fault.code.name()))
    }

    fn severity(&self) -> Option<Level> {
        Some(match self.fault.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let expected = self.expected_apart().map(|text| format!("expected {text}"));
        let lines: Vec<_> = expected.into_iter().chain(self.fault.fix.clone()).collect();
        (!lines.is_empty()).then(|| Box::new(lines.join("\n")) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        (self.fault.line != 0).then_some(&self.source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        if self.fault.line == 0 {
            return None;
        }
        let label = match &self.fault.expected {
            Some(expected) if self.expected_apart().is_none() => format!("expected {expected}"),
            _ => "here".to_owned(),
        };
        let (offset, length) = self.source.label();
        let label = LabeledSpan::new(Some(label), offset, length);
        Some(Box::new(std::iter::once(label)))
    }
}

/// A configuration that cannot be used: every error, and the warnings besides.
#[derive(Clone, Debug)]
pub struct ConfigErrors {
    faults: Faults,
}

impl ConfigErrors {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// The file could not be read.
    pub(crate) fn unreadable(file: &str, error: &io::Error) -> Self {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => Some("name an existing file with `-c FILE`"),
            io::ErrorKind::PermissionDenied => Some("run as a user who may read it"),
            _ => None,
        };
        let fault = Fault {
            severity: Severity::Error,
            code: Code::Unreadable,
            file: file.into(),
            line: 0,
            column: 0,
            offset: 0,
            length: 0,
            path: String::new(),
            text: String::new(),
            message: format!("cannot read the file: {error}"),
            expected: None,
            fix: fix.map(str::to_owned),
        };
        Self {
            faults: Faults::new("".into(), vec![fault]),
        }
    }

    /// Errors and warnings, in the order of the text.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Errors and warnings, in the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.faults.iter()
    }

    /// See [`Faults::pretty`].
    pub fn pretty(&self, colour: bool) -> String {
        self.faults.pretty(colour)
    }
}

impl fmt::Display for ConfigErrors {
    /// One fault a line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
