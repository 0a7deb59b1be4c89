//! The older process's side.

use super::launch::{Launch, check_trusted};
use super::state::State;
use super::wire::{self, Line, MOST_DESCRIPTORS, Message, PROTOCOL, Ready, Session, SocketName};
use crate::admin::api::Refusal;
use crate::observe::build::VERSION;
use crate::runtime::workers::Handed;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Child;
use std::time::Duration;
use tracing::{info, warn};

/// What is handed over.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Listening sockets and locks.
    pub(crate) sockets: Vec<(SocketName, OwnedFd)>,
    /// What else has to be known.
    pub(crate) state: State,
}

/// Nobody has taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// The binary is not to be run.
    #[error("{0}")]
    Refused(Refusal),
    /// It cannot be run.
    #[error("cannot start {}", binary.display())]
    Start {
        /// The binary.
        binary: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It has ended without a word.
    #[error("the new process has ended ({0}); its log says more")]
    Ended(String),
    /// It has said why it gives up.
    #[error("the new process cannot take over: {0}")]
    Failed(String),
    /// It has said nothing in time.
    #[error("the new process was not ready within {0:?}, and was killed")]
    Late(Duration),
    /// It cannot be talked to.
    #[error("the new process cannot be talked to")]
    Line(#[source] io::Error),
}

/// The newer process, while it may yet fail. Dropping it kills it.
#[derive(Debug)]
struct Candidate(Option<Child>);

impl Candidate {
    /// Ends it, if it has not ended; says how it ended.
    fn end(&mut self) -> String {
        let Some(mut child) = self.0.take() else {
            return "unknown".to_owned();
        };
        // It may be gone already, or may not have noticed that nobody waits for it.
        let early = child.try_wait().ok().flatten();
        let _ = child.kill();
        match early.map_or_else(|| child.wait(), Ok) {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.end();
    }
}

/// A hand-over that is under way; gives the process that has taken over. Dropping it ends that.
pub(crate) type HandOver = Pin<Box<dyn Future<Output = Result<Successor, UpgradeError>> + Send>>;

impl Offer {
    /// Starts a process and hands over to it.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Refused`], [`UpgradeError::Start`], [`UpgradeError::Line`]: nothing was
    /// started.
    pub(crate) fn begin(
        self,
        launch: &Launch,
        binary: Option<&Path>,
        deadline: Duration,
    ) -> Result<HandOver, UpgradeError> {
        let named = binary.unwrap_or_else(|| launch.binary());
        if let Some(binary) = binary {
            check_trusted(binary).map_err(UpgradeError::Refused)?;
        }
        let (line, other) = wire::pair().map_err(UpgradeError::Line)?;
        let child = launch.start(binary, other);
        let child = child.map_err(|source| UpgradeError::Start {
            binary: named.to_owned(),
            source,
        })?;
        info!(binary = %named.display(), pid = child.id(), "handing over to a new process");
        let mut candidate = Candidate(Some(child));
        Ok(Box::pin(async move {
            let handed = tokio::time::timeout(deadline, self.hand_over(&line)).await;
            match handed {
                Ok(Ok(Some(ready))) => Ok(Successor {
                    ready,
                    line,
                    child: candidate.0.take(),
                    has_left: false,
                }),
                Ok(Ok(None)) => Err(UpgradeError::Ended(candidate.end())),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(UpgradeError::Late(deadline)),
            }
        }))
    }

    /// All that is said until the newer process serves; `None` if it is gone.
    async fn hand_over(&self, line: &Line) -> Result<Option<Ready>, UpgradeError> {
        // Whether it is there is seen where its answer is read.
        if let Err(error) = self.send(line).await {
            warn!(%error, "the new process does not listen");
        }
        let Some(ready) = expect(line, |message| match message {
            Message::Ready(ready) => Some(ready),
            _ => None,
        })
        .await?
        else {
            return Ok(None);
        };
        // Lost only if it is gone.
        let _ = line.send(&Message::Go, &[]).await;
        let serves = expect(line, |message| {
            matches!(message, Message::Serving).then_some(())
        });
        Ok(serves.await?.map(|()| ready))
    }

    async fn send(&self, line: &Line) -> io::Result<()> {
        let hello = Message::Hello {
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
        };
        line.send(&hello, &[]).await?;
        for some in self.sockets.chunks(MOST_DESCRIPTORS) {
            let names = some.iter().map(|(name, _)| name.clone()).collect();
            let descriptors: Vec<_> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            line.send(&Message::Sockets { names }, &descriptors).await?;
        }
        let state = serde_json::to_string(&self.state)?;
        for piece in wire::pieces(&state) {
            let piece = piece.to_owned();
            line.send(&Message::State { piece }, &[]).await?;
        }
        line.send(&Message::End, &[]).await
    }
}

/// Waits for a message; `None` if the other end is gone.
async fn expect<T>(
    line: &Line,
    wanted: impl Fn(Message) -> Option<T>,
) -> Result<Option<T>, UpgradeError> {
    match line.receive().await.map_err(UpgradeError::Line)? {
        None => Ok(None),
        Some((Message::Failed { why }, _)) => Err(UpgradeError::Failed(why)),
        Some((message, _)) => {
            let said = format!("it said {message:?}");
            wanted(message).map(Some).ok_or(UpgradeError::Failed(said))
        }
    }
}

/// The process that serves instead of this one.
#[derive(Debug)]
pub(crate) struct Successor {
    /// What it has said of itself.
    pub(crate) ready: Ready,
    line: Line,
    child: Option<Child>,
    /// It has said that it ends in an orderly way.
    has_left: bool,
}

impl Successor {
    /// Gives it the sessions of UDP, and leaves it alone.
    ///
    /// # Errors
    ///
    /// What the system says: it may be gone, see [`Self::died`].
    pub(crate) async fn release(&self, handed: Vec<Handed>) -> io::Result<()> {
        let all = handed.into_iter().flat_map(|handed| {
            let (bound, number) = (handed.bound, handed.number);
            let sessions = handed.sessions.into_iter();
            sessions.map(move |(known, socket)| {
                let session = Session {
                    bound,
                    number,
                    known,
                };
                (session, socket)
            })
        });
        let all: Vec<_> = all.collect();
        for some in all.chunks(MOST_DESCRIPTORS) {
            let sessions = some.iter().map(|(session, _)| session.clone()).collect();
            let sockets: Vec<_> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            let message = Message::Sessions { sessions };
            self.line.send(&message, &sockets).await?;
        }
        self.line.send(&Message::Released, &[]).await
    }

    /// Waits until it has died; for ever if it ends in an orderly way.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn died(&mut self) {
        while !self.has_left {
            match self.line.receive().await {
                Ok(Some((Message::Farewell, _))) => self.has_left = true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
        std::future::pending().await
    }

    /// True if it has ended in an orderly way, as far as [`Self::died`] has heard.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Makes sure that it is gone; says how it ended.
    pub(crate) fn end(mut self) -> String {
        Candidate(self.child.take()).end()
    }
}
