//! `sluice validate`.

use crate::admin::api::ValidateAnswer;
use crate::cli::args::ConfigArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config::{self, Faults};
use crate::observe::log::color;
use clap::ValueEnum;
use std::io::IsTerminal as _;

/// Check a configuration file
///
/// Every fault is shown at once, with file, line, column, the offending text and how to mend it.
/// Nothing is changed, and no privileges are needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice validate -c sluice.yaml
  sluice validate -c sluice.yaml --strict        warnings fail too
  generate-config | sluice validate -c - --format json")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// How to print faults
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Fail on warnings
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, to standard error
    Text,
    /// One JSON object, to standard output
    Json,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let path = self.config.path()?;
        let (valid, faults) = match config::load(&path) {
            Ok(loaded) => (!self.strict || loaded.warnings.is_empty(), loaded.warnings),
            Err(errors) => (false, errors.faults().clone()),
        };
        match self.format {
            Format::Json => output::json(&ValidateAnswer::new(valid, &faults))?,
            Format::Text => print_text(&path.display().to_string(), valid, &faults)?,
        }
        Ok(if valid { Exit::Done } else { Exit::Failed })
    }
}

fn print_text(name: &str, valid: bool, faults: &Faults) -> Result<(), Failure> {
    if !faults.is_empty() {
        eprint!("{}", faults.pretty(color(std::io::stderr().is_terminal())));
    }
    let count = match faults.len() {
        0 => String::new(),
        1 => " (1 warning)".to_owned(),
        n => format!(" ({n} warnings)"),
    };
    if valid {
        output::line(format!("{name} is valid{count}"))
    } else {
        eprintln!("sluice: {name} is not valid");
        Ok(())
    }
}
