//! Modules of user space use only earlier layers.
//!
//! The layers are read from `proxy-userspace/src/lib.rs`: each group of `pub mod` lines is one,
//! lowest first, groups being separated by blank lines. A module may use modules of earlier groups
//! and its own folder; two modules of one group know nothing of each other. A path reaches another
//! module by `crate::` or by enough `super::`, in a `use` or in the middle of an expression; all
//! four are followed. Links in comments may point anywhere.

use super::source::Source;
use super::{Finding, line_of, words};
use std::collections::BTreeMap;
use std::path::Path;

const LIBRARY: &str = "proxy-userspace/src";

/// Reports every path that leads upwards.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let library = Path::new(LIBRARY);
    let Some(root) = sources
        .iter()
        .find(|source| source.path == library.join("lib.rs"))
    else {
        return vec![Finding::fault(
            &library.join("lib.rs"),
            1,
            "is missing: it lists the layers",
        )];
    };
    let ranks = ranks(&root.code);
    sources
        .iter()
        .filter_map(|source| {
            let inside = source.path.strip_prefix(library).ok()?;
            Some((source, module_of(inside)?))
        })
        .flat_map(|(source, module)| upward(source, &module, &ranks))
        .collect()
}

/// The rank of each module in `lib.rs`; lower ranks may be used by higher ones.
fn ranks(code: &str) -> BTreeMap<String, usize> {
    let mut ranks = BTreeMap::new();
    let mut rank = 0;
    let mut in_group = false;
    for line in code.lines().map(str::trim) {
        let name = line
            .strip_prefix("pub mod ")
            .or_else(|| line.strip_prefix("mod "));
        if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
            ranks.insert(name.to_owned(), rank);
            in_group = true;
        } else if line.is_empty() && in_group {
            rank += 1;
            in_group = false;
        }
    }
    ranks
}

/// The module that a file in `src/` is; `None` for the roots of crates.
fn module_of(file: &Path) -> Option<Vec<String>> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    match parts.as_slice() {
        [only] if only == "lib" || only == "main" => None,
        [first, ..] if first == "bin" => None,
        [] => None,
        _ => Some(parts),
    }
}

fn upward(source: &Source, module: &[String], ranks: &BTreeMap<String, usize>) -> Vec<Finding> {
    let Some(own) = module.first() else {
        return Vec::new();
    };
    let Some(&own_rank) = ranks.get(own) else {
        let text = format!("module `{own}` is not among the layers in lib.rs");
        return vec![Finding::fault(&source.path, 1, text)];
    };
    uses(source, module.len())
        .into_iter()
        .filter(|(_, used)| used != own)
        .filter_map(|(offset, used)| {
            let rank = *ranks.get(&used)?; // Else a macro or a constant of the root.
            let line = line_of(&source.code, offset);
            let relation = match rank.cmp(&own_rank) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => "of the same layer",
                std::cmp::Ordering::Greater => "of a later layer",
            };
            let text = format!("`{own}` uses `{used}`, {relation} (order in lib.rs)");
            Some(Finding::fault(&source.path, line, text))
        })
        .collect()
}

/// The top-level modules that a file refers to, with the offsets; `depth` is its own depth.
fn uses(source: &Source, depth: usize) -> Vec<(usize, String)> {
    let code = &source.code;
    let inline = source.inline_modules();
    let by_crate = words(code, "crate").map(|offset| (offset, offset + "crate".len()));
    let by_super = words(code, "super").filter_map(|offset| {
        if code[..offset].trim_end().ends_with("::") {
            return None; // A later one of a chain.
        }
        let around = inline
            .iter()
            .filter(|(_, range)| range.contains(&offset))
            .count();
        let end = super_chain(code, offset, depth + around)?;
        Some((offset, end))
    });
    by_crate
        .chain(by_super)
        .flat_map(|(offset, end)| {
            heads(&code[end..])
                .into_iter()
                .map(move |head| (offset, head))
        })
        .collect()
}

