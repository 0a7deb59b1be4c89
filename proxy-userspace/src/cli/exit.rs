//! Exit codes, and failures on their way to one.

use crate::admin::client::ClientError;
use std::error::Error;
use std::process::ExitCode;

/// The end of `sluice --help`.
pub const HELP: &str = "\
Exit codes:
  0   done
  1   failed: the configuration is invalid, the daemon refused, the kernel refused
  2   wrong usage
  3   done, but with losses: a capture missed packets, a drain ended with flows left
  4   the daemon cannot be reached
  77  this host lacks something that is needed

Environment:
  SLUICE_CONFIG  configuration file, as -c
  SLUICE_ADMIN   admin socket, as --socket
  SLUICE_LOG     log level or directives, as --log-level
  NO_COLOR       no colours

First steps:
  sluice check                          what this host can do
  sluice validate -c sluice.yaml        is the configuration right?
  sluice run -c sluice.yaml             balance
  sluice status                         what is going on";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Done,
    /// Not done.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Done, but something was lost on the way.
    Losses,
    /// The daemon cannot be reached.
    Unreachable,
    /// This host lacks something.
    Host,
}

impl Exit {
    /// The number for the shell.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Losses => 3,
            Self::Unreachable => 4,
            Self::Host => 77,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command failed, and how the process ends because of it.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What went wrong, with its causes; `None` if it has been printed already.
    error: Option<Box<dyn Error + Send + Sync>>,
    /// What the user can do.
    hint: Option<String>,
}

impl Failure {
    /// A failure with its error.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit,
            error: Some(error.into()),
            hint: None,
        }
    }

    /// A failure about which everything has been said.
    pub const fn silent(exit: Exit) -> Self {
        Self {
            exit,
            error: None,
            hint: None,
        }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error with all its causes on one line, then the hint.
    pub fn message(&self) -> Option<String> {
        let error = self.error.as_deref()?;
        let chain = crate::admin::api::chain(error);
        Some(match &self.hint {
            Some(hint) => format!("sluice: {chain}\n{hint}"),
            None => format!("sluice: {chain}"),
        })
    }

    /// Prints the message to standard error.
    pub fn print(&self) {
        if let Some(message) = self.message() {
            eprintln!("{message}");
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Unreachable { socket, source } => {
                let hint = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "This user may not open the socket: run as root or as a member of its group."
                            .to_owned()
                    }
                    _ => format!(
                        "Is `sluice run` running? If it uses another socket than {}, give it with \
                         --socket or SLUICE_ADMIN.",
                        socket.display()
                    ),
                };
                Self::new(Exit::Unreachable, error).hint(hint)
            }
            ClientError::Refused(_) | ClientError::Protocol(_) => Self::new(Exit::Failed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{Refusal, RefusalKind};
    use std::io;

    #[test]
    fn an_unreachable_daemon_is_exit_4_with_socket_and_hint() {
        let failure = Failure::from(ClientError::Unreachable {
            socket: "/run/x.sock".into(),
            source: io::Error::from_raw_os_error(2),
        });
        assert_eq!(failure.exit.code(), 4);
        let message = failure.message().expect("has one");
        assert!(message.contains("/run/x.sock: No such file"), "{message}");
        assert!(message.contains("sluice run"), "{message}");
    }

    #[test]
    fn a_refusal_is_exit_1_with_every_detail() {
        let mut refusal = Refusal::new(RefusalKind::Invalid, "2 faults");
        refusal.details = vec!["first".to_owned(), "second".to_owned()];
        let failure = Failure::from(ClientError::Refused(refusal));
        assert_eq!(failure.exit.code(), 1);
        assert_eq!(
            failure.message().expect("has one"),
            "sluice: 2 faults\nfirst\nsecond"
        );
    }
}
