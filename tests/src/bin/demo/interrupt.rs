//! Ctrl-C: a thread waits for signals and raises a flag, which the scenes look at between steps,
//! so that they end like any other failure and every guard cleans up.

use anyhow::{Result, ensure};
use nix::sys::signal::{SigSet, Signal};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

static RAISED: AtomicBool = AtomicBool::new(false);

/// The user does not want to see more.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Starts to watch. Must be called before any other thread is made, for they inherit that the
/// signals are blocked; processes in namespaces are started without that.
///
/// # Errors
///
/// The kernel refuses.
pub(crate) fn watch() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block()?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while signals.wait().is_ok() {
                RAISED.store(true, Ordering::Relaxed);
            }
        })?;
    Ok(())
}

/// Fails once a signal has come.
///
/// # Errors
///
/// [`Interrupted`].
pub(crate) fn check() -> Result<()> {
    ensure!(!RAISED.load(Ordering::Relaxed), Interrupted);
    Ok(())
}
