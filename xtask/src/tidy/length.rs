//! Files and functions stay short enough to be read at once.
//!
//! From the lower limit on a hint names them, so that they are cut before it hurts; from the upper
//! one it is a fault. A flat table or a state machine may be longer: its first line then says why,
//! in the words "Long because …".

use super::source::{Source, matching_brace};
use super::{Finding, line_of, words};
use std::ops::Range;

/// Lines of a file without its tests: hint, fault.
const FILE_LINES: (usize, usize) = (500, 800);

/// Lines of a function with its signature: hint, fault.
const FUNCTION_LINES: (usize, usize) = (60, 120);

/// The words that excuse length.
const EXCUSE: &str = "Long because";

/// Reports long files and functions.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| !source.is_test())
        .flat_map(long)
        .collect()
}

fn long(source: &Source) -> Vec<Finding> {
    let tests = source.test_modules();
    let test_lines: usize = tests
        .iter()
        .map(|range| lines(&source.text[range.clone()]))
        .sum();
    let file = lines(&source.text).saturating_sub(test_lines);
    let excused = source
        .text
        .lines()
        .next()
        .is_some_and(|line| line.contains(EXCUSE));
    let mut found = Vec::new();
    found.extend(judge(source, 1, "the file", file, FILE_LINES, excused));
    for (name, range) in functions(&source.code) {
        if tests.iter().any(|test| test.contains(&range.start)) {
            continue;
        }
        let what = format!("function `{name}`");
        let line = line_of(&source.code, range.start);
        let excused = is_excused(source, line);
        let length = lines(&source.code[range]);
        found.extend(judge(source, line, &what, length, FUNCTION_LINES, excused));
    }
    found
}

fn judge(
    source: &Source,
    line: usize,
    what: &str,
    length: usize,
    (hint, fault): (usize, usize),
    excused: bool,
) -> Option<Finding> {
    let text = format!("{what} has {length} lines");
    if excused || length <= hint {
        None
    } else if length <= fault {
        Some(Finding::hint(
            &source.path,
            line,
            format!("{text}, aim at {hint}"),
        ))
    } else {
        let text = format!(
            "{text}, more than {fault}: cut it, or say why not in its first line (`{EXCUSE} …`)"
        );
        Some(Finding::fault(&source.path, line, text))
    }
}

/// True if the documentation just above a line, or the first line below it, has the excuse.
fn is_excused(source: &Source, line: usize) -> bool {
    let all: Vec<&str> = source.text.lines().collect();
    let head = |text: &str| {
        let text = text.trim_start();
        text.starts_with("//") || text.starts_with("#[")
    };
    let above = all[..line - 1].iter().rev().take_while(|text| head(text));
    above
        .chain(all.get(line))
        .any(|text| head(text) && text.contains(EXCUSE))
}

/// The functions with a body: name, and range from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(&str, Range<usize>)> {
    words(code, "fn")
        .filter_map(|start| {
            let rest = code[start + 2..].trim_start();
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            let name = &rest[..end];
            if name.is_empty() {
                return None; // A pointer type, `fn(…)`.
            }
            let body = body(code, start)?;
            Some((name, start..matching_brace(code, body)?))
        })
        .collect()
}

/// The brace that opens the body of the function at `start`; `None` for a declaration.
fn body(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (index, octet) in code.as_bytes()[start..].iter().enumerate() {
        match octet {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(start + index),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;
    use crate::tidy::tests::shown;

    fn function(lines: usize, above: &str) -> String {
        format!(
            "{above}fn long() -> [u8; 2] {{\n{}}}\n",
            "    x();\n".repeat(lines - 2)
        )
    }

    fn found(text: &str) -> Vec<String> {
        shown(&check(&[source("a/src/b.rs", text)]))
    }

    #[test]
    fn functions_get_a_hint_and_then_a_fault() {
        assert_eq!(found(&function(60, "")), [""; 0]);
        assert_eq!(
            found(&function(61, "\n")),
            ["a/src/b.rs:2: hint: function `long` has 61 lines, aim at 60"]
        );
        assert!(found(&function(121, ""))[0].starts_with("a/src/b.rs:1: fault: function `long`"));
    }

    #[test]
    fn a_reason_excuses_length() {
        let above = "/// Long because it is one flat table.\n#[inline]\n";
        assert_eq!(found(&function(130, above)), [""; 0]);
        let text = format!(
            "//! Long because it is a state machine.\n{}",
            "const A: u8 = 1;\n".repeat(900)
        );
        assert_eq!(found(&text), [""; 0]);
    }

    #[test]
    fn tests_do_not_count() {
        let test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(900, ""));
        assert_eq!(found(&test), [""; 0]);
        let long = "const A: u8 = 1;\n".repeat(501);
        assert_eq!(
            found(&format!("{long}{test}")),
            ["a/src/b.rs:1: hint: the file has 501 lines, aim at 500"]
        );
        assert_eq!(shown(&check(&[source("tests/tests/a.rs", &long)])), [""; 0]);
    }

    #[test]
    fn declarations_and_pointer_types_are_no_functions() {
        assert_eq!(
            functions("trait T { fn a(&self) -> [u8; 2]; } type F = fn(u8);"),
            []
        );
    }
}
