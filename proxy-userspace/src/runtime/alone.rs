//! A proxy without control task, admin socket or kernel part: what the one-line commands run.

use super::signals::{self, Asked, Signals};
use super::workers::{Workers, WorkersError};
use crate::config::model::Config;
use std::io;
use tracing::{info, warn};

/// The proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// The workers cannot serve.
    #[error(transparent)]
    Workers(#[from] WorkersError),
}

/// Serves a configuration until told to stop, and then until its connections have ended.
///
/// # Errors
///
/// [`AloneError`], before anything is served.
pub async fn run(config: &Config) -> Result<(), AloneError> {
    let mut signals = Signals::new().map_err(AloneError::Signals)?;
    let mut workers = Workers::start(config)?;
    for address in workers.listeners() {
        info!(%address, "listening");
    }
    signals::ready();
    loop {
        match signals.next().await {
            Asked::Stop | Asked::Quit => break,
            Asked::Reopen => workers.reopen_logs(),
            Asked::Reload => info!("there is no configuration file to be read again"),
            Asked::Upgrade => info!("only `sluice run` hands over to a new process"),
        }
    }
    signals::stopping();
    let connections = workers.connections();
    info!(connections, "told to stop: waiting for connections to end");
    let again = async { while signals.next().await != Asked::Stop {} };
    tokio::select! {
        left = workers.drain(config.workers.drain_timeout) => {
            if left > 0 {
                warn!(connections = left, "the drain's time is over: cutting connections off");
            }
        }
        () = again => info!("told again: stopping at once"),
    }
    Ok(())
}
