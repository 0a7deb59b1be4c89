//! `cargo xtask run -- ARGS`: a fresh `sluice`.

use crate::workspace::{Profile, Workspace};
use crate::{build, host};
use anyhow::{Context, Result};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
    /// Arguments of sluice, e.g. `-- run -c examples/l4.yaml`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs the task. Does not return if `sluice` starts: it takes this process's place, so that
/// signals reach it.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let profile = if options.debug {
        Profile::Dev
    } else {
        Profile::Release
    };
    let binary = build::sluice(workspace, profile)?;
    if !host::is_root() && options.arguments.first().is_some_and(|word| word == "run") {
        eprintln!(
            "warning: not root; if it lacks privileges: sudo {} {}",
            binary.display(),
            options
                .arguments
                .join(&OsString::from(" "))
                .to_string_lossy()
        );
    }
    let error = Command::new(&binary).args(&options.arguments).exec();
    Err(error).with_context(|| format!("starting {}", binary.display()))
}
