//! `cargo xtask tidy`: rules of this repository that no lint knows.
//!
//! Every rule is a pure function from files to findings, tested on small fixtures. All findings
//! are reported at once, with file and line. What a lint can do is left to lints.

mod commands;
mod documents;
mod layers;
mod leftovers;
mod length;
mod manifests;
mod source;

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use source::Source;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the task.
pub(crate) fn task(workspace: &Workspace) -> Result<ExitCode> {
    check(workspace)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the whole repository and prints what it finds.
///
/// # Errors
///
/// If there is a fault; advice alone is no failure.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let files = read(workspace.root())?;
    let built = manifests::built(workspace.root());
    let mut findings = findings(&files, built.as_ref());
    findings.sort_by(|a, b| (a.severity, &a.file, a.line).cmp(&(b.severity, &b.file, b.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let faults = findings
        .iter()
        .filter(|f| f.severity == Severity::Fault)
        .count();
    println!(
        "{} files, {faults} faults, {} hints",
        files.len(),
        findings.len() - faults
    );
    if faults > 0 {
        bail!("tidy found {faults} faults: see above");
    }
    Ok(())
}

fn findings(files: &[File], built: Option<&BTreeSet<String>>) -> Vec<Finding> {
    let sources: Vec<Source> = files.iter().filter_map(Source::of).collect();
    [
        layers::check(&sources),
        length::check(&sources),
        leftovers::check(&sources, files),
        manifests::check(files, &sources, built),
        documents::check(files),
        commands::check(&sources, files),
    ]
    .concat()
}

/// A text file of the repository.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Path from the root.
    path: PathBuf,
    text: String,
}

impl File {
    /// True for a name such as `.rs`'s `rs`.
    fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|own| own == extension)
    }
}

/// Whether a finding fails the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// Worth a look.
    Hint,
    /// Must be mended.
    Fault,
}

/// Something that a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    file: PathBuf,
    /// From 1.
    line: usize,
    text: String,
}

impl Finding {
    fn fault(file: &Path, line: usize, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fault,
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }

    fn hint(file: &Path, line: usize, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Hint,
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Hint => "hint",
            Severity::Fault => "fault",
        };
        write!(
            f,
            "{}:{}: {severity}: {}",
            self.file.display(),
            self.line,
            self.text
        )
    }
}

/// Folders that hold no text of ours.
const SKIPPED_FOLDERS: &[&str] = &["target", ".git", "node_modules"];

/// Kinds of files that rules look at.
const EXTENSIONS: &[&str] = &["rs", "md", "toml", "lock", "yaml", "yml", "sh", "service"];

/// Reads every text file below `root`.
fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
            let path = entry.path();
            let kind = entry
                .file_type()
                .with_context(|| format!("looking at {}", path.display()))?;
            if kind.is_dir() {
                let skipped = SKIPPED_FOLDERS
                    .iter()
                    .any(|name| entry.file_name() == *name);
                if !skipped {
                    folders.push(path);
                }
            } else if kind.is_file() && is_text(&path) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                files.push(File { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_text(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let script = path.ends_with(".ci/run");
    script || extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// The line of an offset, from 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset]
        .iter()
        .filter(|octet| **octet == b'\n')
        .count()
        + 1
}

/// Offsets at which `word` stands alone, not as a part of a longer name.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word)
        .map(|(offset, _)| offset)
        .filter(move |&offset| {
            let before = text[..offset].chars().next_back();
            let after = text[offset + word.len()..].chars().next();
            let name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !name(before) && !name(after)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file for tests.
    pub(super) fn file(path: &str, text: &str) -> File {
        File {
            path: PathBuf::from(path),
            text: text.to_owned(),
        }
    }

    /// Findings as `path:line: text`, for comparison.
    pub(super) fn shown(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_finding_is_printed_so_that_editors_can_follow_it() {
        let finding = Finding::fault(Path::new("a/b.rs"), 3, "is wrong");
        assert_eq!(finding.to_string(), "a/b.rs:3: fault: is wrong");
    }

    #[test]
    fn words_do_not_match_inside_names() {
        let found: Vec<_> = words("xcrate crate crates (crate::x)", "crate").collect();
        assert_eq!(found, [7, 21]);
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
