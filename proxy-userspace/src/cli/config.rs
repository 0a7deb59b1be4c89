//! `sluice config`.

use crate::cli::args::{self, ConfigArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config;
use clap::{Subcommand, ValueEnum};
use serde_json::Value;

/// Look at configurations
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice config show --running")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a configuration with every default filled in
    #[command(after_help = "\
Examples:
  sluice config show -c sluice.yaml
  sluice config show --running -o json
  diff <(sluice config show) <(sluice config show --running)   would a reload change anything?")]
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// What the daemon has in force, not what is in the file
        #[arg(long)]
        running: bool,
        /// How to print it
        #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
        output: Format,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As the file is written
    Yaml,
    /// JSON of the same shape
    Json,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Command::Show {
            config,
            running,
            output,
            socket,
        } = self.command;
        let yaml = output == Format::Yaml;
        if running {
            args::block_on(async {
                let client = socket.client();
                if yaml {
                    output::print(&client.text("config").await?)
                } else {
                    output::json(&client.get::<Value>("config?format=json").await?)
                }
            })?;
            return Ok(Exit::Done);
        }
        let path = config.path()?;
        let config = args::load(&path)?;
        if yaml {
            output::print(&config::effective_yaml(&config))?;
        } else {
            output::json(&config::effective(&config))?;
        }
        Ok(Exit::Done)
    }
}
