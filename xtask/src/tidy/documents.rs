//! Documents can be found, and what they point to exists.
//!
//! Every page below `docs/` is reachable by links from README.md or ARCHITECTURE.md; a link to a
//! folder reaches the pages in it. Relative links lead to files that exist. No page is empty. Every
//! example configuration is mentioned in a document.

use super::{File, Finding, line_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Where readers start.
const ENTRIES: &[&str] = &["README.md", "ARCHITECTURE.md"];

/// Reports broken links, pages that nothing links to, and examples that no page mentions.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let pages: BTreeMap<&Path, &File> = files
        .iter()
        .filter(|file| file.has_extension("md"))
        .map(|file| (file.path.as_path(), file))
        .collect();
    let mut found = missing_entries(&pages);
    found.extend(empty(&pages));
    found.extend(pages.values().flat_map(|page| broken_links(page, files)));
    found.extend(unreachable(&pages));
    found.extend(unmentioned(files, &pages));
    found
}

fn missing_entries(pages: &BTreeMap<&Path, &File>) -> Vec<Finding> {
    let missing = ENTRIES
        .iter()
        .map(Path::new)
        .filter(|path| !pages.contains_key(path));
    missing
        .map(|path| Finding::fault(path, 1, "is missing"))
        .collect()
}

fn empty(pages: &BTreeMap<&Path, &File>) -> Vec<Finding> {
    let empty = pages.values().filter(|page| page.text.trim().is_empty());
    empty
        .map(|page| Finding::fault(&page.path, 1, "says nothing"))
        .collect()
}

fn broken_links(page: &File, files: &[File]) -> Vec<Finding> {
    links(page)
        .into_iter()
        .filter(|(_, target)| !exists(target, files))
        .map(|(line, target)| {
            let text = format!("links to `{}`, which does not exist", target.display());
            Finding::fault(&page.path, line, text)
        })
        .collect()
}

/// True if a file is there, or a folder with files. Only text files are known; a link to any other
/// kind (a picture, a licence without extension) is taken on trust.
fn exists(target: &Path, files: &[File]) -> bool {
    let known = target.extension().is_none_or(|_| super::is_text(target));
    let licence = target.to_string_lossy().starts_with("LICENSE");
    !known || licence || files.iter().any(|file| file.path.starts_with(target))
}

fn unreachable(pages: &BTreeMap<&Path, &File>) -> Vec<Finding> {
    let mut reached: BTreeSet<&Path> = BTreeSet::new();
    let mut next: Vec<&Path> = ENTRIES.iter().map(Path::new).collect();
    while let Some(path) = next.pop() {
        let Some(page) = pages.get(path).filter(|_| reached.insert(path)) else {
            continue;
        };
        for (_, target) in links(page) {
            // A page, or each page in a folder.
            let targets = pages
                .keys()
                .filter(|page| **page == target || page.parent() == Some(target.as_path()));
            next.extend(targets);
        }
    }
    pages
        .keys()
        .filter(|path| path.starts_with("docs") && !reached.contains(**path))
        .map(|path| {
            Finding::fault(
                path,
                1,
                "no link from README.md or ARCHITECTURE.md leads here",
            )
        })
        .collect()
}

fn unmentioned(files: &[File], pages: &BTreeMap<&Path, &File>) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| file.path.starts_with("examples"))
        .filter_map(|file| Some((file, file.path.file_name()?.to_str()?)))
        .filter(|(_, name)| !pages.values().any(|page| page.text.contains(name)))
        .map(|(file, _)| Finding::fault(&file.path, 1, "no document mentions this example"))
        .collect()
}

/// Relative links of a page: line, and target as a path from the root.
fn links(page: &File) -> Vec<(usize, PathBuf)> {
    let text = without_code(&page.text);
    let folder = page.path.parent().unwrap_or(Path::new(""));
    text.match_indices("](")
        .filter_map(|(offset, mark)| {
            let rest = &text[offset + mark.len()..];
            let target = rest[..rest.find([')', '\n'])?].split([' ', '#']).next()?;
            let relative = !target.is_empty() && !target.contains("://");
            let relative = relative && !target.starts_with("mailto:");
            relative.then(|| (line_of(&text, offset), normal(&folder.join(target))))
        })
        .collect()
}

/// The text with fenced code blanked, so that lines still count.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let lines = text.split('\n').map(|line| {
        let fence = line.trim_start().starts_with("```");
        if fence {
            fenced = !fenced;
        }
        if fence || fenced { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(part) => normal.push(part),
            _ => {}
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::{file, shown};

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![file("ARCHITECTURE.md", "Parts.")];
        all.extend(files.iter().map(|(path, text)| file(path, text)));
        shown(&check(&all))
    }

    #[test]
    fn pages_are_reached_over_other_pages_and_folders() {
        let files = [
            (
                "README.md",
                "[guide](docs/guide.md#start), [web](https://example.org/x.md)",
            ),
            ("docs/guide.md", "[decisions](adr/) and [top](../README.md)"),
            ("docs/adr/0001-a.md", "So it is."),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn a_page_without_a_link_and_a_link_without_a_page_are_faults() {
        let files = [
            ("README.md", "\n[x](docs/b.md)\n```\n[y](docs/c.md)\n```"),
            ("docs/a.md", "Alone."),
        ];
        assert_eq!(
            found(&files),
            [
                "README.md:2: fault: links to `docs/b.md`, which does not exist",
                "docs/a.md:1: fault: no link from README.md or ARCHITECTURE.md leads here",
            ]
        );
    }

    #[test]
    fn a_page_says_something() {
        let files = [("README.md", "[x](docs/a.md)"), ("docs/a.md", " \n")];
        assert_eq!(found(&files), ["docs/a.md:1: fault: says nothing"]);
    }

    #[test]
    fn each_example_is_mentioned() {
        let files = [
            ("README.md", "try l4.yaml"),
            ("examples/l4.yaml", ""),
            ("examples/x.yaml", ""),
        ];
        assert_eq!(
            found(&files),
            ["examples/x.yaml:1: fault: no document mentions this example"]
        );
    }

    #[test]
    fn the_entries_must_exist() {
        assert_eq!(found(&[]), ["README.md:1: fault: is missing"]);
    }
}
