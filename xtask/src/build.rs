//! `cargo xtask build`: everything, ready to run.

use crate::build_ebpf::{self, Objects};
use crate::setup::{self, Purpose};
use crate::workspace::{Profile, Workspace};
use crate::{guided, progress::Progress, shell};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// How `sluice` is built.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build without optimisation: quicker to build, slower to run.
    #[arg(long)]
    debug: bool,
    /// Build twice, the second time laid out by what the benchmark's load did in the first: a few
    /// percent quicker to run, three times as long to build. Needs llvm-profdata, and ports of
    /// loopback for half a minute.
    #[arg(long, conflicts_with = "debug")]
    profile_guided: bool,
}

impl Options {
    /// The profile that is built by.
    pub(crate) const fn profile(&self) -> Profile {
        if self.debug {
            Profile::Dev
        } else {
            Profile::Release
        }
    }

    /// Builds it so, and returns its path.
    pub(crate) fn sluice(&self, workspace: &Workspace) -> Result<PathBuf> {
        if self.profile_guided {
            guided::sluice(workspace)
        } else {
            sluice(workspace, self.profile())
        }
    }
}

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    println!("{}", options.sluice(workspace)?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds kernel programs and the binary `sluice`, and returns its path.
pub(crate) fn sluice(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    setup::ensure(workspace, Purpose::Build)?;
    let mut progress = Progress::new(2);
    progress.step("the kernel programs", || {
        build_ebpf::build(workspace, Objects::All)
    })?;
    progress.step("sluice", || {
        let mut cargo = shell::cargo(workspace.root());
        cargo.args(["build", "--package", "proxy-userspace", "--bin", "sluice"]);
        cargo.args(profile.arguments());
        shell::run(&mut cargo, "mend what the compiler names")
    })?;
    Ok(workspace.binary(profile, "sluice"))
}

/// Builds kernel programs, `sluice` and a binary of the tests' package; returns the latter's path.
///
/// Features are resolved for the whole workspace, so that every task shares what the others have
/// compiled; of its binaries only those two are made.
pub(crate) fn tool(workspace: &Workspace, profile: Profile, name: &str) -> Result<PathBuf> {
    let mut progress = Progress::new(2);
    progress.step("the kernel programs", || {
        build_ebpf::build(workspace, Objects::All)
    })?;
    progress.step("user space and the harness", || {
        let mut cargo = shell::cargo(workspace.root());
        cargo
            .args(["build", "--workspace", "--bin", "sluice", "--bin", name])
            .args(profile.arguments());
        shell::run(&mut cargo, "mend what the compiler names")
    })?;
    Ok(workspace.binary(profile, name))
}

/// Builds what the demonstration needs, and returns its path.
///
/// It is what newcomers start with, so it is soon there: without the packet path's log, without benchmarks, and
/// where nobody has compiled user space yet, without what only pays for those who work on it, which is what makes
/// the next build quick and lines in backtraces. What comes from elsewhere is compiled as always and not again.
pub(crate) fn demo(workspace: &Workspace) -> Result<PathBuf> {
    let mut progress = Progress::new(2);
    progress.step("the kernel programs", || {
        build_ebpf::build(workspace, Objects::WithoutLog)
    })?;
    progress.step("user space and the harness", || {
        shell::run(&mut demo_cargo(workspace), "mend what the compiler names")
    })?;
    Ok(workspace.binary(Profile::Dev, "demo"))
}

fn demo_cargo(workspace: &Workspace) -> Command {
    let mut cargo = shell::cargo(workspace.root());
    cargo.args(["build", "--workspace", "--no-default-features"]);
    cargo.args(["--bin", "sluice", "--bin", "demo"]);
    if !workspace.is_worked_on() {
        cargo.env("CARGO_INCREMENTAL", "0");
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_where_nobody_works_is_the_demo_built_without_what_helps_to_work() {
        let folder = std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()));
        let workspace = Workspace::at(&folder);
        let shown = || shell::display(&demo_cargo(&workspace));
        let always = "cargo build --workspace --no-default-features --bin sluice --bin demo";
        let first = shown();
        assert!(
            first.contains("CARGO_INCREMENTAL=0") && first.ends_with(always),
            "{first}"
        );
        let kept = folder.join("target/debug/incremental");
        // This program's own build keeps something as well.
        fs::create_dir_all(kept.join("xtask-1a2b")).unwrap();
        assert_eq!(shown(), first);
        fs::create_dir_all(kept.join("proxy_userspace-1a2b")).unwrap();
        assert_eq!(shown(), always);
        fs::remove_dir_all(&folder).unwrap();
    }
}
