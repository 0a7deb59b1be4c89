//! Small things that commands need which talk to the daemon.

use crate::admin::client::{Chunks, ClientError};
use crate::cli::exit::{Exit, Failure};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;

/// `path` with a query string made of the fields of `parameters` that are set.
pub(super) fn query(path: &str, parameters: &impl Serialize) -> Result<String, Failure> {
    let value =
        serde_json::to_value(parameters).map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut text = path.to_owned();
    let fields = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null());
    for (i, (name, value)) in fields.enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        match value {
            Value::String(value) => escape(&mut text, value),
            other => escape(&mut text, &other.to_string()),
        }
    }
    Ok(text)
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
fn escape(text: &mut String, value: &str) {
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            text.push(char::from(octet));
        } else {
            let _ = write!(text, "%{octet:02X}");
        }
    }
}

/// Puts the lines of a streamed answer together.
#[derive(Debug)]
struct Lines {
    chunks: Chunks,
    pending: Vec<u8>,
}

impl Lines {
    /// Reads lines from `chunks`.
    const fn new(chunks: Chunks) -> Self {
        Self {
            chunks,
            pending: Vec::new(),
        }
    }

    /// The next line without its end; `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            match self.chunks.next().await? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Server-sent events of a streamed answer (WHATWG HTML §9.2), as far as the daemon uses them.
#[derive(Debug)]
pub(super) struct Events(Lines);

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Its kind; empty for the usual one.
    pub(super) event: String,
    /// What it says.
    pub(super) data: String,
}

impl Events {
    /// Reads events from `chunks`.
    pub(super) const fn new(chunks: Chunks) -> Self {
        Self(Lines::new(chunks))
    }

    /// The next one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Told>, ClientError> {
        let mut told = Told::default();
        while let Some(line) = self.0.next().await? {
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut told.event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                data.clone_into(&mut told.data);
                return Ok(Some(told));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::FlowQuery;

    #[test]
    fn a_query_has_only_what_is_set_and_escapes_it() {
        let mut flows = FlowQuery::default();
        assert_eq!(query("flows", &flows).expect("builds"), "flows");
        flows.service = Some("a b&c".to_owned());
        flows.client = Some("2001:db8::/32".to_owned());
        flows.limit = Some(5);
        assert_eq!(
            query("flows", &flows).expect("builds"),
            "flows?service=a%20b%26c&client=2001%3Adb8%3A%3A%2F32&limit=5"
        );
    }
}
