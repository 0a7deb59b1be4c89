//! `sluice upgrade`.

use crate::admin::api::{UpgradeAnswer, UpgradeRequest};
use crate::cli::args::{self, OutputArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use std::path::PathBuf;
use std::time::Duration;

/// Have a new process take over from the running daemon, without losing anything
///
/// The daemon starts the binary, as a rule a newer one that has been put in its place, hands its
/// listening sockets and the kernel part over, and ends with its connections once the new process
/// serves. If that does not start, or is not ready in time, the old one serves on and the reason
/// is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mv sluice.new /usr/bin/sluice && sluice upgrade
  sluice upgrade --binary /opt/sluice-1.1/sluice

The new process gets the arguments of the old one and reads the configuration anew. The same
happens on SIGUSR2, where the outcome is in the log.")]
pub(super) struct Args {
    /// Binary to run instead of the one that has the name of the running one; nobody but root and
    /// the daemon's user may be able to change it
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// How long the new process may take until it is ready
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::duration)]
    timeout: Duration,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let binary = self.binary.map(std::path::absolute).transpose();
        let binary = binary.map_err(|error| Failure::new(Exit::Usage, error))?;
        let request = UpgradeRequest {
            binary: binary.map(|path| path.to_string_lossy().into_owned()),
            timeout_seconds: Some(self.timeout.as_secs_f64()),
        };
        let answer: UpgradeAnswer =
            args::block_on(async { Ok(self.socket.client().post("upgrade", &request).await?) })?;
        output::show(self.output.output, &answer, text)
    }
}

fn text(answer: &UpgradeAnswer) -> String {
    let UpgradeAnswer {
        pid,
        version,
        old_pid,
        old_version,
    } = answer;
    format!(
        "process {pid} (version {version}) serves; process {old_pid} (version {old_version}) ends \
         with its connections\n"
    )
}
