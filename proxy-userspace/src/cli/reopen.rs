//! `sluice reopen`.

use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};

/// Open the access logs again by their names
///
/// For whoever moves log files away: the daemon goes on in new files of the old names. What it was
/// about to write may still go to the old ones, so wait a moment before they are compressed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mv access.log access.log.1 && sluice reopen

The same happens on SIGUSR1.")]
pub(super) struct Args {
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        args::block_on(async {
            self.socket.client().command("log/reopen", &()).await?;
            Ok(Exit::Done)
        })
    }
}
