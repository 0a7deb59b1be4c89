//! `sluice top`.
use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use std::time::Duration;

/// Watch services and backends live
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice top --interval 500ms")]
pub(super) struct Args {
    /// Time between looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = args::duration)]
    interval: Duration,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        Ok(Exit::Done)
    }
}
