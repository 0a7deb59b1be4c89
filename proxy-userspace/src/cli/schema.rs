//! `sluice schema`.

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;

/// Print the JSON Schema of the configuration file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sluice schema > /etc/sluice/schema.json

and as the first line of sluice.yaml, for editors that know it:
  # yaml-language-server: $schema=/etc/sluice/schema.json")]
pub(super) struct Args {}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        output::json(&crate::config::schema())?;
        Ok(Exit::Done)
    }
}
