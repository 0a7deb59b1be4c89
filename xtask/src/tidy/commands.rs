//! Every command of `sluice` is mentioned in a document, as `sluice NAME`.

use super::source::{Source, matching_brace};
use super::{File, Finding, line_of, words};
use std::path::Path;

/// Where the commands are defined, as the variants of this enum.
const COMMANDS: &str = "proxy-userspace/src/cli/mod.rs";
const ENUM: &str = "enum Command ";

/// Reports commands that no document mentions.
pub(super) fn check(sources: &[Source], files: &[File]) -> Vec<Finding> {
    let Some(source) = sources
        .iter()
        .find(|source| source.path == Path::new(COMMANDS))
    else {
        return Vec::new();
    };
    let documents: Vec<&File> = files
        .iter()
        .filter(|file| file.has_extension("md"))
        .collect();
    variants(&source.code)
        .into_iter()
        .map(|(offset, variant)| (offset, kebab_case(variant)))
        .filter(|(_, name)| {
            let command = format!("sluice {name}");
            !documents
                .iter()
                .any(|page| words(&page.text, &command).next().is_some())
        })
        .map(|(offset, name)| {
            let text = format!("no document mentions the command `sluice {name}`");
            Finding::fault(&source.path, line_of(&source.code, offset), text)
        })
        .collect()
}

/// The variants of the enum, with their offsets.
fn variants(code: &str) -> Vec<(usize, &str)> {
    let Some(open) = code.find(ENUM).map(|start| start + ENUM.len()) else {
        return Vec::new();
    };
    let Some(end) = matching_brace(code, open) else {
        return Vec::new();
    };
    let mut depth = 0;
    let mut found = Vec::new();
    for (offset, c) in code[open..end].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            c if depth == 1 && c.is_uppercase() => {
                let rest = &code[open + offset..end];
                let length = rest
                    .find(|c: char| !c.is_alphanumeric())
                    .unwrap_or(rest.len());
                let inside = code[..open + offset].ends_with(|c: char| c.is_alphanumeric());
                if !inside {
                    found.push((open + offset, &rest[..length]));
                }
            }
            _ => {}
        }
    }
    found
}

/// The name that clap gives a variant.
fn kebab_case(variant: &str) -> String {
    let mut name = String::new();
    for c in variant.chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(c.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;
    use crate::tidy::tests::{file, shown};

    #[test]
    fn commands_without_a_mention_are_named() {
        let code = "enum Command {\n    /// Reload.\n    Reload(reload::Args),\n    \
                    #[command(Hidden)]\n    DebugBundle { Path: u8 },\n    Stop,\n}\nenum Other { X }";
        let page = file("README.md", "`sluice reload`, sluice stopped");
        let found = check(&[source(COMMANDS, code)], &[page]);
        assert_eq!(
            shown(&found),
            [
                "proxy-userspace/src/cli/mod.rs:5: fault: no document mentions the command \
                 `sluice debug-bundle`",
                "proxy-userspace/src/cli/mod.rs:6: fault: no document mentions the command \
                 `sluice stop`",
            ]
        );
    }
}
