//! Spans of connections, before and beside their requests.

use std::time::Duration;

/// One part of a connection's life.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionSpan {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub id: [u8; 8],
    /// The span that caused it; `None` where the trace begins.
    pub parent: Option<[u8; 8]>,
    /// Its name: of low cardinality.
    pub name: String,
    /// Which side of a call it is.
    pub kind: SpanKind,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Fact)>,
    /// Why it failed.
    pub error: Option<String>,
    /// Begin, since the Unix epoch.
    pub began_at: Duration,
    /// End, since the Unix epoch.
    pub ended_at: Duration,
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// None.
    Internal,
    /// The one that is called.
    Server,
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Bool(bool),
}

impl ConnectionSpan {
    /// Adds a text.
    pub fn text(&mut self, key: &'static str, value: &str) {
        self.attributes.push((key, Fact::Text(value.to_owned())));
    }

    /// Adds a text, if there is one.
    pub fn optional(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// Adds a number.
    pub fn number(&mut self, key: &'static str, value: i64) {
        self.attributes.push((key, Fact::Number(value)));
    }

    /// It has failed.
    pub fn fail(&mut self, why: &str) {
        self.text("error.type", why);
        self.error = Some(why.to_owned());
    }
}
