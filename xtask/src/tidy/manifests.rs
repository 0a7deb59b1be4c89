//! Manifests keep the crates apart as ARCHITECTURE.md says.

use super::source::Source;
use super::{File, Finding};
use crate::shell;
use std::collections::BTreeSet;
use std::path::Path;

/// What the kernel programs may use: nothing that needs `std`.
const KERNEL_DEPENDENCIES: &[&str] = &[
    "aya-ebpf",
    "aya-ebpf-bindings",
    "aya-log-ebpf",
    "proxy-common",
];

/// The crates that are compiled for the kernel, which has no `std`.
const NO_STD_ROOTS: &[&str] = &["proxy-common/src/lib.rs", "proxy-ebpf/src/main.rs"];

/// Names of the crates that are built for some target with some features, tests included.
/// `None` if cargo cannot tell.
pub(super) fn built(root: &Path) -> Option<BTreeSet<String>> {
    let mut cargo = shell::cargo(root);
    cargo.args(["tree", "--workspace", "--all-features", "--locked"]);
    cargo.args(["--target", "all", "--prefix", "none", "--format", "{p}"]);
    let tree = shell::probe(&mut cargo)?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    Some(names.map(str::to_owned).collect())
}

/// Reports dependencies that must not be. `built` is what [`built`] says of the workspace.
pub(super) fn check(
    files: &[File],
    sources: &[Source],
    built: Option<&BTreeSet<String>>,
) -> Vec<Finding> {
    let mut found = banned(files, built);
    for file in files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml"))
    {
        if file.path == Path::new("proxy-ebpf/Cargo.toml") {
            found.extend(
                dependencies(&file.text)
                    .into_iter()
                    .filter_map(|(line, name)| {
                        let known = KERNEL_DEPENDENCIES.contains(&name);
                        let text = format!(
                            "the kernel programs may not depend on `{name}` (it may use std)"
                        );
                        (!known).then(|| Finding::fault(&file.path, line, text))
                    }),
            );
        }
        if file.path == Path::new("xtask/Cargo.toml") {
            found.extend(
                dependencies(&file.text)
                    .into_iter()
                    .filter_map(|(line, name)| {
                        let text =
                            format!("xtask may not depend on `{name}`: it drives the build of it");
                        name.starts_with("proxy-")
                            .then(|| Finding::fault(&file.path, line, text))
                    }),
            );
        }
        found.extend(lints(file));
    }
    let roots = sources
        .iter()
        .filter(|source| NO_STD_ROOTS.iter().any(|r| source.path == Path::new(r)));
    found.extend(
        roots
            .filter(|source| !source.code.contains("#![no_std]"))
            .map(|source| {
                Finding::fault(
                    &source.path,
                    1,
                    "must be `#![no_std]`: the kernel has no std",
                )
            }),
    );
    found
}

/// Reports crates in a lock file that `deny.toml` bans.
///
/// `cargo deny` checks the same and more, but a fresh machine does not have it. A lock file also
/// names crates of which a dependency would only switch features on *if* they were built
/// (`ring?/std`); those that are not are no fault.
fn banned(files: &[File], built: Option<&BTreeSet<String>>) -> Vec<Finding> {
    let rules = files
        .iter()
        .find(|file| file.path == Path::new("deny.toml"));
    let rules: Vec<_> = rules.iter().flat_map(|file| file.text.lines()).collect();
    let bans: Vec<_> = rules.iter().filter_map(|line| ban(line)).collect();
    let locks = files.iter().filter(|file| file.has_extension("lock"));
    locks
        .flat_map(|lock| {
            lock.text
                .lines()
                .enumerate()
                .map(move |(index, line)| (lock, index, line))
        })
        .filter_map(|(lock, index, line)| {
            let name = line.strip_prefix("name = \"")?.strip_suffix('"')?;
            // The fuzz targets are built of the workspace's library and a driver that needs nothing.
            let is_ours = [Path::new("Cargo.lock"), Path::new("fuzz/Cargo.lock")];
            if is_ours.contains(&lock.path.as_path())
                && built.is_some_and(|built| !built.contains(name))
            {
                return None;
            }
            let (_, reason) = bans.iter().find(|(banned, _)| *banned == name)?;
            let text = format!("`{name}` is banned by deny.toml: {reason}");
            Some(Finding::fault(&lock.path, index + 1, text))
        })
        .collect()
}