/// The end of a chain of `super::super` that leads to the crate's root from this depth.
fn super_chain(code: &str, mut at: usize, depth: usize) -> Option<usize> {
    let mut count = 0;
    loop {
        at += "super".len();
        count += 1;
        if count == depth {
            return Some(at);
        }
        let rest = code[at..].trim_start().strip_prefix("::")?.trim_start();
        if !rest.starts_with("super") {
            return None;
        }
        at = code.len() - rest.len();
    }
}

/// The first names behind a path's root: one for `::a::b`, several for `::{a::b, c}`.
fn heads(rest: &str) -> Vec<String> {
    let Some(rest) = rest.trim_start().strip_prefix("::") else {
        return Vec::new();
    };
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return name(rest).into_iter().collect();
    };
    let mut found = Vec::new();
    let mut depth = 0;
    let mut at_start = true;
    for (offset, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                found.extend(name(&group[offset..]));
                at_start = false;
            }
            _ => {}
        }
    }
    found
}

/// The name at the start of a text.
fn name(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;
    use crate::tidy::tests::shown;

    const LIB: &str = "//! Doc.\n\npub mod types;\n\npub mod config;\n\npub mod balance;\n\
                       pub mod health;\n\n/// The kernel.\npub mod kernel;\n\npub mod runtime;\n";

    fn found(path: &str, text: &str) -> Vec<String> {
        let lib = source("proxy-userspace/src/lib.rs", LIB);
        shown(&check(&[
            lib,
            source(&format!("proxy-userspace/src/{path}"), text),
        ]))
    }

    #[test]
    fn earlier_layers_and_the_own_folder_are_free() {
        let text = "use crate::types::Port;\nuse crate::{config::{model, file}, kernel::store};\n\
                    use super::plan;\nfn f() { crate::balance::ring(); self::x(); super::y() }";
        assert_eq!(found("kernel/load.rs", text), [""; 0]);
    }

    #[test]
    fn upward_uses_are_found_wherever_they_stand() {
        let text = "use crate::{types,\n    kernel::{a, b}};\nfn f() { crate::runtime::go() }\n";
        assert_eq!(
            found("config/mod.rs", text),
            [
                "proxy-userspace/src/config/mod.rs:1: fault: `config` uses `kernel`, of a later \
                 layer (order in lib.rs)",
                "proxy-userspace/src/config/mod.rs:3: fault: `config` uses `runtime`, of a later \
                 layer (order in lib.rs)",
            ]
        );
    }

    #[test]
    fn modules_of_one_layer_do_not_know_each_other() {
        let found = found("health/mod.rs", "use crate::balance::Ring;");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("of the same layer"), "{found:?}");
    }

    #[test]
    fn super_is_followed_to_the_root() {
        assert_eq!(
            found("config/file.rs", "use super::super::runtime;").len(),
            1
        );
        assert_eq!(
            found("config/file.rs", "use super::runtime;").len(),
            0,
            "a module of config"
        );
        assert_eq!(
            found("config/mod.rs", "use super::{types, runtime};").len(),
            1
        );
        let nested = "mod a { use super::super::runtime; }";
        assert_eq!(found("config/mod.rs", nested).len(), 1);
        assert_eq!(
            found("config/file.rs", nested).len(),
            0,
            "still inside config"
        );
    }

    #[test]
    fn comments_strings_and_macros_of_the_root_are_no_uses() {
        let text = "/// See [`crate::runtime`].\nconst A: &str = \"crate::runtime\";\n\
                    fn f() { crate::a_macro!() }\npub(crate) fn g() {}";
        assert_eq!(found("config/mod.rs", text), [""; 0]);
    }

    #[test]
    fn a_module_that_lib_rs_does_not_list_is_a_fault() {
        assert_eq!(found("stray.rs", "").len(), 1);
        assert_eq!(found("main.rs", "use proxy_userspace::cli;").len(), 0);
    }
}
