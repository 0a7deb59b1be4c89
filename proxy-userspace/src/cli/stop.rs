//! `sluice stop`.

use crate::admin::api::StopRequest;
use crate::admin::client::ClientError;
use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use std::time::Duration;

/// How often is looked whether the daemon has gone.
const POLL: Duration = Duration::from_millis(50);

/// Stop the daemon
///
/// It reports itself as not ready, detaches from its interfaces, removes its maps and ends, as on
/// SIGTERM. The command returns when the daemon has gone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice stop                   stop balancing
  sluice stop --keep-dataplane  end the daemon only; the kernel goes on forwarding, and the next
                                `sluice run` takes over (`sluice detach` removes what was kept)")]
pub(super) struct Args {
    /// Leave the kernel part forwarding
    #[arg(long)]
    keep_dataplane: bool,
    /// Do not wait for load balancers in front to notice that this one is not ready
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let request = StopRequest {
            keep_dataplane: self.keep_dataplane,
            now: self.now,
        };
        args::block_on(async {
            let client = self.socket.client();
            client.command("stop", &request).await?;
            // The socket goes last, after the data plane.
            let gone = |answer| matches!(answer, Err(ClientError::Unreachable { .. }));
            while !gone(client.text("/livez").await) {
                tokio::time::sleep(POLL).await;
            }
            Ok(Exit::Done)
        })
    }
}
