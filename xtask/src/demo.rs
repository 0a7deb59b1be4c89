//! `cargo xtask demo`: real traffic through every forwarding mode, in network namespaces; `demo mesh`:
//! programs that go through the daemon unchanged.
//!
//! The demonstration itself is the binary `demo` of the tests' package; here the machine is made
//! ready for it. Everything is built without optimisation: the demo must be up within minutes on
//! a fresh machine, and the kernel programs, which carry the traffic, are optimised anyway.

use crate::host::{self, HostLacks};
use crate::setup::{self, Purpose};
use crate::workspace::{Profile, Workspace};
use crate::{build, shell};
use anyhow::{Context, Result};
use clap::Args;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// `mesh`: programs go through the daemon unchanged, without sidecars. Without it, the forwarding
    /// modes.
    #[arg(value_parser = ["mesh"])]
    what: Option<String>,
    /// Show only this forwarding mode: nat, full-nat, dsr-l2, dsr-ipip or dsr-gue.
    #[arg(long, conflicts_with = "what")]
    mode: Option<String>,
}

/// Runs the task. The demo takes this process's place, so that Ctrl-C reaches it and it can clean
/// up.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    refuse_without_privileges("cargo xtask demo")?;
    setup::ensure(workspace, Purpose::Demo)?;
    let binary = build::tool(workspace, Profile::Dev, "demo")?;
    let sluice = match &options.what {
        // It shows what a request costs, which a build without optimisation cannot.
        Some(_) => build::sluice(workspace, Profile::Release)?,
        None => workspace.binary(Profile::Dev, "sluice"),
    };
    let mut demo = Command::new(&binary);
    demo.current_dir(workspace.root());
    demo.args(&options.what);
    demo.env("SLUICE_BIN", sluice);
    if let Some(mode) = &options.mode {
        demo.args(["--mode", mode]);
    }
    eprintln!("    $ {}", shell::display(&demo));
    Err(demo.exec()).with_context(|| format!("starting {}", binary.display()))
}

/// Fails with a remedy if this process cannot make namespaces or load kernel programs.
pub(crate) fn refuse_without_privileges(task: &str) -> Result<()> {
    let lacks = host::privileged_lacks();
    if lacks.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = lacks
        .iter()
        .map(|l| format!("  {}: {}", l.what, l.remedy))
        .collect();
    Err(HostLacks(format!(
        "`{task}` needs what is missing here:\n{}",
        lines.join("\n")
    ))
    .into())
}
