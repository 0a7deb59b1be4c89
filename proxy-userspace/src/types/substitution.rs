//! Replacing what a regular expression matches.

use super::pattern::{self, PatternError};
use regex_automata::meta;
use std::fmt;

/// A regular expression and what its matches become.
#[derive(Clone)]
pub struct Substitution {
    regex: meta::Regex,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    /// Group 0 is the whole match.
    Group(usize),
}

impl Substitution {
    /// Reads a pattern and a replacement, in which `$0` is the match, `$1` to `$9` are its groups,
    /// and `$$` is a dollar sign.
    ///
    /// # Errors
    ///
    /// If the pattern is not valid, or the replacement has another `$`, or names a group that the
    /// pattern does not have.
    pub fn new(pattern: &str, replacement: &str) -> Result<Self, PatternError> {
        let regex = pattern::search(pattern)?;
        let parts = parts(replacement, regex.captures_len())?;
        Ok(Self { regex, parts })
    }

    /// Appends `text` to `out`, with all matches replaced.
    pub fn apply(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut done = 0;
        for found in self.regex.captures_iter(text) {
            let Some(whole) = found.get_match() else {
                continue;
            };
            out.extend_from_slice(&text[done..whole.start()]);
            for part in &self.parts {
                match part {
                    Part::Text(text) => out.extend_from_slice(text),
                    Part::Group(group) => {
                        let span = found.get_group(*group);
                        out.extend_from_slice(span.map_or(&[], |span| &text[span]));
                    }
                }
            }
            done = whole.end();
        }
        out.extend_from_slice(&text[done..]);
    }
}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Substitution").field(&self.parts).finish()
    }
}

fn parts(replacement: &str, groups: usize) -> Result<Vec<Part>, PatternError> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut octets = replacement.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'$' {
            text.push(octet);
            continue;
        }
        match octets.next() {
            Some(b'$') => text.push(b'$'),
            Some(digit @ b'0'..=b'9') => {
                let group = usize::from(digit - b'0');
                if group >= groups {
                    return Err(PatternError::NoSuchGroup {
                        group,
                        groups: groups - 1,
                    });
                }
                parts.push(Part::Text(std::mem::take(&mut text).into()));
                parts.push(Part::Group(group));
            }
            _ => return Err(PatternError::Dollar),
        }
    }
    parts.push(Part::Text(text.into()));
    parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(pattern: &str, replacement: &str, text: &str) -> String {
        let mut out = Vec::new();
        let substitution = Substitution::new(pattern, replacement).unwrap();
        substitution.apply(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_matches_are_replaced() {
        assert_eq!(replaced("^/v1/(.*)$", "/api/$1", "/v1/users"), "/api/users");
        assert_eq!(replaced("-", "_", "/a-b-c"), "/a_b_c");
        assert_eq!(replaced("(a)|(b)", "[$0$2]", "ab"), "[a][bb]");
        assert_eq!(replaced("x", "y", "/a"), "/a");
        assert_eq!(replaced("a*", "-", "ba"), "-b-");
        assert_eq!(replaced("a", "$$1a", "a"), "$1a");
    }

    #[test]
    fn replacements_are_judged() {
        let fault = |replacement| Substitution::new("(a)", replacement).unwrap_err();
        assert_eq!(
            fault("$2"),
            PatternError::NoSuchGroup {
                group: 2,
                groups: 1
            }
        );
        assert_eq!(fault("$"), PatternError::Dollar);
        assert_eq!(fault("$x"), PatternError::Dollar);
    }
}
