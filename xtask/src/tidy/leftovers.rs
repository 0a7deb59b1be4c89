//! Nothing unfinished is merged, and nothing that only holds on its author's machine.

use super::source::Source;
use super::{File, Finding, line_of, words};

/// Macros that mark unfinished work or debugging.
const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// Words that mark unfinished work in comments and documents.
const WORDS: &[&str] = &["TODO", "FIXME"];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/work/", "/root/", "/home/"];

/// As above, in documents only: a program may use the folder, a reader should not have to.
const DOCUMENT_PATHS: &[&str] = &["/tmp/"];

/// Reports what must not be left.
pub(super) fn check(sources: &[Source], files: &[File]) -> Vec<Finding> {
    let mut found: Vec<Finding> = sources.iter().flat_map(in_source).collect();
    let other = files.iter().filter(|file| !file.has_extension("rs"));
    found.extend(other.flat_map(|file| marks(file, &file.text)));
    found.extend(files.iter().flat_map(machine_paths));
    found
}

fn in_source(source: &Source) -> Vec<Finding> {
    let fault =
        |offset, text: String| Finding::fault(&source.path, line_of(&source.text, offset), text);
    let mut found = Vec::new();
    for name in MACROS {
        let calls = words(&source.code, name)
            .filter(|offset| source.code[offset + name.len()..].starts_with('!'));
        found.extend(calls.map(|offset| fault(offset, format!("`{name}!` is left"))));
    }
    for word in WORDS {
        let marks = words(&source.comments, word);
        found.extend(marks.map(|offset| fault(offset, format!("{word} is left"))));
    }
    let ignored = source.code.match_indices("#[ignore]");
    found.extend(ignored.map(|(offset, _)| {
        fault(
            offset,
            "`#[ignore]` without a reason: write `#[ignore = \"why\"]`".to_owned(),
        )
    }));
    found
}

fn marks(file: &File, text: &str) -> Vec<Finding> {
    WORDS
        .iter()
        .flat_map(|word| words(text, word).map(move |offset| (word, offset)))
        .map(|(word, offset)| {
            Finding::fault(&file.path, line_of(text, offset), format!("{word} is left"))
        })
        .collect()
}

fn machine_paths(file: &File) -> Vec<Finding> {
    let document = file.has_extension("md");
    let wanted = MACHINE_PATHS
        .iter()
        .chain(DOCUMENT_PATHS.iter().filter(|_| document));
    wanted
        .flat_map(|path| file.text.match_indices(path))
        .filter(|(offset, _)| starts_a_path(&file.text, *offset))
        // This file must name them.
        .filter(|_| !file.path.ends_with("tidy/leftovers.rs"))
        .map(|(offset, path)| {
            let text = format!("`{path}…` exists on one machine only");
            Finding::fault(&file.path, line_of(&file.text, offset), text)
        })
        .collect()
}

/// True if the slash at `offset` is a path's first, not one in its middle.
fn starts_a_path(text: &str, offset: usize) -> bool {
    let before = text[..offset].chars().next_back();
    !before.is_some_and(|c| c.is_alphanumeric() || "._-~}/".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::{file, shown};

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = file(path, text);
        let sources: Vec<_> = Source::of(&file).into_iter().collect();
        shown(&check(&sources, &[file]))
    }

    #[test]
    fn leftovers_are_found_in_code_and_comments() {
        let text = "fn f() {\n    todo!()\n}\n// FIXME: later\n#[test]\n#[ignore]\nfn g() {}\n";
        assert_eq!(
            found("a.rs", text),
            [
                "a.rs:2: fault: `todo!` is left",
                "a.rs:4: fault: FIXME is left",
                "a.rs:6: fault: `#[ignore]` without a reason: write `#[ignore = \"why\"]`",
            ]
        );
    }

    #[test]
    fn strings_and_reasons_are_fine() {
        let text = "const A: &str = \"TODO todo!()\";\n#[ignore = \"takes an hour\"]\nfn f() {}\n";
        assert_eq!(found("a.rs", text), [""; 0]);
        assert_eq!(found("a.md", "A Todo list.\n"), [""; 0]);
    }

    #[test]
    fn machine_paths_are_found_where_they_begin() {
        assert_eq!(found("a.md", "see /work/x and /tmp/y").len(), 2);
        assert_eq!(found("a.rs", "const A: &str = \"/tmp/y\";"), [""; 0]);
        assert_eq!(
            found("a.md", "target/work/x, ~/home/x, https://example.org/work/"),
            [""; 0]
        );
    }
}
