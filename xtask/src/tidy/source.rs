//! Rust source with comments and literals told apart from code.
//!
//! Rules must not stumble over a word in a string or an example in a comment. A lexer for these
//! alone is short; a whole parser would cost xtask its quick start.

use super::File;
use std::ops::Range;
use std::path::PathBuf;

/// A Rust file, taken apart. All texts have the same length, so that offsets agree.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Path from the root.
    pub(super) path: PathBuf,
    /// As written.
    pub(super) text: String,
    /// Only code; comments and the inside of literals are blanks.
    pub(super) code: String,
    /// Only comments; all else is blanks.
    pub(super) comments: String,
}

impl Source {
    /// Takes a file apart, if it is Rust.
    pub(super) fn of(file: &File) -> Option<Self> {
        if !file.has_extension("rs") {
            return None;
        }
        let spans = spans(&file.text);
        let comments: Vec<_> = spans.iter().filter(|span| span.comment).collect();
        let keep = |offset: usize| comments.iter().any(|span| span.range.contains(&offset));
        Some(Self {
            path: file.path.clone(),
            text: file.text.clone(),
            code: blank(&file.text, &spans),
            comments: only(&file.text, keep),
        })
    }

    /// True for files that are tests as a whole.
    pub(super) fn is_test(&self) -> bool {
        let harness = self.path.starts_with("tests/src");
        let folder = self
            .path
            .components()
            .any(|part| part.as_os_str() == "tests");
        (folder && !harness) || self.path.file_name().is_some_and(|name| name == "tests.rs")
    }

    /// The inline modules, as `(name, range of the braces)`.
    pub(super) fn inline_modules(&self) -> Vec<(&str, Range<usize>)> {
        super::words(&self.code, "mod")
            .filter_map(|offset| {
                let rest = &self.code[offset + 3..];
                let open = rest.find(['{', ';'])?;
                let name = rest[..open].trim();
                let start = offset + 3 + open;
                let end = matching_brace(&self.code, start)?;
                Some((name, start..end))
            })
            .collect()
    }

    /// The inline modules that are compiled for tests only, from their attribute on.
    pub(super) fn test_modules(&self) -> Vec<Range<usize>> {
        const ATTRIBUTE: &str = "#[cfg(test)]";
        self.inline_modules()
            .into_iter()
            .filter_map(|(_, range)| {
                let before = &self.code[..range.start];
                let attribute = before.rfind(ATTRIBUTE)?;
                let between = &before[attribute + ATTRIBUTE.len()..];
                // Nothing but further attributes and `mod NAME` may lie between.
                (!between.contains(['{', '}', ';'])).then_some(attribute..range.end)
            })
            .collect()
    }
}

/// The offset just behind the brace that closes the one at `open`; `None` if there is none.
pub(super) fn matching_brace(code: &str, open: usize) -> Option<usize> {
    if code.as_bytes().get(open) != Some(&b'{') {
        return None;
    }
    let mut depth = 0usize;
    for (index, octet) in code.as_bytes()[open..].iter().enumerate() {
        match octet {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + index + 1);
        }
    }
    None
}

/// A comment or the inside of a literal.
#[derive(Debug)]
struct Span {
    range: Range<usize>,
    comment: bool,
}

/// The text with every span blanked, except for line ends.
fn blank(text: &str, spans: &[Span]) -> String {
    let mut octets = text.as_bytes().to_vec();
    for span in spans {
        for octet in &mut octets[span.range.clone()] {
            if *octet != b'\n' {
                *octet = b' ';
            }
        }
    }
    // Spans begin and end at character boundaries, so this replaces nothing.
    String::from_utf8_lossy(&octets).into_owned()
}

/// The text with everything blanked that is not to be kept, except for line ends.
fn only(text: &str, keep: impl Fn(usize) -> bool) -> String {
    let octets: Vec<u8> = text
        .bytes()
        .enumerate()
        .map(|(offset, octet)| {
            if octet == b'\n' || keep(offset) {
                octet
            } else {
                b' '
            }
        })
        .collect();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Finds comments and literals.
fn spans(text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (length, inside) = if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            (length, Some((0..length, true)))
        } else if rest.starts_with("/*") {
            let length = block_comment(rest);
            (length, Some((0..length, true)))
        } else if let Some(hashes) = raw_string(text, at) {
            let start = 1 + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            let end = rest[start..]
                .find(&close)
                .map_or(rest.len(), |end| start + end);
            (
                (end + close.len()).min(rest.len()),
                Some((start..end, false)),
            )
        } else if rest.starts_with('"') {
            let end = quoted(rest, '"');
            ((end + 1).min(rest.len()), Some((1..end, false)))
        } else if rest.starts_with('\'') && is_character(rest) {
            let end = quoted(rest, '\'');
            ((end + 1).min(rest.len()), Some((1..end, false)))
        } else {
            (rest.chars().next().map_or(1, char::len_utf8), None)
        };
        if let Some((range, comment)) = inside {
            found.push(Span {
                range: at + range.start..at + range.end,
                comment,
            });
        }
        at += length;
    }
    found
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The number of hashes of a raw string whose `r` is at this offset.
fn raw_string(text: &str, at: usize) -> Option<usize> {
    let rest = text[at..].strip_prefix('r')?;
    // `br` and `cr` are fine, a name that ends in r is not.
    let before = text[..at].trim_end_matches(['b', 'c']).chars().next_back();
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// The offset of the quote that closes the one at 0.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return offset,
            _ => {}
        }
    }
    rest.len()
}

/// True for `'a'` and `'\n'`, false for the lifetime `'a`.
fn is_character(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tidy::tests::file;

    pub(in crate::tidy) fn source(path: &str, text: &str) -> Source {
        Source::of(&file(path, text)).expect("a Rust path")
    }

    #[test]
    fn literals_and_comments_are_blanked() {
        let text = "let a = \"x // y\"; // z \"\nlet b = 'c'; let l: &'static str = r#\"q\"w\"#;";
        let source = source("a.rs", text);
        assert_eq!(
            source.code,
            "let a = \"      \";       \nlet b = ' '; let l: &'static str = r#\"   \"#;"
        );
        assert_eq!(source.comments.trim(), "// z \"");
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.comments.len(), text.len());
    }

    #[test]
    fn block_comments_nest_and_quotes_may_be_escaped() {
        let source = source("a.rs", "a /* b /* c */ d */ e '\\'' \"\\\"f\" g");
        let code: Vec<_> = source.code.split_whitespace().collect();
        assert_eq!(code, ["a", "e", "'", "'", "\"", "\"", "g"]);
    }

    #[test]
    fn characters_beyond_ascii_keep_offsets() {
        let text = "// – ä\nlet x = \"–\"; // ü";
        let source = source("a.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.code.find("let"), text.find("let"));
    }

    #[test]
    fn test_modules_are_found_from_their_attribute_on() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nmod c { }";
        let source = source("a.rs", text);
        assert_eq!(source.test_modules(), vec![10..46]);
        let names: Vec<_> = source
            .inline_modules()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["tests", "c"]);
    }

    #[test]
    fn the_harness_is_code_and_the_suites_are_tests() {
        assert!(!source("tests/src/lib.rs", "").is_test());
        assert!(source("tests/tests/netns.rs", "").is_test());
        assert!(source("proxy-userspace/tests/config.rs", "").is_test());
        assert!(source("proxy-userspace/src/kernel/plan/tests.rs", "").is_test());
        assert!(!source("proxy-userspace/src/kernel/plan.rs", "").is_test());
    }
}
