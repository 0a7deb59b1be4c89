//! Environment variables in values: `${VAR}`, `${VAR:-default}`, `${VAR:?message}`.
//!
//! As in POSIX shells (IEEE 1003.1 §2.6.2), with a colon an empty variable counts as unset.
//! `$${` stands for a literal `${`; any other `$` is literal. Defaults and messages are taken as
//! they are: nothing is filled in inside them. Keys are never touched.

use super::fault::Code;
use super::report::{Draft, Place};
use super::yaml::Document;

/// Looks up a variable.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in the variables of every value.
pub(crate) fn fill_in(document: &mut Document, lookup: Lookup<'_>) -> Vec<(Place, Draft)> {
    let mut problems = Vec::new();
    for (node, scalar) in document.scalars_mut() {
        if !scalar.text.contains("${") {
            continue;
        }
        match expand(&scalar.text, lookup) {
            Ok(text) => {
                scalar.substituted =
                    scalar.text.matches("${").count() > scalar.text.matches("$${").count();
                scalar.text = text;
            }
            Err(draft) => {
                scalar.at_fault = true;
                problems.push((Place::Value(node), draft));
            }
        }
    }
    problems
}

/// The text with its variables filled in.
fn expand(text: &str, lookup: Lookup<'_>) -> Result<String, Draft> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        let (before, after) = rest.split_at(dollar);
        let after = &after[2..];
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some(end) = after.find('}') else {
            return Err(Draft::new(Code::Syntax, "`${` is not closed")
                .fix("add `}`, or write `$${` for a literal `${`"));
        };
        out.push_str(&variable(&after[..end], lookup)?);
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between the braces.
fn variable(inner: &str, lookup: Lookup<'_>) -> Result<String, Draft> {
    let name_end = inner
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(inner.len());
    let (name, operation) = inner.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Draft::new(
            Code::Syntax,
            format!("`${{{inner}}}` does not name a variable"),
        )
        .expected("a name of letters, digits and underscores")
        .fix("write `$${` for a literal `${`"));
    }
    let value = lookup(name);
    if operation.is_empty() {
        return value.ok_or_else(|| {
            Draft::new(
                Code::UnsetVariable,
                format!("the environment variable `{name}` is not set"),
            )
            .fix(format!("set it, or give a default: `${{{name}:-DEFAULT}}`"))
        });
    }
    let value = value.filter(|value| !value.is_empty());
    if let Some(default) = operation.strip_prefix(":-") {
        return Ok(value.unwrap_or_else(|| default.to_owned()));
    }
    if let Some(message) = operation.strip_prefix(":?") {
        return value.ok_or_else(|| {
            let message = if message.is_empty() {
                "it is required"
            } else {
                message
            };
            Draft::new(
                Code::UnsetVariable,
                format!("the environment variable `{name}` is not set or empty: {message}"),
            )
            .fix("set it")
        });
    }
    Err(Draft::new(
        Code::Syntax,
        format!("`{operation}` is not known after `${{{name}`"),
    )
    .expected("`${VAR}`, `${VAR:-default}` or `${VAR:?message}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Draft> {
        expand(text, &|name| match name {
            "HOST" => Some("192.0.2.1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_filled_in_anywhere_in_a_value() {
        for (text, expected) in [
            ("${HOST}", "192.0.2.1"),
            ("${HOST}:80", "192.0.2.1:80"),
            ("a${EMPTY}b${HOST}c", "ab192.0.2.1c"),
            ("${NONE:-10.0.0.1}/24", "10.0.0.1/24"),
            ("${EMPTY:-x}", "x"),
            ("${HOST:-x}", "192.0.2.1"),
            ("${HOST:?needed}", "192.0.2.1"),
            ("$${HOST}", "${HOST}"),
            ("$HOST $ $$", "$HOST $ $$"),
            ("${NONE:-}", ""),
        ] {
            assert_eq!(expanded(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_a_fault() {
        for text in [
            "${NONE}",
            "${NONE:?why}",
            "${EMPTY:?why}",
            "${HOST",
            "${}",
            "${1A}",
            "${HOST+x}",
        ] {
            assert!(expanded(text).is_err(), "{text}");
        }
    }
}
