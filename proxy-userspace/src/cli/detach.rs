//! `sluice detach`.

use crate::cli::args::{self, ConfigArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config::model::DEFAULT_PIN_DIR;
use crate::kernel::{attach, decap};
use crate::sockets::steer;
use std::path::{Path, PathBuf};

/// Remove a data plane that was kept when its daemon ended
///
/// Takes the programs off their interfaces and removes maps and pins, also those of `sluice decap
/// --leave` and of steering. Refused while a daemon runs: use `sluice stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice detach                         what is pinned in the default directory
  sluice detach --pin-dir /sys/fs/bpf/sluice-test")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Directory of the pins; by default that of the configuration, if one is given
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let pin_dir = match self.pin_dir {
            Some(pin_dir) => pin_dir,
            None if self.config.is_given() => {
                let config = args::load(&self.config.path()?);
                config
                    .map_err(|failure| failure.hint("Name the directory with --pin-dir."))?
                    .data_plane()
                    .pin_dir
                    .clone()
            }
            None => DEFAULT_PIN_DIR.into(),
        };
        if !pin_dir.exists() {
            output::line(format!("nothing is pinned in {}", pin_dir.display()))?;
            return Ok(Exit::Done);
        }
        remove(&pin_dir)?;
        output::line(format!("removed what was pinned in {}", pin_dir.display()))?;
        Ok(Exit::Done)
    }
}

fn remove(pin_dir: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::new(Exit::Failed, error);
    decap::remove(pin_dir).map_err(failed)?;
    steer::remove(pin_dir).map_err(failed)?;
    attach::remove(pin_dir).map_err(failed)
}
