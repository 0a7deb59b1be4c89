//! `cargo xtask build`: everything, ready to run.

use crate::setup::{self, Purpose};
use crate::workspace::{Profile, Workspace};
use crate::{build_ebpf, guided, progress::Progress, shell};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

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
    progress.step("the kernel programs", || build_ebpf::build(workspace))?;
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
    progress.step("the kernel programs", || build_ebpf::build(workspace))?;
    progress.step("user space and the harness", || {
        let mut cargo = shell::cargo(workspace.root());
        cargo
            .args(["build", "--workspace", "--bin", "sluice", "--bin", name])
            .args(profile.arguments());
        shell::run(&mut cargo, "mend what the compiler names")
    })?;
    Ok(workspace.binary(profile, name))
}
