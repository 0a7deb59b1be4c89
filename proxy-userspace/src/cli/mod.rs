//! The command line.
//!
//! Results go to standard output, everything else to standard error, so that output can be piped.
//! Every command that asks the running daemon does so over the admin socket, as any other client
//! would. What the exit codes mean is said once, in [`exit::Exit`].

pub mod exit;

mod args;
mod capture;
mod check;
mod completion;
mod config;
mod connections;
mod daemon;
mod debug;
mod decap;
mod detach;
mod drain;
mod endpoint;
mod events;
mod explain;
mod flows;
mod format;
mod guard;
mod healthcheck;
mod man;
mod observe;
mod output;
mod proxy;
mod reload;
mod reopen;
mod run;
mod schema;
mod serve;
mod status;
mod stop;
mod tcp;
mod top;
mod upgrade;
mod upstreams;
mod validate;
mod version;

use crate::observe::build;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use exit::{Exit, Failure};
use std::ffi::OsString;
use std::process::ExitCode;

/// Everything that can be said on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version = build::VERSION_LINE,
    about = "An eBPF-accelerated L4/L7 load balancer",
    long_about = "sluice steers packets in the kernel and HTTP requests in user space, from one \
        configuration file.\n\n\
        `sluice run` is the balancer, `sluice proxy` and `sluice serve` are it in one line. The other commands check a configuration or the host, or \
        talk to the running daemon over its admin socket.",
    after_help = exit::HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Proxy(proxy::Args),
    Tcp(tcp::Args),
    Serve(serve::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Check(check::Args),
    Reload(reload::Args),
    Reopen(reopen::Args),
    Status(status::Args),
    Healthcheck(healthcheck::Args),
    Top(top::Args),
    Upstreams(upstreams::Args),
    Drain(drain::DrainArgs),
    Undrain(drain::UndrainArgs),
    Guard(guard::Args),
    Flows(flows::Args),
    Connections(connections::Args),
    Events(events::Args),
    Observe(observe::Args),
    Capture(capture::Args),
    Upgrade(upgrade::Args),
    Stop(stop::Args),
    Decap(decap::Args),
    Detach(detach::Args),
    Debug(debug::Args),
    Config(config::Args),
    Schema(schema::Args),
    Completion(completion::Args),
    Man(man::Args),
    Version(version::Args),
}

/// Runs the command line `arguments` (the first is the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are a success.
            let _ = error.print();
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            return exit.into();
        }
    };
    match cli.command.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

/// The whole command line, for completions, man pages and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

impl Command {
    fn run(self) -> Result<Exit, Failure> {
        match self {
            Self::Run(args) => args.run(),
            Self::Proxy(args) => args.run(),
            Self::Tcp(args) => args.run(),
            Self::Serve(args) => args.run(),
            Self::Validate(args) => args.run(),
            Self::Explain(args) => args.run(),
            Self::Check(args) => args.run(),
            Self::Reload(args) => args.run(),
            Self::Reopen(args) => args.run(),
            Self::Status(args) => args.run(),
            Self::Healthcheck(args) => args.run(),
            Self::Top(args) => args.run(),
            Self::Upstreams(args) => args.run(),
            Self::Drain(args) => args.run(),
            Self::Undrain(args) => args.run(),
            Self::Guard(args) => args.run(),
            Self::Flows(args) => args.run(),
            Self::Connections(args) => args.run(),
            Self::Events(args) => args.run(),
            Self::Observe(args) => args.run(),
            Self::Capture(args) => args.run(),
            Self::Upgrade(args) => args.run(),
            Self::Stop(args) => args.run(),
            Self::Decap(args) => args.run(),
            Self::Detach(args) => args.run(),
            Self::Debug(args) => args.run(),
            Self::Config(args) => args.run(),
            Self::Schema(args) => args.run(),
            Self::Completion(args) => args.run(),
            Self::Man(args) => args.run(),
            Self::Version(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests;
