//! What one probe found: it passed, or it failed in one of a bounded number of ways.
//!
//! The kind is a label: metrics, logs and the command line count by it, so the set is closed and
//! small. The detail is for a person. It never contains bytes that the peer sent, so that a
//! hostile backend cannot write escape sequences into a terminal or lines into a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of one probe.
pub type Outcome = Result<Passed, Failure>;

/// A probe was answered as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// From the start of the connection to the last byte that mattered.
    pub latency: Duration,
}

/// A probe was not answered as expected, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The way in which it failed.
    pub kind: FailureKind,
    /// What a person should know, free of the peer's bytes.
    pub detail: Arc<str>,
}

impl Failure {
    /// A failure with its explanation.
    pub fn new(kind: FailureKind, detail: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    /// Whether this says something about the backend. A probe that this host could not even send
    /// says nothing: running out of file descriptors must not take every backend down.
    pub fn is_evidence(&self) -> bool {
        self.kind != FailureKind::Local
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// The ways in which a probe fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// The connection was refused: nothing listens.
    Refused,
    /// The deadline passed.
    Timeout,
    /// No route to the address, or a router said that it cannot be reached.
    Unreachable,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before its answer was complete.
    Closed,
    /// There is no TLS with the peer: its certificate is not good, or it refuses ours.
    Tls,
    /// The answer has a status that is not expected.
    Status,
    /// The body lacks the expected text.
    Body,
    /// The answer is not HTTP/1, or too large.
    Protocol,
    /// This host could not make the probe: no file descriptor, no port, no privilege. It is no
    /// evidence against the backend.
    Local,
}

impl FailureKind {
    /// Every kind, in the order of their indices.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Reset,
        Self::Closed,
        Self::Tls,
        Self::Status,
        Self::Body,
        Self::Protocol,
        Self::Local,
    ];

    /// The label used in metrics, logs and the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Body => "body",
            Self::Protocol => "protocol",
            Self::Local => "local",
        }
    }

    /// Position in [`Self::ALL`], for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_stands_at_its_index_with_a_label_of_its_own() {
        for (index, kind) in FailureKind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), index);
        }
        let labels: HashSet<_> = FailureKind::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(labels.len(), FailureKind::ALL.len());
    }

    #[test]
    fn only_a_local_failure_is_no_evidence() {
        for kind in FailureKind::ALL {
            assert_eq!(
                Failure::new(kind, "x").is_evidence(),
                kind != FailureKind::Local
            );
        }
    }
}
