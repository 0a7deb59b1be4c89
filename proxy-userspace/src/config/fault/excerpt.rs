//! The lines around a fault, none of them endless: a file that a program wrote may be one line.

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use std::ops::Range;
use std::sync::Arc;

/// Characters of a line from which it is cut.
const WIDE: usize = 160;

/// Characters that are shown before the fault in a line that is cut.
const BEFORE: usize = 40;

/// Characters that are shown from the fault on.
const FROM: usize = 80;

/// What stands for characters that are left out.
const CUT: &str = "…";

/// The source of a fault, as it is drawn.
#[derive(Debug)]
pub(super) struct Excerpt {
    file: Arc<str>,
    text: Arc<str>,
    /// Lines of the file before `text`.
    skipped: usize,
    /// Where the fault is in `text`.
    label: Range<usize>,
    /// Column of the fault in the file, from 0.
    column: usize,
}

impl Excerpt {
    /// The lines around `offset..offset + length`; all of the source if no line near is long.
    pub(super) fn new(file: &Arc<str>, source: &Arc<str>, offset: usize, length: usize) -> Self {
        let boundaries = (0..=offset.min(source.len())).rev();
        let mut boundaries = boundaries.filter(|at| source.is_char_boundary(*at));
        let offset = boundaries.next().unwrap_or(0);
        let (begin, end) = around(source, offset);
        let near = source.get(begin..end).unwrap_or_default();
        let whole = Self {
            file: Arc::clone(file),
            text: Arc::clone(source),
            skipped: 0,
            label: offset..offset + length,
            column: 0,
        };
        if near.lines().all(|line| line.chars().count() <= WIDE) {
            return whole;
        }
        let mut text = String::new();
        let (mut at, mut label, mut column) = (begin, 0..0, 0);
        for line in near.split_inclusive('\n') {
            let plain = line.trim_end_matches(['\n', '\r']);
            if (at..=at + plain.len()).contains(&offset) && label.is_empty() {
                column = offset - at;
                label = cut_around(plain, column, length, &mut text);
            } else {
                cut_after(plain, &mut text);
            }
            text.push('\n');
            at += line.len();
        }
        Self {
            text: text.into(),
            skipped: source[..begin].matches('\n').count(),
            label,
            column,
            ..whole
        }
    }

    /// Where the fault is in what [`SourceCode`] gives.
    pub(super) fn label(&self) -> (usize, usize) {
        (self.label.start, self.label.len())
    }
}

/// From the beginning of the line before a place to the end of the line after it.
fn around(source: &str, offset: usize) -> (usize, usize) {
    let line = source[..offset].rfind('\n').map_or(0, |at| at + 1);
    let before = source[..line.saturating_sub(1)]
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let next = |from: usize| {
        let rest = source.get(from..).unwrap_or_default();
        rest.find('\n').map_or(source.len(), |at| from + at + 1)
    };
    (if line == 0 { 0 } else { before }, next(next(offset)))
}

/// Appends the part of a line that is near its fault; returns where that is then.
fn cut_around(line: &str, at: usize, length: usize, out: &mut String) -> Range<usize> {
    let near = line[..at].char_indices().rev().take(BEFORE).last();
    let from = near.map_or(at, |(from, _)| from);
    let to = line[at..]
        .char_indices()
        .nth(FROM)
        .map_or(line.len(), |(to, _)| at + to);
    if from > 0 {
        out.push_str(CUT);
    }
    let begin = out.len() + at - from;
    out.push_str(&line[from..to]);
    if to < line.len() {
        out.push_str(CUT);
    }
    begin..begin + length.min(to - at)
}

/// Appends the beginning of a line.
fn cut_after(line: &str, out: &mut String) {
    match line.char_indices().nth(WIDE) {
        Some((to, _)) => {
            out.push_str(&line[..to]);
            out.push_str(CUT);
        }
        None => out.push_str(line),
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let found = self.text.read_span(span, before, after)?;
        // The place that is named above the drawing is asked for without lines around it.
        let is_place = before == 0 && after == 0 && self.column > 0;
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.to_string(),
            found.data(),
            *found.span(),
            found.line() + self.skipped,
            if is_place {
                self.column
            } else {
                found.column()
            },
            found.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_endless_line_is_cut_around_its_fault() {
        let backends: Vec<String> = (0..500)
            .map(|n| format!("\"10.0.0.1:{}\"", 1000 + n))
            .collect();
        let text = format!(
            "{{\"listeners\":[{{\"name\":\"web\",\"kind\":\"http\",\"address\":\"0.0.0.0\",\"port\":80,\
             \"service\":\"app\"}}],\"services\":[{{\"name\":\"app\",\"backends\":[{}]}}],\"oops\":1}}",
            backends.join(",")
        );
        let errors = crate::config::parse("generated.json", &text).expect_err("no such key");
        let drawn = errors.pretty(false);
        let longest = drawn.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest <= 200), "{drawn}");
        let oops = errors.iter().find(|fault| fault.message.contains("oops"));
        let oops = oops.expect("an unknown key");
        assert!(drawn.contains("\"oops\":1}"), "{drawn}");
        let place = format!("generated.json:1:{}", oops.column);
        assert!(drawn.contains(&place), "{place}:\n{drawn}");
    }

    #[test]
    fn long_neighbours_do_not_hide_a_fault_nor_its_line() {
        let long = "x".repeat(1000);
        let text = format!("# {long}\n# {long}\nlisteners: 7\n# {long}\n");
        let errors = crate::config::parse("a.yaml", &text).expect_err("no list");
        let drawn = errors.pretty(false);
        assert!(
            drawn.contains("a.yaml:3:12") && drawn.contains("listeners: 7"),
            "{drawn}"
        );
        assert!(
            drawn.lines().all(|line| line.chars().count() <= 200),
            "{drawn}"
        );
    }
}
