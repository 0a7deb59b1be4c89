//! The way from handlers to the task that owns the data plane: commands one way, answers back.

use crate::admin::api::{
    BackendAnswer, BackendName, CaptureQuery, ConnectionQuery, ConnectionsAnswer, DrainRequest,
    FlowQuery, FlowsAnswer, GuardRequest, HistoryEntry, LogRequest, LogView, Refusal, ReloadAnswer,
    StopRequest, UpgradeAnswer, UpgradeRequest,
};
use crate::admin::change::Change;
use crate::config::model::Config;
use crate::observe::flow::{ObserveQuery, Told};
use crate::observe::view::{CertificateView, GuardView, View};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait. Beyond it, askers wait to be accepted.
const QUEUE: usize = 64;

/// Where an answer goes. The asker may have left; then the answer is dropped.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A configuration with its entity tag.
#[derive(Clone, Debug)]
pub struct Versioned {
    /// The configuration.
    pub config: Arc<Config>,
    /// Its tag, without quotes.
    pub etag: String,
}

/// What the control task can be asked.
#[derive(Debug)]
pub enum Command {
    /// What is going on?
    View(Reply<Arc<View>>),
    /// Read the configuration file again and put it in force.
    Reload(Reply<ReloadAnswer>),
    /// Change the configuration.
    Configure(Box<Change>, Reply<ReloadAnswer>),
    /// Which configurations were in force? Newest first.
    History(Reply<Vec<HistoryEntry>>),
    /// The configuration of a generation that was in force.
    Past(u64, Reply<Versioned>),
    /// What the configuration file says now.
    ConfigFile(Reply<Box<Config>>),
    /// The configuration file's text.
    ConfigText(Reply<String>),
    /// The log level: from now on, until it expires.
    SetLog(LogRequest, Reply<LogView>),
    /// The log level.
    Log(Reply<LogView>),
    /// Take no new flows to a backend.
    Drain(DrainRequest, Reply<BackendAnswer>),
    /// Take new flows to it again.
    Undrain(BackendName, Reply<BackendAnswer>),
    /// Which guard rules are there?
    GuardList(Reply<Vec<GuardView>>),
    /// Add or replace an operator's rule.
    GuardAdd(GuardRequest, Reply<GuardView>),
    /// Remove an operator's rule.
    GuardRemove(GuardRequest, Reply<GuardView>),
    /// Which flows are there?
    Flows(FlowQuery, Reply<FlowsAnswer>),
    /// Which connections with the proxies are there?
    Connections(ConnectionQuery, Reply<ConnectionsAnswer>),
    /// Which certificates are shown to clients?
    Certificates(Reply<Vec<CertificateView>>),
    /// Send what is noted of flows until the receiver is dropped.
    Observe(Box<ObserveQuery>, Reply<mpsc::Receiver<Told>>),
    /// Send a pcapng stream until it ends or the receiver is dropped.
    Capture(CaptureQuery, Reply<mpsc::Receiver<Bytes>>),
    /// The configuration in force.
    Config(Reply<Versioned>),
    /// Open log files again by their names.
    ReopenLogs(Reply<()>),
    /// Hand over to a new process.
    Upgrade(UpgradeRequest, Reply<UpgradeAnswer>),
    /// End the daemon.
    Stop(StopRequest, Reply<()>),
}

/// Sends commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// A handle, and the end at which the control task takes the commands.
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        (Self { commands }, receiver)
    }

    /// True once the control task is gone, and nothing can be asked any more.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the control task refuses, or [`Refusal::stopping`] if it is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before the answer does not undo the command once it is sent.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| Refusal::stopping())?;
        answer.await.unwrap_or_else(|_| Err(Refusal::stopping()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_nobody_answers_is_refused_not_waited_for() {
        let (handle, mut commands) = Handle::new();
        let asked = tokio::spawn(async move { handle.ask(Command::View).await });
        drop(commands.recv().await);
        let answer = asked.await.expect("no panic");
        assert_eq!(answer, Err(Refusal::stopping()));
    }

    #[tokio::test]
    async fn a_handle_of_a_finished_task_says_so() {
        let (handle, commands) = Handle::new();
        drop(commands);
        assert!(handle.is_closed());
        assert_eq!(handle.ask(Command::View).await, Err(Refusal::stopping()));
    }
}
