//! Drives cargo: set-up, builds, demo, tests, benchmarks. `cargo xtask --help` teaches the tasks.
//!
//! One file per task. This crate starts other programs and reads their output; it imports no
//! other crate of the workspace, so that it builds in seconds on a fresh machine and can say what
//! is missing before anything else is compiled.

mod bench;
mod build;
mod build_ebpf;
mod demo;
mod fuzz;
mod guided;
mod host;
mod package;
mod packages;
mod progress;
mod pypi;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use crate::host::HostLacks;
use crate::workspace::Workspace;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Builds, tests, benchmarks and shows sluice.
///
/// On a fresh machine two commands are enough: `cargo xtask demo` and `cargo xtask test`. Both
/// install what is missing (as root on Debian) and say so; elsewhere they print the commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, \
                          77 the host lacks something (the message says what and how to get it).";

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs what building, testing and benchmarking need, and says why.
    Setup(setup::Options),
    /// Builds the kernel programs into `target/ebpf/`.
    BuildEbpf(build_ebpf::Options),
    /// Builds kernel programs and user space; leaves `target/release/sluice`.
    Build(build::Options),
    /// Makes the Debian package and looks whether it is what it should be.
    Package(build::Options),
    /// Builds, then runs `sluice` with the arguments after `--`.
    Run(run::Options),
    /// Shows every forwarding mode with real traffic in network namespaces.
    Demo(demo::Options),
    /// Checks everything: format, lints, unit, packet and namespace tests.
    Test(test::Options),
    /// Measures, and compares with baselines measured on the same machine.
    Bench(bench::Options),
    /// Feeds random octets, guided by coverage, to everything that reads a network.
    Fuzz(fuzz::Options),
    /// Checks what lints cannot: layers, lengths, leftovers, links in the documents.
    Tidy,
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    match Workspace::locate().and_then(|workspace| dispatch(task, &workspace)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<HostLacks>() {
                ExitCode::from(77)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(task: Task, workspace: &Workspace) -> anyhow::Result<ExitCode> {
    match task {
        Task::Setup(options) => setup::task(workspace, &options),
        Task::BuildEbpf(options) => build_ebpf::task(workspace, &options),
        Task::Build(options) => build::task(workspace, &options),
        Task::Package(options) => package::task(workspace, &options),
        Task::Run(options) => run::task(workspace, &options),
        Task::Demo(options) => demo::task(workspace, &options),
        Task::Test(options) => test::task(workspace, &options),
        Task::Bench(options) => bench::task(workspace, &options),
        Task::Fuzz(options) => fuzz::task(workspace, &options),
        Task::Tidy => tidy::task(workspace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
