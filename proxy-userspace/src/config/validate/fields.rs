//! Names and values of HTTP fields, and patterns: what several sections have.

use crate::config::decode::{At, Field};
use crate::config::fault::Code;
use crate::config::file::scalar::Text;
use crate::config::report::{Draft, Place, Report};
use crate::message::Name;
use crate::types::{Pattern, PatternError};

/// True for a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+.^_`|~-".contains(c);
    !text.is_empty() && text.chars().all(inner)
}

/// A name of a field that routes and edits may concern, in the spelling that was given.
pub(super) fn field_name(report: &Report<'_>, place: Place, name: &str, host: &str) -> bool {
    if !is_token(name) {
        let draft = Draft::new(
            Code::InvalidValue,
            format!("`{name}` is not the name of a field"),
        )
        .expected("letters, digits and `-`");
        report.error(place, draft);
        return false;
    }
    let known = Name::of(name.as_bytes());
    if known == Name::Host {
        let draft = Draft::new(Code::Conflict, "`Host` is not among these fields").fix(host);
        report.error(place, draft);
        return false;
    }
    let framing = matches!(known, Name::ContentLength | Name::Expect | Name::Trailer);
    if known.is_hop_by_hop() || framing {
        let draft = Draft::new(
            Code::Conflict,
            format!("`{name}` concerns one connection only and is never passed on"),
        )
        .expected("a field of the message itself")
        .fix("remove it");
        report.error(place, draft);
        return false;
    }
    true
}

/// A value of a field: no control characters.
pub(super) fn field_value(report: &Report<'_>, at: &At<Text>) -> String {
    let text = at.value.0.trim_matches([' ', '\t']);
    if text.chars().any(|c| c.is_control() && c != '\t') {
        let draft = Draft::new(
            Code::InvalidValue,
            "a field's value cannot hold line ends or other control characters",
        )
        .expected("text in one line");
        report.error(Place::Value(at.node), draft);
    }
    text.to_owned()
}

/// A regular expression that must match as a whole.
pub(super) fn pattern(report: &Report<'_>, at: &At<String>) -> String {
    if let Err(error) = Pattern::check(&at.value) {
        bad_pattern(report, Place::Value(at.node), &at.value, &error);
    }
    at.value.clone()
}

/// Notes what is wrong with a pattern.
pub(super) fn bad_pattern(report: &Report<'_>, place: Place, text: &str, error: &PatternError) {
    let draft = Draft::new(
        Code::InvalidValue,
        format!("`{text}` is not a valid regular expression: {error}"),
    );
    let draft = match error {
        PatternError::TooLarge => draft.fix("let parts repeat fewer times"),
        _ => draft.expected(
            "a regular expression such as `/users/[0-9]+`; put a backslash before a character that is \
             meant as it is",
        ),
    };
    report.error(place, draft);
}

/// Text that is not empty.
pub(super) fn not_empty(report: &Report<'_>, field: &Field<Text>, what: &str) -> Option<String> {
    let at = field.given()?;
    if at.value.0.is_empty() {
        let draft = Draft::new(Code::InvalidValue, "the text is empty").expected(what);
        report.error(Place::Value(at.node), draft);
    }
    Some(at.value.0.clone())
}
