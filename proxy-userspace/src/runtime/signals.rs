//! Signals from people and from the service manager, and what the service manager is told.

use crate::admin::api::{StopRequest, UpgradeRequest};
use crate::admin::control::{Command, Handle, Reply};
use sd_notify::NotifyState;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

/// The signals that the daemon knows. SIGPIPE is ignored by Rust's runtime already.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Read the configuration again.
    Reload,
    /// End; asked again, at once.
    Stop,
    /// End once connections have, however often it is asked.
    Quit,
    /// Open log files again.
    Reopen,
    /// Hand over to a new process.
    Upgrade,
}

impl Signals {
    /// Takes the signals over from their default actions; must run inside a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.quit.recv() => Asked::Quit,
            _ = self.user1.recv() => Asked::Reopen,
            _ = self.user2.recv() => Asked::Upgrade,
        }
    }

    /// Turns signals into commands, for as long as the daemon lives.
    ///
    /// The first signal that asks to stop is a command like any other and waits its turn. The
    /// second sets `hurry`: nobody waits for anything any more. The third does not even wait for
    /// a control task that hangs: the process ends, and the kernel goes on forwarding, as after
    /// SIGKILL. SIGQUIT is never more than the first, so that it can be sent by whoever does not
    /// know whether somebody else has sent it.
    pub(super) async fn forward(mut self, handle: Handle, hurry: Arc<Notify>) {
        let mut stops = 0;
        loop {
            match self.next().await {
                Asked::Reopen => send(&handle, Command::ReopenLogs),
                // As a reload, the control task logs how it ends.
                Asked::Upgrade => send(&handle, |reply| {
                    Command::Upgrade(UpgradeRequest::default(), reply)
                }),
                Asked::Reload => {
                    // The control task logs and counts how it ends.
                    send(&handle, Command::Reload);
                }
                Asked::Quit if stops > 0 => info!("told again: stopping already"),
                asked @ (Asked::Stop | Asked::Quit) => {
                    stops += 1;
                    match stops {
                        1 => {
                            info!(?asked, "told to stop");
                            send(&handle, |reply| {
                                Command::Stop(StopRequest::default(), reply)
                            });
                        }
                        2 => {
                            info!("told again: stopping at once");
                            hurry.notify_one();
                        }
                        _ => {
                            error!("told three times: ending without detaching");
                            std::process::exit(1);
                        }
                    }
                }
            }
        }
    }
}

/// Sends a command without waiting for its turn or its end.
fn send<T: Send + 'static>(
    handle: &Handle,
    command: impl FnOnce(Reply<T>) -> Command + Send + 'static,
) {
    let handle = handle.clone();
    tokio::spawn(async move { drop(handle.ask(command).await) });
}

/// The service manager is told that the daemon is ready.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The service manager is told that the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the service manager cannot be told of the reload"),
    }
}

/// The service manager is told which process is the one that it looks after.
pub(super) fn main_process(pid: u32) {
    notify(&[NotifyState::MainPid(pid), NotifyState::Ready]);
}

/// The service manager is told that the daemon ends.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The service manager's watchdog is told that the control task is alive.
pub(super) fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

/// Warns if the watchdog bites sooner than [`alive`] is called.
pub(super) fn check_watchdog(period: Duration) {
    if let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit < 3 * period) {
        warn!(
            ?limit,
            "WatchdogSec= is short: a large reload may take longer"
        );
    }
}

fn notify(states: &[NotifyState]) {
    // Not an error where there is no service manager.
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager cannot be told");
    }
}
