//! The reference of the configuration file as a manual page, from its Markdown.
//!
//! Only what that document uses is understood: headings, tables, lists, fenced text, paragraphs,
//! and within them code, emphasis and links. A table becomes a list of terms, because keys and
//! their meanings do not fit side by side into a terminal.

use std::fmt::Write as _;

/// `sluice.yaml(5)`.
pub(super) fn page(markdown: &str) -> String {
    let mut page = String::from(
        ".TH SLUICE.YAML 5 \"\" sluice \"sluice\"\n\
         .SH NAME\nsluice.yaml \\- configuration of the sluice load balancer\n\
         .SH DESCRIPTION\n",
    );
    let mut lines = markdown.lines().peekable();
    let mut is_comment = false;
    while let Some(line) = lines.next() {
        is_comment |= line.starts_with("<!--");
        if is_comment {
            is_comment = !line.ends_with("-->");
        } else if line.starts_with("```") {
            page.push_str(".PP\n.RS 4\n.nf\n");
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                text_line(&mut page, &escape(code));
            }
            page.push_str(".fi\n.RE\n");
        } else if let Some(heading) = line.strip_prefix("### ") {
            let _ = writeln!(page, ".SS {}", inline(heading));
        } else if let Some(heading) = line.strip_prefix("## ") {
            let _ = writeln!(page, ".SH {}", inline(heading).to_uppercase());
        } else if line.starts_with("# ") {
            // The page has its name already.
        } else if line.starts_with('|') {
            row(&mut page, line, lines.peek().copied());
        } else if let Some(item) = line.strip_prefix("- ") {
            page.push_str(".IP \\(bu 2\n");
            text_line(&mut page, &inline(item));
        } else if line.is_empty() {
            page.push_str(".PP\n");
        } else {
            text_line(&mut page, &inline(line.trim_start()));
        }
    }
    page
}

/// A row of a table: its first cell is a term. The head and the line below it are left out.
fn row(page: &mut String, line: &str, next: Option<&str>) {
    let is_rule = |line: &str| line.chars().all(|it| matches!(it, '|' | '-' | ' ' | ':'));
    if is_rule(line) || next.is_some_and(|next| next.starts_with('|') && is_rule(next)) {
        return;
    }
    let cells = cells(line);
    let mut cells = cells.iter().map(|cell| inline(cell));
    let _ = writeln!(page, ".TP\n{}", cells.next().unwrap_or_default());
    match cells.collect::<Vec<_>>().as_slice() {
        [value, default, meaning] => {
            text_line(page, meaning);
            let _ = write!(page, ".br\nValue: {value}.");
            if default != "–" {
                let _ = write!(page, " Default: {default}.");
            }
            page.push('\n');
        }
        others => text_line(page, &others.join(" \\- ")),
    }
}

/// Cells of a row; a bar behind a backslash does not divide.
fn cells(line: &str) -> Vec<String> {
    let hidden = line.replace("\\|", "\u{0}");
    let inner = hidden.trim().trim_start_matches('|').trim_end_matches('|');
    let cells = inner
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"));
    cells.collect()
}

/// A line of text, which must not look like a request.
fn text_line(page: &mut String, text: &str) {
    if text.starts_with(['.', '\'']) {
        page.push_str("\\&");
    }
    page.push_str(text);
    page.push('\n');
}

/// Code and what is bold become bold, links their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut is_bold = false;
    let mut rest = text;
    let toggle = |out: &mut String, is_bold: &mut bool| {
        *is_bold = !*is_bold;
        out.push_str(if *is_bold { "\\fB" } else { "\\fR" });
    };
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**") {
            // Bold code is bold already.
            if !after.starts_with('`') && !out.ends_with("\\fR") {
                toggle(&mut out, &mut is_bold);
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('`') {
            toggle(&mut out, &mut is_bold);
            rest = after;
        } else if let Some((text, after)) = link(rest) {
            out.push_str(&inline(text));
            rest = after;
        } else {
            out.push_str(&escape(&rest[..first.len_utf8()]));
            rest = &rest[first.len_utf8()..];
        }
    }
    if is_bold {
        out.push_str("\\fR");
    }
    out
}

/// The text of a link at the beginning, and what follows it.
fn link(text: &str) -> Option<(&str, &str)> {
    let (inner, after) = text.strip_prefix('[')?.split_once("](")?;
    if inner.contains('[') {
        return None;
    }
    let (_, rest) = after.split_once(')')?;
    Some((inner, rest))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_become_terms_and_nothing_looks_like_a_request() {
        let markdown = "<!-- made\n by -->\n# Title\n\n## Keys\n\n| Key | Value | Default | Meaning |\n\
                        |---|---|---|---|\n| **`a`** | `x`, `y` | `x` | See [b](c.md): 1 \\| 2. |\n\
                        \n```yaml\n.hidden\n```\n- one\n";
        let page = page(markdown);
        assert!(page.contains(".SH KEYS\n"), "{page}");
        assert!(
            page.contains(".TP\n\\fBa\\fR\nSee b: 1 | 2.\n.br\nValue: "),
            "{page}"
        );
        assert!(page.contains("Default: \\fBx\\fR."), "{page}");
        assert!(page.contains("\n\\&.hidden\n"), "{page}");
        assert!(
            !page.contains("made") && !page.contains("Meaning"),
            "{page}"
        );
    }

    #[test]
    fn the_whole_reference_has_every_section() {
        let page = page(&crate::config::reference_markdown());
        for words in [".SS \\fBlisteners[]\\fR", ".SH LIMITS", "\\fBpin_dir\\fR"] {
            assert!(page.contains(words), "no {words:?}");
        }
    }
}
