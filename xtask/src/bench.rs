//! `cargo xtask bench`: measurements, made by the binary `bench` of the tests' package.

use crate::demo::refuse_without_privileges;
use crate::setup::{self, Purpose};
use crate::workspace::{Profile, Workspace};
use crate::{build, guided, pypi, shell};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use std::os::unix::process::CommandExt;
use std::path::{self, PathBuf};
use std::process::{Command, ExitCode};

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The kernel data plane: ns per packet, and end to end against other balancers.
    L4(Run),
    /// The proxy: CPU time, latency and memory of a request, against other proxies.
    L7(L7),
    /// Connections on one host: what sockets in the kernel save, against other proxies.
    Sockets(L7),
    /// What it costs to refuse a source: by an answer, by a reset, by the driver.
    Refusals(Rows),
}

/// Options of a benchmark that only prints its rows.
#[derive(Debug, Args)]
struct Rows {
    /// Fewer rounds and shorter ones: for a first impression, not for claims.
    #[arg(long)]
    quick: bool,
    /// Also write the rows to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl From<&Rows> for Run {
    fn from(rows: &Rows) -> Self {
        Self {
            quick: rows.quick,
            json: rows.json.clone(),
            svg: None,
            write_docs: false,
            further: Vec::new(),
        }
    }
}

#[derive(Debug, Args)]
struct L7 {
    #[command(flatten)]
    run: Run,
    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "NAME", conflicts_with = "write_docs")]
    scenario: Vec<String>,
    /// Only this peer; may be given several times.
    #[arg(long, value_name = "NAME", conflicts_with = "write_docs")]
    peer: Vec<String>,
    /// Leave out the peers that come from PyPI.
    #[arg(long)]
    without_pypi: bool,
    /// Measure a build that a profile guides, as of `cargo xtask build --profile-guided`.
    #[arg(long)]
    profile_guided: bool,
}

/// Options that every benchmark has.
#[derive(Debug, Args)]
struct Run {
    /// Fewer rounds and shorter ones: for a first impression, not for claims.
    #[arg(long)]
    quick: bool,
    /// Also write the rows to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the rows.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write tables and pictures into docs/ and README.md: a full run on a calm machine.
    #[arg(long)]
    write_docs: bool,
    /// Further arguments of the benchmark, after `--`.
    #[arg(last = true)]
    further: Vec<String>,
}

/// Runs the task. The benchmark takes this process's place.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let rows;
    let (name, run) = match &options.subject {
        Subject::L4(run) => ("l4", run),
        Subject::L7(l7) => ("l7", &l7.run),
        Subject::Sockets(sockets) => ("sockets", &sockets.run),
        Subject::Refusals(only) => {
            rows = Run::from(only);
            ("refusals", &rows)
        }
    };
    if let Subject::L4(_) | Subject::Sockets(_) | Subject::Refusals(_) = &options.subject {
        refuse_without_privileges(&format!("cargo xtask bench {name}"))?;
    }
    setup::ensure(workspace, Purpose::Bench)?;
    let binary = build::tool(workspace, Profile::Release, "bench")?;
    let mut bench = Command::new(&binary);
    bench.current_dir(workspace.root()).arg(name);
    bench.env("SLUICE_BIN", workspace.binary(Profile::Release, "sluice"));
    if let Subject::L7(l7) | Subject::Sockets(l7) = &options.subject {
        if l7.profile_guided {
            bench.env("SLUICE_BIN", guided::sluice(workspace)?);
        }
        if !l7.without_pypi {
            pypi::ensure_proxies(workspace)?;
        }
        for (option, values) in [("--scenario", &l7.scenario), ("--peer", &l7.peer)] {
            for value in values {
                bench.arg(option).arg(value);
            }
        }
    }
    if run.quick {
        bench.arg("--quick");
    }
    for (option, file) in [("--json", &run.json), ("--svg", &run.svg)] {
        if let Some(file) = file {
            // Named from where the user is, written from the workspace's root.
            let file = path::absolute(file).with_context(|| format!("{option} FILE"))?;
            bench.arg(option).arg(file);
        }
    }
    if run.write_docs {
        bench.arg("--write-docs");
    }
    bench.args(&run.further);
    eprintln!("    $ {}", shell::display(&bench));
    Err(bench.exec()).with_context(|| format!("starting {}", binary.display()))
}
