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
    /// Show only this forwarding mode: nat, full-nat, dsr-l2, dsr-ipip, dsr-gue or local. May be
    /// given several times.
    #[arg(long, conflicts_with = "what")]
    mode: Vec<String>,
    /// Let clients and backends speak IPv6.
    #[arg(long, conflicts_with = "what")]
    ipv6: bool,
}

impl Options {
    /// What the demonstration itself is told.
    fn arguments(&self) -> Vec<&str> {
        let mut arguments: Vec<&str> = self.what.as_deref().into_iter().collect();
        for mode in &self.mode {
            arguments.extend(["--mode", mode]);
        }
        if self.ipv6 {
            arguments.push("--ipv6");
        }
        arguments
    }
}

/// Runs the task. The demo takes this process's place, so that Ctrl-C reaches it and it can clean
/// up.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    refuse_without_privileges("cargo xtask demo")?;
    setup::ensure(workspace, Purpose::Demo)?;
    let binary = build::demo(workspace)?;
    let sluice = match &options.what {
        // It shows what a request costs, which a build without optimisation cannot.
        Some(_) => build::sluice(workspace, Profile::Release)?,
        None => workspace.binary(Profile::Dev, "sluice"),
    };
    let mut demo = Command::new(&binary);
    demo.current_dir(workspace.root());
    demo.args(options.arguments());
    demo.env("SLUICE_BIN", sluice);
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Task {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_the_task_is_told_the_demonstration_is_told() {
        for arguments in [
            &[][..],
            &["mesh"],
            &["--mode", "nat", "--mode", "local"],
            &["--mode", "dsr-gue", "--ipv6"],
        ] {
            let task = Task::parse_from([&["demo"], arguments].concat());
            assert_eq!(task.options.arguments(), arguments);
        }
        assert!(Task::try_parse_from(["demo", "mesh", "--ipv6"]).is_err());
    }
}
