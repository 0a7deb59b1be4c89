//! `sluice detach`.

use crate::cli::args::{self, ConfigArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config::model::DEFAULT_PIN_DIR;
use crate::kernel::{attach, decap};
use crate::sockets::{connect, redirect, steer};
use std::path::{Path, PathBuf};

/// Remove a data plane that was kept when its daemon ended
///
/// Takes the programs off their interfaces and removes maps and pins, also those of `sluice decap
/// --leave`, of steering, of redirection and of balancing at connect(). Refused while a daemon runs:
/// use `sluice stop`.
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
        let below = |pin_dir: &Path| pin_dir.join("connect");
        let (pin_dir, of_sockets) = match self.pin_dir {
            Some(pin_dir) => (pin_dir.clone(), below(&pin_dir)),
            None if self.config.is_given() => {
                let config = args::load(&self.config.path()?);
                let config =
                    config.map_err(|failure| failure.hint("Name the directory with --pin-dir."))?;
                let pin_dir = config.data_plane().pin_dir.clone();
                (pin_dir, config.connect_pin_dir())
            }
            None => (DEFAULT_PIN_DIR.into(), below(Path::new(DEFAULT_PIN_DIR))),
        };
        if of_sockets.exists() {
            let removed = connect::remove(&of_sockets);
            removed.map_err(|error| Failure::new(Exit::Failed, error))?;
            output::line(format!(
                "removed what was pinned in {}",
                of_sockets.display()
            ))?;
            if !pin_dir.exists() {
                return Ok(Exit::Done);
            }
        }
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
    redirect::remove(pin_dir).map_err(failed)?;
    steer::remove(pin_dir).map_err(failed)?;
    attach::remove(pin_dir).map_err(failed)
}
