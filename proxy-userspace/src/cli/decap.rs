//! `sluice decap`.

use crate::cli::args::{self, LogArgs};
use crate::cli::exit::{Exit, Failure};
use crate::config::model::{AttachMode, DEFAULT_PIN_DIR, Interface};
use crate::kernel::attach::AttachError;
use crate::kernel::decap::{self, Decap};
use crate::kernel::load::LoadError;
use clap::ValueEnum;
use ipnet::IpNet;
use proxy_common::maps::{DEFAULT_GUE_PORT, DecapSettings};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Unwrap tunnel packets on a backend
///
/// For backends of services in the modes dsr-ipip and dsr-gue whose kernel has no tunnel devices,
/// or where setting them up is not wanted. The inner packets are handed to this host's network
/// stack, which must have the VIP as a local address. Runs in the foreground and detaches at the
/// end.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ip addr add 198.51.100.1/32 dev lo
  sluice decap --interface eth0 --source 10.0.0.0/24

Without --source, tunnels are accepted from anywhere: whoever can reach this host can then send
packets to it under any source address.")]
pub(super) struct Args {
    /// Interface on which tunnel packets arrive
    #[arg(short, long, value_name = "NAME", required = true)]
    interface: Vec<String>,
    /// Address or prefix of balancers; anywhere by default
    #[arg(long, value_name = "PREFIX", value_parser = args::prefix)]
    source: Vec<IpNet>,
    /// UDP port of GUE
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_GUE_PORT)]
    gue_port: u16,
    /// How to attach
    #[arg(long, value_name = "MODE", default_value = "auto")]
    attach: Attach,
    /// Directory in the BPF file system for the pins
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Attach and return; `sluice detach` removes it
    #[arg(long)]
    leave: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attach {
    /// In the driver where it can, else in the network stack
    Auto,
    /// In the driver
    Native,
    /// In the network stack
    Generic,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        self.log.install()?;
        let most = DecapSettings::default().source.len();
        if self.source.len() > most {
            let error = format!("--source can be given {most} times at most");
            return Err(Failure::new(Exit::Usage, error));
        }
        if self.source.is_empty() {
            tracing::warn!("tunnels are accepted from any source: give --source to limit them");
        }
        args::block_on(self.serve())
    }

    async fn serve(self) -> Result<Exit, Failure> {
        let unheard = |error| Failure::new(Exit::Failed, error);
        let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
        let attach = match self.attach {
            Attach::Auto => AttachMode::Auto,
            Attach::Native => AttachMode::Native,
            Attach::Generic => AttachMode::Generic,
        };
        let interfaces: Vec<Interface> = self
            .interface
            .into_iter()
            .map(|name| Interface { name, attach })
            .collect();
        let settings = decap::settings(self.gue_port, &self.source);
        let decap = Decap::attach(&self.pin_dir, &interfaces, &settings).map_err(failure)?;
        for attached in &decap.attached {
            info!(
                interface = attached.interface,
                mode = attached.mode.name(),
                "unwrapping"
            );
        }
        if self.leave {
            return Ok(Exit::Done);
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        decap
            .detach()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        info!("detached");
        Ok(Exit::Done)
    }
}

fn failure(error: AttachError) -> Failure {
    let host = matches!(
        &error,
        AttachError::Load(
            LoadError::NoPrivilege { .. } | LoadError::NoObject | LoadError::Refused { .. }
        )
    );
    Failure::new(if host { Exit::Host } else { Exit::Failed }, error)
}