/// The crate and the reason in a line like `{ crate = "ring", reason = "…" },`.
fn ban(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.trim().strip_prefix("{ crate = \"")?.split_once('"')?;
    let reason = rest
        .split_once("reason = \"")
        .and_then(|(_, rest)| rest.split_once('"'));
    Some((name, reason.map_or("", |(reason, _)| reason)))
}

/// Members must take the workspace's lints, or those are not checked.
fn lints(file: &File) -> Option<Finding> {
    let member = file.text.contains("[package]") && !file.text.contains("[workspace]");
    let inherits = file.text.split("[lints]").nth(1).is_some_and(|rest| {
        rest.lines().map(str::trim).find(|line| !line.is_empty()) == Some("workspace = true")
    });
    (member && !inherits)
        .then(|| Finding::fault(&file.path, 1, "lacks `[lints]` with `workspace = true`"))
}

/// The names in the tables of dependencies, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (index, line) in manifest.lines().map(str::trim).enumerate() {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inside = table.ends_with("dependencies") && !table.starts_with("workspace");
            // A table of its own: `[dependencies.NAME]`.
            if let Some((_, name)) = table.split_once("dependencies.") {
                found.push((index + 1, name));
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((index + 1, name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;
    use crate::tidy::tests::{file, shown};

    fn check(files: &[File], sources: &[Source]) -> Vec<Finding> {
        super::check(files, sources, None)
    }

    #[test]
    fn the_kernel_crate_depends_on_no_std() {
        let manifest = "[package]\nname = \"x\"\n[workspace]\n[dependencies]\n\
                        aya-ebpf = \"=0.2.1\"\nproxy-common = { path = \"../proxy-common\" }\n\
                        # why\nserde.workspace = true\n[dependencies.anyhow]\nversion = \"1\"\n";
        let found = shown(&check(&[file("proxy-ebpf/Cargo.toml", manifest)], &[]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("proxy-ebpf/Cargo.toml:8: fault:"),
            "{found:?}"
        );
        assert!(found[1].contains("`anyhow`"), "{found:?}");
    }

    #[test]
    fn xtask_imports_no_other_crate() {
        let manifest = "[package]\n[dependencies]\nproxy-common.workspace = true\n\
                        [lints]\nworkspace = true\n";
        assert_eq!(check(&[file("xtask/Cargo.toml", manifest)], &[]).len(), 1);
    }

    #[test]
    fn members_take_the_workspaces_lints() {
        assert_eq!(
            check(&[file("a/Cargo.toml", "[package]\nname = \"a\"\n")], &[]).len(),
            1
        );
        let good = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        assert_eq!(check(&[file("a/Cargo.toml", good)], &[]).len(), 0);
    }

    #[test]
    fn a_banned_crate_that_is_not_built_is_no_fault_of_the_workspace() {
        let rules = file(
            "deny.toml",
            "    { crate = \"ring\", reason = \"one only\" },\n",
        );
        let lock = |path| file(path, "name = \"ring\"\n");
        let files = [rules, lock("Cargo.lock"), lock("proxy-ebpf/Cargo.lock")];
        let found = super::check(&files, &[], Some(&BTreeSet::new()));
        assert_eq!(
            shown(&found),
            ["proxy-ebpf/Cargo.lock:1: fault: `ring` is banned by deny.toml: one only"]
        );
        let built = BTreeSet::from(["ring".to_owned()]);
        assert_eq!(super::check(&files, &[], Some(&built)).len(), 2);
    }

    #[test]
    fn a_banned_crate_in_the_lock_file_is_named_with_the_reason() {
        let rules = file(
            "deny.toml",
            "deny = [\n    { crate = \"ring\", reason = \"one only\" },\n]\n",
        );
        let lock = file(
            "Cargo.lock",
            "[[package]]\nname = \"ring\"\n[[package]]\nname = \"rings\"\n",
        );
        assert_eq!(
            shown(&check(&[rules, lock], &[])),
            ["Cargo.lock:2: fault: `ring` is banned by deny.toml: one only"]
        );
    }

    #[test]
    fn kernel_roots_are_no_std() {
        assert_eq!(
            check(&[], &[source("proxy-common/src/lib.rs", "pub mod a;")]).len(),
            1
        );
        assert_eq!(
            check(&[], &[source("proxy-common/src/lib.rs", "#![no_std]\n")]).len(),
            0
        );
    }
}
