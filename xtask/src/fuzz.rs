//! `cargo xtask fuzz`: random octets, guided by coverage, against everything that reads a network.
//!
//! The targets are laid out as cargo-fuzz expects them, and cargo-fuzz may be used. It is not
//! needed: libFuzzer comes with a crate, and the instrumentation is LLVM's, which a stable compiler
//! has as well. So the task runs wherever user space compiles, in CI too, with nothing installed
//! but a C++ compiler. What only a nightly adds is the address sanitizer, which finds nothing in
//! code without `unsafe`.

use crate::setup::{self, Purpose};
use crate::shell;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these targets; all of them by default.
    target: Vec<String>,
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Further options of libFuzzer, after `--`.
    #[arg(last = true)]
    further: Vec<String>,
}

/// Coverage for libFuzzer: counters per edge, and compared values.
const INSTRUMENTATION: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// Longest input, in octets: twice what the targets' limits let through.
const MAX_LEN: u32 = 1024;

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    setup::ensure(workspace, Purpose::Test)?;
    run(
        workspace,
        &options.target,
        options.seconds,
        &options.further,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the targets and runs those that are named, or all, for so many seconds each.
///
/// # Errors
///
/// If a target is unknown, does not compile, or has found something.
pub(crate) fn run(
    workspace: &Workspace,
    only: &[String],
    seconds: u64,
    further: &[String],
) -> Result<()> {
    let names = targets(workspace)?;
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("no target `{unknown}`; there are {}", names.join(", "));
    }
    let binaries = build(workspace)?;
    for name in names.iter().filter(|n| only.is_empty() || only.contains(n)) {
        let folder = |kind: &str| {
            let folder = workspace.fuzz_crate().join(kind).join(name);
            fs::create_dir_all(&folder)
                .with_context(|| format!("making {}", folder.display()))
                .map(|()| folder)
        };
        let artifacts = folder("artifacts")?;
        let mut fuzz = shell::foreign(binaries.join(name));
        fuzz.current_dir(workspace.root());
        // New inputs are kept in the first folder.
        fuzz.arg(folder("corpus")?).arg(folder("seeds")?);
        fuzz.arg(format!("-artifact_prefix={}/", artifacts.display()));
        fuzz.arg(format!("-max_total_time={seconds}"));
        fuzz.arg(format!("-max_len={MAX_LEN}"));
        fuzz.args(["-timeout=10", "-print_final_stats=1", "-verbosity=0"]);
        fuzz.args(further);
        let remedy = format!(
            "`{} FILE` replays an input that is named above; mend it, and keep the input in \
             fuzz/seeds/{name}/",
            binaries.join(name).display()
        );
        shell::run(&mut fuzz, &remedy)?;
    }
    Ok(())
}

/// Builds all targets. Returns the folder with their binaries.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let host = host()?;
    let folder = workspace.fuzz_target();
    let mut cargo = shell::cargo(&workspace.fuzz_crate());
    cargo.args(["build", "--release", "--bins"]);
    // For a target that is named, so that build scripts are not instrumented.
    cargo.arg("--target").arg(&host);
    cargo.arg("--target-dir").arg(&folder);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("RUSTFLAGS", INSTRUMENTATION);
    shell::run(&mut cargo, "mend what the compiler names")?;
    Ok(folder.join(host).join("release"))
}

/// The names of the targets.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.fuzz_crate().join("fuzz_targets");
    let context = || format!("reading {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(context)? {
        let file = entry.with_context(context)?.file_name();
        names.extend(
            file.to_string_lossy()
                .strip_suffix(".rs")
                .map(str::to_owned),
        );
    }
    names.sort_unstable();
    Ok(names)
}

/// The platform that this cargo runs on.
fn host() -> Result<String> {
    let mut cargo = shell::cargo(std::path::Path::new("."));
    let text = shell::probe(cargo.arg("-vV")).context("`cargo -vV` failed")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`cargo -vV` names no host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let workspace = Workspace::locate().unwrap();
        let manifest = fs::read_to_string(workspace.fuzz_crate().join("Cargo.toml")).unwrap();
        let names = targets(&workspace).unwrap();
        assert!(!names.is_empty());
        for name in names {
            let path = format!("path = \"fuzz_targets/{name}.rs\"");
            assert!(manifest.contains(&path), "{name} is not in the manifest");
            let seeds = fs::read_dir(workspace.fuzz_crate().join("seeds").join(&name));
            assert!(seeds.unwrap().count() > 0, "{name} has no seeds");
        }
    }
}
