//! `sluice run`.

use crate::cli::args::{self, ConfigArgs, LogArgs};
use crate::cli::exit::{Exit, Failure};
use crate::config;
use crate::privileges;
use crate::runtime::{self, Options, StartError};
use std::path::PathBuf;
use std::time::Duration;

/// Threads of the runtime: one may be busy with a large plan while the other answers probes.
const THREADS: usize = 2;

/// Balance, in the foreground
///
/// Attaches to the interfaces of the configuration and steers packets until it is told to stop.
/// If a data plane is already forwarding (after a crash, or after a stop with --keep-dataplane),
/// it is adopted with all its flows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice run -c sluice.yaml
  sluice run -c sluice.yaml --keep-dataplane   forward on after the daemon ends
  sluice run --log-format json --log-level info,proxy_userspace::health=debug

Signals:
  HUP         reload the configuration; a file with faults leaves the old one in force
  TERM, INT   report not ready, let connections end, detach, end; a second one waits for nothing,
              a third does not even detach
  QUIT        as the first TERM, however often it is sent
  USR1        reopen access logs
  USR2        hand over to a new process of the binary, as `sluice upgrade` does
A SIGKILL ends the daemon only: the kernel forwards on, and the next run adopts.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Leave the kernel part forwarding when the daemon ends, however it is stopped
    #[arg(long)]
    keep_dataplane: bool,
    /// Time between reporting not ready and detaching, for load balancers in front to notice
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = args::duration)]
    stop_delay: Duration,
    /// Where to write the process id, for service managers that want it
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut options = Options {
            config: self.config.path()?,
            keep_dataplane: self.keep_dataplane,
            stop_delay: self.stop_delay,
            pid_file: self.pid_file,
            kept: None,
        };
        let predecessor = runtime::predecessor();
        let predecessor = predecessor.map_err(|error| Failure::new(Exit::Failed, error))?;
        self.log.install()?;
        // Before there are other threads. A file with faults is told of when it is read for good.
        let is_file = options.config != std::path::Path::new("-");
        let loaded = is_file
            .then(|| config::load(&options.config).ok())
            .flatten();
        if let Some(loaded) = loaded {
            let kept = privileges::apply(&loaded.config, &options.config);
            options.kept = Some(kept.map_err(|error| Failure::new(Exit::Failed, error))?);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        let ended = runtime.block_on(runtime::run(options, predecessor));
        // Look-ups of neighbours may still run; nobody waits for them.
        runtime.shutdown_background();
        ended.map(|()| Exit::Done).map_err(Failure::from)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        if error.is_host() {
            return Self::new(Exit::Host, error).hint("`sluice check` tells what this host lacks.");
        }
        Self::new(Exit::Failed, error)
    }
}
